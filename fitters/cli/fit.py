"""`fitters fit`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import click
from click.core import ParameterSource

from featstore.cli.progress import ProgressBar
from featstore.command_line import StorePlace, StoreType, print_json
from featstore.errors import unknown_name
from fitters.methods import TRAINING, FitConfig, Method, TrainingOptions
from fitters.recipe import needs_rows
from fitters.trained.base import EpochDone


class NumberOrAuto(click.ParamType[Any]):
    """``auto``, or a number in a range."""

    name = "auto|number"

    def __init__(self, *, above_zero: bool) -> None:
        self._above_zero = above_zero

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float | Literal["auto"]:
        """Return the number or "auto"; anything else is a usage error."""
        if value == "auto":
            return "auto"
        try:
            number = float(value)
        except ValueError:
            number = float("nan")
        good = 0 < number < float("inf") if self._above_zero else 0 <= number < float("inf")
        if not good:
            rule = "above 0" if self._above_zero else "not negative"
            self.fail(
                f"must be 'auto' or a finite number that is {rule}; got {value!r}.", param, ctx
            )
        return number


class CountOrAuto(click.ParamType[Any]):
    """``auto``, a number of directions or anchors, or ``all`` where that is another choice."""

    name = "auto|all|count"

    def __init__(self, *, everything: bool = True) -> None:
        self._everything = everything
        self.name = "auto|all|count" if everything else "auto|count"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | Literal["auto"] | None:
        """Return the number, "auto", or None for all."""
        if value == "auto":
            return "auto"
        if self._everything and value in (None, "all"):
            return None
        if not (value.isascii() and value.isdigit() and int(value) > 0):
            words = "'auto', 'all'" if self._everything else "'auto'"
            self.fail(f"must be {words} or a number from 1; got {value!r}.", param, ctx)
        return int(value)


@click.command(
    "fit",
    epilog="Example: fitters fit ridge --store store --x stamps/image/tf_efficientnet_lite0 "
    "--head imagenet1k/head_weight/tf_efficientnet_lite0 "
    "--names imagenet1k/class_name/all-MiniLM-L6-v2 -o aligners/ridge-head",
)
@click.argument("method")
@click.option("--store", required=True, type=StoreType(), help="The store: folder or address.")
@click.option("--x", required=True, help="Image set, dataset/image/encoder, or its encoder.")
@click.option("--y", help="Caption set, for real pairs, or its encoder.")
@click.option(
    "--pairs",
    default="train",
    show_default=True,
    help="SPLIT of the images, or DATASET:SPLIT where --x and --y name encoders alone. A fit on a "
    "head alone takes all images where none is in the split train.",
)
@click.option(
    "--n-pairs",
    type=click.IntRange(min=1),
    help="Number of captioned images to fit on [default: all].",
)
@click.option("--head", help="Head set, for prototypes, or its label set.")
@click.option("--names", help="Class-name set of the head's label set.")
@click.option(
    "--source",
    default="head",
    show_default=True,
    help="Rows that the prototypes are: head, or the name of a control.",
)
@click.option(
    "--variants",
    default="name",
    show_default=True,
    help="Variants of the class names, separated by commas.",
)
@click.option(
    "--templates",
    default="none,photo",
    show_default=True,
    help="Prompt templates around the class names, separated by commas.",
)
@click.option(
    "--duplicates",
    type=click.Choice(["keep", "merge", "drop"]),
    default="keep",
    show_default=True,
    help="Keep, merge or drop classes that share a name.",
)
@click.option(
    "--rows",
    type=click.Choice(["weights", "patterns", "bias"]),
    default="weights",
    show_default=True,
    help="Prototypes: rows w of the head; patterns Cov(f) w; or bias, [w, b] with images [f, 1].",
)
@click.option(
    "--penalty",
    type=NumberOrAuto(above_zero=False),
    default="auto",
    show_default=True,
    help="Ridge penalty; auto chooses it on the training pairs.",
)
@click.option(
    "--mix",
    type=NumberOrAuto(above_zero=True),
    default="auto",
    show_default=True,
    help="Weight of the prototypes beside real pairs; auto chooses it on the training pairs.",
)
@click.option(
    "--gamma",
    type=NumberOrAuto(above_zero=True),
    default="auto",
    show_default=True,
    help="Inverse squared width of the kernel of kernel-ridge.",
)
@click.option(
    "--components",
    type=CountOrAuto(),
    default="auto",
    show_default=True,
    help="Number of directions that cca, csa and pls keep.",
)
@click.option(
    "--rank", type=click.IntRange(min=1), help="Rank of procrustes; the full rank if left out."
)
@click.option("--scale", is_flag=True, help="Let procrustes fit a scale too.")
@click.option(
    "--top-k",
    type=CountOrAuto(everything=False),
    help="Number of classes that conse averages [default: 10], or of anchors that asif keeps "
    "[default: 800].",
)
@click.option(
    "--power",
    type=NumberOrAuto(above_zero=True),
    help="Exponent of the similarities of asif [default: 8].",
)
@click.option(
    "--legacy",
    is_flag=True,
    help="Reproduce the original code where it differs from the paper.",
)
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    help="Number of epochs (trained methods) [default: the preset's].",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=2),
    help="Rows in a batch (trained methods) [default: the preset's].",
)
@click.option(
    "--learning-rate",
    type=click.FloatRange(0, min_open=True),
    help="Learning rate (trained methods) [default: the preset's].",
)
@click.option(
    "--share",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Share of prototypes in every batch (trained methods) [default: shuffle both sources].",
)
@click.option(
    "--sequential",
    is_flag=True,
    help="Train on the prototypes first, then on the real pairs (trained methods).",
)
@click.option(
    "--patience",
    type=click.IntRange(min=1),
    help="Stop after this many epochs without a better held-out MRR (trained methods).",
)
@click.option(
    "--centred/--uncentred",
    default=None,
    help="Centre the rows of a trained method, or not [default: as in its paper].",
)
@click.option(
    "--criterion",
    type=click.Choice(["cosine", "rank", "error"]),
    default="cosine",
    show_default=True,
    help="How a ridge is chosen: by cosine or rank without real pairs, or by the held-out squared "
    "error, which needs moments alone.",
)
@click.option(
    "--validation",
    type=click.Choice(["mrr", "top-1", "top-5", "top-10"]),
    default="mrr",
    show_default=True,
    help="Metric by which settings are chosen on held-out real pairs.",
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "float64", "bf16"]),
    default="float32",
    show_default=True,
    help="Precision of the moments of real pairs, or of the training.",
)
@click.option(
    "--cache/--no-cache",
    "cached",
    default=True,
    show_default=True,
    help="Keep the moments of real pairs in the user's cache, and reuse them.",
)
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Where the moments of real pairs are accumulated: on this machine, or on Ray.",
)
@click.option(
    "--ray-address",
    help="Address of a Ray cluster [default: RAY_ADDRESS, or a Ray started here].",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    help="Workers at once, each with one thread [default: this process; with ray all its cores].",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Random seed of the subset, the folds, the controls and the training.",
)
@click.option(
    "--seeds",
    help="Several seeds, such as 0-4; OUT/METHOD-seedN is made for each.",
)
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Folder to make.")
@click.option("--force", is_flag=True, help="Replace another alignment at OUT.")
@click.option("--json", "as_json", is_flag=True, help="Print the alignment's facts as JSON.")
def fit_command(method: str, store: StorePlace, out: Path, **given: Any) -> None:
    """Fit METHOD and save it as the folder OUT.

    --head with --names fits on the rows of the head, --y on real pairs, all three on both.
    Penalty and mixing weight are chosen from these alone, never from a test image.

    METHOD is one of ridge, ridge-x2y, ridge-both, kernel-ridge, least-squares, text-to-concept,
    procrustes, cca, csa, cca-200, paper-cca, pls, mean-shift, asif, conse; or, trained by gradient
    descent (docs/trained.md), paper-mlp, paper-text2concepts, sail, freeze-align, structure,
    devise, icis.
    A training that was interrupted goes on when the same command is given again.
    """
    from featstore.parallel import Workers
    from featstore.store.store import open_store
    from fitters.alignment import save_alignment
    from fitters.from_store import OBJECT_STORE_BYTES
    from fitters.jobs import FitRequest, fit_from_store
    from fitters.methods import METHODS

    context = click.get_current_context()
    if method not in METHODS:
        raise click.UsageError(
            unknown_name("method", method, METHODS, listed_by="fitters fit --help"), context
        )
    config = config_of(method, given)
    refuse_ignored(METHODS[method], config, given)
    many = given["seeds"] is not None
    if many and "seed" in typed_options(given):
        raise click.UsageError("--seed and --seeds say the same thing. Give one of them.", context)
    seeds = parse_seeds(given["seeds"]) if many else (given["seed"],)
    sets = spell_out(*(given[name] for name in ("x", "y", "pairs", "head", "names")))
    same = ("n_pairs", "source", "duplicates", "rows", "precision", "cached")
    request = FitRequest(
        **vars(config),
        variants=_words(given["variants"]),
        templates=_words(given["templates"]),
        **sets,
        **{name: given[name] for name in same},
    )
    workers = Workers(given["engine"], given["jobs"], given["ray_address"], OBJECT_STORE_BYTES)
    opened, made = open_store(store), []
    # One start of Ray for all seeds; a single fit starts it only if nothing is cached.
    with workers.connected() if many else nullcontext():
        for seed in seeds:
            path = out / f"{method}-seed{seed}" if many else out
            asked, checkpoint = replace(request, seed=seed), None
            if METHODS[method].fitted_on == "training":
                checkpoint = path.parent / f".{path.name}.training"
            with ProgressBar(method, doing="fitting") as bar:
                alignment = fit_from_store(
                    opened,
                    asked,
                    checkpoint=checkpoint,
                    on_epoch=partial(_show_epoch, bar),
                    workers=workers,
                )
            save_alignment(path, alignment, replace=given["force"])
            if checkpoint is not None:
                checkpoint.unlink(missing_ok=True)
            made.append({"path": str(path), **alignment.facts})
            if not given["as_json"]:
                click.echo(_line(path, method, alignment.facts))
    if given["as_json"]:
        print_json(made if many else made[0])


def _line(path: Path, method: str, facts: dict[str, Any]) -> str:
    choice = facts["choice"]
    named = {"penalty": "penalty", "gamma": "gamma", "mix": "mix", "n_components": "components",
             "top_k": "top-k", "power": "power"}  # fmt: skip
    chosen = ", ".join(
        f"{text} {choice[name]:.3g}" for name, text in named.items() if choice.get(name) is not None
    )
    return (
        f"{path}: {method} on {facts['n_prototypes']:,} prototypes and {facts['n_real']:,} real "
        f"pairs{f' ({chosen})' if chosen else ''}"
    )


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


#: parameter of the command → setting, where they differ
SETTING_OF = {"components": "n_components", "centred": "centre"}
OF_HEADS = ("source", "variants", "templates", "duplicates", "rows")


def config_of(method: str, given: Mapping[str, Any]) -> FitConfig:
    """Return the settings of the command line."""
    settings = {SETTING_OF.get(name, name): value for name, value in given.items()}
    known = {setting.name for setting in fields(FitConfig)}
    training = TrainingOptions(**{name: given[name] for name in TRAINING})
    chosen = {name: value for name, value in settings.items() if name in known}
    return FitConfig(method, **chosen, training=training)


def spell_out(
    x: str, y: str | None, pairs: str, head: str | None, names: str | None
) -> dict[str, Any]:
    """Return the keys of the sets: ``--pairs dataset:split`` lets --x and --y name encoders.

    Parameters
    ----------
    x, y : str
        ``dataset/kind/encoder``, or an encoder alone.
    pairs : str
        ``split``, or ``dataset:split``.
    head, names : str
        Keys, or for `head` a label set alone: its head is then of the encoder of x, and its
        names are of the encoder of y.
    """
    dataset, _, split = pairs.rpartition(":")
    x_encoder, y_encoder = x.rpartition("/")[2], (y or "").rpartition("/")[2]
    for option, value in (("--x", x), ("--y", y)):
        if value is not None and "/" not in value and not dataset:
            raise click.UsageError(
                (
                    f"{option} {value} names an encoder alone. Say the dataset with --pairs "
                    "DATASET:SPLIT, or give dataset/kind/encoder."
                ),
                click.get_current_context(),
            )
        if value is not None and "/" in value and dataset not in ("", value.split("/")[0]):
            raise click.UsageError(
                f"--pairs {pairs} and {option} {value} are of different datasets. Give --pairs "
                "the split alone, or the same dataset.",
                click.get_current_context(),
            )
    if head is not None and "/" not in head:
        if names is None and not y_encoder:
            raise click.UsageError(
                f"--head {head} needs --names, or --y to say by which encoder its names are.",
                click.get_current_context(),
            )
        names = names or f"{head}/class_name/{y_encoder}"
        head = f"{head}/head_weight/{x_encoder}"
    return {
        "x": x if "/" in x else f"{dataset}/image/{x}",
        "y": y if y is None or "/" in y else f"{dataset}/caption/{y}",
        "split": split,
        "head": head,
        "names": names,
    }


def parse_seeds(text: str) -> tuple[int, ...]:
    """Return the seeds of ``0-4`` or ``0,2,5-7``, each once, in order."""
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,9})(?:-(\d{1,9}))?\s*", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first or last - first > 9999:
            raise click.UsageError(
                f"--seeds is a list such as 0-4 or 0,2,5; got {text!r}.",
                click.get_current_context(),
            )
        seeds += range(first, last + 1)
    return tuple(dict.fromkeys(seeds))


@dataclass(frozen=True)
class _Asked:
    """A fit as the command line has it: what decides whether an option plays a part."""

    spec: Method
    config: FitConfig
    given: Mapping[str, Any]

    @property
    def real(self) -> bool:
        """Whether there are real pairs."""
        return self.given["y"] is not None

    @property
    def head(self) -> bool:
        """Whether there are prototypes."""
        return self.given["head"] is not None

    @property
    def mixed(self) -> bool:
        """Whether there are both."""
        return self.real and self.head

    @property
    def by_error(self) -> bool:
        """Whether settings go by the held-out squared error."""
        return self.config.criterion == "error"

    @property
    def looks_at_rows(self) -> bool:
        """Whether the moments of real pairs are not enough."""
        return needs_rows(self.config, mixed=self.head) or self.given["rows"] == "bias"


Rule = tuple[Sequence[str], Callable[[_Asked], bool], str]

RULES: tuple[Rule, ...] = (
    (("share", "sequential", "mix"), lambda fit: not fit.mixed,
     "there is nothing to mix without both --y and --head."),
    (("ray_address", "jobs"), lambda fit: fit.given["engine"] != "ray", "it is of --engine ray."),
    (("n_pairs", "precision", "validation", "engine"), lambda fit: not fit.real,
     "it is of real pairs, and there is no --y."),
    # A lone --names is refused with a better sentence by the job.
    (OF_HEADS, lambda fit: not fit.head, "it is of prototypes, and there is no --head."),
    (("y",), lambda fit: fit.spec.fitted_on == "head",
     "{method} reads a head and its names, and uses no real pair."),
    (("precision", "engine"), lambda fit: fit.looks_at_rows,
     ("this fit looks at the rows, in float64; it is for fits from moments alone, where every "
      "setting is given or --criterion error chooses.")),
    (("validation",), lambda fit: fit.by_error,
     "--criterion error goes by the held-out squared error."),
    (("criterion",), lambda fit: not fit.spec.direction, "it is of ridges, and {method} is none."),
    (("validation", "criterion"), lambda fit: not fit.config.chooses(fit.spec, mixed=fit.mixed),
     "nothing is left to choose."),
    (("criterion",), lambda fit: fit.real and not fit.by_error,
     "with real pairs, settings go by the rank of held-out texts, or by 'error'."),
)  # fmt: skip
"""Options, when they play no part, and why not."""


def refuse_ignored(spec: Method, config: FitConfig, given: Mapping[str, Any]) -> None:
    """Raise a usage error for an option that was typed and would play no part.

    A setting plays one if the method takes it, see `Method.takes`; other options by `RULES`.

    Parameters
    ----------
    given : mapping
        Every parameter of the command by name, with its value.
    """
    typed = typed_options(given)
    if given["engine"] != "ray":
        typed.discard("engine")  # the default, whoever asks for it
    for name in given:
        if name in typed and not spec.takes(SETTING_OF.get(name, name)):
            _refuse(name, f"{config.method} has no such setting.")
    fit = _Asked(spec, config, given)
    for names, plays_no_part, why in RULES:
        for name in names:
            if name in typed and plays_no_part(fit):
                _refuse(name, why.format(method=config.method))


def typed_options(given: Mapping[str, Any]) -> set[str]:
    """Return the names of the parameters that stood on the command line."""
    context = click.get_current_context()
    return {
        name for name in given if context.get_parameter_source(name) == ParameterSource.COMMANDLINE
    }


def _refuse(name: str, why: str) -> None:
    raise click.UsageError(
        f"--{name.replace('_', '-')} would play no part: {why} Leave it out.",
        click.get_current_context(),
    )


def _show_epoch(bar: ProgressBar, done: EpochDone) -> None:
    """Show loss, held-out metric and time left."""
    before = (done.stage - 1) * done.n_epochs
    bar.update(before + done.epoch, done.n_epochs * done.n_stages, note=str(done))

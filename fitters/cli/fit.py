"""`headstock fit`."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from click.core import ParameterSource

from featstore.cli.options import complete_keys, read_config
from featstore.cli.progress import ProgressBar
from featstore.command_line import (
    SectionedCommand,
    StorePlace,
    completed,
    count,
    json_option,
    print_json,
    store_option,
    usage_error,
)
from featstore.errors import unknown_name
from featstore.options import check_needs, config_from, option, options_from
from fitters.settings import SETTINGS_SECTION, FitRequest, TrainingOptions

if TYPE_CHECKING:
    from fitters.methods import Method
    from fitters.settings import EpochDone


@dataclass(frozen=True)
class Place:
    """Where the moments of real pairs are accumulated."""

    engine: Literal["local", "ray"] = option(
        "local",
        help="Accumulate the moments of real pairs on this machine, or on Ray.",
        needs=("y",),
    )
    ray_address: str | None = option(
        None,
        help="Connect to the Ray cluster at this address [default: RAY_ADDRESS, or a Ray "
        "that is started here].",
    )
    jobs: int | None = option(
        None,
        help="Run this many workers at once, each with one thread [default: this process; with "
        "ray all its cores].",
        at_least=1,
        below=10_000,
        needs=("y",),
    )


class FitCommand(SectionedCommand):
    """A command whose help lists the methods."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, then the methods."""
        from fitters.methods import METHODS

        super().format_options(ctx, formatter)
        with formatter.section("Methods"):
            formatter.write_dl(METHODS.known())


def _methods() -> Iterable[str]:
    from fitters.methods import METHODS

    return METHODS


@complete_keys
@click.command(
    "fit",
    cls=FitCommand,
    sections={
        "Options": "--store --x --y --n-pairs --head --head-names --penalty --mix --seed -o "
        "--force",
        "Rows and names": "--dataset --split --source --variants --templates "
        "--head-variants --head-templates --duplicates",
        "How settings are chosen": "--criterion --validation",
        **SETTINGS_SECTION,
    },
    epilog="Example: headstock fit ridge --store build/demo/store "
    "--x stamps/image/tf_efficientnet_lite0 "
    "--head imagenet1k/head_weight/tf_efficientnet_lite0 "
    "--head-names imagenet1k/class_name/all-MiniLM-L6-v2 -o aligners/ridge-head",
)
@click.argument("method", shell_complete=completed(_methods))
@store_option("Read from this store, a folder or an address.")
@click.option(
    "--dataset",
    metavar="NAME",
    help="Look for --x and --y, which are then encoders alone, in this dataset.",
)
@options_from(FitRequest)
@options_from(TrainingOptions)
@options_from(Place)
@click.option(
    "--seeds",
    help="Fit once with each of these seeds, such as 0-4 or 0,2,5, and save "
    "OUT/METHOD-seedN for each.",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=read_config,
    help="Read options from this TOML file. An option that is typed wins.",
)
@click.option(
    "-o",
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="Save the alignment as this folder.",
)
@click.option("--force", is_flag=True, help="Replace another alignment that is at OUT.")
@json_option
def fit_command(
    method: str, store: StorePlace, out: Path, force: bool, as_json: bool, **given: Any
) -> None:
    """Fit METHOD and save it as the folder OUT.

    METHOD is one of those below, or of another package: `headstock ls --methods` lists both.
    --head with --head-names fits on the rows of the head, --y on real pairs, all three on both.
    Penalty and mixing weight are chosen from these alone, never from a test image. A training
    (docs/ref/methods.md) that was interrupted goes on when the same command is given again.
    """
    from fitters.methods import METHODS

    if method not in METHODS:
        raise usage_error(unknown_name("method", method, METHODS, listed_by="headstock fit --help"))
    typed = typed_options()
    many = given["seeds"] is not None
    if many and "seed" in typed:
        raise usage_error("--seed and --seeds exclude each other. Give one of them.")
    seeds = parse_seeds(given["seeds"]) if many else (given["seed"],)
    request = read_request(method, given)
    check_effects(METHODS[method], request, given, typed)
    with ProgressBar(method, doing="opening the store"):
        from featstore.parallel import Workers
        from featstore.store.store import open_store
        from fitters.from_store import OBJECT_STORE_BYTES
        from fitters.jobs import check_request, fit_from_store
        from fitters.saved import save_alignment

        check_request(request)
        opened, made = open_store(store), []
    workers = Workers(given["engine"], given["jobs"], given["ray_address"], OBJECT_STORE_BYTES)
    # One start of Ray for all seeds; a single fit starts it only if nothing is cached.
    with workers.connected() if many else nullcontext():
        for seed in seeds:
            path = out / f"{method}-seed{seed}" if many else out
            trained = METHODS[method].fitted_on == "training"
            checkpoint = path.parent / f".{path.name}.training" if trained else None
            with ProgressBar(method, doing="reading pairs") as bar:
                alignment = fit_from_store(
                    opened,
                    replace(request, seed=seed),
                    checkpoint=checkpoint,
                    on_epoch=partial(_show_epoch, bar),
                    on_stage=bar.stage,
                    workers=workers,
                )
            save_alignment(path, alignment, replace=force)
            if checkpoint is not None:
                checkpoint.unlink(missing_ok=True)
            made.append({"path": str(path), **alignment.facts})
            if not as_json:
                click.echo(_line(path, method, alignment.facts))
    if as_json:
        print_json(made if many else made[0])


def _line(path: Path, method: str, facts: dict[str, Any]) -> str:
    named = {"n_components": "components", "top_k": "top-k"}
    settings = ("penalty", "gamma", "mix", "n_components", "top_k", "power")
    found = [(name, facts["choice"].get(name)) for name in settings]
    chosen = ", ".join(
        f"{named.get(name, name)} {format(value, ',' if isinstance(value, int) else '.3g')}"
        for name, value in found if value is not None
    )  # fmt: skip
    data = ((facts["n_prototypes"], "prototype"), (facts["n_real"], "real pair"))
    fitted_on = " and ".join(count(n, what) for n, what in data if n)
    return f"{path}: {method}, fitted on {fitted_on}{f' ({chosen})' if chosen else ''}"


def read_request(method: str, given: dict[str, Any]) -> FitRequest:
    """Return what a command line asks for, with the keys of its sets written out.

    With ``--dataset``, --x and --y are encoders of it. A --head without a slash is a label set:
    its head is then of the encoder of x, and its names are of the encoder of y.
    """
    dataset, head, names = given["dataset"], given["head"], given["names"]
    keys: dict[str, Any] = {}
    for name, kind in (("x", "image"), ("y", "caption")):
        value = given[name]
        if value is None:
            continue
        if "/" not in value and dataset is None:
            raise usage_error(
                f"--{name} {value} names an encoder alone. Add --dataset, or give a key "
                "dataset/kind/encoder."
            )
        if "/" in value and dataset not in (None, value.split("/")[0]):
            raise usage_error(
                f"--dataset {dataset} and --{name} {value} are of different datasets. Leave "
                "--dataset out, or name the same one."
            )
        keys[name] = value if "/" in value else f"{dataset}/{kind}/{value}"
    if head and "/" not in head[0]:
        if len(head) > 1:
            raise usage_error("Name several heads by their keys, dataset/head_weight/encoder.")
        if names is None and "y" not in keys:
            raise usage_error(
                f"--head {head[0]} is a label set. Add --head-names, or --y, which names the "
                "encoder of its class names."
            )
        keys["names"] = names or f"{head[0]}/class_name/{keys['y'].rpartition('/')[2]}"
        keys["head"] = (f"{head[0]}/head_weight/{keys['x'].rpartition('/')[2]}",)
    return config_from(
        FitRequest,
        given | keys,
        method=method,
        # --precision is that of moments.
        training=config_from(TrainingOptions, {**given, "precision": None}),
    )


def parse_seeds(text: str) -> tuple[int, ...]:
    """Return the seeds of ``0-4`` or ``0,2,5-7``, each once, in order."""
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,9})(?:-(\d{1,9}))?\s*", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first or last - first > 9999:
            raise usage_error(f"--seeds is a list such as 0-4 or 0,2,5; got {text!r}.")
        seeds += range(first, last + 1)
    return tuple(dict.fromkeys(seeds))


def typed_options() -> dict[str, str]:
    """Return the flags of the parameters that were typed, or that a file sets, by name."""
    context = click.get_current_context()
    sources = (ParameterSource.COMMANDLINE, ParameterSource.DEFAULT_MAP)
    return {
        str(parameter.name): max(parameter.opts, key=len)
        for parameter in context.command.params
        if context.get_parameter_source(str(parameter.name)) in sources
    }


def check_effects(
    method: Method, request: FitRequest, given: dict[str, Any], typed: dict[str, str]
) -> None:
    """Raise a usage error for an option that was typed and has no effect.

    Parameters
    ----------
    typed : dict of str to str
        The typed options by name, with their flags.
    """
    from fitters.methods import needs_rows

    if given["engine"] == "local":
        typed.pop("engine", None)
    for name, flag in typed.items():
        if not method.takes(name):
            raise usage_error(f"{flag} has no effect with {request.method}; remove it.")
    for options in (FitRequest, TrainingOptions, Place):
        check_needs(options, given)
    real, mixed = request.y is not None, request.y is not None and bool(request.head)
    rows = needs_rows(request, mixed=bool(request.head))
    by_error = request.criterion == "error"
    # Kernel ridge chooses its width and penalty on the prototypes, beside real pairs too.
    by_names = mixed and "gamma" in method.options and "auto" in (request.gamma, request.penalty)
    of_names = bool(request.head) or (request.y or "").split("/")[1:2] == ["class_name"]
    rules: tuple[tuple[Collection[str], bool, str], ...] = (
        (("y",), method.fitted_on == "head",
         f"{request.method} reads a head and its names, and uses no real pair"),
        (("precision", "engine", "jobs"), rows,
         ("this fit looks at the rows, in float64. It is for fits from moments alone: give every "
          "setting, or --criterion error")),
        (("validation",), by_error, "--criterion error goes by the held-out squared error"),
        (("criterion",), not method.by_error, f"it is for ridges, not for {request.method}"),
        (("validation", "criterion"), not request.chooses(method.options, mixed=mixed),
         "nothing is left to choose"),
        (("variants", "templates"), not of_names,
         "there are no class names. They are those of --head, or of a --y of class names"),
        (("criterion",), real and not by_error and not by_names,
         "real pairs are chosen by the rank of held-out texts, or by --criterion error"),
    )  # fmt: skip
    for names, applies, why in rules:
        for name in names if applies else ():
            if name in typed:
                raise usage_error(f"{typed[name]} has no effect: {why}. Remove it.")


def _show_epoch(bar: ProgressBar, done: EpochDone) -> None:
    """Show loss, held-out metric and time left."""
    before = (done.stage - 1) * done.n_epochs
    bar.update(before + done.epoch, done.n_epochs * done.n_stages, note=str(done))

"""The options of ``fitters fit``: shorthand spelled out, and none that is ignored in silence."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import click
from click.core import ParameterSource

from fitters.choice import Open
from fitters.methods import TRAINING, Method
from fitters.moment_fits import needs_rows

#: parameter of the command → option of a method
OF_METHODS = {
    "penalty": "penalty",
    "mix": "mix",
    "gamma": "gamma",
    "components": "n_components",
    "rank": "rank",
    "scale": "scale",
    "top_k": "top_k",
    "power": "power",
    "legacy": "legacy",
    **{name: name for name in TRAINING},
}
OF_HEADS = ("names", "source", "variants", "templates", "duplicates", "rows")


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
            msg = (
                f"{option} {value} names an encoder alone. Say the dataset with --pairs "
                "DATASET:SPLIT, or give dataset/kind/encoder."
            )
            raise click.UsageError(msg, click.get_current_context())
        if value is not None and "/" in value and dataset not in ("", value.split("/")[0]):
            msg = (
                f"--pairs {pairs} and {option} {value} are of different datasets. Give --pairs the "
                "split alone, or the same dataset."
            )
            raise click.UsageError(msg, click.get_current_context())
    if head is not None and "/" not in head:
        if names is None and not y_encoder:
            msg = f"--head {head} needs --names, or --y to say by which encoder its names are."
            raise click.UsageError(msg, click.get_current_context())
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
            msg = f"--seeds is a list such as 0-4 or 0,2,5; got {text!r}."
            raise click.UsageError(msg, click.get_current_context())
        seeds += range(first, last + 1)
    return tuple(dict.fromkeys(seeds))


def refuse_ignored(method: str, spec: Method, given: Mapping[str, Any]) -> None:
    """Raise a usage error for an option that was typed and would play no part.

    Parameters
    ----------
    given : mapping
        Every parameter of the command by name, with its value.
    """
    typed = typed_options(given)
    for name, option in OF_METHODS.items():
        if name in typed and option not in spec.options:
            _refuse(name, f"{method} has no such setting.")
    real, head = given["y"] is not None, given["head"] is not None
    if "centred" in typed and spec.fitted_on != "training":
        _refuse("centred", f"{method} has no such setting.")
    for name in ("share", "sequential"):
        if name in typed and not (real and head):
            _refuse(name, "there is nothing to mix without both --y and --head.")
    if "mix" in typed and not (real and head):
        _refuse("mix", "there is nothing to mix without both --y and --head.")
    for name in ("ray_address", "jobs"):
        if name in typed and given["engine"] != "ray":
            _refuse(name, "it is of --engine ray.")
    ray = ("engine",) if given["engine"] == "ray" else ()
    for name in ("n_pairs", "precision", "validation", *ray):
        if name in typed and not real:
            _refuse(name, "it is of real pairs, and there is no --y.")
    for name in OF_HEADS:
        # A lone --names is refused with a better sentence by the job.
        if name in typed and not head and name != "names":
            _refuse(name, "it is of prototypes, and there is no --head.")
    if spec.fitted_on == "head" and real:
        _refuse("y", f"{method} reads a head and its names, and uses no real pair.")
    open_ = Open(
        given["penalty"],
        given["mix"],
        given["components"],
        given["gamma"],
        top_k=given["top_k"],
        power=given["power"],
    )
    of_moments = [name for name in ("precision", *ray) if name in typed]
    if of_moments:
        by_rows = needs_rows(spec, open_, given["criterion"], mixed=head)
        if by_rows or given["rows"] == "bias":
            _refuse(
                of_moments[0],
                "this fit looks at the rows, in float64; it is of those that need moments alone, "
                "where every setting is given or --criterion error chooses.",
            )
    if "validation" in typed:
        if given["criterion"] == "error":
            _refuse("validation", "--criterion error goes by the held-out squared error.")
        if not _chooses(spec, open_, mixed=real and head):
            _refuse("validation", "nothing is left to choose.")
    if "criterion" in typed:
        if not spec.direction:
            _refuse("criterion", f"it is of ridges, and {method} is none.")
        if not _chooses(spec, open_, mixed=real and head):
            _refuse("criterion", "nothing is left to choose.")
        if real and given["criterion"] != "error":
            _refuse(
                "criterion",
                "with real pairs, settings go by the rank of held-out texts, or by 'error'.",
            )


def typed_options(given: Mapping[str, Any]) -> set[str]:
    """Return the names of the parameters that stood on the command line."""
    context = click.get_current_context()
    return {
        name for name in given if context.get_parameter_source(name) == ParameterSource.COMMANDLINE
    }


def _chooses(spec: Method, open_: Open, *, mixed: bool) -> bool:
    """Return whether anything is left to choose."""
    if spec.rule == "none":
        return False
    if spec.rule == "anchors":
        return "auto" in (open_.top_k, open_.power)
    if "n_components" in spec.options and open_.n_components == "auto":
        return True
    if "gamma" in spec.options and open_.gamma == "auto":
        return True
    return any(axis.searched for axis in open_.axes(spec, mixed=mixed))


def _refuse(name: str, why: str) -> None:
    msg = f"--{name.replace('_', '-')} would play no part: {why} Leave it out."
    raise click.UsageError(msg, click.get_current_context())

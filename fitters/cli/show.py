"""Commands that list and show saved alignments, and the cache of moments."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from featstore.command_line import (
    EXIT_VERIFY,
    CommandGroup,
    human_bytes,
    json_option,
    print_json,
    print_listed,
    usage_error,
)
from featstore.options import option, options_from
from fitters.errors import CorruptAlignmentError, SettingError


@dataclass(frozen=True)
class CacheLimits:
    """What stays in the cache of moments."""

    max_bytes: int | None = option(
        None,
        help="Delete the least recently used moments until the cache is below N bytes.",
        metavar="N",
        at_least=0,
        below=2**63,
    )
    days: float | None = option(
        None,
        help="Delete moments that were not used for N days.",
        metavar="N",
        at_least=0,
        below=1_000_000,
    )


@click.command(
    "ls",
    epilog="Example: fitters ls build/demo/aligners",
)
@click.argument("folder", type=click.Path(path_type=Path), required=False)
@click.option("--methods", "methods", is_flag=True,
              help="List the aligners and few-shot learners instead of a folder, each with the "
                   "package that defines it.")  # fmt: skip
@json_option
def ls_command(folder: Path | None, methods: bool, as_json: bool) -> None:
    """List the saved alignments in a folder.

    The exit code is 4 if one of them is damaged; arrays are read by `fitters show` alone.
    """
    from fitters.saved import JSON_NAME

    if methods is (folder is not None):
        raise usage_error("Give a folder of alignments, or --methods.")
    if folder is None:
        _print_methods(as_json=as_json)
        return
    if not folder.is_dir():
        raise SettingError(
            f"There is no folder {folder}. `fitters fit … -o {folder}/NAME` makes one."
        )
    found = [_row(path.parent) for path in sorted(folder.glob(f"*/{JSON_NAME}"))]
    if as_json:
        print_json(found)
    for row in [] if as_json else found:
        # An alignment that was made in Python may lack facts.
        shown = {name: "?" if value is None else value for name, value in row.items()}
        click.echo(
            f"{row['name']}: damaged: {row['damaged']}"
            if "damaged" in row
            else f"{row['name']}: {shown['method']}, {shown['x_encoder']} ↔ {shown['y_encoder']}, "
            f"{shown['n_prototypes']} prototypes, {shown['n_real']} real pairs"
        )
    if any("damaged" in row for row in found):
        click.get_current_context().exit(EXIT_VERIFY)


def _print_methods(*, as_json: bool) -> None:
    from fitters.few_shot.registry import LEARNERS, PROMPT_LEARNERS
    from fitters.methods import METHODS

    prompts = "Learns prompts through the text tower of the images' own model."
    of_towers = {"kind": "learner", "package": "fitters", "text": prompts}
    # An aligner and a learner may share a name.
    rows = METHODS.listed() + LEARNERS.listed()
    print_listed(rows + [{"name": name, **of_towers} for name in PROMPT_LEARNERS], as_json=as_json)


@click.command("show", epilog="Example: fitters show build/demo/aligners/ridge-head")
@click.argument("path", type=click.Path(path_type=Path))
@json_option
def show_command(path: Path, as_json: bool) -> None:
    """Show what an alignment was fitted on, and how it was chosen."""
    from fitters.saved import read_alignment

    alignment = read_alignment(path)
    if as_json:
        print_json(alignment.facts)
        return
    click.echo(str(alignment))
    facts = {name: value for name, value in alignment.facts.items() if name not in _ON_CARD}
    sections = {
        "chosen": _curves(facts.pop("choice", None) or {}),
        "fitted on": facts.pop("fitted_on", None) or {},
        "asked for": {
            name: value
            for name, value in facts.pop("request", {}).items()
            if value is not None and value is not False
        },
    }
    # What identifies is last: nobody reads it for pleasure.
    ids = {name: facts.pop(name) for name in list(facts) if name.endswith("_id")}
    for side, source in sections["fitted on"].items():
        ids[f"fingerprint of {side}"] = source.get("fingerprint")
        rows = source.get("rows")
        sections["fitted on"][side] = f"{source.get('set')}, {rows or 0:,} rows"
    _print_facts(facts, indent="")
    for name, section in [*sections.items(), ("identity", ids)]:
        if section:
            _print_facts({name: section}, indent="")


#: Facts that the first lines say.
_ON_CARD = ("method", "n_prototypes", "n_real")

#: The axes of the scores of a choice, in their order, and what is chosen on each.
_AXES = {
    "weights": "mixing weight", "penalties": "penalty", "components": "components",
    "gammas": "gamma",
}  # fmt: skip


def _curves(choice: dict[str, Any]) -> dict[str, Any]:
    """Return a choice with the best score at each value of each axis, instead of all scores."""
    import numpy as np

    shown = {name: value for name, value in choice.items() if name not in (*_AXES, "scores")}
    axes = {name: choice[name] for name in _AXES if isinstance(choice.get(name), list)}
    scores = np.asarray(choice.get("scores") or (), dtype=float)
    axes = {name: values for name, values in axes.items() if scores.ndim == 1 or len(values) > 1}
    if scores.squeeze().shape != tuple(map(len, axes.values())):
        return dict(choice)
    scores = scores.squeeze()
    for number, (name, values) in enumerate(axes.items()):
        best = scores.max(axis=tuple(i for i in range(scores.ndim) if i != number))
        points = zip(values, best, strict=True)
        shown[f"best score by {_AXES[name]}"] = ", ".join(f"{v:.3g}: {s:.4g}" for v, s in points)
    return shown


def _row(path: Path) -> dict[str, Any]:
    from fitters.saved import read_facts

    names = ("method", "x_encoder", "y_encoder", "n_prototypes", "n_real")
    try:
        facts = read_facts(path)
    except CorruptAlignmentError as err:
        return {"name": path.name, "damaged": str(err)}
    return {"name": path.name, **{name: facts.get(name) for name in names}}


def _print_facts(facts: dict[str, Any], *, indent: str) -> None:
    for name, value in facts.items():
        if isinstance(value, dict):
            click.echo(f"{indent}{name}:")
            _print_facts(value, indent=indent + "  ")
            continue
        if isinstance(value, list) and (len(value) > 8 or any(isinstance(v, list) for v in value)):
            value = f"{_shape(value)} values (--json shows them)"
        click.echo(f"{indent}{name}: {value}")


def _shape(values: list[Any]) -> str:
    """Return the sizes of nested lists, such as ``3 × 9``."""
    first = values[0] if values else None
    return f"{len(values)} × {_shape(first)}" if isinstance(first, list) else str(len(values))


@click.group("cache", cls=CommandGroup, epilog="Example: fitters cache ls")
def cache_group() -> None:
    """List or delete cached moments."""


@cache_group.command("ls", epilog="Example: fitters cache ls")
@json_option
def cache_ls_command(as_json: bool) -> None:
    """List cached moments, the last used first."""
    from fitters.moments.cache import entries

    _print_entries(entries(), as_json=as_json, verb="kept")


@cache_group.command("gc", epilog="Example: fitters cache gc --max-bytes 1000000000")
@options_from(CacheLimits)
@click.option("--all", "everything", is_flag=True, help="Delete all cached moments.")
@json_option
def cache_gc_command(
    max_bytes: int | None, days: float | None, everything: bool, as_json: bool
) -> None:
    """Delete cached moments; damaged ones are always deleted."""
    from fitters.moments.cache import collect

    if everything and (max_bytes is not None or days is not None):
        raise usage_error("--all deletes everything. Give it without --max-bytes and --days.")
    limit = 0 if everything else max_bytes
    removed = collect(max_bytes=limit, older_than=None if days is None else days * 86_400)
    _print_entries(removed, as_json=as_json, verb="removed")


def _print_entries(found: list[Any], *, as_json: bool, verb: str) -> None:
    total = sum(entry.n_bytes for entry in found)
    if as_json:
        rows = [{"path": str(e.path), "bytes": e.n_bytes, "facts": e.facts} for e in found]
        print_json({verb: rows, "bytes": total})
        return
    for entry in found:
        sets = [entry.facts.get(side, {}).get("set", "damaged") for side in ("x", "y")]
        used = time.strftime("%Y-%m-%d", time.localtime(entry.used))
        size = human_bytes(entry.n_bytes)
        click.echo(f"{entry.path.stem[:12]}  {size:>8}  {used}  {' × '.join(sets)}")
    click.echo(f"{len(found):,} {verb}, {human_bytes(total)}")

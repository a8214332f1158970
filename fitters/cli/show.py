"""Commands that list and show saved alignments."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from featstore.cli.progress import age
from featstore.command_line import (
    EXIT_VERIFY,
    count,
    json_option,
    print_json,
    print_listed,
    usage_error,
)
from featstore.terminal import TextTable, bad, best, in_words, print_facts, say
from fitters.errors import CorruptAlignmentError, SettingError


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
    elif not found:
        click.echo(f"{folder} holds no alignments. `fitters fit … -o {folder}/NAME` makes one.")
    else:
        TextTable(_LISTED, [_listed(row) for row in found]).show()
        click.echo(count(len(found), "alignment"))
    if any("damaged" in row for row in found):
        click.get_current_context().exit(EXIT_VERIFY)


_LISTED = ("NAME", "METHOD", "IMAGES", "TEXTS", "PROTOTYPES", "PAIRS", "AGE", "")


def _listed(row: dict[str, Any]) -> list[str]:
    """Return the cells of an alignment; one that was made in Python may lack facts."""
    facts = [row.get(name) for name in _FACTS]
    cells = ["" if fact is None else in_words(fact) for fact in facts]
    problem = bad(f"damaged: {row['damaged']}") if "damaged" in row else ""
    return [row["name"], *cells, age(row["made"]), problem]


#: Facts that `fitters ls` lists.
_FACTS = ("method", "x_encoder", "y_encoder", "n_prototypes", "n_real")


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
    title, *card = str(alignment).splitlines()
    say(best(title))
    print("\n".join(card), end="\n\n")
    facts = {name: value for name, value in alignment.facts.items() if name not in _ON_CARD}
    choice, fitted_on = (dict(facts.pop(name, None) or {}) for name in ("choice", "fitted_on"))
    asked = facts.pop("request", {})
    # What identifies is last: nobody reads it for pleasure.
    ids = {name: facts.pop(name) for name in list(facts) if name.endswith("_id")}
    for side, source in fitted_on.items():
        ids[f"fingerprint of {side}"] = source.get("fingerprint")
        fitted_on[side] = f"{source.get('set')}, {count(source.get('rows') or 0, 'row')}"
    sections = {
        "Fitted on": fitted_on | facts, "Chosen": _curves(choice), "Asked for": asked,
        "Identity": ids,
    }  # fmt: skip
    print_facts({title: list(_lines(section)) for title, section in sections.items()})


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
    from fitters.saved import JSON_NAME, read_facts

    row: dict[str, Any] = {"name": path.name, "made": (path / JSON_NAME).stat().st_mtime}
    try:
        facts = read_facts(path)
    except CorruptAlignmentError as err:
        return row | {"damaged": str(err)}
    return row | {name: facts.get(name) for name in _FACTS}


def _lines(section: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the facts that say something, in words."""
    for name, value in section.items():
        if value is None or value is False or value in ("", [], {}):
            continue
        if isinstance(value, list) and (len(value) > 8 or any(isinstance(v, list) for v in value)):
            value = f"{_shape(value)} values (--json lists them)"
        yield _NAMES.get(name, name.replace("_", " ")), in_words(value)


#: Names of facts that would not say what they are.
_NAMES = {"edges": "at an edge of its grid", "n_folds": "folds", "n_queries": "queries"}


def _shape(values: list[Any]) -> str:
    """Return the sizes of nested lists, such as ``3 × 9``."""
    first = values[0] if values else None
    return f"{len(values)} × {_shape(first)}" if isinstance(first, list) else str(len(values))

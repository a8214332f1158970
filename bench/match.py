"""Choosing cells by what a user types, and comparing two choices on the same queries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from bench.cells import ARENA, SETTINGS, in_order
from bench.comparisons import (
    DEFAULT_METRICS,
    PAIRED_METRICS,
    SCHEMA,
    chance_and_gallery,
    with_holm,
)
from bench.errors import NoResultsError
from bench.paired import Cell, Pair, difference_rows, read_cells
from bench.results import read_results
from bench.series import only_series
from bench.statistics import N_FLIPS, N_RESAMPLES

#: What may stand in a choice as ``name=value``.
FIELDS = ("suite", "task", "eval", "method", "source", "n_pairs", *SETTINGS, "image_set", "run_id")


def chosen_rows(choice: str) -> tuple[Path, pl.DataFrame]:
    """Return the folder and the rows of ``FOLDER[:method/source/K][:name=value,…]``.

    Raises
    ------
    NoResultsError
        If the folder holds no such row; the message says what it holds.
    """
    folder, *rest = choice.split(":")
    root = Path(folder)
    rows = read_results(root)
    wanted: dict[str, str] = {}
    for part in rest:
        if "=" in part:
            wanted |= dict(item.split("=", 1) for item in part.split(",") if "=" in item)
        else:
            words = zip(("method", "source", "n_pairs"), part.split("/"), strict=False)
            wanted |= {name: word for name, word in words if word}
    unknown = [name for name in wanted if name not in FIELDS]
    if unknown:
        msg = f"{choice!r} chooses by {unknown[0]!r}. Known: {', '.join(FIELDS)}."
        raise NoResultsError(msg)
    rows = only_series(root, rows, suite=wanted.pop("suite", None))
    for name, value in wanted.items():
        own = pl.col(name).cast(pl.String)
        kept = rows.filter(own.str.starts_with(value) if name == "run_id" else own == value)
        if kept.is_empty():
            have = ", ".join(sorted(set(rows[name].cast(pl.String).drop_nulls())))
            msg = f"{root} has no {name} {value!r} there. It has: {have[:500]}."
            raise NoResultsError(msg)
        rows = kept
    return root, rows


def compare_choices(
    a: str,
    b: str,
    *,
    metrics: Sequence[str] = DEFAULT_METRICS,
    n_resamples: int = N_RESAMPLES,
    n_flips: int = N_FLIPS,
) -> pl.DataFrame:
    """Return the paired differences of two choices of cells, on the queries that both have.

    Parameters
    ----------
    a, b : str
        Choices; see `chosen_rows`. Where each leaves one cell to a question, these two are
        compared; where they leave several, cells that agree in everything the choices leave open.
    metrics : sequence of str
    n_resamples, n_flips : int

    Returns
    -------
    DataFrame
        Schema `bench.comparisons.SCHEMA`, comparison ``"a-b"``.

    Raises
    ------
    NoResultsError
        If a choice is empty, or no two cells can be paired.
    """
    (root_a, rows_a), (root_b, rows_b) = chosen_rows(a), chosen_rows(b)
    blocks = dict(rows_b.group_by(ARENA, maintain_order=True))
    rows: list[dict[str, Any]] = []
    for arena, block in rows_a.group_by(ARENA, maintain_order=True):
        if arena not in blocks:
            continue
        levels = chance_and_gallery(block)
        present = [m for m in metrics if m in PAIRED_METRICS and m in levels]
        if present:
            pairs = _matched(read_cells(root_a, block), read_cells(root_b, blocks[arena]))
            draws = {"n_resamples": n_resamples, "n_flips": n_flips}
            rows += difference_rows(pairs, arena, levels, present, **draws)
    if not rows:
        msg = (
            f"No cell of {a} and {b} has the same task, evaluation, sets and queries. `bench ls` "
            "lists what a folder holds; choose cells as FOLDER:method/source/K."
        )
        raise NoResultsError(msg)
    return with_holm(in_order(pl.DataFrame(rows, schema=SCHEMA)))


def _matched(left: list[Cell], right: list[Cell]) -> list[Pair]:
    if len(left) == 1 and len(right) == 1:
        return [Pair("a-b", left[0], right[0])]
    open_ = [
        name
        for name in ("method", "source", "n_pairs", *SETTINGS)
        if len({_value(cell, name) for cell in left}) > 1
        or len({_value(cell, name) for cell in right}) > 1
    ]
    by_open = {tuple(_value(cell, name) for name in open_): cell for cell in right}
    pairs = []
    for cell in left:
        other = by_open.get(tuple(_value(cell, name) for name in open_))
        if other is not None:
            pairs.append(Pair("a-b", cell, other))
    return pairs


def _value(cell: Cell, name: str) -> Any:
    return cell.settings[name] if name in SETTINGS else getattr(cell, name)

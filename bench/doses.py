"""Doses: how accuracy answers to the number of a head's classes, and to how far names are shuffled.

========================  =====================================================================
dose                      level
========================  =====================================================================
classes                   classes of the head, drawn at random; the last is the whole head
nearest classes           those whose texts are nearest to the names of the images' classes
farthest classes          those whose texts are farthest from them
clusters of names         names are shuffled within so many; 1 shuffles them all
without the images' names classes left of the head without those that the images have
========================  =====================================================================

The slope is that of the least-squares line ``accuracy = a + b · log10(level)`` over the levels of a
dose. It is a mean over queries, of Σ w_j y_j with x = log10(level), w_j = (x_j − x̄) / Σ (x − x̄)²,
so that its interval is that of every other mean: draws and clusters of queries. Draws are of this
head: half of its classes are in two draws of half of them together, and the slope is no guess at
larger heads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import polars as pl

from bench.cells import ARENA, HEAD_PARTS, SETTINGS, Cell, in_order, read_cells
from bench.results import RUN_COLUMNS
from bench.statistics import DrawSums, two_term
from bench.tables import BY_NAME

#: What is read, of zero-shot runs without real pairs.
METRIC = "top-1"

#: Settings of the fit, which a dose does not change.
_KEPT = [name for name in SETTINGS if name not in HEAD_PARTS]

#: The doses, in the order in which they are listed.
DOSES = (
    "classes", "nearest classes", "farthest classes", "without the images' names",
    "clusters of names",
)  # fmt: skip

SCHEMA: dict[str, Any] = {
    **dict.fromkeys(ARENA, pl.String),
    "method": pl.String,
    **{name: RUN_COLUMNS[name] for name in _KEPT},
    "dose": pl.String,
    "level": pl.Int64,
    "own_names": pl.Float64,  # share of prototypes with their own name
    "value": pl.Float64,
    "sd": pl.Float64,  # between draws; null where nothing is drawn
    "low": pl.Float64,
    "high": pl.Float64,
    **dict.fromkeys(BY_NAME, pl.Float64),
    "n_draws": pl.Int64,
    "slope": pl.Float64,  # of the whole dose, for a factor of ten; null where it has one level
    "slope_low": pl.Float64,
    "slope_high": pl.Float64,
}

Levels: TypeAlias = list[tuple[int, Cell]]


def dose_table(root: Path, results: pl.DataFrame) -> pl.DataFrame:
    """Return one row a method, dose and level: schema `SCHEMA`.

    Parameters
    ----------
    root : Path
        The results folder; sums per cluster are read from it.
    results : DataFrame
        Rows of `bench.results.read_results`, of one series.
    """
    alone = results.filter(
        (pl.col("n_pairs") == "0")
        & (pl.col("task") == "zero_shot")
        & pl.col("metric").is_in([METRIC, *BY_NAME])
    )
    own = {row["run_id"]: row for row in alone.iter_rows(named=True)}
    # Accuracy by name is of one direction, as the cells are.
    named = {
        (run_id, direction, metric): value
        for run_id, direction, metric, value in alone.select(
            "run_id", "direction", "metric", "value"
        ).iter_rows()
    }
    of_method: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in read_cells(root, alone.filter(pl.col("metric") == METRIC)):
        key = (cell.arena, cell.method, *(cell.settings[name] for name in _KEPT))
        of_method.setdefault(key, []).append(cell)
    rows: list[dict[str, Any]] = []
    for cells in of_method.values():
        way = cells[0].arena[ARENA.index("direction")]
        for dose, levels in _doses(cells, own).items():
            slope = _slope(levels)
            for level, cell in levels:
                # A mean over the runs that have the value; null where none has.
                by_name = {
                    name: pl.Series([named.get((i, way, name)) for i in cell.run_ids]).mean()
                    for name in BY_NAME
                }
                kept = pl.Series([own[run_id]["own_names"] for run_id in cell.run_ids]).mean()
                rows.append({
                    **_row(cell), **by_name, **slope, "dose": dose, "level": level,
                    "own_names": 1.0 if cell.source == "head" else kept or 0.0,
                })  # fmt: skip
    return in_order(pl.DataFrame(rows, schema=SCHEMA))


def _row(cell: Cell) -> dict[str, Any]:
    found = two_term(cell.by_seed(METRIC))
    low, high = found.interval()
    return {
        **dict(zip(ARENA, cell.arena, strict=True)),
        "method": cell.method,
        **{name: cell.settings[name] for name in _KEPT},
        "value": found.mean,
        "sd": cell.sd(METRIC),
        "low": low,
        "high": high,
        "n_draws": len(cell.draws),
    }


def _doses(cells: list[Cell], facts: dict[str, dict[str, Any]]) -> dict[str, Levels]:
    """Return the levels of every dose in ascending order; the whole head ends that of classes."""
    found: dict[str, Levels] = {}
    ends: dict[str, Levels] = {"classes": [], "clusters of names": []}
    for cell in cells:
        part, n = cell.settings, facts[cell.run_ids[0]]["n_prototypes"]
        if cell.source == "shuffled-within":
            found.setdefault("clusters of names", []).append((part["clusters"], cell))
        elif cell.source == "head" and part["leave_seen"]:
            found.setdefault("without the images' names", []).append((n, cell))
        elif cell.source == "head" and part["head_size"]:
            by = "" if part["head_by"] == "random" else f"{part['head_by']} "
            found.setdefault(f"{by}classes", []).append((part["head_size"], cell))
        elif cell.source == "head":
            ends["classes"].append((n, cell))
        elif cell.source == "shuffled" and not part["head_size"]:
            ends["clusters of names"].append((1, cell))
    return {
        dose: sorted([*found[dose], *ends.get(dose, [])], key=lambda level: level[0])
        for dose in DOSES
        if dose in found
    }


def _slope(levels: Levels) -> dict[str, float | None]:
    """Return the slope of a dose and its interval, where its levels have the same draws.

    A level at which nothing is drawn has the same value in every draw.
    """
    seeds = max((cell.seeds for _, cell in levels), key=len)
    shared = all(
        cell.seeds == seeds or (len(cell.seeds) == 1 and not cell.fresh) for _, cell in levels
    )
    x = np.log10([level for level, _ in levels])
    x -= x.mean()
    if not (shared and x.any()):
        return dict.fromkeys(("slope", "slope_low", "slope_high"))
    sums = [cell.by_seed(METRIC) for _, cell in levels]
    shape = len(seeds), len(levels[0][1].clusters)
    total = sum(
        weight * np.broadcast_to(own.total, shape)
        for weight, own in zip(x / (x @ x), sums, strict=True)
    )
    found = two_term(DrawSums(np.asarray(total), np.broadcast_to(sums[0].count, shape)))
    low, high = found.interval()
    return {"slope": found.mean, "slope_low": low, "slope_high": high}

"""Which values of a table may be printed in bold: those that no rival reaches by chance.

A cell wins where its mean is the highest of its arena and number of pairs, and its paired
difference to *every* other cell there has an interval above zero and a p below 5 % after Holm's
correction over all these comparisons of the table. Otherwise nobody wins, and nothing is bold.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from bench.cells import ARENA, CELL, SETTINGS
from bench.comparisons import DEFAULT_METRICS, PAIRED_METRICS, SCHEMA, chance_and_gallery, with_holm
from bench.paired import Cell, Pair, difference_rows, read_cells
from bench.statistics import N_FLIPS, N_RESAMPLES

#: The chance of a bold value that is none, over the whole table.
LEVEL = 0.05


def winners(
    root: Path,
    results: pl.DataFrame,
    *,
    metrics: Sequence[str] = DEFAULT_METRICS,
    n_resamples: int = N_RESAMPLES,
    n_flips: int = N_FLIPS,
) -> set[tuple[Any, ...]]:
    """Return (metric, values of `bench.cells.CELL`) of every cell that wins.

    Parameters
    ----------
    root : Path
        The results folder; per-query ranks are read from it.
    results : DataFrame
        Rows of `bench.results.read_results` that stand in the table.
    metrics : sequence of str
        Those that are means over queries are judged; others have no winner.
    n_resamples, n_flips : int
    """
    rows: list[dict[str, Any]] = []
    keys: list[tuple[Any, ...]] = []
    for arena, block in results.group_by(ARENA, maintain_order=True):
        cells = read_cells(root, block)
        levels = chance_and_gallery(block)
        for metric in metrics:
            if metric not in PAIRED_METRICS or metric not in levels:
                continue
            for n_pairs in dict.fromkeys(cell.n_pairs for cell in cells):
                rivals = [cell for cell in cells if cell.n_pairs == n_pairs]
                best = max(rivals, key=lambda cell: float(cell.values(metric).mean()))
                pairs = [Pair("over-rival", best, cell) for cell in rivals if cell is not best]
                found = difference_rows(
                    pairs, arena, levels, [metric], n_resamples=n_resamples, n_flips=n_flips
                )
                # A rival on other queries cannot be judged, so that nobody wins beside it.
                if pairs and len(found) == len(pairs):
                    rows += found
                    keys += [(metric, (*arena, *_own(best)))] * len(found)
    table = with_holm(pl.DataFrame(rows, schema=SCHEMA))
    lost = {
        key
        for key, row in zip(keys, table.iter_rows(named=True), strict=True)
        if row["low"] <= 0 or row["p_holm"] >= LEVEL
    }
    return set(keys) - lost


def _own(cell: Cell) -> tuple[Any, ...]:
    values = {"method": cell.method, "source": cell.source, "n_pairs": cell.n_pairs}
    return tuple(
        (values | cell.settings)[name] for name in [*CELL[len(ARENA) : -len(SETTINGS)], *SETTINGS]
    )

"""Paired comparisons between cells: who gains over whom, on the same queries.

Each query of each seed is one row; the two sides are compared row by row, and what is
resampled is the cluster (`bench.statistics`). The comparisons, for one method:

==============  ==============================================  ===========================
name            side a                                          side b
==============  ==============================================  ===========================
over-parts      real + head at K                                the better of head alone and
                                                                real alone at K
over-real       real + source at K, for every source            real alone at K
over-chance     a source alone                                  what a random order gives
over-control    head (with K real pairs)                        a control with the same K
over-conse      head, fitted (with K real pairs)                ConSE, the head unfitted
==============  ==============================================  ===========================

A source alone against chance is no paired difference: its interval is Wilson's with one draw a
cluster, and it has no p. (Sign flips would call "never hits" significantly below chance.)

"The better" is the one with the higher mean on the very queries that are scored: that
choice can only lower the difference, never flatter it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from bench.cells import ARENA, in_order
from bench.paired import Cell, Pair, difference_rows, read_cells
from bench.statistics import N_FLIPS, N_RESAMPLES, holm

CONTROLS = ("random", "random-cov", "shuffled")

#: Metrics that are means over queries, so that a paired difference has a meaning.
PAIRED_METRICS = ("top-1", "top-5", "top-10", "R@1", "R@5", "R@10", "MRR", "mAP")

#: Metrics compared when none are named.
DEFAULT_METRICS = ("top-1", "top-10", "R@1", "R@10")

SCHEMA: dict[str, Any] = {
    **dict.fromkeys(ARENA, pl.String),
    "metric": pl.String,
    "method": pl.String,
    "comparison": pl.String,
    "source": pl.String,
    "n_pairs": pl.String,
    "head_set": pl.String,
    "penalty": pl.String,
    "mix": pl.String,
    "side_a": pl.String,
    "side_b": pl.String,
    "a": pl.Float64,
    "a_sd": pl.Float64,  # over seeds; null where nothing is drawn
    "b": pl.Float64,
    "b_sd": pl.Float64,
    "difference": pl.Float64,  # absolute
    "difference_sd": pl.Float64,  # over the seeds that both sides have
    "relative": pl.Float64,  # difference / b; null where b is 0
    "low": pl.Float64,
    "high": pl.Float64,
    "p": pl.Float64,
    "p_holm": pl.Float64,  # corrected over the table
    "n_seeds": pl.Int64,
    "n_queries": pl.Int64,
    "n_clusters": pl.Int64,
    "gallery": pl.Float64,
    "chance": pl.Float64,
}


def compare(
    root: Path,
    results: pl.DataFrame,
    *,
    metrics: Sequence[str] = DEFAULT_METRICS,
    n_resamples: int = N_RESAMPLES,
    n_flips: int = N_FLIPS,
) -> pl.DataFrame:
    """Return every comparison that the results allow, one row each.

    Parameters
    ----------
    root : Path
        The results folder; per-query ranks are read from it.
    results : DataFrame
        Rows of `bench.results.read_results`, of one suite and one choice of sets.
    metrics : sequence of str
        Of `PAIRED_METRICS`.
    n_resamples, n_flips : int

    Returns
    -------
    DataFrame
        Schema `SCHEMA`. Values and differences are shares (0.1 is ten points). The same
        results always give the same numbers: the generator's seed is the arena's name.
    """
    rows: list[dict[str, Any]] = []
    for arena, block in results.group_by(ARENA, maintain_order=True):
        present = [m for m in metrics if m in PAIRED_METRICS and m in set(block["metric"])]
        if not present:
            continue
        cells = read_cells(root, block)
        levels = chance_and_gallery(block)
        draws = {"n_resamples": n_resamples, "n_flips": n_flips}
        rows += difference_rows(_pairs(cells), arena, levels, present, **draws)
        for metric in present:
            parts = _over_parts(cells, metric)
            rows += difference_rows(parts, arena, levels, [metric], **draws)
    return with_holm(in_order(pl.DataFrame(rows, schema=SCHEMA)))


def chance_and_gallery(block: pl.DataFrame) -> dict[str, tuple[float, float]]:
    """Return metric → (chance, gallery size), the mean over the runs of one arena."""
    return {
        str(metric): part.select("chance", "gallery").mean().row(0)
        for (metric,), part in block.group_by(["metric"])
    }


def with_holm(table: pl.DataFrame) -> pl.DataFrame:
    """Return a table of comparisons with its p-values corrected over this table.

    The family is the rows that are shown together: call it again after leaving some out.
    """
    known = table["p"].is_not_null()
    corrected = holm(table["p"].drop_nulls().to_numpy())
    column = pl.Series("p_holm", [None] * table.height, dtype=pl.Float64)
    if len(corrected):
        column = column.scatter(known.arg_true(), corrected)
    return table.with_columns(column)


def _find(cells: list[Cell], like: Cell, method: str, source: str, n_pairs: str) -> Cell | None:
    """Return the cell that differs from `like` in nothing that plays a part in it.

    Without prototypes there is no head and no mix; without real pairs there is no mix.
    """
    ignored = {"none": {"head_set", "mix"}}.get(source, {"mix"} if n_pairs == "0" else set())
    wanted = {name: value for name, value in like.settings.items() if name not in ignored}
    if method == "conse":
        wanted = {"head_set": like.settings["head_set"]}
    for cell in cells:
        if (cell.method, cell.source, cell.n_pairs) == (method, source, n_pairs) and all(
            cell.settings[name] == value for name, value in wanted.items()
        ):
            return cell
    return None


def _pairs(cells: list[Cell]) -> Iterator[Pair]:
    """Yield the comparisons whose sides do not depend on the metric."""
    for cell in cells:
        if cell.n_pairs == "0":
            yield Pair("over-chance", cell, None)
        if cell.method == "conse":
            continue
        real = _find(cells, cell, cell.method, "none", cell.n_pairs)
        if real is not None and cell.source != "none":
            yield Pair("over-real", cell, real)
        if cell.source != "head":
            continue
        for control in CONTROLS:
            other = _find(cells, cell, cell.method, control, cell.n_pairs)
            if other is not None:
                yield Pair("over-control", cell, other)
        conse = _find(cells, cell, "conse", "head", "0")
        if conse is not None:
            yield Pair("over-conse", cell, conse)


def _over_parts(cells: list[Cell], metric: str) -> Iterator[Pair]:
    for cell in cells:
        if cell.source != "head" or cell.n_pairs == "0":
            continue
        head = _find(cells, cell, cell.method, "head", "0")
        real = _find(cells, cell, cell.method, "none", cell.n_pairs)
        if head is None or real is None:
            continue
        means = [side.values(metric).mean() for side in (head, real)]
        yield Pair("over-parts", cell, head if means[0] >= means[1] else real)

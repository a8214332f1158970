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

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from bench.cells import ARENA, in_order, pairs_order, source_name
from bench.metrics import cutoff, per_query
from bench.results import read_ranks
from bench.statistics import (
    N_FLIPS,
    N_RESAMPLES,
    Difference,
    mean_differences,
    wilson_interval,
)

CONTROLS = ("random", "random-cov", "shuffled")

#: Metrics that are means over queries, so that a paired difference has a meaning.
PAIRED_METRICS = ("top-1", "top-5", "top-10", "R@1", "R@5", "R@10", "MRR", "mAP")

#: Metrics compared when none are named.
DEFAULT_METRICS = ("top-1", "top-10", "R@1", "R@10")

SCHEMA: dict[str, Any] = {
    "task": pl.String,
    "eval": pl.String,
    "options": pl.String,
    "direction": pl.String,
    "metric": pl.String,
    "method": pl.String,
    "comparison": pl.String,
    "source": pl.String,
    "n_pairs": pl.String,
    "side_a": pl.String,
    "side_b": pl.String,
    "a": pl.Float64,
    "b": pl.Float64,
    "difference": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "p": pl.Float64,
    "n_seeds": pl.Int64,
    "n_queries": pl.Int64,
    "n_clusters": pl.Int64,
    "gallery": pl.Float64,
    "chance": pl.Float64,
}


@dataclass(frozen=True, eq=False)
class _Cell:
    """Per-query values of one cell: rows sorted by (seed, query)."""

    method: str
    source: str
    n_pairs: str
    seeds: tuple[int, ...]
    keys: tuple[tuple[int, str], ...]
    clusters: NDArray[Any]
    rank: NDArray[np.int64]
    precision: NDArray[np.float64]

    @property
    def name(self) -> str:
        """What a reader calls it."""
        text = source_name(self.source, self.n_pairs)
        if self.n_pairs not in ("0", "all"):
            text = text.replace("real", f"{self.n_pairs} real", 1)
        elif self.n_pairs == "all":
            text = text.replace("real", "all real", 1)
        return f"ConSE, {text}" if self.method == "conse" else text


@dataclass(frozen=True, eq=False)
class _Pair:
    """One comparison: two sides, or one side and a known level."""

    comparison: str
    a: _Cell
    b: _Cell | None


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
        cells = _cells(root, block)
        for chunk in _by_rows(_pairs(cells), arena):
            rows.extend(_compare_chunk(chunk, block, present, n_resamples, n_flips))
        for metric in present:
            for chunk in _by_rows(_over_parts(cells, metric), arena):
                rows.extend(_compare_chunk(chunk, block, [metric], n_resamples, n_flips))
    return in_order(pl.DataFrame(rows, schema=SCHEMA))


def _cells(root: Path, block: pl.DataFrame) -> list[_Cell]:
    runs = block.unique("run_id", maintain_order=True)
    direction = block["direction"][0]
    out = []
    for (method, source, n_pairs), cell in runs.group_by(
        ["method", "source", "n_pairs"], maintain_order=True
    ):
        ranks = (
            read_ranks(root, cell["run_id"])
            .filter(pl.col("direction") == direction)
            .join(cell.select("run_id", "seed"), on="run_id")
            .sort("seed", "query_id")
        )
        out.append(
            _Cell(
                method=str(method),
                source=str(source),
                n_pairs=str(n_pairs),
                seeds=tuple(sorted(set(cell["seed"].to_list()))),
                keys=tuple(zip(ranks["seed"].to_list(), ranks["query_id"].to_list(), strict=True)),
                clusters=ranks["cluster_id"].to_numpy(),
                rank=ranks["rank"].to_numpy(),
                precision=ranks["average_precision"].to_numpy(),
            )
        )
    return sorted(out, key=lambda cell: pairs_order(cell.n_pairs))


def _find(cells: list[_Cell], method: str, source: str, n_pairs: str) -> _Cell | None:
    for cell in cells:
        if (cell.method, cell.source, cell.n_pairs) == (method, source, n_pairs):
            return cell
    return None


def _pairs(cells: list[_Cell]) -> Iterator[_Pair]:
    """Yield the comparisons whose sides do not depend on the metric."""
    conse = _find(cells, "conse", "head", "0")
    for cell in cells:
        if cell.n_pairs == "0":
            yield _Pair("over-chance", cell, None)
        if cell.method == "conse":
            continue
        real = _find(cells, cell.method, "none", cell.n_pairs)
        if real is not None and cell.source != "none":
            yield _Pair("over-real", cell, real)
        if cell.source != "head":
            continue
        for control in CONTROLS:
            other = _find(cells, cell.method, control, cell.n_pairs)
            if other is not None:
                yield _Pair("over-control", cell, other)
        if conse is not None:
            yield _Pair("over-conse", cell, conse)


def _over_parts(cells: list[_Cell], metric: str) -> Iterator[_Pair]:
    for cell in cells:
        if cell.source != "head" or cell.n_pairs == "0":
            continue
        head = _find(cells, cell.method, "head", "0")
        real = _find(cells, cell.method, "none", cell.n_pairs)
        if head is None or real is None:
            continue
        means = [_values(side, metric).mean() for side in (head, real)]
        yield _Pair("over-parts", cell, head if means[0] >= means[1] else real)


def _values(cell: _Cell, metric: str) -> NDArray[np.float64]:
    return per_query(metric, cell.rank, cell.precision)


@dataclass(frozen=True)
class _Rows:
    """The rows on which two sides are compared.

    Normally both have the same seeds and queries, and a row is one query of one seed. Where
    every image is scored whatever the seed, a deterministic side has run once and a drawn one
    five times: then a row is a query, and its draws are averaged. Otherwise the rows that
    both sides have.
    """

    keys: tuple[Any, ...]
    by_query: bool

    @classmethod
    def of(cls, pair: _Pair, evaluation: str) -> _Rows:
        if pair.b is None or pair.a.keys == pair.b.keys:
            return cls(pair.a.keys, by_query=False)
        a, b = set(pair.a.keys), set(pair.b.keys)
        if evaluation == "all-names":
            return cls(tuple(sorted({q for _, q in a} & {q for _, q in b})), by_query=True)
        return cls(tuple(sorted(a & b)), by_query=False)

    def take(self, cell: _Cell, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return one value per row from one value per query and seed."""
        if self.keys == cell.keys:
            return values
        position = {key: place for place, key in enumerate(self.keys)}
        own = [key[1] if self.by_query else key for key in cell.keys]
        index = np.array([position.get(key, -1) for key in own])
        kept = index >= 0
        sums = np.bincount(index[kept], weights=values[kept], minlength=len(self.keys))
        return sums / np.bincount(index[kept], minlength=len(self.keys))

    def clusters(self, cell: _Cell) -> NDArray[Any]:
        """Return the cluster of every row."""
        own = (key[1] if self.by_query else key for key in cell.keys)
        cluster = dict(zip(own, cell.clusters, strict=True))
        return np.array([cluster[key] for key in self.keys])


def _by_rows(
    pairs: Iterable[_Pair], arena: tuple[Any, ...]
) -> Iterator[tuple[tuple[Any, ...], _Rows, list[_Pair]]]:
    """Group the pairs that are compared on the same rows: they share one resampling."""
    groups: dict[_Rows, list[_Pair]] = {}
    for pair in pairs:
        rows = _Rows.of(pair, str(arena[1]))
        if rows.keys:
            groups.setdefault(rows, []).append(pair)
    for rows, members in groups.items():
        yield arena, rows, members


def _compare_chunk(
    chunk: tuple[tuple[Any, ...], _Rows, list[_Pair]],
    block: pl.DataFrame,
    metrics: Sequence[str],
    n_resamples: int,
    n_flips: int,
) -> list[dict[str, Any]]:
    arena, on, pairs = chunk
    levels = {
        str(metric): part.select("chance", "gallery").mean().row(0)
        for (metric,), part in block.group_by(["metric"])
    }
    columns, facts = [], []
    for pair in pairs:
        for metric in metrics:
            a = on.take(pair.a, _values(pair.a, metric))
            chance, gallery = levels[metric]
            if pair.b is None:
                b: NDArray[np.float64] = np.full(len(a), chance)
            else:
                b = on.take(pair.b, _values(pair.b, metric))
            columns.append(a - b)
            facts.append((pair, metric, float(a.mean()), float(b.mean()), gallery, chance))
    found = mean_differences(
        np.stack(columns, axis=1),
        on.clusters(pairs[0].a),
        rng=np.random.default_rng(zlib.crc32("/".join(map(str, arena)).encode())),
        n_resamples=n_resamples,
        n_flips=n_flips,
    )
    return [
        _row(arena, pair, metric, values, difference)
        for (pair, metric, *values), difference in zip(facts, found, strict=True)
    ]


def _row(
    arena: tuple[Any, ...], pair: _Pair, metric: str, values: list[float], found: Difference
) -> dict[str, Any]:
    a, b, gallery, chance = values
    low, high, p = found.low, found.high, float(found.p)
    if pair.b is None and cutoff(metric) is not None:
        low, high = (end - chance for end in wilson_interval(a, found.n_clusters))
    task, evaluation, options, direction = arena
    return {
        "task": task,
        "eval": evaluation,
        "options": options,
        "direction": direction,
        "metric": metric,
        "method": pair.a.method,
        "comparison": pair.comparison,
        "source": pair.b.source if pair.b and pair.comparison == "over-control" else pair.a.source,
        "n_pairs": pair.a.n_pairs,
        "side_a": pair.a.name,
        "side_b": "chance" if pair.b is None else pair.b.name,
        "a": a,
        "b": b,
        "difference": found.mean,
        "low": low,
        "high": high,
        "p": None if pair.b is None else p,
        "n_seeds": len(pair.a.seeds),
        "n_queries": found.n_rows,
        "n_clusters": found.n_clusters,
        "gallery": gallery,
        "chance": chance,
    }

"""Two cells on the same queries: which rows they share, and the numbers of the difference."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from bench.cells import ARENA, FRESH_SPLITS, SETTINGS, pairs_order, source_name
from bench.metrics import cutoff, per_query
from bench.results import read_ranks
from bench.statistics import Difference, mean_differences, wilson_interval


@dataclass(frozen=True, eq=False)
class Cell:
    """Per-query values of one cell, rows sorted by (seed, query).

    Attributes
    ----------
    method, source, n_pairs : str
    settings : dict
        The other columns that tell cells apart; see `bench.cells.SETTINGS`.
    seeds : tuple of int
    keys : tuple of (seed, query_id), one a row
    clusters : array of str, shape (n,)
    rank, precision : arrays of shape (n,)
    """

    method: str
    source: str
    n_pairs: str
    settings: dict[str, Any]
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

    def values(self, metric: str) -> NDArray[np.float64]:
        """Return the value of a metric for every row."""
        return per_query(metric, self.rank, self.precision)

    def seed_means(self, metric: str) -> dict[int, float]:
        """Return the mean over the queries of each seed."""
        seeds = np.array([seed for seed, _ in self.keys])
        values = self.values(metric)
        return {seed: float(values[seeds == seed].mean()) for seed in self.seeds}


@dataclass(frozen=True, eq=False)
class Pair:
    """One comparison: two cells, or a cell and what a random order gives (b None)."""

    comparison: str
    a: Cell
    b: Cell | None


def read_cells(root: Path, block: pl.DataFrame) -> list[Cell]:
    """Return the cells of result rows of one task, evaluation and direction, by K."""
    runs = block.unique("run_id", maintain_order=True)
    direction = block["direction"][0]
    ranks = read_ranks(root, runs["run_id"]).filter(pl.col("direction") == direction)
    by_run = ranks.partition_by("run_id", as_dict=True)
    out = []
    for key, cell in runs.group_by(["method", "source", "n_pairs", *SETTINGS], maintain_order=True):
        method, source, n_pairs, *settings = key
        if not all((run_id,) in by_run for run_id in cell["run_id"]):
            continue  # what has no queries cannot be paired
        own = (
            pl.concat([by_run[run_id,] for run_id in cell["run_id"]])
            .join(cell.select("run_id", "seed"), on="run_id")
            .sort("seed", "query_id")
        )
        out.append(
            Cell(
                method=str(method),
                source=str(source),
                n_pairs=str(n_pairs),
                settings=dict(zip(SETTINGS, settings, strict=True)),
                seeds=tuple(sorted(set(cell["seed"].to_list()))),
                keys=tuple(zip(own["seed"].to_list(), own["query_id"].to_list(), strict=True)),
                clusters=own["cluster_id"].to_numpy(),
                rank=own["rank"].to_numpy(),
                precision=own["average_precision"].to_numpy(),
            )
        )
    return sorted(out, key=lambda cell: pairs_order(cell.n_pairs))


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
    def of(cls, pair: Pair, *, same_queries: bool) -> _Rows:
        if pair.b is None or pair.a.keys == pair.b.keys:
            return cls(pair.a.keys, by_query=False)
        a, b = set(pair.a.keys), set(pair.b.keys)
        if same_queries:
            return cls(tuple(sorted({q for _, q in a} & {q for _, q in b})), by_query=True)
        return cls(tuple(sorted(a & b)), by_query=False)

    def take(self, cell: Cell, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return one value per row from one value per query and seed."""
        if self.keys == cell.keys:
            return values
        position = {key: place for place, key in enumerate(self.keys)}
        own = [key[1] if self.by_query else key for key in cell.keys]
        index = np.array([position.get(key, -1) for key in own])
        kept = index >= 0
        sums = np.bincount(index[kept], weights=values[kept], minlength=len(self.keys))
        return sums / np.bincount(index[kept], minlength=len(self.keys))

    def clusters(self, cell: Cell) -> NDArray[Any]:
        """Return the cluster of every row."""
        own = (key[1] if self.by_query else key for key in cell.keys)
        cluster = dict(zip(own, cell.clusters, strict=True))
        return np.array([cluster[key] for key in self.keys])


def difference_rows(
    pairs: Iterable[Pair],
    arena: tuple[Any, ...],
    levels: dict[str, tuple[float, float]],
    metrics: Sequence[str],
    *,
    n_resamples: int,
    n_flips: int,
) -> list[dict[str, Any]]:
    """Return one row per comparison and metric, under `bench.comparisons.SCHEMA`.

    Parameters
    ----------
    pairs : iterable of Pair
    arena : tuple
        Task, evaluation, direction and whatever else names the question; it seeds the generator,
        so that the same results always give the same numbers.
    levels : dict
        Metric to (chance, gallery size).
    metrics : sequence of str
    n_resamples, n_flips : int
    """
    groups: dict[_Rows, list[Pair]] = {}
    for pair in pairs:
        # With a split that is drawn, one seed's queries are not another's.
        rows = _Rows.of(pair, same_queries=str(arena[ARENA.index("eval")]) not in FRESH_SPLITS)
        if rows.keys:
            groups.setdefault(rows, []).append(pair)
    out = []
    for rows, members in groups.items():
        # Comparisons on the same rows share one resampling.
        columns, facts = [], []
        for pair in members:
            for metric in metrics:
                a = rows.take(pair.a, pair.a.values(metric))
                chance = levels[metric][0]
                if pair.b is None:
                    b: NDArray[np.float64] = np.full(len(a), chance)
                else:
                    b = rows.take(pair.b, pair.b.values(metric))
                columns.append(a - b)
                facts.append((pair, metric, float(a.mean()), float(b.mean())))
        found = mean_differences(
            np.stack(columns, axis=1),
            rows.clusters(members[0].a),
            rng=np.random.default_rng(zlib.crc32("/".join(map(str, arena)).encode())),
            n_resamples=n_resamples,
            n_flips=n_flips,
        )
        out += [
            _row(arena, pair, metric, (a, b), levels[metric], difference)
            for (pair, metric, a, b), difference in zip(facts, found, strict=True)
        ]
    return out


def _row(
    arena: tuple[Any, ...],
    pair: Pair,
    metric: str,
    means: tuple[float, float],
    level: tuple[float, float],
    found: Difference,
) -> dict[str, Any]:
    chance, gallery = level
    low, high = found.low, found.high
    if pair.b is None and cutoff(metric) is not None:
        low, high = (end - chance for end in wilson_interval(means[0], found.n_clusters))
    a, b = pair.a.seed_means(metric), pair.b.seed_means(metric) if pair.b else {}
    both = [a[seed] - (b[seed] if pair.b else chance) for seed in a if not pair.b or seed in b]
    return {
        **dict(zip(ARENA, arena, strict=True)),
        "metric": metric,
        "method": pair.a.method,
        "comparison": pair.comparison,
        "source": pair.b.source if pair.b and pair.comparison == "over-control" else pair.a.source,
        "n_pairs": pair.a.n_pairs,
        **pair.a.settings,
        "side_a": pair.a.name,
        "side_b": "chance" if pair.b is None else pair.b.name,
        "a": means[0],
        "a_sd": _sd(list(a.values())),
        "b": means[1],
        "b_sd": _sd(list(b.values())),
        "difference": found.mean,
        "difference_sd": _sd(both),
        "relative": found.mean / means[1] if means[1] > 0 else None,
        "low": low,
        "high": high,
        "p": None if pair.b is None else float(found.p),
        "p_holm": None,
        "n_seeds": len(pair.a.seeds),
        "n_queries": found.n_rows,
        "n_clusters": found.n_clusters,
        "gallery": gallery,
        "chance": chance,
    }


def _sd(values: Sequence[float]) -> float | None:
    """Return the sample standard deviation; None of one value, in which nothing was drawn."""
    if len(values) < 2:
        return None
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))

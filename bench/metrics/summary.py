"""Numbers made of ranks: hit recall, true recall, precision at k, ranks, mAP.

A metric is one number per query and a way to pool the queries. Keeping the two apart lets
`bench.statistics` pair the same numbers that the tables average. docs/metrics.md defines each with
a worked example.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bench.errors import MetricError
from bench.metrics.ranks import CUTOFFS

#: Raise it when a definition here or in `bench.metrics` changes: runs are then redone.
METRIC_VERSION = 2

#: What each metric is, in one line. ``top-k`` is ``R@k`` under the name it has when the
#: gallery is the class names and each query has one of them.
METRICS: dict[str, str] = {
    "top-1": "Share of images whose own class name comes first.",
    "top-5": "Share of images whose own class name is among the first 5.",
    "top-10": "Share of images whose own class name is among the first 10.",
    "R@1": "Hit recall at 1: share of queries with a relevant item in first place.",
    "R@5": "Hit recall at 5: share of queries with a relevant item among the first 5.",
    "R@10": "Hit recall at 10: share of queries with a relevant item among the first 10.",
    "recall@1": "True recall at 1: share of a query's relevant items in first place.",
    "recall@5": "True recall at 5: share of a query's relevant items among the first 5.",
    "recall@10": "True recall at 10: share of a query's relevant items among the first 10.",
    "P@1": "Precision at 1: share of relevant items in first place.",
    "P@5": "Precision at 5: share of relevant items among the first 5.",
    "P@10": "Precision at 10: share of relevant items among the first 10.",
    "median_rank": "Median over queries of the rank of the best relevant item; 1 is best.",
    "mean_rank": "Mean over queries of the rank of the best relevant item; 1 is best.",
    "MRR": "Mean over queries of 1 / rank of the best relevant item.",
    "mAP": "Mean over queries of the average precision over all relevant items.",
    "mAP-truncated": "The same within as many places as the query has relevant items.",
}

#: Lower is better.
LOWER_IS_BETTER = frozenset({"median_rank", "mean_rank"})


class RankColumns(Protocol):
    """What is known of every query: `Ranks`, or columns of a results folder."""

    @property
    def rank(self) -> NDArray[np.int64]:
        """Place of the best relevant item, shape (n,)."""

    @property
    def average_precision(self) -> NDArray[np.float64]:
        """Shape (n,)."""

    @property
    def truncated_precision(self) -> NDArray[np.float64]:
        """Shape (n,)."""

    @property
    def hits(self) -> NDArray[np.int64]:
        """Relevant items among the first k, shape (n, len(CUTOFFS))."""

    @property
    def n_relevant(self) -> NDArray[np.int64]:
        """Shape (n,)."""


def cutoff(metric: str) -> int | None:
    """Return k of the hit rates ``"R@k"`` and ``"top-k"``, and None for any other metric."""
    found = re.fullmatch(r"(?:R@|top-)([1-9]\d*)", metric)
    return int(found[1]) if found else None


def counted_at(metric: str) -> tuple[str, int] | None:
    """Return ``("recall", k)`` or ``("P", k)`` for these metrics, and None for any other.

    Raises
    ------
    MetricError
        If k is not one of `CUTOFFS`.
    """
    found = re.fullmatch(r"(recall|P)@([1-9]\d*)", metric)
    if found is None:
        return None
    if int(found[2]) not in CUTOFFS:
        msg = f"{metric} is not counted. Known k: {', '.join(map(str, CUTOFFS))}."
        raise MetricError(msg)
    return found[1], int(found[2])


def per_query(
    metric: str, rank: NDArray[np.int64], precision: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the value of a metric that follows from rank or average precision, shape (n,).

    Parameters
    ----------
    metric : str
        ``R@k`` and ``top-k`` with any k, a rank, MRR or mAP. For ``"median_rank"`` and
        ``"mean_rank"`` it is the rank itself.
    rank, precision : arrays of shape (n,)
        As in `Ranks`.

    Raises
    ------
    MetricError
        If no such metric has this name.
    """
    if (k := cutoff(metric)) is not None:
        return (rank <= k).astype(np.float64)
    if metric in LOWER_IS_BETTER:
        return rank.astype(np.float64)
    if metric == "MRR":
        return 1.0 / rank
    if metric == "mAP":
        return precision.astype(np.float64)
    msg = f"No metric named {metric!r}. Known metrics: {', '.join(METRICS)}."
    raise MetricError(msg)


def query_values(metric: str, of: RankColumns) -> NDArray[np.float64]:
    """Return the value of any of `METRICS` for every query, shape (n,).

    Raises
    ------
    MetricError
        If no metric has this name, or its k is not counted.
    """
    if metric == "mAP-truncated":
        return of.truncated_precision.astype(np.float64)
    if (counted := counted_at(metric)) is None:
        return per_query(metric, of.rank, of.average_precision)
    what, k = counted
    hits = of.hits[:, CUTOFFS.index(k)]
    return hits / of.n_relevant if what == "recall" else hits / k


def summarise(ranks: RankColumns, metrics: Sequence[str] = tuple(METRICS)) -> dict[str, float]:
    """Pool the queries: the mean of every metric, the median for ``"median_rank"``."""
    out = {}
    for metric in metrics:
        pool = np.median if metric == "median_rank" else np.mean
        out[metric] = float(pool(query_values(metric, ranks)))
    return out

"""Numbers made of ranks: hit recall, median rank, mean reciprocal rank, mAP.

A metric is one number per query and a way to pool the queries. Keeping the two apart lets
`bench.statistics` pair the same numbers that the tables average.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bench.errors import MetricError
from bench.metrics.ranks import Ranks

#: Raise it when a definition here or in `bench.metrics.ranks` changes: runs are then redone.
METRIC_VERSION = 1

#: What each metric is, in one line. ``top-k`` is ``R@k`` under the name it has when the
#: gallery is the class names and each query has one of them.
METRICS: dict[str, str] = {
    "top-1": "Share of images whose own class name comes first.",
    "top-5": "Share of images whose own class name is among the first 5.",
    "top-10": "Share of images whose own class name is among the first 10.",
    "R@1": "Hit recall at 1: share of queries with a relevant item in first place.",
    "R@5": "Hit recall at 5: share of queries with a relevant item among the first 5.",
    "R@10": "Hit recall at 10: share of queries with a relevant item among the first 10.",
    "median_rank": "Median over queries of the rank of the best relevant item; 1 is best.",
    "MRR": "Mean over queries of 1 / rank of the best relevant item.",
    "mAP": "Mean over queries of the average precision over all relevant items.",
}

#: Lower is better.
LOWER_IS_BETTER = frozenset({"median_rank"})


def cutoff(metric: str) -> int | None:
    """Return k of ``"R@k"`` and ``"top-k"``, and None for any other metric."""
    found = re.fullmatch(r"(?:R@|top-)([1-9]\d*)", metric)
    return int(found[1]) if found else None


def per_query(
    metric: str, rank: NDArray[np.int64], precision: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the value of `metric` for every query, shape (n,).

    Parameters
    ----------
    metric : str
        One of `METRICS`, or ``R@k`` and ``top-k`` with any k. For ``"median_rank"`` it is
        the rank itself.
    rank, precision : arrays of shape (n,)
        As in `Ranks`.

    Raises
    ------
    MetricError
        If no metric has this name.
    """
    if (k := cutoff(metric)) is not None:
        return (rank <= k).astype(np.float64)
    if metric == "median_rank":
        return rank.astype(np.float64)
    if metric == "MRR":
        return 1.0 / rank
    if metric == "mAP":
        return precision.astype(np.float64)
    msg = f"No metric named {metric!r}. Known metrics: {', '.join(METRICS)}."
    raise MetricError(msg)


def summarise(ranks: Ranks, metrics: Sequence[str] = tuple(METRICS)) -> dict[str, float]:
    """Pool the queries: the mean of every metric, the median for ``"median_rank"``."""
    out = {}
    for metric in metrics:
        values = per_query(metric, ranks.rank, ranks.average_precision)
        pool = np.median if metric == "median_rank" else np.mean
        out[metric] = float(pool(values))
    return out

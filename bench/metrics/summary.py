"""Metrics of ranks, and their level by chance.

A metric is one number per query and a way to pool the queries. Keeping the two apart lets
`bench.statistics` pair the same numbers that the tables average. docs/metrics.md defines each with
a worked example.

With p relevant items among g in random order, the number of relevant items among the first
k is hypergeometric. From it::

    P(hit in the first k)   = 1 - C(g-p, k) / C(g, k)
    E[1 / rank of the best] = sum over r of P(best rank = r) / r
    E[average precision]    = (H_g + (p-1)/(g-1) · (g - H_g)) / g,   H_g = 1 + 1/2 + … + 1/g
    E[truncated at p]       = (H_p + (p-1)/(g-1) · (p - H_p)) / g
    E[rank of the best]     = (g + 1) / (p + 1)
    E[recall at k]          = min(k, g) / g,   E[precision at k] = p · min(k, g) / (g · k)

The average precision: an item at place i is relevant with probability p/g, and then
1 + (i-1)(p-1)/(g-1) relevant items are expected among the first i; divide by i and by p, and sum
over i, to g or to p.

They are made of the first place alone: what an image was taken for, and what it is. Ties count
against, as in `bench.metrics.ranks`: an image whose own class ties with another for the first
place was taken for the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.errors import MetricError
from featstore.errors import unknown_name

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bench.metrics.ranks import Ranks

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


@dataclass(frozen=True)
class Metric:
    """What is known of a metric of a task of one's own.

    Attributes
    ----------
    text : str
        What it is, in one line.
    higher_is_better : bool
        False: tables have it, and comparisons leave it out, as they do ranks.
    percent : bool
        Whether it is a share, which tables show in percent; others stand as they are, and
        comparisons leave them out.
    chance : float, optional
        What an answer at random gives, if that is known.
    """

    text: str = ""
    higher_is_better: bool = True
    percent: bool = True
    chance: float | None = None


#: Metrics that tasks of one's own have declared, by name. One that is not declared is a share.
OWN_METRICS: dict[str, Metric] = {}


def check_own_metrics(names: Iterable[str]) -> None:
    """Raise MetricError for a name that is no word, or one of Headstock's.

    Raises
    ------
    MetricError
    """
    for name in names:
        if name in METRICS or name in CLASS_METRICS:
            raise MetricError(f"{name!r} is a metric of Headstock. Give yours another name.")
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][\w@.+-]{0,63}", name):
            raise MetricError(f"{name!r} names no metric: it is a word of letters and digits.")


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
    from bench.metrics.ranks import CUTOFFS

    found = re.fullmatch(r"(recall|P)@([1-9]\d*)", metric)
    if found is None:
        return None
    if int(found[2]) not in CUTOFFS:
        raise MetricError(f"{metric} is not counted. Known k: {', '.join(map(str, CUTOFFS))}.")
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
    import numpy as np

    if (k := cutoff(metric)) is not None:
        return (rank <= k).astype(np.float64)
    if metric in LOWER_IS_BETTER:
        return rank.astype(np.float64)
    if metric == "MRR":
        return 1.0 / rank
    if metric == "mAP":
        return precision.astype(np.float64)
    raise MetricError(unknown_name("metric", metric, METRICS))


def query_values(metric: str, of: Ranks) -> NDArray[np.float64]:
    """Return the value of any of `METRICS` for every query, shape (n,).

    Raises
    ------
    MetricError
        If no metric has this name, or its k is not counted.
    """
    import numpy as np

    from bench.metrics.ranks import CUTOFFS

    if metric == "mAP-truncated":
        return of.truncated_precision.astype(np.float64)
    if (counted := counted_at(metric)) is None:
        return per_query(metric, of.rank, of.average_precision)
    what, k = counted
    hits = of.hits[:, CUTOFFS.index(k)]
    return hits / of.n_relevant if what == "recall" else hits / k


def summarise(ranks: Ranks, metrics: Sequence[str] = tuple(METRICS)) -> dict[str, float]:
    """Pool the queries: the mean of every metric, the median for ``"median_rank"``."""
    import numpy as np

    out = {}
    for metric in metrics:
        pool = np.median if metric == "median_rank" else np.mean
        out[metric] = float(pool(query_values(metric, ranks)))
    return out


def chance_levels(
    n_relevant: NDArray[np.int64], gallery: int, metrics: Sequence[str] = tuple(METRICS)
) -> dict[str, float]:
    """Return the value of every metric that a random order of the gallery has on average.

    Parameters
    ----------
    n_relevant : array of shape (n,)
        Relevant items of each query, 1 to g.
    gallery : int
        g, the number of gallery items.

    Returns
    -------
    dict
        Expectations over all orders and the mean over queries. For ``"median_rank"`` it is
        the smallest rank that a random query under a random order reaches with
        probability 1/2 at least.

    Raises
    ------
    MetricError
        If a count lies outside 1 to g, or a metric is unknown.
    """
    import numpy as np

    relevant, weights = np.unique(np.asarray(n_relevant), return_counts=True)
    if len(relevant) == 0 or relevant[0] < 1 or relevant[-1] > gallery:
        raise MetricError(
            f"Every query needs 1 to {gallery:,} relevant items, got {relevant.tolist()}."
        )
    share = weights / weights.sum()
    # Row r of `beyond` is P(rank > r), r = 0 … g, averaged over the queries.
    places = np.arange(gallery + 1)
    beyond = np.zeros(gallery + 1)
    for count, part in zip(relevant, share, strict=True):
        beyond += part * _probability_beyond(int(count), gallery, places)
    exactly = beyond[:-1] - beyond[1:]  # P(rank = r), r = 1 … g
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / places[1:])])
    out = {}
    for metric in metrics:
        if (k := cutoff(metric)) is not None:
            out[metric] = float(1.0 - beyond[min(k, gallery)])
        elif (counted := counted_at(metric)) is not None:
            what, k = counted
            share_seen = min(k, gallery) / gallery
            mean_relevant = float(share @ relevant)
            out[metric] = share_seen if what == "recall" else mean_relevant * share_seen / k
        elif metric == "median_rank":
            # A hair under one half, so that an exact half is not lost to rounding.
            out[metric] = float(np.argmax(1.0 - beyond >= 0.5 - 1e-12))
        elif metric == "mean_rank":
            out[metric] = float(share @ ((gallery + 1) / (relevant + 1)))
        elif metric == "MRR":
            out[metric] = float(np.sum(exactly / places[1:]))
        elif metric in ("mAP", "mAP-truncated"):
            last = np.full(len(relevant), gallery) if metric == "mAP" else relevant
            spread = (relevant - 1) / max(1, gallery - 1)
            each = harmonic[last] + spread * (last - harmonic[last])
            out[metric] = float(share @ each / gallery)
        else:
            raise MetricError(unknown_name("metric", metric, METRICS))
    return out


def _probability_beyond(
    relevant: int, gallery: int, places: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return C(g-p, r) / C(g, r) for every r: no relevant item among the first r."""
    import numpy as np
    from scipy.special import gammaln

    possible = places <= gallery - relevant
    r = places[possible]
    rest = gallery - relevant
    log_ratio = gammaln(rest + 1) - gammaln(rest - r + 1) - gammaln(gallery + 1)
    log_ratio += gammaln(gallery - r + 1)
    out = np.zeros(len(places))
    out[possible] = np.exp(log_ratio)
    return out


#: What each is, in one line.
CLASS_METRICS: dict[str, str] = {
    "balanced-accuracy": "Mean over classes that have images of the share found: per-class mean.",
    "macro-F1": "Mean of the F1 of every class that has images or was answered.",
    "weighted-F1": "Mean of the F1 of every class, weighted by its images.",
    "seen": "Balanced accuracy over the classes that the head has.",
    "unseen": "Balanced accuracy over the classes that the head lacks.",
    "harmonic": "Harmonic mean of seen and unseen.",
}


def class_metrics(
    truth: NDArray[Any], answers: NDArray[Any], *, seen: NDArray[np.bool_] | None = None
) -> dict[str, float]:
    """Return `CLASS_METRICS` of n answers.

    Parameters
    ----------
    truth, answers : arrays of shape (n,)
        Class ids, or numbers in their place.
    seen : array of bool, shape (n,), optional
        Whether the true class of each image is one of the head's. With both kinds present,
        ``seen``, ``unseen`` and ``harmonic`` are those of generalised zero-shot classification:
        all classes stand in the gallery of both.
    """
    import numpy as np

    labels, codes = np.unique(np.concatenate([truth, answers]), return_inverse=True)
    true, given = codes[: len(truth)], codes[len(truth) :]
    hit = true == given
    counts = np.bincount(true, minlength=len(labels))
    answered = np.bincount(given, minlength=len(labels))
    found = np.bincount(true, weights=hit, minlength=len(labels))
    having = counts > 0
    recall = np.divide(found, counts, out=np.zeros(len(labels)), where=having)
    out = {"balanced-accuracy": float(recall[having].mean())}
    # 2 TP / (2 TP + FP + FN); every label was true or given. The same bits as scikit-learn's
    # f1_score, whose checks take 4 ms a call: a fifth of what a cell of a sweep may take.
    f1 = 2.0 * found / (counts + answered)
    out["macro-F1"] = float(f1.mean())
    out["weighted-F1"] = float(np.average(f1, weights=counts))
    if seen is not None and 0 < np.count_nonzero(seen) < len(seen):
        is_seen = np.zeros(len(labels), dtype=bool)
        is_seen[true[seen]] = True
        out["seen"] = float(recall[having & is_seen].mean())
        out["unseen"] = float(recall[having & ~is_seen].mean())
        out["harmonic"] = harmonic_mean(out["seen"], out["unseen"])
    return out


def harmonic_mean(a: float, b: float) -> float:
    """Return 2ab / (a + b), and 0 if both are 0."""
    return 2.0 * a * b / (a + b) if a + b > 0 else 0.0

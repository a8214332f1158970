"""Metrics of ranks, and their level by chance.

A metric is one number per query and a way to pool the queries. Keeping the two apart lets
`bench.statistics` pair the same numbers that the tables average. docs/ref/tasks.md defines each
with a worked example.

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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import harmonic_mean
from typing import TYPE_CHECKING, Any

from bench.errors import MetricError
from featstore.errors import unknown_name

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bench.metrics.ranks import Ranks

#: Raise it when a definition here or in `bench.metrics` changes: runs are then redone.
METRIC_VERSION = 2


@dataclass(frozen=True)
class Metric:
    """What is known of a metric, of Headstock's or of a task of one's own.

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
    values : callable, optional
        What gives its value for every query, shape (n,), of `Ranks`; one of answers has none.
    level : callable, optional
        What gives its level in a `RandomOrder`, the mean over queries.
    pool : {"mean", "median"}
        How the values of the queries become one.
    paired : bool
        Whether comparisons may have it: of shares, those of which a difference is asked for.
    """

    text: str = ""
    higher_is_better: bool = True
    percent: bool = True
    chance: float | None = None
    values: Callable[..., Any] | None = None
    level: Callable[..., Any] | None = None
    pool: str = "mean"
    paired: bool = True


class RandomOrder:
    """A gallery in random order, as queries with some relevant items find it.

    Parameters
    ----------
    n_relevant : int64 array of shape (n,)
        Relevant items of each query.
    gallery : int
        g, the number of gallery items.

    Attributes
    ----------
    relevant : int64 array of shape (u,)
        The numbers of relevant items that queries have.
    share : float64 array of shape (u,)
        Of the queries.
    beyond : float64 array of shape (g + 1,)
        P(rank > r), r = 0 … g, averaged over the queries.
    """

    def __init__(self, n_relevant: NDArray[np.int64], gallery: int) -> None:
        import numpy as np

        relevant, weights = np.unique(np.asarray(n_relevant), return_counts=True)
        self.gallery, self.relevant, self.share = gallery, relevant, weights / weights.sum()
        left = np.arange(gallery, 0, -1)
        # Place by place, the share of what is left that is not relevant.
        each = (np.cumprod(np.maximum(1.0 - count / left, 0.0)) for count in relevant)
        beyond = sum(part * own for part, own in zip(self.share, each, strict=True))
        self.beyond = np.append(1.0, beyond)

    def reciprocal_rank(self) -> float:
        """Return the mean of 1 / rank."""
        import numpy as np

        exactly = self.beyond[:-1] - self.beyond[1:]  # P(rank = r), r = 1 … g
        return float(np.sum(exactly / np.arange(1, self.gallery + 1)))

    def precision(self, *, truncated: bool = False) -> float:
        """Return the mean average precision, over all places or as many as relevant items."""
        import numpy as np

        relevant, gallery = self.relevant, self.gallery
        harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, gallery + 1))])
        last = relevant if truncated else np.full(len(relevant), gallery)
        spread = (relevant - 1) / max(1, gallery - 1)
        return float(self.share @ (harmonic[last] + spread * (last - harmonic[last])) / gallery)


def _hits(k: int, text: str = "") -> Metric:
    return Metric(
        text,
        values=lambda of: of.rank <= k,
        level=lambda order: 1.0 - order.beyond[min(k, order.gallery)],
    )


def _counted(k: int, text: str, *, of_relevant: bool = False) -> Metric:
    """Return what is known of recall at k, of the relevant items, or of precision, of k."""

    def level(order: RandomOrder) -> float:
        seen = min(k, order.gallery) / order.gallery
        return seen if of_relevant else float(order.share @ order.relevant) * seen / k

    def values(of: Ranks) -> NDArray[Any]:
        from bench.metrics.ranks import CUTOFFS

        return of.hits[:, CUTOFFS.index(k)] / (of.n_relevant if of_relevant else k)

    return Metric(text, values=values, level=level, paired=False)


def _rank(text: str, level: Callable[..., Any], pool: str = "mean") -> Metric:
    return Metric(
        text, higher_is_better=False, percent=False, values=lambda of: of.rank, level=level,
        pool=pool, paired=False,
    )  # fmt: skip


#: What is known of each metric of ranks. ``top-k`` is ``R@k`` under the name it has when the
#: gallery is the class names and each query has one of them.
METRICS: dict[str, Metric] = {
    "top-1": _hits(1, "Share of images whose own class name comes first."),
    "top-5": _hits(5, "Share of images whose own class name is among the first 5."),
    "top-10": _hits(10, "Share of images whose own class name is among the first 10."),
    "R@1": _hits(1, "Hit recall at 1: share of queries with a relevant item in first place."),
    "R@5": _hits(5, "Hit recall at 5: share of queries with a relevant item among the first 5."),
    "R@10": _hits(
        10, "Hit recall at 10: share of queries with a relevant item among the first 10."
    ),
    "recall@1": _counted(
        1, "True recall at 1: share of a query's relevant items in first place.", of_relevant=True
    ),
    "recall@5": _counted(
        5,
        "True recall at 5: share of a query's relevant items among the first 5.",
        of_relevant=True,
    ),
    "recall@10": _counted(
        10,
        "True recall at 10: share of a query's relevant items among the first 10.",
        of_relevant=True,
    ),
    "P@1": _counted(1, "Precision at 1: share of relevant items in first place."),
    "P@5": _counted(5, "Precision at 5: share of relevant items among the first 5."),
    "P@10": _counted(10, "Precision at 10: share of relevant items among the first 10."),
    "median_rank": _rank(
        "Median over queries of the rank of the best relevant item; 1 is best.",
        # A hair under one half, so that an exact half is not lost to rounding.
        lambda order: (1.0 - order.beyond >= 0.5 - 1e-12).argmax(),
        "median",
    ),
    "mean_rank": _rank(
        "Mean over queries of the rank of the best relevant item; 1 is best.",
        lambda order: order.share @ ((order.gallery + 1) / (order.relevant + 1)),
    ),
    "MRR": Metric(
        "Mean over queries of 1 / rank of the best relevant item.",
        values=lambda of: 1.0 / of.rank,
        level=RandomOrder.reciprocal_rank,
    ),
    "mAP": Metric(
        "Mean over queries of the average precision over all relevant items.",
        values=lambda of: of.average_precision,
        level=RandomOrder.precision,
    ),
    "mAP-truncated": Metric(
        "The same within as many places as the query has relevant items.",
        values=lambda of: of.truncated_precision,
        level=lambda order: order.precision(truncated=True),
        paired=False,
    ),
}

#: Metrics that tasks of one's own have declared, by name.
OWN_METRICS: dict[str, Metric] = {}


def metric_named(name: str) -> Metric:
    """Return what is known of a metric; ``R@k`` and ``top-k`` have any k.

    One that is not declared is a share.
    """
    known = METRICS.get(name) or CLASS_METRICS.get(name)
    known = known or CONFIDENCE_METRICS.get(name) or OWN_METRICS.get(name)
    if known is None and (k := cutoff(name)) is not None:
        return _hits(k)
    return known or Metric()


def check_own_metrics(names: Iterable[str]) -> None:
    """Raise MetricError for a name that is no word, or one of Headstock's.

    Raises
    ------
    MetricError
    """
    for name in names:
        if name in {*METRICS, *CLASS_METRICS, *CONFIDENCE_METRICS}:
            raise MetricError(f"{name!r} is a metric of Headstock. Give yours another name.")
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][\w@.+-]{0,63}", name):
            raise MetricError(f"{name!r} names no metric: it is a word of letters and digits.")


def cutoff(metric: str) -> int | None:
    """Return k of the hit rates ``"R@k"`` and ``"top-k"``, and None for any other metric."""
    found = re.fullmatch(r"(?:R@|top-)([1-9]\d*)", metric)
    return int(found[1]) if found else None


def query_values(metric: str, of: Ranks) -> NDArray[np.float64]:
    """Return the value of any of `METRICS` for every query, shape (n,).

    Raises
    ------
    MetricError
        If no metric of ranks has this name.
    """
    import numpy as np

    return np.asarray(_of_ranks(metric, "values")(of), np.float64)


def _of_ranks(metric: str, part: str) -> Any:
    """Return what is known of a metric that follows from ranks."""
    if (known := getattr(metric_named(metric), part)) is None:
        raise MetricError(unknown_name("metric", metric, METRICS))
    return known


def summarise(ranks: Ranks, metrics: Sequence[str] = tuple(METRICS)) -> dict[str, float]:
    """Pool the queries: the mean of every metric, the median for ``"median_rank"``."""
    import numpy as np

    pools = {metric: getattr(np, metric_named(metric).pool) for metric in metrics}
    return {metric: float(pool(query_values(metric, ranks))) for metric, pool in pools.items()}


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
    order = RandomOrder(n_relevant, gallery)
    return {metric: float(_of_ranks(metric, "level")(order)) for metric in metrics}


#: What is known of each metric of answers.
CLASS_METRICS: dict[str, Metric] = {
    name: Metric(text, paired=False)
    for name, text in {
        "balanced-accuracy": "Mean over classes that have images of the share found: per-class "
        "mean.",
        "macro-F1": "Mean of the F1 of every class that has images or was answered.",
        "weighted-F1": "Mean of the F1 of every class, weighted by its images.",
        "seen": "Balanced accuracy over the classes that the head has.",
        "unseen": "Balanced accuracy over the classes that the head lacks.",
        "harmonic": "Harmonic mean of seen and unseen.",
    }.items()
} | {
    "calibration-error": Metric(
        "Root mean square of confidence less share right, in 15 bins, without its bias.",
        higher_is_better=False, paired=False,
    ),
    "ECE": Metric(
        "The expected calibration error as usually given, biased upwards.",
        higher_is_better=False, paired=False,
    ),
}  # fmt: skip

#: What is known of each metric of confidence that has a value for every image.
CONFIDENCE_METRICS: dict[str, Metric] = {
    "confidence": Metric(
        "Mean probability of the answers, by a temperature of the training data.", paired=False
    ),
    "AURC": Metric(
        "Mean share wrong of the most confident images, over all coverages.",
        higher_is_better=False,
    ),
    "AUROC": Metric(
        "Probability that an image has more confidence with its name among the candidates than "
        "another one without.",
        chance=0.5,
    ),
    "AUROC-score": Metric("The same by the highest score instead of its probability.", chance=0.5),
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
        out["harmonic"] = harmonic_mean([out["seen"], out["unseen"]])
    return out

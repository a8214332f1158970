"""What a random order of the gallery would give: exact expectations, no simulation.

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
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from bench.errors import MetricError
from bench.metrics.summary import METRICS, counted_at, cutoff


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
    relevant, weights = np.unique(np.asarray(n_relevant), return_counts=True)
    if len(relevant) == 0 or relevant[0] < 1 or relevant[-1] > gallery:
        msg = f"Every query needs 1 to {gallery:,} relevant items, got {relevant.tolist()}."
        raise MetricError(msg)
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
            msg = f"No metric named {metric!r}. Known metrics: {', '.join(METRICS)}."
            raise MetricError(msg)
    return out


def _probability_beyond(
    relevant: int, gallery: int, places: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return C(g-p, r) / C(g, r) for every r: no relevant item among the first r."""
    possible = places <= gallery - relevant
    r = places[possible]
    rest = gallery - relevant
    log_ratio = gammaln(rest + 1) - gammaln(rest - r + 1) - gammaln(gallery + 1)
    log_ratio += gammaln(gallery - r + 1)
    out = np.zeros(len(places))
    out[possible] = np.exp(log_ratio)
    return out

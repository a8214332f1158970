"""How certain a difference is: intervals and p-values that respect clusters.

Queries that share a description (or an image) are no independent draws: a model that knows
one of three frogs tends to know the other two. Here the *cluster* is what is resampled, with
all its queries, over all seeds in which it is tested.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import MetricError

#: Resamples of the bootstrap. The ends of a 95 % interval then vary by about 2 % of its width.
N_RESAMPLES = 4_000

#: Sign flips of the permutation test: the smallest p it can give is 1 / (N_FLIPS + 1).
N_FLIPS = 9_999

# Resamples drawn at once; bounds the memory at BLOCK × clusters × 8 bytes.
_BLOCK = 1_000


@dataclass(frozen=True)
class MeanSd:
    """Mean and spread over seeds.

    Attributes
    ----------
    mean : float
    sd : float
        Sample standard deviation (n - 1); NaN for a single value.
    n : int
        Number of seeds.
    """

    mean: float
    sd: float
    n: int


@dataclass(frozen=True)
class Difference:
    """A mean difference with its 95 % interval and its p-value.

    Attributes
    ----------
    mean : float
        Mean over all rows of ``a - b``.
    low, high : float
        Percentile interval of the cluster bootstrap.
    p : float
        Two-sided p of the sign-flip permutation test over clusters.
    n_rows, n_clusters : int
    """

    mean: float
    low: float
    high: float
    p: float
    n_rows: int
    n_clusters: int


def mean_sd(values: Sequence[float] | NDArray[np.floating[Any]]) -> MeanSd:
    """Return the mean and the sample standard deviation (n - 1) of one value per seed."""
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        msg = "There is no value to average."
        raise MetricError(msg)
    sd = float(np.std(array, ddof=1)) if array.size > 1 else float("nan")
    return MeanSd(float(np.mean(array)), sd, int(array.size))


def paired_difference(
    a: NDArray[np.floating[Any]],
    b: NDArray[np.floating[Any]] | float,
    clusters: NDArray[Any],
    *,
    rng: np.random.Generator,
    confidence: float = 0.95,
    n_resamples: int = N_RESAMPLES,
    n_flips: int = N_FLIPS,
) -> Difference:
    """Compare two methods on the same queries.

    Parameters
    ----------
    a, b : arrays of shape (n,), or a number for b
        Value of each query under each method, row by row the same query. A number is a
        known level, such as chance.
    clusters : array of shape (n,)
        Id of what was drawn independently: a description, an image.
    rng : Generator
        Draws the resamples and the flips.
    confidence : float
        Coverage of the interval.
    n_resamples, n_flips : int

    Returns
    -------
    Difference
        Of ``mean(a - b)`` over rows.

    Raises
    ------
    MetricError
        If lengths differ or there is no row.
    """
    if np.ndim(b) and np.shape(a) != np.shape(b):
        msg = (
            f"A paired difference needs the same queries on both sides, got {np.shape(a)} and "
            f"{np.shape(b)} values."
        )
        raise MetricError(msg)
    differences = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    return mean_differences(
        differences[:, None],
        clusters,
        rng=rng,
        confidence=confidence,
        n_resamples=n_resamples,
        n_flips=n_flips,
    )[0]


def mean_differences(
    differences: NDArray[np.float64],
    clusters: NDArray[Any],
    *,
    rng: np.random.Generator,
    confidence: float = 0.95,
    n_resamples: int = N_RESAMPLES,
    n_flips: int = N_FLIPS,
) -> list[Difference]:
    """Return mean, interval and p of many comparisons on the same rows.

    Parameters
    ----------
    differences : array of shape (n, m)
        One column a comparison. All columns see the same resamples and flips, which is what
        makes hundreds of them cheap.
    clusters : array of shape (n,)
    rng, confidence, n_resamples, n_flips
        As in `paired_difference`.
    """
    sums, sizes = cluster_sums(differences, clusters)
    ends = cluster_bootstrap(sums, sizes, rng=rng, confidence=confidence, n_resamples=n_resamples)
    p_values = sign_flip_p(sums, rng=rng, n_flips=n_flips)
    means = differences.mean(axis=0)
    return [
        Difference(float(mean), float(low), float(high), float(p), len(differences), len(sums))
        for mean, (low, high), p in zip(means, ends, p_values, strict=True)
    ]


def cluster_sums(
    values: NDArray[np.float64], clusters: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the sum of `values` of every cluster, (c, m), and its number of rows, (c,)."""
    clusters = np.asarray(clusters)
    if len(clusters) != len(values) or len(values) == 0:
        msg = f"Every row needs one cluster id: got {len(clusters):,} for {len(values):,} rows."
        raise MetricError(msg)
    _, codes = np.unique(clusters, return_inverse=True)
    sums = np.zeros((int(codes.max()) + 1, values.shape[1]))
    np.add.at(sums, codes, values)
    return sums, np.bincount(codes).astype(np.float64)


def cluster_bootstrap(
    sums: NDArray[np.float64],
    sizes: NDArray[np.float64],
    *,
    rng: np.random.Generator,
    confidence: float = 0.95,
    n_resamples: int = N_RESAMPLES,
) -> NDArray[np.float64]:
    """Return the percentile intervals of ``sum(sums) / sum(sizes)``, shape (m, 2).

    c clusters are drawn with replacement from c. The mean is over rows, so that a resample
    with many large clusters has more rows; that is the ratio estimator of cluster sampling.
    With clusters of one row it is ``scipy.stats.bootstrap(method="percentile")``.
    """
    n, m = sums.shape
    means = np.empty((n_resamples, m))
    for start in range(0, n_resamples, _BLOCK):
        size = min(_BLOCK, n_resamples - start)
        weights = rng.multinomial(n, np.full(n, 1.0 / n), size=size).astype(np.float64)
        means[start : start + size] = (weights @ sums) / (weights @ sizes)[:, None]
    tail = (1.0 - confidence) / 2.0
    return np.quantile(means, [tail, 1.0 - tail], axis=0).T


def sign_flip_p(
    sums: NDArray[np.float64], *, rng: np.random.Generator, n_flips: int = N_FLIPS
) -> NDArray[np.float64]:
    """Return the two-sided p that the clusters' differences are symmetric about 0, shape (m,).

    Under the null hypothesis the two methods are exchangeable within a cluster, so flipping
    the sign of all its rows changes nothing. The observed arrangement counts as one of the
    flips: ``p = (1 + #{|flipped| >= |observed|}) / (1 + n_flips)``, never 0.
    """
    observed = np.abs(sums.sum(axis=0))
    # Sums of the same terms in another order differ in the last bits: equal must stay equal.
    slack = 1e-9 * np.abs(sums).sum(axis=0)
    reached = np.zeros(sums.shape[1], dtype=np.int64)
    for start in range(0, n_flips, _BLOCK):
        size = min(_BLOCK, n_flips - start)
        signs = 2.0 * rng.integers(0, 2, size=(size, len(sums)), dtype=np.int8) - 1.0
        reached += np.count_nonzero(np.abs(signs @ sums) >= observed - slack, axis=0)
    return (1 + reached) / (1 + n_flips)


def holm(p_values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return Holm's step-down adjustment of the p-values of one table, shape (m,).

    The smallest is multiplied by m, the next by m - 1, and so on; none may be below one before
    it, none above 1. Rejecting where the result is at most 5 % keeps the chance of any false
    rejection in the table at 5 %, however the comparisons depend on one another.

    References
    ----------
    Holm, A Simple Sequentially Rejective Multiple Test Procedure, 1979.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or np.isnan(p).any() or ((p < 0) | (p > 1)).any():
        msg = f"Holm's correction takes a list of p-values between 0 and 1; got {p_values!r}."
        raise MetricError(msg)
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted


def wilson_interval(share: float, n: float, *, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's interval of a share that was seen in `n` independent draws.

    For a share against a known level. Bootstrap and sign flips fail there when hits are few:
    no resample of zero hits holds a hit, and the distance to the level is not symmetric. `n`
    may be a number of clusters, which counts the rows of a cluster as one draw: wider than
    needed unless they agree entirely.

    References
    ----------
    Wilson, Probable Inference, the Law of Succession, and Statistical Inference, 1927.
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2.0)
    centre = (share + z * z / (2.0 * n)) / (1.0 + z * z / n)
    half = z / (1.0 + z * z / n) * math.sqrt(share * (1.0 - share) / n + z * z / (4.0 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)

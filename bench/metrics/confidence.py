"""Does a score know when it is wrong: calibration, risk at a coverage, and rejection.

Of n answers there is a confidence each, and whether the answer was right. Statistics that are no
means of values (AURC, AUROC) have, for every query, the value whose mean is the statistic and whose
deviations are its influence to first order: intervals and comparisons are then those of every mean
(`bench.statistics.two_term`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ncfdtr, ncfdtrinc, stdtrit
from scipy.stats import rankdata

from bench.errors import MetricError
from bench.statistics import DrawSums, effective_df, proportion_interval

#: Bins of a calibration error.
BINS = 15

# Beyond this noncentrality its root alone counts, which is nearly normal.
_FAR = 100.0

# Where fewer than this share of a bin are wrong, or right, their number is skewed.
_RARE = 0.1

# More of a bin than this no cluster is taken to be: its variance would be that of nothing.
_MOST = 0.9


@dataclass(frozen=True)
class Calibration:
    """How far confidence lies from the share that is right.

    Attributes
    ----------
    error : float
        Root of the mean over bins of (confidence − accuracy)², less what chance adds to it; 0 where
        that is more. A share: 0.1 is ten points.
    low, high : float
        Its interval.
    square : float
        The unbiased estimate that `error` is the root of: below 0 half of the time where nothing is
        miscalibrated.
    raw : float
        The expected calibration error as it is usually given, biased upwards:
        Σ n_b / n · |confidence − accuracy| over bins of equal width.
    """

    error: float
    low: float
    high: float
    square: float
    raw: float


def calibration(
    confidence: ArrayLike,
    right: ArrayLike,
    clusters: ArrayLike | None = None,
    *,
    n_bins: int = BINS,
    level: float = 0.95,
) -> Calibration:
    """Return the calibration error of n answers, without the bias of its estimate.

    Bins hold about n / `n_bins` answers; equal confidences share a bin. In bin b, of the share p_b
    of the answers, the mean gap is g_b. The estimate Σ p_b g_b² is too large by the variance of the
    g_b, which is estimated from the clusters and taken off. In terms of that variance Σ p_b g_b²
    is a noncentral F, to its first two moments; the interval is its inversion. Where fewer than a
    tenth of a bin are wrong, or right, the upper end is at least that of the binomial interval of
    such bins: a hundred answers that are all right may hide an error of three points. The interval
    is about binned confidences: within a bin errors may cancel, so that the true error is at least
    as large (Kumar et al., proposition 3.3).

    Parameters
    ----------
    confidence : array of shape (n,)
        Probabilities of the answers.
    right : array of bool, shape (n,)
    clusters : array of shape (n,), optional
        What answers share, such as their class. None: nothing.
    n_bins : int
    level : float

    Raises
    ------
    MetricError
        If there are fewer than two answers or clusters, or a confidence is no probability.

    References
    ----------
    Kumar, Liang and Ma, Verified Uncertainty Calibration, NeurIPS 2019, section 4: with clusters of
    one and binned confidences the estimate is theirs. Guo et al., On Calibration of Modern Neural
    Networks, ICML 2017: `Calibration.raw`. The interval is ours; ``make validate-statistics`` has
    its coverage.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> p = rng.random(4000)
    >>> found = calibration(p, rng.random(4000) < p)
    >>> round(found.error, 3), round(found.low, 3), round(found.high, 3), round(found.raw, 3)
    (0.0, 0.0, 0.026, 0.016)
    """
    p, hit = np.asarray(confidence, np.float64), np.asarray(right, bool)
    n = len(p)
    _, cluster = np.unique(np.arange(n) if clusters is None else clusters, return_inverse=True)
    if n < 2 or hit.shape != p.shape or cluster.shape != p.shape or not cluster.any():
        raise MetricError(
            f"Calibration is of two answers and clusters or more, each with a confidence: got "
            f"{n:,} confidences, {len(hit):,} answers and {len(cluster):,} clusters."
        )
    if not (p.min() >= 0.0 and p.max() <= 1.0):
        raise MetricError(f"Confidences are probabilities; got {p.min():.4g} to {p.max():.4g}.")
    edges = np.quantile(p, np.arange(1, n_bins) / n_bins, method="higher")
    _, bins = np.unique(np.searchsorted(edges, p, side="right"), return_inverse=True)
    size = np.bincount(bins)
    gaps = np.bincount(bins, weights=p - hit) / size
    shape = int(cluster.max()) + 1, len(size)
    cells = cluster * shape[1] + bins
    sums = np.bincount(cells, p - hit - gaps[bins], shape[0] * shape[1]).reshape(shape)
    held = np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape)
    residual = sums / np.sqrt((1.0 - np.minimum(held / size, _MOST)) * size * n)
    covariance = residual.T @ residual if shape[0] > shape[1] else residual @ residual.T
    total = float(size @ gaps**2) / n
    noise, squares = float(np.trace(covariance)), float(np.sum(covariance**2))
    # Where all answers of a bin are alike, the variance is that of its confidences at least.
    hits = np.bincount(bins, weights=hit)
    of_confidences = np.bincount(bins, weights=p * (1.0 - p)) / size / n
    alike = np.where((hits == 0) | (hits == size), of_confidences, 0.0)
    spread, fourth = noise + float(alike.sum()), squares + float(np.sum(alike**2))
    low, high = total, total
    if spread > 0.0:
        df, of_noise = spread**2 / fourth, effective_df(np.bincount(cluster) / n)
        root = np.sqrt(max(0.0, total - noise))
        along = np.sum((residual @ (np.sqrt(size / n) * gaps)) ** 2) / max(total, 1e-300)
        half = stdtrit(of_noise, 0.5 + level / 2.0) * np.sqrt(along + alike.max())
        low, high = max(0.0, root - half) ** 2, (root + half) ** 2
        if (total / spread - 1.0) * df <= _FAR:
            ends = (1 + level, 1 - level)
            by_f = [_noncentrality(total / spread, df, of_noise, end) for end in ends]
            low = min(low, by_f[0] * fourth / spread)
            high = max(high, by_f[1] * fourth / spread)
    high = max(high, _rare_end(p, hit, bins, gaps, cluster, level))
    width = np.minimum((p * n_bins).astype(int), n_bins - 1)
    raw = float(np.abs(np.bincount(width, weights=p - hit)).sum()) / n
    square = total - noise
    error, low, high = np.sqrt([max(0.0, square), low, high]).tolist()
    return Calibration(error, low, high, square, raw)


def _rare_end(
    p: NDArray[np.float64],
    hit: NDArray[np.bool_],
    bins: NDArray[np.intp],
    gaps: NDArray[np.float64],
    cluster: NDArray[np.intp],
    level: float,
) -> float:
    """Return the upper end of the squared error where few answers of a bin are wrong, or right.

    Such bins are taken together, those of right and those of wrong answers, and the share that is
    right lies as far from their confidence as its binomial interval lets it. Other bins count by
    their gaps.
    """
    size = np.bincount(bins)
    right = np.bincount(bins, weights=hit) / size
    sums = size * gaps**2
    end = float(sums[(right >= _RARE) & (right <= 1.0 - _RARE)].sum())
    for is_rare in (right > 1.0 - _RARE, right < _RARE):
        rows = is_rare[bins]
        if rows.any():
            one = np.zeros(int(rows.sum()))
            shares = DrawSums.of(hit[rows].astype(float), one, cluster[rows])
            ends = np.array(proportion_interval(shares, confidence=level))
            end += float(rows.sum() * np.max((p[rows].mean() - ends) ** 2))
    return end / len(p)


def _noncentrality(f: float, df: float, df_noise: float, twice: float) -> float:
    """Return the noncentrality at which F is below f with the probability twice / 2; at least 0."""
    if ncfdtr(df, df_noise, 0.0, f) <= twice / 2:
        return 0.0
    return float(ncfdtrinc(df, df_noise, twice / 2, f))


def risk_coverage(confidence: ArrayLike, right: ArrayLike) -> NDArray[np.float64]:
    """Return the risk of the k most confident answers, k = 1 … n, shape (n,).

    Of equal confidences it is the expectation over their orders.
    """
    _, code, counts = np.unique(-np.asarray(confidence), return_inverse=True, return_counts=True)
    wrong = np.bincount(code, weights=~np.asarray(right, bool)) / counts
    return np.cumsum(np.repeat(wrong, counts)) / np.arange(1, len(code) + 1)


def of_risk_coverage(confidence: ArrayLike, right: ArrayLike) -> NDArray[np.float64]:
    """Return a value for every answer whose mean is AURC, the mean of `risk_coverage`, shape (n,).

    With R(k) the risk of the k most confident and r the place of an answer, it is
    R(r) + wrong · Σ_{k ≥ r} 1/k − Σ_{k ≥ r} R(k)/k: the influence of the answer on AURC as sample
    of the coverage, as an error, and as one of those that are covered.

    References
    ----------
    Geifman, Uziel and El-Yaniv, Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers,
    ICLR 2019, section 2.

    Examples
    --------
    >>> of_risk_coverage([0.9, 0.8, 0.7], [True, False, True]).mean().round(4).item()
    0.2778
    """
    risk = risk_coverage(confidence, right)
    places = np.arange(1, len(risk) + 1)
    _, code, counts = np.unique(-np.asarray(confidence), return_inverse=True, return_counts=True)
    tied = np.repeat(np.arange(len(counts)), counts)
    above = np.stack([risk, *(np.cumsum((one / places)[::-1])[::-1] for one in (1.0, risk))])
    at, errors, covered = (np.bincount(tied, weights=one) / counts for one in above)
    wrong = ~np.asarray(right, bool)
    return at[code] + wrong * errors[code] - covered[code]


def of_rejection(
    known: NDArray[np.floating[Any]], unknown: NDArray[np.floating[Any]], half: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return a value for every query whose mean is AUROC, shape (n,).

    The candidates are cut in two halves, and each query is scored by both: by its own half it has a
    name among the candidates, by the other half it has none. AUROC is the probability that a query
    of a half has more confidence than one of the other half by the same candidates; equal ones
    count one half. It is the mean over the two.

    Parameters
    ----------
    known, unknown : arrays of shape (n,)
        Confidence of every query by its own half, and by the other.
    half : array of bool, shape (n,)
        Which half is a query's own; both have some.

    References
    ----------
    DeLong, DeLong and Clarke-Pearson, Biometrics 1988: the placements that the values are made of.
    Obuchowski, Biometrics 1997: their sums over clusters.

    Examples
    --------
    >>> known, unknown = np.array([0.9, 0.4, 0.8, 0.7]), np.array([0.5, 0.1, 0.6, 0.7])
    >>> of_rejection(known, unknown, np.array([True, True, False, False])).mean().item()
    0.75
    """
    if half.all() or not half.any():
        raise MetricError("Rejection needs queries whose names are in either half.")
    values = np.zeros(len(half))
    areas = []
    for own in (half, ~half):
        inside, outside = known[own], unknown[~own]
        both = np.concatenate([inside, outside])
        place, n = rankdata(both), len(inside)
        above = (place[:n] - rankdata(inside)) / len(outside)
        below = 1.0 - (place[n:] - rankdata(outside)) / n
        areas.append(float(above.mean()))
        values[own] += (above - areas[-1]) / n
        values[~own] += (below - areas[-1]) / len(outside)
    return np.mean(areas) + len(half) / 2.0 * values

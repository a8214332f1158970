"""How certain a mean or a difference is: draws × clusters, control draws, families of claims.

A row of a table is a mean over *draws* (splits, subsets of real pairs, seeds) and over queries that
come in *clusters* (all images of one class, all captions of one image). Both are samples, so both
add to the variance. `two_term` estimates the two parts from sums per draw and cluster alone, with
degrees of freedom that stay honest for five draws or seven clusters. docs/statistics.md has the
formulas, the simulations behind them (``make validate-statistics``) and when not to trust them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, ndtri, stdtr, stdtrit

from bench.errors import MetricError
from featstore.matrices import Rows, vector
from fitters.pairs import Matrix

#: Control draws from which a rank alone can reach p = 1 / (m + 1) = 0.05.
ENOUGH_CONTROLS = 19

#: A primary family has at most so many comparisons; with more, a table of honest degrees of
#: freedom can hardly reject anything (docs/statistics.md).
LARGEST_FAMILY = 20

#: Draws that a claim from random draws needs.
ENOUGH_DRAWS = 10

#: Above this share of the pool, draws overlap too much for a claim beyond the pool.
LARGEST_OVERLAP = 0.25

# Below it a variance is rounding, and so is a difference of means.
_NOTHING = 1e-24
_EQUAL = 1e-12


@dataclass(frozen=True, eq=False)
class DrawSums:
    """Sums of one value per query by draw and cluster: all that an interval needs.

    Attributes
    ----------
    total : float64 array of shape (s, c)
        Sum of the values of the queries of cluster c in draw s; 0 where there is none.
    count : float64 array of shape (s, c)
        Number of these queries.
    """

    total: Matrix
    count: Matrix

    def __post_init__(self) -> None:
        if self.total.shape != self.count.shape or self.total.ndim != 2 or self.count.sum() <= 0:
            raise MetricError(
                "Sums per draw and cluster need a total and a count of the same shape (draws, "
                f"clusters), with at least one query; got shapes {self.total.shape} and "
                f"{self.count.shape}, {self.count.sum():g} queries."
            )

    @classmethod
    def of(
        cls, values: NDArray[np.floating[Any]], draws: NDArray[Any], clusters: NDArray[Any]
    ) -> DrawSums:
        """Return the sums of one value per row.

        Parameters
        ----------
        values : array of shape (n,)
        draws, clusters : arrays of shape (n,)
            Ids of the draw and of the cluster of every row.

        Raises
        ------
        MetricError
            If lengths differ or there is no row.

        Examples
        --------
        >>> import numpy as np
        >>> values, draws = np.array([1.0, 0.0, 1.0]), np.array([0, 0, 1])
        >>> sums = DrawSums.of(values, draws, np.array(["a", "b", "a"]))
        >>> sums.total.tolist(), sums.count.tolist()
        ([[1.0, 0.0], [1.0, 0.0]], [[1.0, 1.0], [1.0, 0.0]])
        """
        if not len(values) == len(draws) == len(clusters) or len(values) == 0:
            raise MetricError(
                f"Every value needs a draw and a cluster: got {len(values):,} values, "
                f"{len(draws):,} draws and {len(clusters):,} clusters."
            )
        _, s = np.unique(draws, return_inverse=True)
        _, c = np.unique(clusters, return_inverse=True)
        shape = int(s.max()) + 1, int(c.max()) + 1
        flat = s * shape[1] + c
        size = shape[0] * shape[1]
        total = np.bincount(flat, weights=np.asarray(values, np.float64), minlength=size)
        count = np.bincount(flat, minlength=size).astype(np.float64)
        return cls(total.astype(np.float64).reshape(shape), count.reshape(shape))

    def __sub__(self, other: DrawSums | float) -> DrawSums:
        """Return the sums of the differences, query by query the same on both sides.

        Raises
        ------
        MetricError
            If the two do not have the same number of queries in every draw and cluster.
        """
        if not isinstance(other, DrawSums):
            return DrawSums(self.total - other * self.count, self.count)
        if self.count.shape != other.count.shape or not np.array_equal(self.count, other.count):
            raise MetricError(
                "A paired difference needs the same queries on both sides: the numbers of queries "
                f"per draw and cluster differ ({self.count.sum():g} and {other.count.sum():g})."
            )
        return DrawSums(self.total - other.total, self.count)

    @property
    def mean(self) -> float:
        """The mean over all queries of all draws."""
        return float(self.total.sum() / self.count.sum())

    @property
    def means(self) -> Matrix:
        """The mean of every draw, shape (s,)."""
        return self.total.sum(axis=1) / self.count.sum(axis=1)

    def averaged(self) -> DrawSums:
        """Return the sums of the mean over the draws, shape (1, c); draws with the same queries."""
        return DrawSums(self.total.mean(axis=0)[None], self.count.mean(axis=0)[None])


@dataclass(frozen=True)
class Estimate:
    """A mean with its variance, split by where it comes from.

    Attributes
    ----------
    mean : float
    of_draws : float
        Variance from the draws, the factor for overlapping subsets included; 0 for one draw.
    of_clusters : float
        Variance from the clusters.
    df_draws, df_clusters : float
        Degrees of freedom of the two.
    n_draws, n_clusters, n_rows : int
    overlap : float
        f, the share of the pool that one draw takes.
    of_controls, df_controls : float
        Variance of the mean of the control draws that is subtracted, where there are some.
    """

    mean: float
    of_draws: float
    of_clusters: float
    df_draws: float
    df_clusters: float
    n_draws: int
    n_clusters: int
    n_rows: int
    overlap: float = 0.0
    of_controls: float = 0.0
    df_controls: float = math.nan

    @property
    def variance(self) -> float:
        """Variance of the mean; infinite where one cluster leaves it unknown."""
        if self.n_clusters < 2:
            return math.inf
        return self.of_draws + self.of_clusters + self.of_controls

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        return math.sqrt(self.variance)

    @property
    def df(self) -> float:
        """Degrees of freedom of the variance, after Satterthwaite."""
        parts = [
            (self.of_draws, self.df_draws), (self.of_clusters, self.df_clusters),
            (self.of_controls, self.df_controls),
        ]  # fmt: skip
        spread = sum(variance**2 / df for variance, df in parts if variance > 0)
        if spread == 0 or not math.isfinite(self.variance):
            return self.df_clusters
        return self.variance**2 / spread

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Return the t interval of the mean.

        Where nothing varies at all, the values are taken to lie in [-1, 1], as differences of
        shares do, and the interval is what so many clusters that agree leave open.
        """
        if not math.isfinite(self.variance):
            return -math.inf, math.inf
        if self.variance <= _NOTHING:
            return _interval_of_equal_values(self.mean, self.n_clusters, confidence)
        half = float(stdtrit(self.df, 0.5 + confidence / 2.0)) * self.error
        return self.mean - half, self.mean + half

    def p_value(self, null: float = 0.0) -> float:
        """Return the two-sided p of ``mean == null``.

        Where nothing varies at all, it is the smallest p that flipping the signs of the clusters
        could give, 2 / 2^c: four clusters that agree are no proof.
        """
        distance = abs(self.mean - null)
        # Sums of the same terms in another order differ in the last bits.
        if distance <= 1e-12 or not math.isfinite(self.variance):
            return 1.0
        if self.variance <= _NOTHING:
            return float(2.0 ** (1 - self.n_clusters))
        return float(2.0 * stdtr(self.df, -distance / self.error))


def _interval_of_equal_values(value: float, n: int, confidence: float) -> tuple[float, float]:
    """Return what n equal values in [-1, 1] leave open.

    That one in n differs is still within the confidence; it would move their mean by as much.
    """
    share_of_others = 1.0 - ((1.0 - confidence) / 2.0) ** (1.0 / n)
    most = max(1.0, abs(value))
    return value - share_of_others * (most + value), value + share_of_others * (most - value)


def effective_df(shares: NDArray[np.floating[Any]]) -> float:
    """Return the degrees of freedom of the CR2 variance of a mean over unequal parts.

    Parameters
    ----------
    shares : array of shape (n,)
        Share of the rows that each part holds; sums to 1.

    Returns
    -------
    float
        n - 1 for equal shares, less for unequal ones; NaN for a single part.

    Notes
    -----
    ``1 / (Σh² + (Σ h²/(1-h))² - Σ (h²/(1-h))²)``: Satterthwaite's approximation of the quadratic
    form under independent parts with variance in proportion to their size (Bell and McCaffrey,
    2002; Imbens and Kolesár, 2016), written out for an intercept.

    Examples
    --------
    >>> import numpy as np
    >>> round(effective_df(np.full(10, 0.1)), 9)
    9.0
    """
    h = np.asarray(shares, np.float64)
    h = h[h > 0]
    if len(h) < 2:
        return math.nan
    lever = h**2 / (1.0 - h)
    return float(1.0 / (np.sum(h**2) + np.sum(lever) ** 2 - np.sum(lever**2)))


def two_term(sums: DrawSums, *, overlap: float = 0.0) -> Estimate:
    """Estimate a mean over draws and clusters, with a variance term for each.

    Parameters
    ----------
    sums : DrawSums
        Of a value, or of a paired difference.
    overlap : float
        f = K / pool, where every draw takes K of the same pool at random; 0 where draws share
        nothing. In [0, 1).

    Returns
    -------
    Estimate

    Raises
    ------
    MetricError
        If `overlap` is out of range.

    Notes
    -----
    With r = y - mean, R_sc its sum over draw s and cluster c, and shares h of the rows::

        V_D = (1/N²) Σ_s (Σ_c R_sc)² / (1 - h_s)        times 1 + S f / (1 - f)
        V_C = (1/N²) Σ_c (Σ_s R_sc)² / (1 - h_c)        the CR2 variance of a mean

    For y = θ + a_s + b_c + e_sc their sum has the expectation Var(mean) + σ_e²/SC: it is never
    too small, and at most twice too large, where neither draws nor clusters matter. A single draw
    has no V_D: its interval is about other queries only.

    Examples
    --------
    >>> import numpy as np
    >>> sums = DrawSums(np.array([[1.0, 2.0, 4.0]]), np.ones((1, 3)))
    >>> found = two_term(sums)
    >>> round(found.mean, 3), round(found.error, 3), round(found.df, 9)  # as the t-test of 1, 2, 4
    (2.333, 0.882, 2.0)
    """
    count = sums.count
    n = float(count.sum())
    mean = float(sums.total.sum()) / n
    residual = sums.total - mean * count
    of_draw, of_cluster = count.sum(axis=1) / n, count.sum(axis=0) / n
    n_draws = int(np.count_nonzero(of_draw))
    return Estimate(
        mean=mean,
        of_draws=_variance(residual.sum(axis=1), of_draw, n)
        * (1.0 + n_draws * overlap / (1.0 - overlap)),
        of_clusters=_variance(residual.sum(axis=0), of_cluster, n),
        df_draws=effective_df(of_draw),
        df_clusters=effective_df(of_cluster),
        n_draws=n_draws,
        n_clusters=int(np.count_nonzero(of_cluster)),
        n_rows=round(n),
        overlap=overlap,
    )


def compare(a: Rows, b: Rows, *, clusters: Any = None, draws: Any = None) -> Estimate:
    """Return the mean of the paired differences a - b, with what its interval and p are made of.

    Parameters
    ----------
    a, b : array_like of shape (n,)
        One value a query, such as a hit or a reciprocal rank, of the same queries on both sides.
    clusters : array_like of shape (n,), optional
        What queries share, such as their class or image. None: nothing.
    draws : array_like of shape (n,), optional
        Draw of each query, where splits, subsets or seeds were drawn. None: all are of one.

    Returns
    -------
    Estimate
        `two_term` of the differences.

    Raises
    ------
    MetricError, RowsError
        If they are of different lengths, or no finite numbers.

    Examples
    --------
    >>> found = compare([1, 1, 1, 0, 1, 1], [0, 1, 0, 0, 0, 1])
    >>> low, high = found.interval()
    >>> round(found.mean, 3), round(low, 3), round(high, 3), round(found.p_value(), 3)
    (0.5, -0.075, 1.075, 0.076)
    """
    left, right = vector(a, "a"), vector(b, "b")
    if left.shape != right.shape:
        raise MetricError(f"b has {len(right):,} values for {len(left):,} of a.")
    missing = np.flatnonzero(~(np.isfinite(left) & np.isfinite(right)))
    if len(missing):
        raise MetricError(
            f"{len(missing):,} of {len(left):,} queries have no finite value on both sides (first: "
            f"row {missing[0]:,}, a {left[missing[0]]} and b {right[missing[0]]}). Leave these "
            "queries out, or score what was not answered as 0."
        )
    each, one = np.arange(len(left)), np.zeros(len(left))
    ids = [one if draws is None else draws, each if clusters is None else clusters]
    return two_term(DrawSums.of(left - right, *map(np.asarray, ids)))


def _variance(residual: Matrix, shares: Matrix, n: float) -> float:
    """Return the CR2 variance of a mean of n rows from the residual sums of its parts."""
    kept = shares > 0
    if np.count_nonzero(kept) < 2:
        return 0.0
    return float(np.sum(residual[kept] ** 2 / (1.0 - shares[kept]))) / n**2


def proportion_interval(
    sums: DrawSums,
    *,
    overlap: float = 0.0,
    confidence: float = 0.95,
    of_controls: float = 0.0,
    df_controls: float = math.nan,
) -> tuple[float, float]:
    """Return the Korn–Graubard interval of a share: Clopper–Pearson's with an effective n.

    Clusters and draws make n rows worth fewer independent ones; how many is read off the variance
    of `two_term`, and reduced once more for its degrees of freedom. Where hits are rare, large
    clusters without one make that variance too small: it is then taken from the sizes of the
    clusters and how much their rows agree, whichever is larger. Where no row or every row is a hit
    there is no variance to read, and where few clusters have a hit (or a miss) too little: then
    rows of one cluster count as one.

    Parameters
    ----------
    sums : DrawSums
        Of a value that is 0 or 1.
    overlap, confidence : float
        As in `two_term` and `Estimate.interval`.
    of_controls, df_controls : float
        As in `Estimate`, where the draws of a control are averaged within every draw of `sums`.

    References
    ----------
    Korn and Graubard, Confidence Intervals for Proportions with Small Expected Number of Positive
    Counts Estimated from Survey Data, 1998. The second variance is ours; docs/statistics.md has
    the coverage with and without it.

    Examples
    --------
    >>> import numpy as np
    >>> low, high = proportion_interval(DrawSums(np.zeros((1, 40)), np.ones((1, 40))))
    >>> low, round(high, 3)
    (0.0, 0.094)
    """
    found = replace(
        two_term(sums, overlap=overlap), of_controls=of_controls, df_controls=df_controls
    )
    share = min(max(found.mean, 0.0), 1.0)
    tail = 0.5 + confidence / 2.0
    n = float(sums.count.sum())
    if found.n_clusters < 2:
        return 0.0, 1.0
    of_one = n**2 / float(np.sum(sums.count.sum(axis=0) ** 2))
    of_one *= (float(ndtri(tail)) / float(stdtrit(found.df_clusters, tail))) ** 2
    if min(share, 1.0 - share) < 1e-12 or found.variance <= _NOTHING:
        n_effective, share = of_one, round(share, 12)
    else:
        found = replace(found, of_clusters=max(found.of_clusters, _agreement_variance(sums)))
        n_effective = share * (1.0 - share) / found.variance
        n_effective *= (
            float(stdtrit(max(n - 1.0, 1.0), tail)) / float(stdtrit(found.df, tail))
        ) ** 2
        if _is_rare(sums):
            n_effective = min(n_effective, of_one)
    n_effective = max(min(n, n_effective), 1e-9)
    hits = share * n_effective
    low = betaincinv(hits, n_effective - hits + 1.0, 1.0 - tail) if hits > 0 else 0.0
    high = betaincinv(hits + 1.0, n_effective - hits, tail) if hits < n_effective else 1.0
    return float(low), float(high)


#: With fewer clusters that have a hit, or a miss, how far rows of one agree cannot be read.
_ENOUGH_HIT = 15


def _is_rare(sums: DrawSums) -> bool:
    """Whether few clusters have a hit, or a miss, and most have none."""
    hits, size = sums.total.sum(axis=0), sums.count.sum(axis=0)
    hits, size = hits[size > 0], size[size > 0]
    fewest = min(np.count_nonzero(hits > 1e-12), np.count_nonzero(hits < size - 1e-12))
    return bool(fewest < min(_ENOUGH_HIT, len(size) / 2))


def _agreement_variance(sums: DrawSums) -> float:
    """Return the variance of a share from cluster sizes and the intra-class correlation.

    ``p (1 - p) Σ n_c (1 + (n_c - 1) ρ) / N²``, ρ by the analysis of variance of 0 and 1.
    """
    hits, size = sums.total.sum(axis=0), sums.count.sum(axis=0)
    hits, size = hits[size > 0], size[size > 0]
    n, c = float(size.sum()), len(size)
    if n <= c:
        return 0.0
    share = float(hits.sum()) / n
    within = float(np.sum(hits - hits**2 / size)) / (n - c)
    between = float(np.sum(size * (hits / size - share) ** 2)) / (c - 1)
    typical = (n - float(np.sum(size**2)) / n) / (c - 1)
    spread = between + (typical - 1.0) * within
    agreement = min(1.0, max(0.0, (between - within) / spread)) if spread > 0 else 0.0
    return share * (1.0 - share) * float(np.sum(size * (1.0 + (size - 1.0) * agreement))) / n**2


@dataclass(frozen=True)
class ControlTest:
    """Whether a head is more than one more draw of its control.

    Attributes
    ----------
    p_above, p_below : float
        One-sided: the head is better, or worse, than a control draw.
    by : {"rank", "t"}
        What they come from; "t" assumes normal draws.
    rank : int or None
        Place of the head among the draws and itself, 1 is best; None where each draw has pairs of
        its own, so that only differences compare.
    n_controls : int
    mean, sd, best : float
        Of the control draws.
    error : float
        Standard error of the head minus one draw more: sd √(1 + 1/m), where each draw has pairs of
        its own with the sd of the differences.
    """

    p_above: float
    p_below: float
    by: Literal["rank", "t"]
    rank: int | None
    n_controls: int
    mean: float
    sd: float
    best: float
    error: float

    def interval(self, difference: float, confidence: float = 0.95) -> tuple[float, float]:
        """Return the interval of the head minus one more draw of its control, by t.

        It asks what p asks: where the head is one more draw, it holds zero with `confidence`. Where
        nothing varies, and nobody said of how many queries, it is what so many equal draws leave
        open of differences in [-1, 1].
        """
        if self.error <= _EQUAL:
            return _interval_of_equal_values(difference, self.n_controls, confidence)
        half = float(stdtrit(self.n_controls - 1.0, 0.5 + confidence / 2.0)) * self.error
        return difference - half, difference + half


def against_controls(
    own: float, controls: Sequence[float] | Matrix, *, n_rows: int | None = None
) -> ControlTest:
    """Compare one head with m draws of a control on the same queries and the same real pairs.

    Under the null hypothesis the head is one more draw of the control, so its rank among the m + 1
    is uniform: ``p = (1 + #{control >= head}) / (m + 1)``, whatever the distribution. With fewer
    than `ENOUGH_CONTROLS` draws, and where the head is beyond all of them, the rank cannot say how
    far: then p is of ``(head - mean) / (sd √(1 + 1/m))`` with m - 1 degrees of freedom, and where
    there are draws enough never above that of the rank. So at 5 % the test of 19 draws or more is
    that of the rank: it keeps its level without the normal assumption. Below, in a family, the tail
    decides: hit rates near chance are counts of one or two, and skewed. So p is the largest of
    three scales: as they are, their roots, which make counts nearly normal, and their logarithms.

    Draws that are all alike, such as of no hit at all, do not show how draws vary. So where values
    are shares of hits, their sd is at least the binomial one of half a hit in `n_rows` queries,
    √(q (1 - q) / n) with q = 1 / 2n.

    Parameters
    ----------
    own : float
        Mean of the head over queries (and over the draws of real pairs).
    controls : sequence of float
        The same of every control draw.
    n_rows : int, optional
        Queries behind each mean: half a hit is added before a logarithm is taken. Without it, and
        with values below 0, the scale is that of the values alone; without it equal draws have no
        test but that of the rank.

    Raises
    ------
    MetricError
        If there are fewer than two control draws.

    Examples
    --------
    >>> found = against_controls(0.3, [0.01 * i for i in range(19)])
    >>> found.rank, found.by, found.p_above < 0.01
    (1, 't', True)
    >>> found = against_controls(1.0, [0.0] * 19, n_rows=30)
    >>> found.rank, found.by, round(found.p_above, 3)
    (1, 't', 0.006)
    """
    x = np.asarray(controls, np.float64)
    m = len(x)
    if m < 2:
        raise MetricError(f"A head is compared with two control draws or more; got {m}.")
    widen = math.sqrt(1.0 + 1.0 / m)
    n_reached, n_undercut = int(np.sum(x >= own - _EQUAL)), int(np.sum(x <= own + _EQUAL))
    above, below = (1 + n_reached) / (m + 1), (1 + n_undercut) / (m + 1)
    floor = _half_hit_sd(np.append(x, own), n_rows)
    sd = max(float(x.std(ddof=1)), floor)
    by: Literal["rank", "t"] = "rank"
    has_enough = m >= ENOUGH_CONTROLS
    if sd > _EQUAL and not (has_enough and n_reached and n_undercut):
        by = "t"
        t_above, t_below = _largest_tails(own, x, n_rows, floor)
        if not has_enough:
            above, below = t_above, t_below
        elif n_reached == 0:
            above = min(above, t_above)
        else:
            below = min(below, t_below)
    return ControlTest(
        p_above=above,
        p_below=below,
        by=by,
        rank=1 + n_reached,
        n_controls=m,
        mean=float(x.mean()),
        sd=float(x.std(ddof=1)),
        best=float(x.max()),
        error=sd * widen,
    )


def _half_hit_sd(values: Matrix, n_rows: int | NDArray[np.integer[Any]] | None) -> float:
    """Return the binomial sd of a share of n rows of which half a row is expected to be a hit.

    It is 0 where the values are no numbers of hits in so many rows: those vary in finer steps.
    """
    if n_rows is None:
        return 0.0
    hits = values * n_rows
    if np.abs(hits - hits.round()).max() > 1e-6:
        return 0.0
    n_fewest = int(np.min(n_rows))
    share = 0.5 / n_fewest
    return math.sqrt(share * (1.0 - share) / n_fewest)


def _largest_tails(
    own: float, controls: Matrix, n_rows: int | None, floor: float
) -> tuple[float, float]:
    """Return the one-sided p of a value as one more draw of normal ones: the largest of scales.

    `floor` is the least sd of the values themselves; on another scale it is that times the slope of
    the scale at the mean of the draws, or at half a hit where that is more.
    """
    m = len(controls)
    values = np.append(controls, own)
    scales = [(values, floor)]
    if n_rows is not None and values.min() >= 0.0:
        half_hit = 0.5 / n_rows
        mean = float(controls.mean())
        scales += [
            (np.sqrt(values), floor / (2.0 * math.sqrt(max(mean, half_hit)))),
            (np.log(values + half_hit), floor / (mean + half_hit)),
        ]
    tails = []
    for scaled, least_sd in scales:
        draws = scaled[:-1]
        sd = max(float(draws.std(ddof=1)), least_sd)
        t = float(scaled[-1] - draws.mean()) / (sd * math.sqrt(1.0 + 1.0 / m))
        tails.append(_one_sided(t, m - 1))
    return max(above for above, _ in tails), max(below for _, below in tails)


def against_paired_controls(
    own: Sequence[float] | Matrix,
    controls: Sequence[float] | Matrix,
    *,
    n_rows: int | NDArray[np.integer[Any]] | None = None,
) -> ControlTest:
    """Do the same where every control draw has pairs of its own, as the head has beside it.

    Parameters
    ----------
    own, controls : sequences of float, shape (m,)
        Means of head and control on the same pairs and queries, draw by draw.
    n_rows : int or array of int of shape (m,), optional
        Queries behind each mean: where means are shares of hits, the sd of the differences is at
        least the binomial one of half a hit in so many. Without it, differences that are all alike
        say no more than their sign.

    Notes
    -----
    p is of ``mean(d) / (sd(d) √(1 + 1/m))`` with m - 1 degrees of freedom, d = own - control: under
    the null hypothesis the head's own deviation is in all m differences alike, which the 1 under
    the root counts. Normal draws are assumed.

    Raises
    ------
    MetricError
        If lengths differ or there are fewer than two draws.

    Examples
    --------
    >>> found = against_paired_controls([0.5] * 10, [0.2] * 10)
    >>> low, high = found.interval(0.3)
    >>> round(found.p_above, 3), round(low, 3), round(high, 3)
    (0.091, -0.101, 0.516)
    >>> against_paired_controls([0.5] * 10, [0.2] * 10, n_rows=100).p_above < 0.001
    True
    """
    a, x = np.asarray(own, np.float64), np.asarray(controls, np.float64)
    m = len(x)
    if a.shape != x.shape or m < 2:
        raise MetricError(
            f"Each draw has a head and a control, and there are two draws or more; got {len(a)} "
            f"of the head and {m} of the control."
        )
    d = a - x
    mean = float(d.mean())
    sd = max(float(d.std(ddof=1)), _half_hit_sd(np.stack([a, x]), n_rows))
    error = sd * math.sqrt(1.0 + 1.0 / m)
    if sd > _EQUAL:
        above, below = _one_sided(mean / error, m - 1)
    else:
        # Differences that are all alike: no more than their signs are known.
        above, below = (1.0, 1.0) if abs(mean) <= _EQUAL else (1.0 / (m + 1), 1.0)
        if mean < 0:
            above, below = below, above
    return ControlTest(
        p_above=above,
        p_below=below,
        by="t",
        rank=None,
        n_controls=m,
        mean=float(x.mean()),
        sd=float(x.std(ddof=1)),
        best=float(x.max()),
        error=error,
    )


def _one_sided(t: float, df: float) -> tuple[float, float]:
    return float(stdtr(df, -t)), float(stdtr(df, t))


def holm(p_values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return Holm's step-down adjustment of the p-values of one family, shape (m,).

    The smallest is multiplied by m, the next by m - 1, and so on; none may be below one before
    it, none above 1. Rejecting where the result is at most 5 % keeps the chance of any false
    rejection in the family at 5 %, however the comparisons depend on one another, if every p is
    valid on its own.

    References
    ----------
    Holm, A Simple Sequentially Rejective Multiple Test Procedure, 1979.
    """
    return _step_down(p_values, lambda left: left)


def against_leader(p_values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return corrected p-values of a leader against each other entry of its board, shape (k - 1,).

    The leader is the best of k entries on the very data that it is compared on, so that any of the
    k (k - 1) / 2 pairs might have been the pair that is looked at. The smallest p is therefore
    multiplied by that number; once its entry is behind, k - 1 are left, and the next is multiplied
    by (k - 1) (k - 2) / 2, and so on. None may be below one before it, none above 1.

    Parameters
    ----------
    p_values : array of shape (k - 1,)
        Two-sided p of the paired difference of the leader to every other entry.

    Notes
    -----
    Of k equal entries some is called behind with a chance of at most 5 %: by the union bound over
    all ordered pairs. Holm's correction over the k - 1 comparisons does not hold that: of boards of
    10, 50 and 200 equal entries whose draws matter most, 13, 30 and 54 % showed a false one
    (docs/statistics.md, ``make validate-statistics``).

    Examples
    --------
    >>> import numpy as np
    >>> against_leader(np.array([0.001, 0.2, 0.01])).round(3).tolist()
    [0.006, 0.2, 0.03]
    """
    return _step_down(p_values, lambda left: (left + 1) * left / 2)


def _step_down(
    p_values: NDArray[np.floating[Any]], factor: Callable[[NDArray[np.int64]], NDArray[Any]]
) -> NDArray[np.float64]:
    """Return p-values times a factor of how many are left, from the smallest on."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * factor(np.arange(len(p), 0, -1)))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted

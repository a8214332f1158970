"""Geometry of embeddings: CKA, CCA, modality gap, neighbours; raw, and beside their null.

Blockwise: 21,000 rows need the rows and one block of scores, never all 4.4e8 scores.

With linear kernels K = XXᵀ and L = YYᵀ every term needs only products of d columns::

    biased:    HSIC = ‖XcᵀYc‖²           Xc, Yc centred
    unbiased:  HSIC = (tr K̃L̃ + (1ᵀK̃1)(1ᵀL̃1) / ((n-1)(n-2)) - 2/(n-2) · 1ᵀK̃L̃1) / (n (n-3))

K̃ is K without its diagonal, and CKA = HSIC(K, L) / √(HSIC(K, K) · HSIC(L, L)). Memory is d × d
and not n × n. The biased one nears 1 for any two sets where n is small beside d; the unbiased one
is about 0 for unrelated sets and may be negative.

The raw number of two unrelated views follows from n and d: biased CKA nears 1 where n is small
beside d, and the best of many pairs of layers is high by selection. Here the rows of the second
view are permuted, and the number is read against what permuted rows give.

Every null draw applies one permutation to all layers of the second side, so that the best pair of
layers is compared with the best pairs of the draws (Algorithm 2): p counts the search. Each of the
three is an inner product of two n × n matrices, which are computed once and re-indexed for a draw.

References
----------
Kornblith et al., Similarity of Neural Network Representations Revisited, ICML 2019; Song et al.,
Feature Selection via Dependence Maximization, JMLR 2012, eq. 4. Null-calibrated similarity:
arXiv 2602.14486 (ICML 2026), Algorithms 1 and 2. p: Phipson and Smyth, Permutation
P-values Should Never Be Zero, 2010. The adjusted form is that of the adjusted Rand index: Hubert
and Arabie, Comparing Partitions, 1985.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import MetricError
from bench.metrics.ranks import BLOCK_SCORES, EqualColumns, first_places, of_blocks
from featstore.parallel import map_threads
from featstore.store.pairs import EmbeddingsView, PairedView
from fitters.pairs import Matrix, Rows
from fitters.sources import normalize_rows


def nearest_rows(
    rows: NDArray[np.floating[Any]],
    k: int,
    *,
    queries: NDArray[np.floating[Any]] | None = None,
    block_scores: int = BLOCK_SCORES,
) -> NDArray[np.int64]:
    """Return the k nearest other rows of every row by cosine, nearest first, shape (n, k).

    Query i stands for row i where there are `queries`, (m, d): row i is not among its own, (m, k).

    At equal cosine the lower position comes first. At most `block_scores` scores are held at once:
    32 MiB.

    Raises
    ------
    MetricError
        If there are not more than k rows, or a row has no direction.
    """
    unit = unit_rows(rows)
    asked, n = unit if queries is None else unit_rows(queries), len(unit)
    if not 0 < k < n:
        raise MetricError(f"{k} neighbours of a row need at least {k + 1} rows; got {n:,}.")
    none_relevant = np.zeros(n, dtype=np.int64)

    def nearest(scores: NDArray[np.float32], start: int) -> NDArray[np.int64]:
        own = np.arange(len(scores))
        scores[own, start + own] = -np.inf
        return first_places(scores, own - n, none_relevant, k)

    return np.concatenate(of_blocks(nearest, asked, unit.T, block_scores))


def mutual_knn(
    x: NDArray[np.floating[Any]], y: NDArray[np.floating[Any]], k: Sequence[int]
) -> dict[int, float]:
    """Return for every k the mean share of neighbours that x_i and y_i have in common.

    Two unrelated sets share k / (n - 1) on average. Rows that tie for the last places share them:
    the number is the mean over all ways to break the ties of both sides, so that rows that are all
    equal have the level of chance.

    Parameters
    ----------
    x, y : arrays of shape (n, p) and (n, q)
        Row i of both is one item. Cosine neighbours, the item itself left out.
    k : sequence of int
        From 1 to n - 1.

    Raises
    ------
    MetricError
        If the rows are not paired, or a k is out of range.

    References
    ----------
    Huh et al., The Platonic Representation Hypothesis, ICML 2024.
    """
    check_paired(x, y)
    n = len(x)
    if not k or min(k) < 1 or max(k) >= n:
        raise MetricError(
            f"Mutual neighbours are counted among the k nearest of the {n - 1:,} other rows; got k "
            f"{', '.join(map(str, k)) or 'of no number'}. Take k from 1 to {n - 1:,}."
        )
    cosines = _Cosines.of(x), _Cosines.of(y)
    size = max(1, BLOCK_SCORES // (4 * n))  # places are float64, and of both sides

    def shared(start: int) -> list[float]:
        places = (places_of_nearest(side.to_others(start, start + size), k) for side in cosines)
        return [float(np.einsum("bn,bn->", *both)) for both in zip(*places, strict=True)]

    sums = np.sum(map_threads(shared, range(0, n, size)), axis=0)
    return {count: float(total) / (n * count) for count, total in zip(k, sums, strict=True)}


@dataclass(frozen=True, eq=False)
class _Cosines:
    """Cosines between n rows, in blocks; equal rows have equal ones."""

    unit: NDArray[np.float32]
    equal: EqualColumns

    @classmethod
    def of(cls, rows: NDArray[np.floating[Any]]) -> _Cosines:
        unit = unit_rows(rows)
        return cls(unit, EqualColumns.of(unit))

    def to_others(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return the cosines of some rows to all, shape (b, n), -inf to the row itself."""
        scores = self.equal.tie(self.unit[start:stop] @ self.unit.T)
        each = np.arange(len(scores))
        scores[each, start + each] = -np.inf
        return scores


def places_of_nearest(scores: NDArray[np.float32], k: Sequence[int]) -> Iterator[Matrix]:
    """Yield for every k which share of a place among its row's k best each score has, (b, n).

    It is 1 above the k-th best score and 0 below. Scores equal to that share the places left.
    """
    n = scores.shape[1]
    ordered = np.partition(scores, [n - count for count in k], axis=1)
    for count in k:
        last = ordered[:, n - count, None]
        above, tied = scores > last, scores == last
        places_left = count - np.count_nonzero(above, axis=1)
        share = places_left / np.count_nonzero(tied, axis=1)
        yield above + tied * share[:, None]


def shared_rows(of_x: NDArray[np.int64], of_y: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many neighbours two lists of each row have in common, lists of shape (n, k)."""
    both = np.sort(np.concatenate([of_x, of_y], axis=1), axis=1)
    return np.sum(both[:, 1:] == both[:, :-1], axis=1)


def unit_rows(rows: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Return the rows at length 1, float32.

    Raises
    ------
    ZeroRowError
        If a row is 0 or not finite.
    """
    return normalize_rows(rows).astype(np.float32)


def check_paired(x: NDArray[Any], y: NDArray[Any]) -> None:
    """Raise MetricError unless both have as many rows."""
    if len(x) != len(y):
        raise MetricError(f"x has {len(x):,} rows and y has {len(y):,}: they are not pairs.")


def biased_cka(x: Rows, y: Rows) -> float:
    """Return linear CKA of unit rows, biased, within [0, 1].

    Raises
    ------
    MetricError
        If the rows are not paired, or do not vary.
    """
    check_paired(x, y)
    a, b = map(_centred, (x, y))
    return _ratio(*(float(np.sum((u.T @ v) ** 2)) for u, v in ((a, b), (a, a), (b, b))))


def unbiased_cka(x: Rows, y: Rows) -> float:
    """Return linear CKA of unit rows from unbiased HSIC; about 0 for unrelated rows.

    Raises
    ------
    MetricError
        If there are fewer than 4 pairs, or the rows do not vary.
    """
    check_paired(x, y)
    if len(x) < 4:
        raise MetricError(f"Unbiased CKA needs at least 4 pairs; got {len(x)}.")
    a, b = (unit_rows(rows).astype(np.float64) for rows in (x, y))
    return _ratio(*(_unbiased_hsic(u, v) for u, v in ((a, b), (a, a), (b, b))))


def _unbiased_hsic(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    n = len(x)
    own_x, own_y = (np.einsum("nd,nd->n", rows, rows) for rows in (x, y))
    # Row sums of the kernels without their diagonals.
    sums_x, sums_y = x @ x.sum(axis=0) - own_x, y @ y.sum(axis=0) - own_y
    trace = np.sum((x.T @ y) ** 2) - own_x @ own_y
    spread = sums_x.sum() * sums_y.sum() / ((n - 1) * (n - 2))
    return float((trace + spread - 2.0 / (n - 2) * (sums_x @ sums_y)) / (n * (n - 3)))


def cka_chance(x: Rows, y: Rows) -> float:
    """Return the mean of `biased_cka` over all permutations of the rows of y.

    √(r s) / (n − 1), r = (tr K)² / ‖K‖² the participation ratio of x, and s that of y.

    Raises
    ------
    MetricError
        As of `biased_cka`.
    """
    check_paired(x, y)
    (trace_x, own_x), (trace_y, own_y) = _spread(x), _spread(y)
    return _ratio(trace_x * trace_y, own_x, own_y) / (len(x) - 1)


def effective_rank(rows: Rows) -> float:
    """Return the participation ratio of unit rows, (tr K)² / ‖K‖²; 0 if they do not vary.

    Of d equal variances it is d, of one that is all it is 1.
    """
    trace, own = _spread(rows)
    return trace**2 / own if own > 0 else 0.0


def _spread(rows: Rows) -> tuple[float, float]:
    """Return tr K and ‖K‖² of centred unit rows."""
    unit = _centred(rows)
    return float(np.sum(unit**2)), float(np.sum((unit.T @ unit) ** 2))


def _centred(rows: Rows) -> NDArray[np.float64]:
    unit = unit_rows(rows).astype(np.float64)
    return unit - unit.mean(axis=0)


def _ratio(both: float, of_x: float, of_y: float) -> float:
    if not (of_x > 0 and of_y > 0):
        raise MetricError("Rows that do not vary have no CKA.")
    return both / float(np.sqrt(of_x * of_y))


# Permutations computed at once; bounds the memory at _AT_ONCE × rows × 4 bytes.
_AT_ONCE = 64


def centroid_gap(
    x: NDArray[np.floating[Any]],
    y: NDArray[np.floating[Any]],
    *,
    n_permutations: int = 999,
    rng: np.random.Generator,
) -> tuple[float, float, float]:
    """Return the distance of the centroids of unit rows, its chance level, and a p.

    Parameters
    ----------
    x, y : arrays of shape (n, d) and (m, d)
    n_permutations : int
        Times the rows of both are dealt anew to two sides of n and m.
    rng : Generator

    Returns
    -------
    distance : float
        ‖mean of x − mean of y‖.
    chance : float
        Mean distance when rows are dealt anew; NaN without permutations.
    p : float
        Share of deals whose distance is at least this one; the true one counts.

    References
    ----------
    Liang et al., Mind the Gap, NeurIPS 2022.
    """
    _check_columns(x, y)
    rows = np.concatenate([unit_rows(x), unit_rows(y)]).astype(np.float64)
    n, m = len(x), len(y)
    distance = float(np.linalg.norm(rows[:n].mean(axis=0) - rows[n:].mean(axis=0)))
    total = rows.sum(axis=0)
    seen: list[float] = []
    for start in range(0, n_permutations, _AT_ONCE):
        size = min(_AT_ONCE, n_permutations - start)
        first = rng.permuted(np.tile(np.repeat([1.0, 0.0], [n, m]), (size, 1)), axis=1) @ rows
        seen.extend(np.linalg.norm(first / n - (total - first) / m, axis=1).tolist())
    reached = sum(value >= distance - 1e-12 for value in seen)
    chance = float(np.mean(seen)) if seen else float("nan")
    return distance, chance, (1 + reached) / (1 + n_permutations)


def linear_separability(
    x: NDArray[np.floating[Any]],
    y: NDArray[np.floating[Any]],
    *,
    n_folds: int = 5,
    max_rows: int = 5_000,
    rng: np.random.Generator,
) -> float:
    """Return the balanced accuracy with which a linear rule tells unit rows of x from those of y.

    scikit-learn's linear discriminant analysis with covariances shrunk by Ledoit and Wolf's rule
    and equal priors, on folds that it was not fitted on; chance is 0.5.

    Parameters
    ----------
    x, y : arrays of shape (n, d) and (m, d)
    n_folds : int
    max_rows : int
        Rows a side, drawn where there are more.
    rng : Generator

    Raises
    ------
    MetricError
        If a side has fewer rows than there are folds.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import cross_val_predict

    _check_columns(x, y)
    if min(len(x), len(y)) < max(2, n_folds):
        raise MetricError(
            f"{n_folds} folds need at least {n_folds} rows a side; got {min(len(x), len(y))}."
        )
    sides = [unit_rows(rows[rng.permutation(len(rows))[:max_rows]]) for rows in (x, y)]
    both, labels = np.concatenate(sides), np.repeat([0, 1], [len(side) for side in sides])
    rule = LinearDiscriminantAnalysis(solver="eigen", shrinkage="auto", priors=[0.5, 0.5])
    found = cross_val_predict(rule, both.astype(np.float64), labels, cv=n_folds)
    return float(balanced_accuracy_score(labels, found))


def _check_columns(x: NDArray[Any], y: NDArray[Any]) -> None:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or not len(x) or not len(y):
        raise MetricError(
            f"A gap is between rows of one space; got shapes {x.shape} and {y.shape}."
        )


#: An equal value counts as reached, whatever the order of its sums.
_EQUAL = 1e-12


class Similarity(ABC):
    """The inner product of what two views are compared by, matrices of norm 1.

    Row and column i are of row i: permuted rows are re-indexed, and the mean over all permutations
    follows from trace and sum.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """What its values are called."""

    @abstractmethod
    def prepared(self, rows: Rows) -> Matrix:
        """Return the matrix (n, n) of a view, at Frobenius norm 1.

        Raises
        ------
        MetricError
            If the rows do not vary, or are too few.
        """

    def scale(self, x: Matrix, y: Matrix) -> float:  # noqa: ARG002 -- of both views, where needed
        """Return what the inner product is multiplied by."""
        return 1.0

    def compared(
        self, x: Sequence[Matrix], y: Sequence[Matrix], orders: NDArray[np.int64]
    ) -> Matrix:
        """Return the values of all x with all y[order], shape (orders, a, b)."""
        left = np.stack([one.ravel() for one in x])
        scales = np.array([[self.scale(one, other) for other in y] for one in x])
        moved = ([left @ one.take(o, 0).take(o, 1).ravel() for one in y] for o in orders)
        return np.array([*moved]).swapaxes(1, 2) * scales

    def expected(self, x: Matrix, y: Matrix) -> float:
        """Return the mean over all permutations of the rows of y."""
        n, traces = len(x), (np.trace(x), np.trace(y))
        off = (x.sum() - traces[0]) * (y.sum() - traces[1]) / (n * (n - 1))
        return float(self.scale(x, y) * (traces[0] * traces[1] / n + off))


@dataclass(frozen=True)
class LinearCKA(Similarity):
    """Linear CKA of unit rows; `unbiased` takes Song's estimate of HSIC.

    Its mean over permutations is tr K tr L / ((n − 1) ‖K‖ ‖L‖) for centred Grams K and L, and 0
    for the unbiased one.
    """

    unbiased: bool = False

    @property
    def name(self) -> str:
        """``CKA`` or ``CKA-unbiased``, as `biased_cka` and `unbiased_cka`."""
        return "CKA-unbiased" if self.unbiased else "CKA"

    def prepared(self, rows: Rows) -> Matrix:
        """Return the centred Gram matrix; the unbiased one needs 4 rows."""
        unit, n = _centred(rows), len(rows)
        if self.unbiased and n < 4:
            raise MetricError(f"Unbiased CKA needs at least 4 pairs; got {n}.")
        gram = unit @ unit.T
        if self.unbiased:
            # Without its diagonal, and centred so that every row still sums to 0.
            np.fill_diagonal(gram, 0.0)
            sums = gram.sum(axis=0)
            gram -= (sums[:, None] + sums[None]) / (n - 2) - sums.sum() / ((n - 1) * (n - 2))
            np.fill_diagonal(gram, 0.0)
        norm = np.linalg.norm(gram)
        if not norm > _EQUAL * n:
            raise MetricError("Rows that do not vary have no CKA.")
        return gram / norm


@dataclass(frozen=True)
class MeanCCA(Similarity):
    """Mean squared canonical correlation of unit rows, over the smaller number of directions.

    A view of n/10 directions or more is reduced to its first n/10 principal components: with n − 1
    directions any two views correlate completely. Its mean over permutations is
    max(p, q) / (n − 1) for p and q directions.
    """

    name = "CCA"

    def prepared(self, rows: Rows) -> Matrix:
        """Return the projection onto the directions of the centred rows."""
        unit = _centred(rows)
        basis, spread, _ = np.linalg.svd(unit, full_matrices=False)
        if not spread[0] > _EQUAL * len(unit):
            raise MetricError("Rows that do not vary have no canonical correlations.")
        rank = np.count_nonzero(spread > 1e-6 * spread[0])
        kept = basis[:, : min(rank, max(1, len(unit) // 10))]
        return kept @ kept.T / np.sqrt(kept.shape[1])

    def scale(self, x: Matrix, y: Matrix) -> float:
        """Return √(pq) / min(p, q): the trace of a projection of norm 1 is √p."""
        ends = sorted((float(np.trace(x)), float(np.trace(y))))
        return ends[1] / ends[0]


@dataclass(frozen=True)
class MutualKNN(Similarity):
    """Mean share of the k nearest others that two views have in common, by cosine.

    Its mean over permutations is k / (n − 1). Ties share places, as in `mutual_knn`.
    """

    k: int

    @property
    def name(self) -> str:
        """``mutual-knn@k``."""
        return f"mutual-knn@{self.k}"

    def prepared(self, rows: Rows) -> Matrix:
        """Return which rows are neighbours of which, of more than k rows."""
        n = len(rows)
        if not 0 < self.k < n:
            raise MetricError(
                f"{self.k} neighbours of a row need at least {self.k + 1} rows; got {n:,}."
            )
        (places,) = places_of_nearest(_Cosines.of(rows).to_others(0, n), [self.k])
        return places / np.sqrt(n * self.k)


Orders = NDArray[np.int64]
"""K permutations of n rows, shape (K, n), drawn once for all layers and all similarities."""


def draw_orders(n: int, n_permutations: int, *, rng: np.random.Generator) -> Orders:
    """Draw permutations of n rows."""
    return rng.permuted(np.tile(np.arange(n), (n_permutations, 1)), axis=1)


@dataclass(frozen=True)
class Calibrated:
    """A similarity and where it stands in its null.

    Attributes
    ----------
    value : float
        As it is.
    expected : float
        What unrelated rows give on average.
    threshold : float
        t, the ⌈(1 − α)(K + 1)⌉-th smallest of the value and its K null draws.
    score : float
        (value − t) / (1 − t), at least 0: above 0 in a share of at most α of unrelated views. A
        gate, not a size of the effect.
    adjusted : float
        (value − expected) / (1 − expected): 0 on average for unrelated rows, 1 for equal ones.
    p : float
        (1 + null draws that reach the value) / (K + 1): exact where rows are exchangeable.
    """

    value: float
    expected: float
    threshold: float
    score: float
    adjusted: float
    p: float

    @classmethod
    def of(cls, value: float, null: Matrix, expected: float, alpha: float) -> Calibrated:
        """Place a value in its K null draws."""
        beyond = int(np.floor(alpha * (len(null) + 1) + 1e-9))
        threshold = float(np.sort(np.append(null, value))[len(null) - beyond])
        above = value - threshold > _EQUAL
        return cls(
            value=value,
            expected=expected,
            threshold=threshold,
            score=(value - threshold) / (1 - threshold) if above else 0.0,
            adjusted=(value - expected) / (1 - expected) if expected < 1 else 0.0,
            p=float(1 + np.count_nonzero(null >= value - _EQUAL)) / (len(null) + 1),
        )


@dataclass(frozen=True, eq=False)
class Calibration:
    """Values of all pairs of layers, and of the same pairs under permutations.

    Attributes
    ----------
    observed : array of shape (a, b)
    null : array of shape (K, a, b)
    expected : array of shape (a, b)
        Mean of the null: in closed form where every row moves by itself.
    alpha : float
    """

    observed: Matrix
    null: Matrix
    expected: Matrix
    alpha: float

    def pair(self, i: int = 0, j: int = 0) -> Calibrated:
        """Return one pair of layers, as if no other had been looked at."""
        value, expected = float(self.observed[i, j]), float(self.expected[i, j])
        return Calibrated.of(value, self.null[:, i, j], expected, self.alpha)

    def searched(self) -> Calibrated:
        """Return the best of all pairs, against the best of every null draw."""
        null = self.null.max(axis=(-2, -1))
        expected = float(self.expected[0, 0] if self.observed.size == 1 else null.mean())
        return Calibrated.of(float(self.observed.max()), null, expected, self.alpha)


def calibrate(
    xs: Sequence[Rows],
    ys: Sequence[Rows],
    similarity: Similarity,
    orders: Orders,
    *,
    alpha: float = 0.05,
) -> Calibration:
    """Compare every layer of one side with every layer of the other, and with permuted rows.

    Parameters
    ----------
    xs, ys : sequences of arrays of shape (n, …)
        Layers of both sides; row i of all is one item.
    similarity : Similarity
        `LinearCKA`, `MeanCCA` or `MutualKNN`. The n × n ones take n² numbers a layer.
    permutations : Permutations
        Of the rows of ``ys``: at least 1 / α − 1, and 20 m for a table of m values.
    alpha : float
        Share of unrelated views that may have a score above 0.

    Raises
    ------
    MetricError
        If there are no permutations of as many rows as every view has, fewer than α asks for, or
        a view has no such similarity.
    """
    count, n = orders.shape
    for rows in (*xs, *ys):
        check_paired(rows, orders[0] if count else rows)
    if alpha * (count + 1) < 1 - 1e-9:
        raise MetricError(
            f"{count:,} permutations cannot show a level of {alpha:g}; take at least "
            f"{int(np.ceil(1 / alpha - 1e-9)) - 1:,}."
        )
    x, y = ([similarity.prepared(rows) for rows in side] for side in (xs, ys))
    expected = np.array([[similarity.expected(one, other) for other in y] for one in x])
    observed = similarity.compared(x, y, np.arange(n)[None])[0]
    return Calibration(observed, similarity.compared(x, y, orders), expected, alpha)


def mutual_knn_by_size(
    pairs: PairedView[Any],
    k: int,
    sizes: Sequence[int],
    *,
    n_queries: int = 1_000,
    n_permutations: int = 199,
    rng: np.random.Generator,
) -> dict[int, Calibrated]:
    """Return mutual k-NN of some queries in galleries of several sizes, out of core.

    A number without the size of its gallery says little: the more items lie between an item and its
    neighbours, the more of them only one of the two views takes for near. Each gallery holds the
    smaller ones, and the same queries are asked of all. `EmbeddingsView.nearest` reads each gallery
    block by block.

    Parameters
    ----------
    pairs : PairedView of n
        One a picture: of several captions each, take one. Neighbours are by cosine, the item itself
        left out.
    k : int
    sizes : sequence of int
        From k + 1 to n.
    n_queries : int
        At most; the smallest gallery has no more.
    n_permutations : int
        The null moves the rows of y, the queries' among themselves and the others' among
        themselves: also of this group of permutations p is exact.
    rng : Generator
        Draws galleries, queries and permutations.

    Returns
    -------
    dict of int to Calibrated
        By size, ascending.

    Raises
    ------
    MetricError
        If no gallery of a size can be drawn.

    References
    ----------
    Back into Plato's Cave, 2026: what 1,024 items share vanishes among millions.

    Examples
    --------
    >>> keys = toy_store("store")
    >>> images, captions = (open_store("store").view(keys[kind]) for kind in ("image", "caption"))
    >>> pairs = images.pair_by("parent_id", captions)
    >>> found = mutual_knn_by_size(pairs, 3, [10, 40], rng=np.random.default_rng(0))
    >>> [(n, round(one.value, 2), round(one.expected, 2)) for n, one in found.items()]
    [(10, 0.6, 0.33), (40, 0.33, 0.08)]
    """
    ordered = sorted(set(sizes))
    if not ordered or not 0 < k < ordered[0] <= ordered[-1] <= len(pairs):
        raise MetricError(
            f"Galleries of {k} neighbours hold from {k + 1:,} to {len(pairs):,} items; got "
            f"{', '.join(f'{size:,}' for size in ordered) or 'no size'}."
        )
    order = rng.permutation(len(pairs))
    asked = np.sort(order[: min(n_queries, ordered[0])])
    found = {}
    for size in ordered:
        kept = np.sort(order[:size])
        own = np.searchsorted(kept, asked)
        of_x, of_y = (_others(view.take(kept), own, k) for view in (pairs.x, pairs.y))
        place, rest = np.arange(size), np.setdiff1d(np.arange(size), own)
        null = np.empty(n_permutations)
        for draw in range(n_permutations):
            moved = rng.permutation(len(own))
            place[own], place[rest] = own[moved], rng.permutation(rest)
            null[draw] = shared_rows(of_x[moved], place[of_y]).mean() / k
        shared = float(shared_rows(of_x, of_y).mean())
        found[size] = Calibrated.of(shared / k, null, k / (size - 1), 0.05)
    return found


def _others(view: EmbeddingsView, own: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Return the k nearest other rows of some rows of a view, shape (q, k)."""
    near = view.nearest(view.take(own).numpy(), k + 1).rows
    # The row itself goes to the end; behind k equal rows it may not be there.
    others = np.argsort(near == own[:, None], axis=1, kind="stable")[:, :k]
    return np.take_along_axis(near, others, axis=1)

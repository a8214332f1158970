"""Similarities of row-aligned views beside their permutation null: CKA, CCA, mutual k-NN.

The raw number of two unrelated views follows from n and d: biased CKA nears 1 where n is small
beside d, and the best of many pairs of layers is high by selection. Here the rows of the second
view are permuted, and the number is read against what permuted rows give.

Every null draw applies one permutation to all layers of the second side, so that the best pair of
layers is compared with the best pairs of the draws (Algorithm 2): p counts the search. Each of the
three is an inner product of two n × n matrices, which are computed once and re-indexed for a draw.

References
----------
Null-calibrated similarity: arXiv 2602.14486 (ICML 2026), Algorithms 1 and 2. p: Phipson and Smyth,
Permutation P-values Should Never Be Zero, 2010. The adjusted form is that of the adjusted Rand
index: Hubert and Arabie, Comparing Partitions, 1985.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import MetricError
from bench.metrics.geometry import check_paired, nearest_rows, shared_rows, unit_rows
from featstore.store.pairs import EmbeddingsView, PairedView
from fitters.pairs import Matrix, Rows

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
        unit = unit_rows(rows).astype(np.float64)
        n = len(unit)
        if self.unbiased and n < 4:
            raise MetricError(f"Unbiased CKA needs at least 4 pairs; got {n}.")
        unit -= unit.mean(axis=0)
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
        unit = unit_rows(rows).astype(np.float64)
        basis, spread, _ = np.linalg.svd(unit - unit.mean(axis=0), full_matrices=False)
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

    Its mean over permutations is k / (n − 1).
    """

    k: int

    @property
    def name(self) -> str:
        """``mutual-knn@k``."""
        return f"mutual-knn@{self.k}"

    def prepared(self, rows: Rows) -> Matrix:
        """Return which rows are neighbours of which, of more than k rows."""
        near = nearest_rows(rows, self.k)
        table = np.zeros((len(near), len(near)))
        np.put_along_axis(table, near, 1.0 / np.sqrt(near.size), axis=1)
        return table


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
        single = self.observed.size == 1
        expected = float(self.expected[0, 0] if single else null.mean())
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

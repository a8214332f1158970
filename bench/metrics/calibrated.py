"""Similarities of row-aligned views beside their permutation null: CKA, CCA, mutual k-NN.

The raw number of two unrelated views follows from n and d: biased CKA nears 1 where n is small
beside d, and the best of many pairs of layers is high by selection. Here the rows of the second
view are permuted, and the number is read against what permuted rows give.

Every null draw applies one permutation to all layers of the second side, so that the best pair of
layers is compared with the best pairs of the draws (Algorithm 2): p counts the search. Nothing is
computed anew for a draw: Grams are re-indexed and multiplied as vectors, views are whitened once,
and lists of neighbours are renumbered.

References
----------
Null-calibrated similarity: arXiv 2602.14486 (ICML 2026), Algorithms 1 and 2. p: Phipson and Smyth,
Permutation P-values Should Never Be Zero, 2010. The adjusted form is that of the adjusted Rand
index: Hubert and Arabie, Comparing Partitions, 1985.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bench.errors import MetricError
from bench.metrics.geometry import check_paired, nearest_rows, unit_rows
from fitters.pairs import Matrix, Rows

#: Numbers gathered at once: 32 MiB.
_AT_ONCE = 4_000_000

#: An equal value counts as reached, whatever the order of its sums.
_EQUAL = 1e-12


@dataclass(frozen=True)
class LinearCKA:
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
        """Return the centred Gram matrix (n, n), at Frobenius norm 1.

        Raises
        ------
        MetricError
            If the rows do not vary, or are fewer than 4 of the unbiased one.
        """
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

    def compared(
        self, x: Sequence[Matrix], y: Sequence[Matrix], orders: NDArray[np.int64]
    ) -> Matrix:
        """Return ⟨K, L of the permuted rows⟩ of all pairs."""
        left = np.stack([gram.ravel() for gram in x], axis=1)
        gathered = (gram[orders[:, :, None], orders[:, None, :]] for gram in y)
        return np.stack([each.reshape(len(orders), -1) @ left for each in gathered], axis=2)

    def expected(self, x: Matrix, y: Matrix) -> float:
        """Return the mean over all permutations."""
        return 0.0 if self.unbiased else float(np.trace(x) * np.trace(y) / (len(x) - 1))


@dataclass(frozen=True)
class MeanCCA:
    """Mean squared canonical correlation of unit rows, over the smaller number of directions.

    A view of n/10 directions or more is reduced to its first n/10 principal components: with n − 1
    directions any two views correlate completely. Its mean over permutations is
    max(p, q) / (n − 1) for p and q directions.
    """

    name = "CCA"

    def prepared(self, rows: Rows) -> Matrix:
        """Return an orthonormal basis (n, r) of the centred rows.

        Raises
        ------
        MetricError
            If the rows do not vary.
        """
        unit = unit_rows(rows).astype(np.float64)
        basis, spread, _ = np.linalg.svd(unit - unit.mean(axis=0), full_matrices=False)
        rank = np.count_nonzero(spread > 1e-6 * max(spread[0], _EQUAL))
        if not spread[0] > _EQUAL * len(unit):
            raise MetricError("Rows that do not vary have no canonical correlations.")
        return basis[:, : min(rank, max(1, len(unit) // 10))]

    def compared(
        self, x: Sequence[Matrix], y: Sequence[Matrix], orders: NDArray[np.int64]
    ) -> Matrix:
        """Return ‖Qxᵀ Qy of the permuted rows‖² / min(p, q) of all pairs."""
        out = np.empty((len(orders), len(x), len(y)))
        for j, right in enumerate(y):
            permuted = right[orders]
            for i, left in enumerate(x):
                squares = (left.T @ permuted) ** 2
                out[:, i, j] = squares.sum(axis=(1, 2)) / min(left.shape[1], right.shape[1])
        return out

    def expected(self, x: Matrix, y: Matrix) -> float:
        """Return the mean over all permutations."""
        return float(max(x.shape[1], y.shape[1]) / (len(x) - 1))


@dataclass(frozen=True)
class MutualKNN:
    """Mean share of the k nearest others that two views have in common, by cosine.

    Its mean over permutations is k / (n − 1).
    """

    k: int

    @property
    def name(self) -> str:
        """``mutual-knn@k``."""
        return f"mutual-knn@{self.k}"

    def prepared(self, rows: Rows) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the neighbours (n, k), and the same as a table (n, n).

        Raises
        ------
        MetricError
            If there are not more than k rows.
        """
        near = nearest_rows(rows, self.k)
        table = np.zeros((len(near), len(near)), dtype=bool)
        table[np.arange(len(near))[:, None], near] = True
        return near, table

    def compared(self, x: Sequence[Any], y: Sequence[Any], orders: NDArray[np.int64]) -> Matrix:
        """Return the shares of all pairs, the lists of y renumbered by every order."""
        n = orders.shape[1]
        place = np.argsort(orders, axis=1)
        draw, row = np.arange(len(orders))[:, None, None], np.arange(n)[:, None]
        out: Matrix = np.empty((len(orders), len(x), len(y)))
        for j, (near, _) in enumerate(y):
            renumbered = row * n + place[draw, near[orders]]
            for i, (_, table) in enumerate(x):
                out[:, i, j] = table.ravel()[renumbered].sum(axis=(1, 2)) / (n * self.k)
        return out

    def expected(self, x: Any, y: Any) -> float:
        """Return the mean over all permutations."""
        return self.k / (min(len(x[0]), len(y[0])) - 1)


#: What `calibrate` compares views by. Each has a name, computes once what a view is compared by
#: (``prepared``), gives the values of all x with all y[order], (orders, a, b) (``compared``), and
#: their mean over all permutations of the rows of one side, in closed form (``expected``).
Similarity: TypeAlias = LinearCKA | MeanCCA | MutualKNN

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
    score : float
        (value − t) / (1 − t), at least 0, t the ⌈(1 − α)(K + 1)⌉-th smallest of the value and its
        K null draws: above 0 in a share of at most α of
        unrelated views. A gate, not a size of the effect.
    adjusted : float
        (value − expected) / (1 − expected): 0 on average for unrelated rows, 1 for equal ones.
    p : float
        (1 + null draws that reach the value) / (K + 1): exact where rows are exchangeable.
    """

    value: float
    expected: float
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
    prepared: Callable[[Rows], Any] = similarity.prepared
    x, y = ([prepared(rows) for rows in side] for side in (xs, ys))
    size = max(1, _AT_ONCE // n**2)
    null = [similarity.compared(x, y, orders[at : at + size]) for at in range(0, count, size)]
    drawn = np.concatenate(null)
    expected = np.array([[similarity.expected(one, other) for other in y] for one in x])
    return Calibration(similarity.compared(x, y, np.arange(n)[None])[0], drawn, expected, alpha)

"""Counts, sums and second moments of labelled rows: all that several closed forms look at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fitters.aligners.solvers import solve_ridge
from fitters.few_shot.learner import Labels, sum_by_class
from fitters.pairs import Matrix, place_in_class

# Rows that are brought to float64 at once.
_BLOCK = 2048


@dataclass(frozen=True, eq=False)
class ClassMoments:
    """Moments of rows by class; those of two sets of rows add, and a part can be taken off.

    Merging shards, tasks or shots is addition, leaving a fold out is subtraction: both are exact
    but for rounding, and neither reads a row again.

    Attributes
    ----------
    counts : float64 array of shape (c,)
        Rows of every class.
    sums : float64 array of shape (c, r)
        Σ x over the rows of a class.
    products : float64 array of shape (r, r)
        Σ x xᵀ over all rows, not centred.
    """

    counts: Matrix
    sums: Matrix
    products: Matrix

    @classmethod
    def of(cls, rows: npt.NDArray[np.floating], labels: Labels, n_classes: int) -> ClassMoments:
        """Return the moments of rows (n, r) with labels 0 … c − 1 (n,)."""
        counts = np.bincount(labels, minlength=n_classes).astype(np.float64)
        sums = np.zeros((n_classes, rows.shape[1]))
        products = np.zeros((rows.shape[1], rows.shape[1]))
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK].astype(np.float64, copy=False)
            sums += sum_by_class(block, labels[start : start + _BLOCK], n_classes)
            products += block.T @ block
        return cls(counts, sums, products)

    def __add__(self, other: ClassMoments) -> ClassMoments:
        """Return the moments of both sets of rows together."""
        return ClassMoments(
            self.counts + other.counts, self.sums + other.sums, self.products + other.products
        )

    def __sub__(self, other: ClassMoments) -> ClassMoments:
        """Return the moments of the rows that `other`, a part of them, does not hold."""
        return ClassMoments(
            self.counts - other.counts, self.sums - other.sums, self.products - other.products
        )

    def __mul__(self, mass: float) -> ClassMoments:
        """Return the moments of rows that count for `mass` each."""
        return ClassMoments(mass * self.counts, mass * self.sums, mass * self.products)

    @property
    def means(self) -> Matrix:
        """Mean of every class, shape (c, r); 0 for a class without rows."""
        return self.sums / np.maximum(self.counts, 1.0)[:, None]

    @property
    def scatter(self) -> Matrix:
        """Σ (x − mean of the own class)(…)ᵀ, shape (r, r): ``products − Σ_c s_c s_cᵀ / n_c``."""
        return self.products - self.sums.T @ self.means

    def ridge(self, penalty: float, towards: Matrix | float = 0.0) -> Matrix:
        """Return the weights (c, r) of a ridge onto one column a class, without intercept.

        Minimises Σ ‖W x − y‖² + penalty ‖W − towards‖², y 1 for the own class and 0 for others:
        ``W = (sums + penalty · towards)(products + penalty I)⁻¹``.

        Parameters
        ----------
        penalty : float
            Absolute, above 0.
        towards : array of shape (c, r) or float
            What the weights are without rows.
        """
        return solve_ridge(self.products, (self.sums + penalty * towards).T, penalty).T


def fold_of(labels: Labels, n_folds: int) -> Labels:
    """Return the fold of every row, 0 … n_folds − 1: those of one class are in different ones.

    Classes begin with different folds, so that a fold takes a row from some of the classes only and
    leaves the others whole: of two rows a class most still scatter. The numbers of the classes have
    no part in it, only the order in which they come.
    """
    _, first, codes = np.unique(labels, return_index=True, return_inverse=True)
    return (place_in_class(labels) + np.argsort(np.argsort(first))[codes]) % n_folds

"""Penalised least squares, decomposed once: every penalty, average and left-out group follow.

Over the weighted rows Φ = √w φ(a) and targets B = √w b the problem is::

    minimise over C   ‖Φ C − B‖² + α ‖C‖²,      C = lhs · 1 / (λ + α) · rhs

with the eigenvalues λ of ΦᵀΦ, or of the kernel ΦΦᵀ where there are fewer rows or no columns.

A fit without the group I predicts its rows by O = X Qᵀ + D, Q being Φ in the eigenbasis, and D
nothing but blocks of I. With H = Φ (ΦᵀΦ + α)⁻¹ Φᵀ, X is (I − H_II)⁻¹ H_I seen in the eigenbasis; in
the dual, with G = (ΦΦᵀ + α)⁻¹, it is −G_II⁻¹ G_I. What is left out has no part in its prediction:
O_II = 0, which says what D is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fitters.pairs import Matrix

Parts = Sequence[npt.NDArray[np.intp]]
"""Rows that are left out together; every other row is left out alone."""


@dataclass(frozen=True, eq=False)
class Spectrum:
    """A penalised least-squares problem by its eigenvalues.

    Attributes
    ----------
    values : ndarray of shape (r,)
        λ, ascending; where infinite, nothing is fitted in that direction.
    vectors : ndarray of shape (m, r)
        Eigenvectors of the gram of m columns, or of the kernel of m rows.
    lhs : ndarray of shape (k, r)
        What a row of coefficients is in the eigenbasis: new rows are seen in it by ``rows @ lhs``.
    rhs : ndarray of shape (r, q)
        The targets, seen from the eigenbasis.
    rows : ndarray of shape (n, r), optional
        Q, the weighted rows in the eigenbasis: those that may be left out.
    targets : ndarray of shape (n, q), optional
        √w b of these.
    dual : bool
        The decomposition is that of a kernel.

    Examples
    --------
    >>> a, b = np.random.default_rng(0).standard_normal((2, 9, 3))
    >>> made = Spectrum.of_rows(a, b)
    >>> np.allclose(made.fit(0.5), np.linalg.solve(a.T @ a + 0.5 * np.eye(3), a.T @ b))
    True
    >>> without = np.linalg.solve(a[1:].T @ a[1:] + 0.5 * np.eye(3), a[1:].T @ b[1:])
    >>> np.allclose(made.left_out(0.5)[0], a[0] @ without)
    True
    """

    values: Matrix
    vectors: Matrix
    lhs: Matrix
    rhs: Matrix
    rows: Matrix = field(default_factory=lambda: np.empty((0, 0)))
    targets: Matrix = field(default_factory=lambda: np.empty((0, 0)))
    dual: bool = False

    @classmethod
    def of(cls, gram: Matrix, cross: Matrix, lhs: Matrix | None = None) -> Spectrum:
        """Return the problem of ΦᵀΦ and ΦᵀB, whose coefficients `lhs` multiplies if it is given."""
        values, vectors = eigen_gram(gram)
        return cls(values, vectors, vectors if lhs is None else lhs @ vectors, vectors.T @ cross)

    @classmethod
    def of_kernel(
        cls, decomposed: tuple[Matrix, Matrix], targets: Matrix, lhs: Matrix | None = None
    ) -> Spectrum:
        """Return the problem of `eigen_gram` of the kernel ΦΦᵀ; `lhs` is Φᵀ where it is known."""
        values, vectors = decomposed
        left = vectors if lhs is None else lhs @ vectors
        return cls(values, vectors, left, vectors.T @ targets, vectors, targets, dual=True)

    @classmethod
    def of_rows(cls, rows: Matrix, targets: Matrix) -> Spectrum:
        """Return the problem of weighted rows, in the smaller of both forms."""
        if len(rows) <= rows.shape[1]:
            return cls.of_kernel(eigen_gram(rows @ rows.T), targets, rows.T)
        return cls.of(rows.T @ rows, rows.T @ targets).beside(rows, targets)

    def beside(self, rows: Matrix, targets: Matrix) -> Spectrum:
        """Return the problem with those of its weighted rows that may be left out."""
        return replace(self, rows=rows @ self.lhs, targets=targets)

    def inverse(self, alpha: float) -> Matrix:
        """Return 1 / (λ + alpha), and 0 where λ + alpha is 0; shape (r,)."""
        return inverse_of(self.values, alpha)

    def fit(self, alpha: float) -> Matrix:
        """Return the coefficients at a penalty, shape (k, q)."""
        return self.mean({alpha: 1.0})

    def mean(self, shares: Mapping[float, float]) -> Matrix:
        """Return Σ p C(α) by penalty α → share p, shape (k, q). A penalty without end adds 0."""
        finite = [(share, alpha) for alpha, share in shares.items() if share and np.isfinite(alpha)]
        inverse = sum((p * self.inverse(alpha) for p, alpha in finite), np.zeros(len(self.values)))
        return (self.lhs * inverse) @ self.rhs

    def left_out(self, alpha: float, parts: Parts = (), asked: Matrix | None = None) -> Matrix:
        """Return what each row is predicted to be by a fit without it, shape (n, q).

        Parameters
        ----------
        alpha : float
            Above 0 in the dual.
        parts : sequence of int arrays
            Rows that are left out together.
        asked : ndarray of shape (n, k), optional
            What the fit without a row is asked instead of its own: columns of φ, or kernels with
            all rows times their √w. Predictions are then b; of the rows themselves they are √w b.
        """
        x = self.without(alpha, parts, None if asked is None else asked @ self.lhs)
        own, blocks = self.inside(x, parts)
        predicted: Matrix = x @ self.rhs + own[:, None] * self.targets
        for part, block in blocks:
            predicted[part] += block @ self.targets[part]
        return predicted

    def without(self, alpha: float, parts: Parts = (), reach: Matrix | None = None) -> Matrix:
        """Return X of the predictions, shape (n, r); `reach` is what is asked, in the eigenbasis.

        A row of X depends on the rows alone, not on their targets.
        """
        inverse = self.inverse(alpha)
        scaled = self.rows * inverse
        own = _products(scaled, self.rows)[:, None]
        # A leverage of 1 leaves nothing of the row's own direction.
        x: Matrix = -scaled / own if self.dual else scaled / (1 - own)
        for part in parts:
            block = scaled[part] @ self.rows[part].T
            left = -block if self.dual else np.eye(len(part)) - block
            x[part] = np.linalg.solve(left, scaled[part])
        if reach is None:
            return x
        reach = reach * inverse
        found: Matrix = reach + _products(reach, self.rows)[:, None] * x
        for part in parts:
            found[part] = reach[part] + reach[part] @ self.rows[part].T @ x[part]
        return found

    def inside(
        self, x: Matrix, parts: Parts
    ) -> tuple[Matrix, list[tuple[npt.NDArray[np.intp], Matrix]]]:
        """Return D: the values of rows that are left out alone, shape (n,), and a block a part."""
        own = -_products(x, self.rows)
        blocks = [(part, -x[part] @ self.rows[part].T) for part in parts]
        for part, _ in blocks:
            own[part] = 0.0
        return own, blocks


def eigen_gram(gram: npt.NDArray[np.floating[Any]]) -> tuple[Matrix, Matrix]:
    """Return eigenvalues (ascending, none negative) and eigenvectors (columns) of a gram.

    This one decomposition serves every penalty.
    """
    values, vectors = np.linalg.eigh(gram)
    # A gram is a sum of squares: what is below 0 is rounding.
    return np.maximum(values, 0.0), vectors


def inverse_of(values: Matrix, alpha: float) -> Matrix:
    """Return 1 / (λ + alpha) of eigenvalues λ, and 0 where λ + alpha is 0; shape (r,)."""
    shifted = values + alpha
    return np.divide(1.0, shifted, out=np.zeros_like(shifted), where=shifted > 0)


def _products(one: Matrix, other: Matrix) -> Matrix:
    """Return the product of each row with the same row of another, shape (n,)."""
    return np.einsum("nr,nr->n", one, other)

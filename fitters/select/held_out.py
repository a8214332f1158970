"""One held-out fold at any mixing weight and penalty, in the small space.

A fold needs C = w C₀ + C₁ (prototypes, real training pairs) only through products with itself and
with the held-out rows: CCᵀ is a quadratic in w, C bᵀ is linear. After one pass over the large
space, every (weight, penalty) costs products of the size of the predicting side, and every
penalty of a weight shares one eigendecomposition.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from fitters.kept import Kept, digest_of
from fitters.linear.solvers import DETERMINED, eigen_gram, invert_spectrum
from fitters.pairs import Pairs
from fitters.select.ranking import HeldOut

Matrix = npt.NDArray[np.float64]

Sides = tuple[Matrix, Matrix]
"""Held-out images (m, r) and texts of the gallery (g, r), whose dot products are the scores."""

_DECOMPOSED: Kept[tuple[Matrix, Matrix]] = Kept(64_000_000, lambda pair: pair[1].nbytes)
"""Decompositions used last, by the gram: 50 of 384 columns."""

RANK_TOLERANCE = DETERMINED**2
"""Of eigenvalues of CCᵀ, squares of singular values: below it C has no direction there."""


@dataclass(frozen=True, eq=False)
class Source:
    """Rows of one source, predicting side a and predicted side b, and their products.

    gram = Σ w a aᵀ. C = Σ w a bᵀ is kept as left @ right, in the cheaper of two ways: from fewer
    rows than columns of a as (w a)ᵀ and b themselves, else (left None) as C.
    """

    gram: Matrix
    left: Matrix | None
    right: Matrix

    @classmethod
    def of(cls, pairs: Pairs, *, predict_x: bool, basis: Matrix | None = None) -> Source:
        """Return the products of `pairs`, with a seen in `basis` if one is given."""
        a, b = _sides(pairs, predict_x=predict_x)
        if basis is not None:
            a = a @ basis
        weighted = a.T * pairs.row_weight
        few = len(a) < a.shape[1]
        return cls(weighted @ a, weighted if few else None, b if few else weighted @ b)

    def towards(self, rows: Matrix) -> Matrix:
        """Return C bᵀ for other rows b, shape (columns of a, n)."""
        product = self.right @ rows.T
        return product if self.left is None else self.left @ product

    def times(self, other: Source) -> Matrix:
        """Return C C'ᵀ with the C' of another source."""
        product = self.towards(other.right)
        return product if other.left is None else product @ other.left.T

    @cached_property
    def square(self) -> Matrix:
        """C Cᵀ, taken once: that of the prototypes serves every fold."""
        return self.times(self)


class HeldOutFold:
    """One held-out fold: its images are queries, its distinct texts the gallery.

    Parameters
    ----------
    prototypes : Pairs or None
        Always in training, with weight w.
    training : Pairs
        The real pairs of the other folds, with weight 1.
    held_out : Pairs
        The real pairs of this fold, never fitted on.
    predict_x : bool
        True: predict x from y ("y->x"); False: y from x.
    products : Source, optional
        `Source.of` the prototypes, which every fold shares.

    All rows are transformed and float64.
    """

    def __init__(
        self,
        prototypes: Pairs | None,
        training: Pairs,
        held_out: Pairs,
        *,
        predict_x: bool,
        products: Source | None = None,
    ) -> None:
        self.asks = HeldOut.of(held_out)
        self._predict_x = predict_x
        images, texts = (
            rows.astype(np.float64) for rows in (self.asks.images, self.asks.gallery.texts)
        )
        held_a, held_b = (texts, images) if predict_x else (images, texts)
        self._columns = held_a.shape[1]
        given = [training] if prototypes is None else [training, prototypes]
        basis = None
        if sum(pairs.n for pairs in given) < self._columns:
            # Fewer rows than columns: nothing outside their span is ever predicted from.
            rows = [_sides(pairs, predict_x=predict_x)[0] for pairs in given]
            basis = np.linalg.qr(np.concatenate(rows).T)[0]
            held_a = held_a @ basis
        self._held_a = held_a
        self._real = Source.of(training, predict_x=predict_x, basis=basis)
        self._real_towards = self._real.towards(held_b)
        self._prototypes: Source | None = None
        if prototypes is None:
            return
        shared = products is not None and basis is None
        own = products if shared else Source.of(prototypes, predict_x=predict_x, basis=basis)
        assert own is not None
        self._prototypes = own
        self._towards = own.towards(held_b)
        mixed = own.times(self._real)
        self._mixed = mixed + mixed.T

    def ridge(self, weight: float, penalties: Matrix) -> Iterator[Sides]:
        """Yield both sides in the space of the ridge fit at each relative penalty."""
        gram = self._real.gram
        if self._prototypes is not None:
            gram = weight * self._prototypes.gram + gram
        # A head and its controls have their texts in common, and so this decomposition.
        values, vectors = _DECOMPOSED.get(digest_of(gram), lambda: eigen_gram(gram))
        held = self._held_a @ vectors
        towards = vectors.T @ self._mixed_towards(weight)
        square = vectors.T @ self._mixed_square(weight) @ vectors if self._predict_x else None
        unit = float(np.trace(gram)) / self._columns
        for penalty in penalties:
            predicted = held * invert_spectrum(values, float(penalty) * unit)
            if square is None:
                # Queries are predicted: their length does not change their own ranking.
                yield predicted, towards.T
            else:
                lengths = np.einsum("gr,gr->g", predicted @ square, predicted)
                yield towards.T, _divided(predicted, lengths)

    def procrustes(self, weight: float) -> Sides:
        """Return both sides in the space of the rotation (CCᵀ)^(−1/2) C.

        It is the polar factor of C through the square of C: half the digits, which is enough to
        rank, and a sixth of the time of a singular value decomposition.
        """
        values, vectors = eigen_gram(self._mixed_square(weight))
        keep = values > RANK_TOLERANCE * values[-1]
        held = self._held_a @ vectors[:, keep]
        towards = vectors[:, keep].T @ self._mixed_towards(weight)
        turned: Matrix = held / np.sqrt(values[keep])
        if not self._predict_x:
            return turned, towards.T
        return towards.T, _divided(turned, np.einsum("gr,gr->g", held, held))

    def _mixed_towards(self, weight: float) -> Matrix:
        if self._prototypes is None:
            return self._real_towards
        return weight * self._towards + self._real_towards

    def _mixed_square(self, weight: float) -> Matrix:
        if self._prototypes is None:
            return self._real.square
        return weight**2 * self._prototypes.square + weight * self._mixed + self._real.square


def _sides(pairs: Pairs, *, predict_x: bool) -> tuple[Matrix, Matrix]:
    a, b = (pairs.y, pairs.x) if predict_x else (pairs.x, pairs.y)
    return a.astype(np.float64, copy=False), b.astype(np.float64, copy=False)


def _divided(rows: Matrix, squared_lengths: Matrix) -> Matrix:
    lengths = np.sqrt(np.maximum(squared_lengths, 0.0))[:, None]
    return np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)

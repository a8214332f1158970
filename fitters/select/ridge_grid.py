"""Projections of a ridge for every mixing weight and penalty, in the small space.

As in `fitters.select.held_out`, a fit of C = w C₀ + C₁ (prototypes, real pairs) is only needed
through its products with itself and with the rows that are scored. With gram = V diag(s) Vᵀ and
D = 1 / (s + α), a row a of the predicting side is projected to a V D and a row b of the other to
Vᵀ C bᵀ: their dot product is that of b with the prediction from a. After one pass over the large
space, a mixing weight costs one eigendecomposition of the size of the predicting side, and a
penalty two products of that size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fitters.linear.solvers import eigen_gram, invert_spectrum
from fitters.pairs import Pairs
from fitters.select.held_out import Matrix, Source

Single = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Projected:
    """Rows of both sides in the shared space of one fit; the score is the dot product, a cosine.

    Attributes
    ----------
    penalty : float
    images, texts : float32 arrays of shape (n, r), (t, r)
    """

    penalty: float
    images: Single
    texts: Single


class _Decomposed(NamedTuple):
    gram: Matrix
    held: Matrix
    values: Matrix
    vectors: Matrix
    turned: Single


class Decompositions:
    """The last eigendecompositions, for grids that come to the same gram again.

    Random rows in place of a head keep its texts, so that in the direction from text to image they
    have its gram: of the 43 decompositions of a seed of the demo's sweep, 18 ms each, 30 are left.
    """

    #: Weights of which the last is kept; each holds two matrices of the size of a gram.
    KEPT = 4

    def __init__(self) -> None:
        self._kept: dict[float, _Decomposed] = {}

    def of(self, weight: float, gram: Matrix, held: Matrix) -> _Decomposed:
        """Return the decomposition of a gram, and held rows turned by it, in single precision."""
        last = self._kept.pop(weight, None)
        same = last is not None and np.array_equal(last.gram, gram)
        if last is None or not same or not np.array_equal(last.held, held):
            values, vectors = (last.values, last.vectors) if last and same else eigen_gram(gram)
            turned = (held @ vectors).astype(np.float32)
            last = _Decomposed(gram, held, values, vectors, turned)
        self._kept[weight] = last
        if len(self._kept) > self.KEPT:
            del self._kept[next(iter(self._kept))]
        return last


class RidgeGrid:
    """One split, one choice of real pairs and of prototypes; every weight and penalty.

    Parameters
    ----------
    prototypes, real : Pairs or None
        Transformed; at least one of them.
    images, texts : ndarray of shape (n, p), (t, q)
        The rows that are scored, transformed, of unit length.
    predict_x : bool
        True: predict x from y ("y->x"); False: y from x.
    products : Source, optional
        `Source.of` the prototypes, which all numbers of real pairs share.
    towards : ndarray, optional
        `products.towards` of the rows of the predicted side, which they share too.
    decompositions : Decompositions, optional
        Shared with other grids.
    """

    def __init__(
        self,
        prototypes: Pairs | None,
        real: Pairs | None,
        images: Matrix,
        texts: Matrix,
        *,
        predict_x: bool,
        products: Source | None = None,
        towards: Matrix | None = None,
        decompositions: Decompositions | None = None,
    ) -> None:
        self._predict_x = predict_x
        held_a, held_b = (texts, images) if predict_x else (images, texts)
        self._columns = held_a.shape[1]
        given = [pairs for pairs in (prototypes, real) if pairs is not None]
        basis = None
        if sum(pairs.n for pairs in given) < self._columns:
            # Fewer rows than columns: nothing outside their span is ever predicted from.
            rows = [(pairs.y if predict_x else pairs.x).astype(np.float64) for pairs in given]
            basis = np.linalg.qr(np.concatenate(rows).T)[0]
            held_a = held_a @ basis
            products = towards = None
        self._held_a = held_a
        self._sources: list[Source] = []
        if prototypes is not None:
            own = products or Source.of(prototypes, predict_x=predict_x, basis=basis)
            self._sources.append(own)
        if real is not None:
            self._sources.append(Source.of(real, predict_x=predict_x, basis=basis))
        self._mixes = prototypes is not None and real is not None
        known = [towards] if prototypes is not None and towards is not None else []
        rest = self._sources[len(known) :]
        self._towards = known + [source.towards(held_b) for source in rest]
        self._decompositions = decompositions or Decompositions()
        if self._mixes:
            crossed = self._sources[0].times(self._sources[1])
            self._crossed = crossed + crossed.T

    def projected(self, weight: float, penalties: Sequence[float]) -> Iterator[Projected]:
        """Yield the projections of every penalty, relative as `RidgeAligner`'s are.

        Parameters
        ----------
        weight : float
            Mass of one class relative to one real image; no part without both sources.
        penalties : sequence of float
            Not negative.
        """
        masses = (weight, 1.0) if self._mixes else (1.0,)
        gram = np.asarray(
            sum(m * source.gram for m, source in zip(masses, self._sources, strict=True))
        )
        # A penalty only scales these: single precision ranks as the projections of an aligner do.
        _, _, values, vectors, held = self._decompositions.of(weight, gram, self._held_a)
        square = sum(m * m * s.square for m, s in zip(masses, self._sources, strict=True))
        if self._mixes:
            square = square + weight * self._crossed
        turned = (vectors.T @ square @ vectors).astype(np.float32)
        towards = sum(m * part for m, part in zip(masses, self._towards, strict=True))
        others = np.ascontiguousarray((vectors.T @ towards).T, dtype=np.float32)
        unit = float(np.trace(gram)) / self._columns
        for penalty in penalties:
            inverse = invert_spectrum(values, float(penalty) * unit)
            # To a common scale, which no cosine sees, so that no square leaves single precision.
            predicted = held * (inverse / inverse.max()).astype(np.float32)
            lengths = np.sqrt(np.maximum(np.einsum("ar,ar->a", predicted @ turned, predicted), 0))
            # What is predicted to be nothing stays nothing: it ties with everything.
            known = (lengths > 0)[:, None]
            own = np.divide(predicted, lengths[:, None], out=np.zeros_like(predicted), where=known)
            pair = (others, own) if self._predict_x else (own, others)
            yield Projected(float(penalty), *pair)

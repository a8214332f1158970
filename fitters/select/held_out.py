"""Held-out scores of linear aligners in closed form.

A fold needs C = w C₀ + C₁ (prototypes, real training pairs) only through products with itself and
with the held-out rows: CCᵀ is a quadratic in w, C bᵀ is linear. After one pass over the large
space, every (weight, penalty) costs products of the size of the predicting side, and every
penalty of a weight shares one eigendecomposition.

With gram = U diag(s) Uᵀ of the training moments, C(α) = U D Uᵀ cross and D = 1 / (s + α), the
error on a fold with its own moments S is::

    tr S_bb − 2 tr(C(α)ᵀ S_ab) + tr(C(α)ᵀ S_aa C(α)) = tr S_bb − 2 d·m + dᵀ Q d

with d the diagonal of D, m = diag(Uᵀ cross S_abᵀ U) and Q = (Uᵀ cross crossᵀ U) ∘ (Uᵀ S_aa U). So
one eigendecomposition serves every penalty, and no row is read again for any of them.

As in `fitters.select.held_out`, a fit of C = w C₀ + C₁ (prototypes, real pairs) is only needed
through its products with itself and with the rows that are scored. With gram = V diag(s) Vᵀ and
D = 1 / (s + α), a row a of the predicting side is projected to a V D and a row b of the other to
Vᵀ C bᵀ: their dot product is that of b with the prediction from a. After one pass over the large
space, a mixing weight costs one eigendecomposition of the size of the predicting side, and a
penalty two products of that size.

The prototypes are always in training: they are what is being mixed in, not what is asked about.
The gallery of a fold is that fold's texts only, as at test time; one that also held the training
texts would reward small prototype weights, because fitted texts lie among the real images.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from featstore.parallel import map_threads
from fitters.aligners.solvers import DETERMINED, eigen_gram, invert_spectrum
from fitters.errors import PairsError, SelectionError, SettingError
from fitters.kept import Kept, digest_of
from fitters.moments.moments import Moments, merge_pooled
from fitters.pairs import Pairs
from fitters.select.grid import PENALTIES, WEIGHTS, Axis, Surface, search
from fitters.select.ranking import METRICS, HeldOut, check_metric
from fitters.settings import Metric

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

    All rows are transformed; products are taken in float64.
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
        square = self._mixed_square(weight) if self._predict_x else None
        # CCᵀ as the eigenvectors see it costs two products of its size; rows are few in a fold.
        turns = len(held) * len(penalties) > 2 * len(values)
        if square is not None and turns:
            square = vectors.T @ square @ vectors
        unit = float(np.trace(gram)) / self._columns
        for penalty in penalties:
            predicted = held * invert_spectrum(values, float(penalty) * unit)
            if square is None:
                # Queries are predicted: their length does not change their own ranking.
                yield predicted, towards.T
            else:
                rows = predicted if turns else predicted @ vectors.T
                lengths = np.einsum("gr,gr->g", rows @ square, rows)
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


ERROR_CRITERION = "share of the held-out squared length that is predicted (R² about 0)"
CENTRED_CRITERION = "share of the held-out variance that is predicted (R²)"


def validate_by_error(
    folds: Sequence[Moments],
    prototypes: Moments | None = None,
    *,
    direction: str = "x->y",
    center: bool = False,
    penalties: Axis = PENALTIES,
    weights: Axis = WEIGHTS,
) -> Surface:
    """Return the held-out R² of a ridge over weight × penalty, from moments.

    Parameters
    ----------
    folds : sequence of Moments
        Of the real pairs, one a fold, from `accumulate_folds`; each is held out once.
    prototypes : Moments, optional
        In the training of every fold, with the mixing weight.
    direction : {"x->y", "y->x", "both"}
        "both": the mean over the two.
    center : bool
        Fit about the training mean, as an intercept does; False: about 0.
    penalties, weights : Axis
        Grids, relative to the training moments of each fold; they widen themselves.

    Raises
    ------
    SelectionError
        If there are fewer than two folds.

    Notes
    -----
    The error is not the rank of the true text that `cross_validate` goes by: it can be had from
    moments, so that n does not matter, but small errors need not mean good ranks.
    """
    if len(folds) < 2:
        raise SelectionError(
            f"Validation needs at least 2 folds; got {len(folds)}. Accumulate with more folds."
        )
    rest = [merge_pooled(*(f for f in folds if f is not held)) for held in folds]
    ways = ("x->y", "y->x") if direction == "both" else (direction,)

    def evaluate(at: Mapping[str, Matrix]) -> Matrix:
        at_weights, at_penalties = at["weight"], at["penalty"]

        def errors_of(task: tuple[float, str, int]) -> tuple[Matrix, float]:
            weight, way, fold = task
            training = rest[fold]
            if prototypes is not None:
                training = merge_pooled(training, prototypes.scaled(weight))
            return _errors(training, folds[fold], way, at_penalties, center=center)

        tasks = list(itertools.product(at_weights.tolist(), ways, range(len(folds))))
        found = map_threads(errors_of, tasks)
        shape = len(at_weights), len(ways), len(folds)
        errors = np.array([error for error, _ in found]).reshape(*shape, -1).sum(axis=2)
        sizes = np.array([size for _, size in found]).reshape(shape).sum(axis=2)
        scores: Matrix = (1.0 - errors / sizes[:, :, None]).mean(axis=1)
        return scores

    return search(
        evaluate,
        {"weight": Axis.fixed(1.0) if prototypes is None else weights, "penalty": penalties},
        criterion=CENTRED_CRITERION if center else ERROR_CRITERION,
        n_queries=sum(fold.n for fold in folds),
        n_folds=len(folds),
    )


def _errors(
    training: Moments, held: Moments, direction: str, penalties: Matrix, *, center: bool
) -> tuple[Matrix, float]:
    """Return the held-out squared error at each penalty, and that of predicting the mean."""
    fitted = training.centred if center else training.uncentred
    held = held.shifted(fitted.shift_x, fitted.shift_y)
    if direction == "y->x":
        fitted, held = fitted.swapped, held.swapped
    values, vectors = eigen_gram(fitted.sxx)
    cross = vectors.T @ fitted.sxy
    linear = np.einsum("pq,pq->p", cross, vectors.T @ held.sxy)
    quadratic = (cross @ cross.T) * (vectors.T @ held.sxx @ vectors)
    unit = float(np.trace(fitted.sxx)) / len(values)
    inverse = np.array([invert_spectrum(values, float(penalty) * unit) for penalty in penalties])
    size = float(np.trace(held.syy))
    quadratics = np.einsum("kp,kp->k", inverse @ quadratic, inverse)
    errors: Matrix = size - 2.0 * (inverse @ linear) + quadratics
    return errors, size


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


def cross_validate(
    method: str,
    *,
    real: Pairs,
    folds: npt.NDArray[np.integer[Any]],
    prototypes: Pairs | None = None,
    direction: str = "y->x",
    penalties: Axis = PENALTIES,
    weights: Axis = WEIGHTS,
    metric: Metric = "mrr",
) -> Surface:
    """Return the validation surface of a linear aligner over weight × penalty.

    Parameters
    ----------
    method : {"ridge", "procrustes"}
    real : Pairs
        The K training pairs, transformed; nothing else of the data enters.
    folds : ndarray of int, shape (K,)
        From `folds_by_group`; each fold is held out once.
    prototypes : Pairs, optional
        Transformed; in the training of every fold, each row with weight × its own.
    direction : {"y->x", "x->y"}
        Of the ridge.
    penalties, weights : Axis
        Grids; they widen themselves. Penalties are relative to the training rows of each fold.
        Without prototypes the weight has no effect; Procrustes has no penalty.
    metric : {"mrr", "top-1", "top-5", "top-10"}
        See `METRICS` in `fitters.select.ranking`.

    Returns
    -------
    Surface
        Mean over all K pairs of the metric when their fold was held out. The transforms
        are those of the final fit, so the held-out images take part in the mean that centres
        them; their texts and their pairing do not take part in anything.

    Notes
    -----
    One eigendecomposition, of the size of the predicting side, for each fold and weight.
    """
    if method not in {"ridge", "procrustes"}:
        raise SettingError(
            f"Only ridge and procrustes have something to choose here. Got {method!r}."
        )
    check_metric(metric)
    if folds.shape != (real.n,):
        raise PairsError(f"folds must have one entry a pair, shape ({real.n},). Got {folds.shape}.")
    # Procrustes maps the smaller side into the larger; ridge as asked.
    predict_x = (
        real.y.shape[1] <= real.x.shape[1] if method == "procrustes" else direction == "y->x"
    )
    shared = None if prototypes is None else Source.of(prototypes, predict_x=predict_x)
    fold_ids = np.unique(folds)
    parts = [
        HeldOutFold(
            prototypes,
            real.take(folds != fold),
            real.take(folds == fold),
            predict_x=predict_x,
            products=shared,
        )
        for fold in fold_ids
    ]

    def evaluate(at: Mapping[str, Matrix]) -> Matrix:
        at_weights, at_penalties = at["weight"], at["penalty"]
        sums = np.zeros((len(at_weights), len(at_penalties)))
        for part in parts:
            for i, weight in enumerate(at_weights):
                of_penalty = (
                    part.ridge(float(weight), at_penalties)
                    if method == "ridge"
                    else [part.procrustes(float(weight))]
                )
                for j, sides in enumerate(of_penalty):
                    sums[i, j] += part.asks.total(*sides, metric)
        return sums / real.n

    return search(
        evaluate,
        {
            "weight": Axis.fixed(1.0) if prototypes is None else weights,
            "penalty": penalties if method == "ridge" else Axis.fixed(0.0),
        },
        criterion=METRICS[metric],
        n_queries=real.n,
        n_folds=len(fold_ids),
        of_ranks=True,
    )

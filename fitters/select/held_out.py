"""Held-out scores: of linear aligners in closed form, of others by fitting again.

A fit of C = w C₀ + C₁ (prototypes, real pairs) is only needed through its products with itself and
with the rows that are scored: CCᵀ is a quadratic in w, C bᵀ is linear. In the eigenbasis of the
gram a row a of the predicting side is a V / (s + α) and a row b of the other Vᵀ C bᵀ: their dot
product is that of b with the prediction from a. After one pass over the large space, a mixing
weight costs one eigendecomposition of the size of the predicting side, and a penalty two products
of that size.

The error on a fold with its own moments S is::

    tr S_bb − 2 tr(C(α)ᵀ S_ab) + tr(C(α)ᵀ S_aa C(α)) = tr S_bb − 2 d·m + dᵀ Q d

with d the values 1 / (s + α), m = diag(Vᵀ C S_abᵀ V) and Q = (Vᵀ C Cᵀ V) ∘ (Vᵀ S_aa V). So one
eigendecomposition serves every penalty, and no row is read again for any of them.

The prototypes are always in training: they are what is being mixed in, not what is asked about.
The gallery of a fold is that fold's texts only, as at test time; one that also held the training
texts would reward small prototype weights, because fitted texts lie among the real images.

Where the closed forms do not apply, the same criteria cost one fit for each fold and setting; from
moments, none of them reads a row again.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featstore.parallel import map_threads
from fitters.errors import SelectionError, ZeroRowError
from fitters.kept import kept, remember
from fitters.moments import Folds, Moments, merge_pooled, moments_of
from fitters.pairs import Matrix, Pairs
from fitters.select import PENALTIES, WEIGHTS, Axis, Search, Surface, choose, folds_of_pairs
from fitters.select.ranking import HeldOut, criterion_named
from fitters.settings import Metric
from fitters.solvers import DETERMINED, Spectrum, eigen_gram, inverse_of, relative_penalty
from fitters.sources import SideTransform, Sources

if TYPE_CHECKING:
    from fitters.aligners import BaseAligner


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

    @property
    @kept
    def square(self) -> Matrix:
        """C Cᵀ, taken once: that of the prototypes serves every fold."""
        return self.times(self)


def _sides(pairs: Pairs, *, predict_x: bool) -> tuple[Matrix, Matrix]:
    a, b = (pairs.y, pairs.x) if predict_x else (pairs.x, pairs.y)
    return a.astype(np.float64, copy=False), b.astype(np.float64, copy=False)


def _divided(rows: npt.NDArray[Any], squares: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the rows by the roots of `squares`; 0, which ties with everything, where it is 0."""
    lengths = np.sqrt(np.maximum(squares, 0))[:, None]
    return np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)


Both = tuple[npt.NDArray[Any], npt.NDArray[Any]]
"""Images and texts in the shared space of one fit; the score is the dot product, a cosine."""


@dataclass(frozen=True, eq=False)
class Seen:
    """Rows that are scored, as the fits see them: a, and C bᵀ of each source."""

    own: Matrix
    towards: Sequence[Matrix]


@dataclass(frozen=True, eq=False)
class AtWeight:
    """What ridges of every penalty share: the spectrum of the gram, C Cᵀ in it, and the unit."""

    values: Matrix
    vectors: Matrix
    turned: npt.NDArray[Any]
    unit: float


class LinearFits:
    """Fits on one choice of real pairs and of prototypes, at every setting.

    Parameters
    ----------
    prototypes, real : Pairs or None
        Transformed; at least one of them. Products are taken in float64.
    predict_x : bool
        True: predict x from y ("y->x"); False: y from x.
    products : Source, optional
        `Source.of` the prototypes, which all numbers of real pairs and all folds share.
    dtype : type
        Of the projections.
    """

    def __init__(
        self,
        prototypes: Pairs | None,
        real: Pairs | None,
        *,
        predict_x: bool,
        products: Source | None = None,
        dtype: npt.DTypeLike = np.float32,
    ) -> None:
        self.predict_x, self._dtype, self._basis = predict_x, dtype, None
        given = [pairs for pairs in (prototypes, real) if pairs is not None]
        rows = [_sides(pairs, predict_x=predict_x)[0] for pairs in given]
        self._columns = rows[0].shape[1]
        if sum(map(len, rows)) < self._columns:
            # Fewer rows than columns: nothing outside their span is ever predicted from.
            self._basis = np.linalg.qr(np.concatenate(rows).T)[0]
            products = None
        self._sources = [
            products
            if products is not None and pairs is prototypes
            else Source.of(pairs, predict_x=predict_x, basis=self._basis)
            for pairs in given
        ]
        self._mixes = len(given) == 2
        if self._mixes:
            crossed = self._sources[0].times(self._sources[1])
            self._crossed = crossed + crossed.T

    def seen(self, images: Matrix, texts: Matrix, first: Matrix | None = None) -> Seen:
        """Return rows that are scored, of unit length and transformed, as all fits see them.

        `first` is `Source.towards` of `products`, which all numbers of real pairs share.
        """
        own, others = (texts, images) if self.predict_x else (images, texts)
        if self._basis is not None:
            own, first = own @ self._basis, None
        known = [] if first is None else [first]
        return Seen(own, known + [of.towards(others) for of in self._sources[len(known) :]])

    def at(self, weight: float) -> AtWeight:
        """Return what the ridges at a weight share: the mass of one class beside one real image."""
        masses = self._masses(weight)
        gram = np.asarray(sum(m * own.gram for m, own in zip(masses, self._sources, strict=True)))
        # 50 of 384 columns take 64 MB. A head and its controls share texts.
        values, vectors = remember(lambda: eigen_gram(gram), "gram", gram)
        # A penalty only scales it: single precision ranks as the projections of an aligner do.
        turned = (vectors.T @ self._square(weight) @ vectors).astype(self._dtype)
        return AtWeight(values, vectors, turned, float(np.trace(gram)) / self._columns)

    def ridge(self, weight: float, seen: Seen, at: AtWeight | None = None) -> RidgePath:
        """Return the ridges at a weight, seen from rows; `at` is `LinearFits.at` of the weight."""
        at = at or self.at(weight)
        others = (at.vectors.T @ self._towards(weight, seen)).T
        return RidgePath(
            (seen.own @ at.vectors).astype(self._dtype),
            np.ascontiguousarray(others, dtype=self._dtype), at, self.predict_x,
        )  # fmt: skip

    def procrustes(self, weight: float, seen: Seen) -> Both:
        """Return both sides in the space of the rotation (CCᵀ)^(−1/2) C.

        It is the polar factor of C through the square of C: half the digits, which is enough to
        rank, and a sixth of the time of a singular value decomposition.
        """
        values, vectors = eigen_gram(self._square(weight))
        keep = values > RANK_TOLERANCE * values[-1]
        held = seen.own @ vectors[:, keep]
        turned = _divided(held / np.sqrt(values[keep]), np.einsum("gr,gr->g", held, held))
        others = self._towards(weight, seen).T @ vectors[:, keep]
        return (others, turned) if self.predict_x else (turned, others)

    def _masses(self, weight: float) -> tuple[float, ...]:
        return (weight, 1.0) if self._mixes else (1.0,)

    def _towards(self, weight: float, seen: Seen) -> Matrix:
        """Return C bᵀ of the rows that are scored."""
        parts = zip(self._masses(weight), seen.towards, strict=True)
        return np.asarray(sum(mass * rows for mass, rows in parts))

    def _square(self, weight: float) -> Matrix:
        """Return CCᵀ."""
        parts = zip(self._masses(weight), self._sources, strict=True)
        square = sum(mass * mass * own.square for mass, own in parts)
        return np.asarray(square + weight * self._crossed if self._mixes else square)


@dataclass(frozen=True, eq=False)
class RidgePath:
    """Ridges at every penalty, seen from rows of both sides in the eigenbasis.

    Attributes
    ----------
    held, others : ndarray of shape (n, r), (t, r)
        Rows of the predicting and of the predicted side.
    shared : AtWeight
    predict_x : bool
        Whether the others are images.
    """

    held: npt.NDArray[Any]
    others: npt.NDArray[Any]
    shared: AtWeight
    predict_x: bool

    def at(self, penalty: float) -> Both:
        """Return both sides at a penalty, relative as `RidgeAligner`'s is, and not negative."""
        inverse = inverse_of(self.shared.values, penalty * self.shared.unit)
        # To a common scale, which no cosine sees, so that no square leaves single precision.
        predicted = self.held * (inverse / inverse.max()).astype(self.held.dtype)
        own = _divided(predicted, np.einsum("ar,ar->a", predicted @ self.shared.turned, predicted))
        return (self.others, own) if self.predict_x else (own, self.others)


ERROR_CRITERION = "share of the held-out squared length that is predicted (R² about 0)"


def validate_by_error(
    folds: Sequence[Moments],
    prototypes: Moments | None = None,
    *,
    direction: str = "x->y",
    penalties: Axis = PENALTIES,
    weights: Axis = WEIGHTS,
) -> Surface:
    """Return the held-out R² of a ridge over weight × penalty, from moments.

    Parameters
    ----------
    folds : sequence of Moments
        Of the real pairs, one a fold, from `accumulate_part`; each is held out once.
    prototypes : Moments, optional
        In the training of every fold, with the mixing weight.
    direction : {"x->y", "y->x", "both"}
        "both": the mean over the two.
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
            return _errors(training, folds[fold], way, at_penalties)

        tasks = list(itertools.product(at_weights.tolist(), ways, range(len(folds))))
        found = map_threads(errors_of, tasks)
        shape = len(at_weights), len(ways), len(folds)
        errors = np.array([error for error, _ in found]).reshape(*shape, -1).sum(axis=2)
        sizes = np.array([size for _, size in found]).reshape(shape).sum(axis=2)
        return (1.0 - errors / sizes[:, :, None]).mean(axis=1)

    return choose(
        evaluate,
        {"weight": Axis.fixed(1.0) if prototypes is None else weights, "penalty": penalties},
        criterion=ERROR_CRITERION,
        n_queries=sum(fold.n for fold in folds),
        n_folds=len(folds),
    )


def _errors(
    training: Moments, held: Moments, direction: str, penalties: Matrix
) -> tuple[Matrix, float]:
    """Return the held-out squared error at each penalty, and that of predicting 0."""
    fitted, held = training.uncentred, held.uncentred
    if direction == "y->x":
        fitted, held = fitted.swapped, held.swapped
    found = Spectrum.of(fitted.sxx, fitted.sxy)
    linear = np.einsum("pq,pq->p", found.rhs, found.lhs.T @ held.sxy)
    quadratic = (found.rhs @ found.rhs.T) * (found.lhs.T @ held.sxx @ found.lhs)
    unit = relative_penalty(fitted.sxx, 1.0)
    inverse = np.array([found.inverse(float(penalty) * unit) for penalty in penalties])
    size = float(np.trace(held.syy))
    quadratics = np.einsum("kp,kp->k", inverse @ quadratic, inverse)
    errors: Matrix = size - 2.0 * (inverse @ linear) + quadratics
    return errors, size


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
    # Procrustes maps the smaller side into the larger; ridge as asked.
    predict_x = real.y.shape[1] < real.x.shape[1] if method == "procrustes" else direction == "y->x"
    shared = None if prototypes is None else Source.of(prototypes, predict_x=predict_x)
    parts = []
    for fold in np.unique(folds):
        asks = HeldOut.of(real.take(folds == fold))
        held = (rows.astype(np.float64) for rows in (asks.images, asks.gallery.texts))
        training = real.take(folds != fold)
        fits = LinearFits(
            prototypes, training, predict_x=predict_x, products=shared, dtype=np.float64
        )
        parts.append((asks, fits, fits.seen(*held)))

    def evaluate(at: Mapping[str, Matrix]) -> Matrix:
        sums = np.zeros((len(at["weight"]), len(at["penalty"])))
        for asks, fits, seen in parts:
            for i, weight in enumerate(at["weight"].tolist()):
                found: Iterable[Both] = (
                    map(fits.ridge(weight, seen).at, at["penalty"].tolist())
                    if method == "ridge"
                    else [fits.procrustes(weight, seen)]
                )
                sums[i] += [asks.total(*both, metric) for both in found]
        return sums / real.n

    return choose(
        evaluate,
        {
            "weight": Axis.fixed(1.0) if prototypes is None else weights,
            "penalty": penalties if method == "ridge" else Axis.fixed(0.0),
        },
        criterion=criterion_named(metric),
        n_queries=real.n,
        n_folds=len(parts),
        of_ranks=True,
    )


Refit = Callable[[int, Mapping[str, float]], "BaseAligner"]
"""(fold that is left out, value of each axis) → a fitted aligner."""


@dataclass(frozen=True, eq=False)
class Folded:
    """Pairs that are left out fold by fold, and the prototypes that are always in training.

    Attributes
    ----------
    real : Pairs
        Transformed; without real pairs, the prototypes themselves.
    folds : ndarray of int, shape (n,)
    prototypes : Pairs or None
    """

    real: Pairs
    folds: npt.NDArray[np.intp]
    prototypes: Pairs | None

    @classmethod
    def of(cls, data: Sources[Pairs], by: Search, axes: Mapping[str, Axis]) -> Folded:
        """Return the pairs in the folds of a search over `axes`.

        Raises
        ------
        SelectionError
            If all pairs are of one group.
        """
        real, prototypes, kind = data.real, data.prototypes, "real pairs"
        if real is None:
            real, prototypes, kind = data.given[0], None, "prototypes"
        if not real.row_weight.all():  # a row without weight has no vote either
            real = real.take(real.row_weight > 0)
        searched = (name for name, axis in axes.items() if axis.searched)
        what = next(searched, "components").replace("weight", "mix")
        return cls(real, folds_of_pairs(real, by.n_folds, what, by.rng, kind=kind), prototypes)

    # Ranks are validated on rows: moments of 1,280 columns, 60 ms each, are made only if needed.
    @cached_property
    def of_folds(self) -> Folds:
        """Moments of every fold alone."""
        return Folds(
            moments_of(self.real.take(self.folds == fold)) for fold in np.unique(self.folds)
        )

    @cached_property
    def of_prototypes(self) -> Moments | None:
        """Moments of the prototypes."""
        return None if self.prototypes is None else moments_of(self.prototypes)

    @cached_property
    def moments_without(self) -> list[Sources[Folds]]:
        """The moments to fit on without each fold."""
        head = None if self.of_prototypes is None else Folds([self.of_prototypes])
        return [
            self._sources(head, Folds([merge_pooled(*(p for p in self.of_folds if p is not held))]))
            for held in self.of_folds
        ]

    def rows_without(self, fold: int) -> Sources[Pairs]:
        """Return the rows to fit on without a fold."""
        return self._sources(self.prototypes, self.real.take(self.folds != fold))

    def _sources(self, prototypes: Any, real: Any) -> Sources[Any]:
        return Sources(prototypes, real, SideTransform.identity(), SideTransform.identity())


def validate_by_refitting(
    refit: Refit,
    *,
    real: Pairs,
    folds: npt.NDArray[Any],
    axes: Mapping[str, Axis],
    metric: Metric = "mrr",
) -> Surface:
    """Return the validation surface of an aligner over some axes.

    Parameters
    ----------
    refit : callable
        Fits without a fold of `real`; with an axis "components" a `DirectionsAligner` with all
        directions. One fit then serves every number of them, because fewer are the first of more.
    real : Pairs
        Transformed.
    folds : ndarray of int, shape (n,)
        From `folds_by_group`.
    axes : mapping of str to Axis
        Grids, which widen themselves; components come last.
    metric : {"mrr", "top-1", "top-5", "top-10"}
        See `METRICS` in `fitters.select.ranking`.
    """
    parts = {int(fold): HeldOut.of(real.take(folds == fold)) for fold in np.unique(folds)}
    fitted = [name for name in axes if name != "components"]

    def evaluate(at: Mapping[str, Matrix]) -> Matrix:
        def score_of(task: tuple[float, ...]) -> list[float]:
            *values, fold = task
            made: Any = refit(int(fold), dict(zip(fitted, values, strict=True)))
            numbers = at["components"].tolist() if "components" in at else []
            kept = map(made.truncated, numbers) if numbers else [made]
            return [_total(one, parts[int(fold)], metric) for one in kept]

        tasks = itertools.product(*(at[name].tolist() for name in fitted), parts)
        try:
            found = map_threads(score_of, list(tasks))
        except ZeroRowError as err:
            raise SelectionError(
                f"{real.n:,} pairs in {len(parts)} folds are too few to choose by: what is "
                f"fitted without a fold cannot place its pairs ({err}) Give more pairs, or a "
                "number for every setting."
            ) from err
        sizes = [len(at[name]) for name in fitted]
        sums = np.array(found).reshape(*sizes, len(parts), -1).sum(axis=-2) / real.n
        return sums.reshape([len(at[name]) for name in axes])

    return choose(
        evaluate, axes, criterion=criterion_named(metric), n_queries=real.n, n_folds=len(parts),
        of_ranks=True,
    )  # fmt: skip


def _total(aligner: BaseAligner, part: HeldOut, metric: Metric) -> float:
    images, texts = aligner.project_x(part.images), aligner.project_y(part.gallery.texts)
    return part.total(images, texts, metric)

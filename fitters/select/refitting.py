"""Held-out scores by fitting again.

The criteria are those of `fitters.select.held_out`. Where the closed forms there do not apply, this
costs one fit for each fold and setting; from moments, none of them reads a row again.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featstore.parallel import map_threads
from fitters.errors import SelectionError, ZeroRowError
from fitters.moments.moments import Folds, Moments, merge_pooled, moments_of
from fitters.moments.transform import SideTransform
from fitters.pairs import Matrix, Pairs
from fitters.select.grid import Axis, Search, Surface, choose, folds_of_pairs
from fitters.select.ranking import HeldOut, criterion_named
from fitters.settings import Metric
from fitters.sources import Sources

if TYPE_CHECKING:
    from fitters.aligners.base import BaseAligner


Refit = Callable[[int, float, float], "BaseAligner"]
"""(fold that is left out, weight of the prototypes, relative penalty) → a fitted aligner."""


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
    penalties: Axis,
    weights: Axis,
    metric: Metric = "mrr",
) -> Surface:
    """Return the validation surface of an aligner over weight × penalty.

    Parameters
    ----------
    refit : callable
        Fits without a fold of `real`.
    real : Pairs
        Transformed.
    folds : ndarray of int, shape (n,)
        From `folds_by_group`.
    penalties, weights : Axis
        Grids; they widen themselves.
    metric : {"mrr", "top-1", "top-5", "top-10"}
        See `METRICS` in `fitters.select.ranking`.
    """

    def score(aligner: BaseAligner, part: HeldOut) -> Matrix:
        return np.array([_total(aligner, part, metric)])

    return _search(refit, score, real, folds, penalties, weights, metric)[0]


def choose_components(
    refit: Refit,
    *,
    real: Pairs,
    folds: npt.NDArray[Any],
    penalties: Axis,
    weights: Axis,
    metric: Metric = "mrr",
) -> Surface:
    """Return the validation surface of an aligner over weight × penalty × components.

    One fit a fold serves every number of directions, because fewer are the first of more. The grid
    widens where the best number of each weight and penalty says so.

    Parameters
    ----------
    refit : callable
        Fits a `DirectionsAligner` with all directions, without a fold of `real`.
    real, folds, penalties, weights, metric
        As for `validate_by_refitting`.
    """
    # Of few pairs, what is fitted without a larger fold has fewer directions.
    first = weights.values[0], penalties.values[0]
    fits: list[Any] = [refit(fold, *first) for fold in np.unique(folds).tolist()]
    numbers = _numbers(min(len(fit.strengths_) for fit in fits))

    def score(aligner: Any, part: HeldOut) -> Matrix:
        return np.array([_total(aligner.truncated(k), part, metric) for k in numbers])

    best, known = _search(refit, score, real, folds, penalties, weights, metric)
    settings = itertools.product(best.axes["weight"].values, best.axes["penalty"].values)
    scores = np.array([known[setting] for setting in settings]).reshape(*best.scores.shape, -1)
    tried = Axis(tuple(numbers), searched=False)
    return replace(best, axes={**best.axes, "components": tried}, scores=scores)


def _search(
    refit: Refit,
    score: Callable[[BaseAligner, HeldOut], Matrix],
    real: Pairs,
    folds: npt.NDArray[Any],
    penalties: Axis,
    weights: Axis,
    metric: Metric,
) -> tuple[Surface, dict[tuple[float, float], Matrix]]:
    """Return the surface of the best of `score` at each weight and penalty, and all of them."""
    parts = {int(fold): HeldOut.of(real.take(folds == fold)) for fold in np.unique(folds)}
    known: dict[tuple[float, float], Matrix] = {}

    def evaluate(at: Mapping[str, Matrix]) -> Matrix:
        def score_of(task: tuple[float, float, int]) -> Matrix:
            weight, penalty, fold = task
            return score(refit(fold, weight, penalty), parts[fold])

        settings = list(itertools.product(at["weight"].tolist(), at["penalty"].tolist()))
        tasks = [(weight, penalty, fold) for weight, penalty in settings for fold in parts]
        try:
            found = map_threads(score_of, tasks)
        except ZeroRowError as err:
            raise SelectionError(
                f"{real.n:,} pairs in {len(parts)} folds are too few to choose by: what is "
                f"fitted without a fold cannot place its pairs ({err}) Give more pairs, or a "
                "number for every setting."
            ) from err
        scores = np.array(found).reshape(len(settings), len(parts), -1).sum(axis=1) / real.n
        known.update(zip(settings, scores, strict=True))
        return scores.max(axis=1).reshape(len(at["weight"]), len(at["penalty"]))

    surface = choose(
        evaluate,
        {"weight": weights, "penalty": penalties},
        criterion=criterion_named(metric),
        n_queries=real.n,
        n_folds=len(parts),
        of_ranks=True,
    )
    return surface, known


def _total(aligner: BaseAligner, part: HeldOut, metric: Metric) -> float:
    images, texts = aligner.project_x(part.images), aligner.project_y(part.gallery.texts)
    return part.total(images, texts, metric)


def _numbers(most: int) -> list[int]:
    """Return about three numbers an octave up to `most`, which is one of them."""
    steps = np.geomspace(1, most, 1 + 3 * max(1, round(np.log2(most))) if most > 1 else 1)
    return sorted({round(step) for step in steps} | {most})

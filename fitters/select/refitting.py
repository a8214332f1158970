"""Choose settings of any aligner by fitting it anew without each fold of the real pairs.

The criteria are those of `select.validation`. Where that file's closed forms do not apply, this
costs one fit for each fold and setting; from moments, none of them reads a row again.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fitters.errors import SelectionError, ZeroRowError
from fitters.linear.directions import DirectionsAligner
from fitters.pairs import Pairs
from fitters.projection import BaseAligner
from fitters.select.curve import Axis, Curve, search
from fitters.select.ranking import METRICS, HeldOut, Metric, check_metric
from fitters.side_by_side import side_by_side

Matrix = npt.NDArray[np.float64]

Refit = Callable[[int, float, float], BaseAligner]
"""(fold that is left out, weight of the prototypes, relative penalty) → a fitted aligner."""


def validate_by_refitting(
    refit: Refit,
    *,
    real: Pairs,
    folds: npt.NDArray[Any],
    penalties: Axis,
    weights: Axis,
    metric: Metric = "mrr",
) -> Curve:
    """Return the validation curve of an aligner over penalties × mixing weights.

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


@dataclass(frozen=True, eq=False)
class ComponentsChoice:
    """How many directions are kept, chosen together with penalty and mixing weight.

    Attributes
    ----------
    curve : Curve
        At each penalty and weight, the score with the number of directions that is best there.
    numbers : tuple of int
        What was tried, ascending.
    scores : ndarray of shape (n_weights, n_penalties, n_numbers)
        The whole of it.
    """

    curve: Curve
    numbers: tuple[int, ...]
    scores: Matrix

    @property
    def n_components(self) -> int:
        """The chosen number; of equal scores, the smallest."""
        scores = self.scores[self.curve.best]
        return self.numbers[int(np.argmax(scores >= scores.max() - 1e-12))]

    def to_facts(self) -> dict[str, Any]:
        """Return the choice and all scores as plain values for JSON."""
        tried = {"components": list(self.numbers), "component_scores": self.scores.tolist()}
        return {**self.curve.to_facts(), **tried}


def choose_components(
    refit: Refit,
    *,
    real: Pairs,
    folds: npt.NDArray[Any],
    penalties: Axis,
    weights: Axis,
    metric: Metric = "mrr",
) -> ComponentsChoice:
    """Choose how many directions are kept, with penalty and weight, by the same criterion.

    One fit a fold serves every number, because fewer directions are the first of more.

    Parameters
    ----------
    refit : callable
        Fits with all directions, without a fold of `real`.
    real, folds, penalties, weights, metric
        As for `validate_by_refitting`.
    """
    numbers: list[int] = []

    def score(aligner: BaseAligner, part: HeldOut) -> Matrix:
        assert isinstance(aligner, DirectionsAligner)
        numbers[:] = _numbers(len(aligner.strengths_))
        return np.array([_total(aligner.truncated(k), part, metric) for k in numbers])

    curve, known = _search(refit, score, real, folds, penalties, weights, metric)
    scores = [[known[w, p] for p in curve.penalties.values] for w in curve.weights.values]
    return ComponentsChoice(curve, tuple(numbers), np.array(scores))


def _search(
    refit: Refit,
    score: Callable[[BaseAligner, HeldOut], Matrix],
    real: Pairs,
    folds: npt.NDArray[Any],
    penalties: Axis,
    weights: Axis,
    metric: Metric,
) -> tuple[Curve, dict[tuple[float, float], Matrix]]:
    """Return the curve of the best of `score` at each weight and penalty, and all of them."""
    check_metric(metric)
    parts = {int(fold): HeldOut.of(real.take(folds == fold)) for fold in np.unique(folds)}
    known: dict[tuple[float, float], Matrix] = {}

    def evaluate(at_weights: Matrix, at_penalties: Matrix) -> Matrix:
        def score_of(task: tuple[float, float, int]) -> Matrix:
            weight, penalty, fold = task
            return score(refit(fold, weight, penalty), parts[fold])

        settings = list(itertools.product(at_weights.tolist(), at_penalties.tolist()))
        tasks = [(weight, penalty, fold) for weight, penalty in settings for fold in parts]
        try:
            found = side_by_side(score_of, tasks)
        except ZeroRowError as err:
            msg = (
                f"{real.n:,} pairs in {len(parts)} folds are too few to choose by: what is "
                f"fitted without a fold cannot place its pairs ({err}) Give more pairs, or a "
                "number for every setting."
            )
            raise SelectionError(msg) from err
        scores = np.array(found).reshape(len(settings), len(parts), -1).sum(axis=1) / real.n
        known.update(zip(settings, scores, strict=True))
        best: Matrix = scores.max(axis=1).reshape(len(at_weights), len(at_penalties))
        return best

    curve = search(
        evaluate,
        weights=weights,
        penalties=penalties,
        criterion=METRICS[metric],
        n_queries=real.n,
        n_folds=len(parts),
    )
    return curve, known


def _total(aligner: BaseAligner, part: HeldOut, metric: Metric) -> float:
    images, texts = aligner.project_x(part.images), aligner.project_y(part.gallery.texts)
    return part.total(images, texts, metric)


def _numbers(most: int) -> list[int]:
    """Return about three numbers an octave up to `most`, which is one of them."""
    steps = np.geomspace(1, most, 1 + 3 * max(1, round(np.log2(most))) if most > 1 else 1)
    return sorted({round(step) for step in steps} | {most})

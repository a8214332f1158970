"""Choose settings of any aligner by fitting it anew without each fold of the real pairs.

The criterion is that of `select.validation`. Where that file's closed forms do not apply, this
costs one fit for each fold and setting; from moments, none of them reads a row again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fitters.linear.directions import DirectionsAligner
from fitters.pairs import Pairs
from fitters.projection import BaseAligner
from fitters.select.curve import Axis, Curve, search
from fitters.select.ranking import Gallery, reciprocal_ranks
from fitters.select.validation import CRITERION

Matrix = npt.NDArray[np.float64]

Refit = Callable[[int, float, float], BaseAligner]
"""(fold that is left out, weight of the prototypes, relative penalty) → a fitted aligner."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """The pairs of one fold: its images ask, its distinct texts are the gallery."""

    fold: int
    images: npt.NDArray[Any]
    gallery: Gallery

    @classmethod
    def of(cls, real: Pairs, folds: npt.NDArray[Any]) -> list[HeldOut]:
        """Return the held-out pairs of every fold."""
        parts = []
        for fold in np.unique(folds):
            held = real.take(folds == fold)
            parts.append(cls(int(fold), held.x, Gallery.of(held.y, held.row_groups)))
        return parts

    def reciprocal_ranks(self, aligner: BaseAligner) -> float:
        """Return the sum over the images of 1 / rank of their text."""
        scores: Any = aligner.project_x(self.images) @ aligner.project_y(self.gallery.texts).T
        dense = scores if isinstance(scores, np.ndarray) else scores.toarray()
        return float(reciprocal_ranks(dense, self.gallery.positives).sum())


def validate_by_refitting(
    refit: Refit, *, real: Pairs, folds: npt.NDArray[Any], penalties: Axis, weights: Axis
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
    """
    parts = HeldOut.of(real, folds)

    def evaluate(at_weights: Matrix, at_penalties: Matrix) -> Matrix:
        sums = np.zeros((len(at_weights), len(at_penalties)))
        for (i, j), _ in np.ndenumerate(sums):
            setting = float(at_weights[i]), float(at_penalties[j])
            sums[i, j] = sum(part.reciprocal_ranks(refit(part.fold, *setting)) for part in parts)
        return sums / real.n

    return search(
        evaluate,
        weights=weights,
        penalties=penalties,
        criterion=CRITERION,
        n_queries=real.n,
        n_folds=len(parts),
    )


def choose_components(
    refit: Refit, *, real: Pairs, folds: npt.NDArray[Any], penalty: float, weight: float
) -> tuple[int, dict[str, Any]]:
    """Choose how many directions are kept, by the same criterion.

    One fit a fold serves every number: fewer directions are the first of more.

    Returns
    -------
    n_components : int
        Of equal scores, the smallest number.
    facts : dict
        Every number that was tried and its score.
    """
    sums: dict[int, float] = {}
    for part in HeldOut.of(real, folds):
        full = refit(part.fold, weight, penalty)
        assert isinstance(full, DirectionsAligner)
        for kept in _numbers(len(full.strengths_)):
            found = part.reciprocal_ranks(full.truncated(kept))
            sums[kept] = sums.get(kept, 0.0) + found
    best = max(sums, key=lambda kept: (sums[kept], -kept))
    scores = [value / real.n for value in sums.values()]
    return best, {"components": list(sums), "component_scores": scores}


def _numbers(most: int) -> list[int]:
    """Return about three numbers an octave up to `most`, which is one of them."""
    steps = np.geomspace(1, most, 1 + 3 * max(1, round(np.log2(most))) if most > 1 else 1)
    return sorted({round(step) for step in steps} | {most})

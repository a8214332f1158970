"""Choose only how much prototypes weigh beside real pairs; their width and penalty stay theirs.

Kernel ridge on both sources solves (K + alpha diag(1 / mass)) A = B. With mass w of a prototype
and alpha = w · penalty, the prototypes keep the penalty that leaving out names chose for them, a
real pair has w times it, and w → ∞ is the fit on the prototypes alone. So one number is chosen on
the real pairs instead of three, and not to use them is one of its values. With the prototypes
eliminated as in `kernel_mixing`, only the diagonal of the small system depends on w.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fitters.feature_maps.kernels import gaussian
from fitters.kernel.solvers import solve_first
from fitters.pairs import Pairs
from fitters.select.curve import WEIGHTS, Axis
from fitters.select.kernel_mixing import (
    VALIDATIONS,
    Fold,
    Prototypes,
    Validation,
    check_validation,
    held_out_predictions,
    landmarks_of,
    score_predictions,
)
from fitters.select.ranking import mean_and_error
from fitters.select.surface import Measured, Surface, explore

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class MassCurve:
    """The curve over the mixing weight, and what the prototypes alone reach.

    Attributes
    ----------
    surface : Surface
        Over the weight.
    alone, alone_error : float
        The same criterion without any real pair, and its standard error.
    """

    surface: Surface
    alone: float
    alone_error: float

    @property
    def axes(self) -> dict[str, Axis]:
        """The grid of the weight, as evaluated."""
        return self.surface.axes

    @property
    def weight(self) -> float:
        """The chosen weight; infinite where no real pair helps."""
        best = float(self.surface.scores[self.surface.best])
        return float("inf") if self.alone >= best else self.surface.chosen["weight"]

    def to_facts(self) -> dict[str, Any]:
        """Return the choice and the whole curve as plain values for JSON."""
        facts = self.surface.to_facts()
        if np.isinf(self.weight):
            facts |= {"score": self.alone, "edges": []}
        alone = {"score": self.alone, "error": self.alone_error}
        return facts | {"prototypes_alone": alone}


def choose_mass(
    prototypes: Pairs,
    real: Pairs,
    folds: npt.NDArray[np.integer[Any]],
    *,
    gamma: float,
    penalty: float,
    weights: Axis = WEIGHTS,
    criterion: Validation = "mrr",
    rng: np.random.Generator,
) -> MassCurve:
    """Return the validation curve over the mass of a prototype relative to a real pair.

    Parameters
    ----------
    prototypes, real : Pairs
        Transformed; prototypes are in the training of every fold.
    folds : ndarray of int, shape (K,)
        From `folds_by_group`; each fold is held out once, its texts are its gallery.
    gamma, penalty : float
        Of the prototypes.
    weights : Axis
        The grid widens itself.
    criterion : str
        One of `VALIDATIONS`.
    rng : numpy.random.Generator
        Draws landmarks, where there are many prototypes.
    """
    check_validation(real, folds, criterion)
    prototypes = prototypes.take(prototypes.row_weight > 0)
    texts, images = real.y.astype(np.float64), real.x.astype(np.float64)
    parts = [Fold.of(real, np.flatnonzero(folds == fold)) for fold in np.unique(folds)]
    landmarks = landmarks_of(prototypes, rng)
    if landmarks is None:
        # The final fit solves the same system, and adds the real pairs to it.
        a, b = prototypes.y.astype(np.float64), prototypes.x.astype(np.float64)
        solution = solve_first(a, b, gamma, penalty / prototypes.row_weight)
        _, covered, explained = solution.eliminate(a, texts)
    else:
        covered, explained = Prototypes(prototypes, texts, gamma, landmarks).explain(penalty)
    system, targets = gaussian(texts, texts, gamma) - covered, images - explained
    alone = score_predictions(explained, images, parts, criterion)

    def evaluate(values: Mapping[str, Matrix]) -> Measured:
        found = np.empty((2, len(values["weight"])))
        for at, weight in enumerate(values["weight"]):
            with_diagonal = system + np.diag(penalty * weight / real.row_weight)
            predicted = held_out_predictions(with_diagonal, targets, images, parts)
            of_rows = score_predictions(predicted, images, parts, criterion)
            found[:, at] = mean_and_error(of_rows, real.row_groups)
        return found[0], found[1]

    surface = explore(
        evaluate,
        {"weight": weights},
        criterion=VALIDATIONS[criterion],
        n_queries=real.n,
        n_folds=len(parts),
    )
    return MassCurve(surface, *mean_and_error(alone, real.row_groups))

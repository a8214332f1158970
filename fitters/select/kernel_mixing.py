"""Choose width, penalty and mixing weight of kernel ridge by grouped cross-validation, closed form.

The prototypes P are always in training, and only real rows R are held out. With them eliminated,

    S = K_RR + alpha D_R⁻¹ - K_RP (K_PP + (alpha / w) D_P⁻¹)⁻¹ K_PR
    r = B_R - K_RP (K_PP + (alpha / w) D_P⁻¹)⁻¹ B_P

the whole system's inverse on R is S⁻¹, so the residual of a held-out fold F is
((S⁻¹)_FF)⁻¹ (S⁻¹ r)_F: exact, with one eigendecomposition of the prototypes a width and systems of
the size of R for the rest. What depends on alpha / w alone is computed once a ratio.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fitters.errors import PairsError, SettingError
from fitters.feature_maps.kernels import gaussian
from fitters.feature_maps.nystroem import NystroemMap
from fitters.kernel.solvers import decompose_kernel
from fitters.linear.solvers import eigen_gram
from fitters.pairs import Pairs
from fitters.select.curve import WEIGHTS, Axis
from fitters.select.kernel_prototypes import (
    CHOICE_LANDMARKS,
    EXACT_ROWS,
    GAMMAS,
    KERNEL_PENALTIES,
)
from fitters.select.ranking import (
    METRICS,
    Gallery,
    mean_and_error,
    metric_of,
    reciprocal_ranks,
)
from fitters.select.surface import Measured, Rule, Surface, explore

Matrix = npt.NDArray[np.float64]
Validation = Literal["mrr", "top-1", "top-5", "top-10", "cosine", "squared"]

VALIDATIONS: dict[str, str] = {
    **METRICS,
    "cosine": "mean cosine of a held-out image and the row predicted from its text",
    "squared": "minus the mean squared error of the row predicted from a held-out text",
}
"""What cross-validation over real pairs can score by."""


class Prototypes:
    """The prototypes at one width, eliminated: what any alpha / w does to the real rows.

    Parameters
    ----------
    prototypes : Pairs
        Transformed, weights above 0.
    real : Matrix of shape (k, q)
        Texts of the real pairs.
    gamma : float
    landmarks : ndarray of int, optional
        Positions of prototypes: their Nyström kernel stands for that of the prototypes.
    """

    def __init__(
        self,
        prototypes: Pairs,
        real: Matrix,
        gamma: float,
        landmarks: npt.NDArray[np.intp] | None,
    ) -> None:
        a, b = prototypes.y.astype(np.float64), prototypes.x.astype(np.float64)
        root = np.sqrt(prototypes.row_weight)[:, None]
        if landmarks is None:
            self._values, vectors = decompose_kernel(a, prototypes.row_weight, gamma)
            self._reach = vectors.T @ (root * gaussian(a, real, gamma))
            self._seen = vectors.T @ (root * b)
            self._share = np.ones_like(self._values)
        else:
            features = NystroemMap.of_landmarks(a[landmarks], gamma)
            mapped = root * features.apply(a)
            self._values, vectors = eigen_gram(mapped.T @ mapped)
            self._reach = vectors.T @ features.apply(real).T
            self._seen = vectors.T @ (mapped.T @ (root * b))
            self._share = self._values
        self._known: dict[float, tuple[Matrix, Matrix]] = {}

    def explain(self, ratio: float) -> tuple[Matrix, Matrix]:
        """Return what is taken from K_RR and from B_R at alpha / w = `ratio`."""
        # Ratios of two geometric grids meet again and again, up to rounding.
        key = float(f"{ratio:.4g}")
        if key not in self._known:
            inverse = 1 / (self._values + ratio)
            covered = self._reach.T @ ((inverse * self._share)[:, None] * self._reach)
            self._known[key] = covered, self._reach.T @ (inverse[:, None] * self._seen)
        return self._known[key]


@dataclass(frozen=True, eq=False)
class Fold:
    """Rows of one held-out fold, the first row of each distinct text, and what is right."""

    rows: npt.NDArray[np.intp]
    first: npt.NDArray[np.intp]
    positives: npt.NDArray[np.intp]

    @classmethod
    def of(cls, real: Pairs, rows: npt.NDArray[np.intp]) -> Fold:
        """Return the fold of these rows of `real`."""
        held = real.take(rows)
        first = np.unique(held.y, axis=0, return_index=True)[1]
        return cls(rows, first, Gallery.of(held.y, held.row_groups).positives)


def cross_validate_kernel(
    *,
    real: Pairs,
    folds: npt.NDArray[np.integer[Any]],
    prototypes: Pairs | None = None,
    gammas: Axis = GAMMAS,
    penalties: Axis = KERNEL_PENALTIES,
    weights: Axis = WEIGHTS,
    criterion: Validation = "mrr",
    rule: Rule = "best",
    rng: np.random.Generator,
) -> Surface:
    """Return the validation surface of text → image kernel ridge, penalty × weight × gamma.

    Parameters
    ----------
    real : Pairs
        The K training pairs, transformed; nothing else of the data enters.
    folds : ndarray of int, shape (K,)
        From `folds_by_group`; each fold is held out once, its texts are its gallery.
    prototypes : Pairs, optional
        Transformed; in the training of every fold, each row with weight × its own.
    gammas, penalties, weights : Axis
        Absolute values; the grid widens itself. Without prototypes the weight plays no part.
    criterion : str
        One of `VALIDATIONS`.
    rule : {"best", "one-se"}
        See `Surface`.
    rng : numpy.random.Generator
        Draws landmarks, where there are more than `EXACT_ROWS` prototypes.

    Notes
    -----
    The transforms are those of the final fit, so the held-out images take part in the mean that
    centres them; their texts and their pairing take part in nothing.
    """
    check_validation(real, folds, criterion)
    texts, images = real.y.astype(np.float64), real.x.astype(np.float64)
    parts = [Fold.of(real, np.flatnonzero(folds == fold)) for fold in np.unique(folds)]
    landmarks = None
    if prototypes is not None:
        prototypes = prototypes.take(prototypes.row_weight > 0)
        landmarks = landmarks_of(prototypes, rng)
    own = 1 / real.row_weight
    known: dict[float, tuple[Matrix, Prototypes | None]] = {}

    def at_width(gamma: float) -> tuple[Matrix, Prototypes | None]:
        # A grid that widens along another axis comes back to the same widths.
        if gamma not in known:
            eliminated = None
            if prototypes is not None:
                eliminated = Prototypes(prototypes, texts, gamma, landmarks)
            known[gamma] = gaussian(texts, texts, gamma), eliminated
        return known[gamma]

    def evaluate(values: Mapping[str, Matrix]) -> Measured:
        shape = tuple(len(values[name]) for name in ("penalty", "weight", "gamma"))
        scores, errors = np.empty(shape), np.empty(shape)
        for g, gamma in enumerate(values["gamma"]):
            kernel, eliminated = at_width(float(gamma))
            for i, alpha in enumerate(values["penalty"]):
                for j, weight in enumerate(values["weight"]):
                    system, targets = kernel, images
                    if eliminated is not None:
                        covered, explained = eliminated.explain(float(alpha / weight))
                        system, targets = kernel - covered, images - explained
                    predicted = held_out_predictions(
                        system + np.diag(alpha * own), targets, images, parts
                    )
                    of_rows = score_predictions(predicted, images, parts, criterion)
                    scores[i, j, g], errors[i, j, g] = mean_and_error(of_rows, real.row_groups)
        return scores, errors

    return explore(
        evaluate,
        {
            "penalty": penalties,
            "weight": Axis.fixed(1.0) if prototypes is None else weights,
            "gamma": gammas,
        },
        criterion=VALIDATIONS[criterion],
        n_queries=real.n,
        n_folds=len(parts),
        rule=rule,
    )


def check_validation(real: Pairs, folds: npt.NDArray[np.integer[Any]], criterion: str) -> None:
    """Raise unless real pairs can be validated by these folds and this criterion.

    Raises
    ------
    SettingError
        If the criterion is unknown.
    PairsError
        If a pair has no fold or no mass.
    """
    if criterion not in VALIDATIONS:
        msg = f"criterion must be one of {', '.join(VALIDATIONS)}. Got {criterion!r}."
        raise SettingError(msg)
    if folds.shape != (real.n,):
        msg = f"folds must have one entry a pair, shape ({real.n},). Got {folds.shape}."
        raise PairsError(msg)
    if (real.row_weight <= 0).any():
        msg = "A real pair of weight 0 can be neither fitted nor held out. Leave it out."
        raise PairsError(msg)


def landmarks_of(prototypes: Pairs, rng: np.random.Generator) -> npt.NDArray[np.intp] | None:
    """Return which prototypes stand for all of them in a choice; None if all do."""
    if prototypes.n <= EXACT_ROWS:
        return None
    return rng.permutation(prototypes.n)[:CHOICE_LANDMARKS]


def held_out_predictions(
    system: Matrix, targets: Matrix, images: Matrix, parts: list[Fold]
) -> Matrix:
    """Return the prediction of every row when its fold was held out."""
    inverse = np.linalg.inv(system)
    dual = inverse @ targets
    predicted = np.empty_like(images)
    for part in parts:
        rows = part.rows
        left = np.linalg.inv(inverse[np.ix_(rows, rows)]) @ dual[rows]
        predicted[rows] = images[rows] - left
    return predicted


def score_predictions(
    predicted: Matrix, images: Matrix, parts: list[Fold], criterion: str
) -> Matrix:
    """Return the criterion of every row, the texts of its fold being the gallery."""
    if criterion == "squared":
        left = images - predicted
        squares: Matrix = -np.einsum("nd,nd->n", left, left)
        return squares
    lengths = np.linalg.norm(predicted, axis=1, keepdims=True)
    unit = np.divide(predicted, lengths, out=np.zeros_like(predicted), where=lengths > 0)
    if criterion == "cosine":
        cosines: Matrix = np.einsum("nd,nd->n", unit, images) / np.linalg.norm(images, axis=1)
        return cosines
    scores = np.empty(len(images))
    for part in parts:
        of_fold = images[part.rows] @ unit[part.rows][part.first].T
        scores[part.rows] = metric_of(reciprocal_ranks(of_fold, part.positives), criterion)
    return scores

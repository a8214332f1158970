"""Choose penalty and mixing weight of a ridge from moments alone: the held-out squared error.

With gram = U diag(s) Uᵀ of the training moments, C(α) = U D Uᵀ cross and D = 1 / (s + α), the
error on a fold with its own moments S is::

    tr S_bb − 2 tr(C(α)ᵀ S_ab) + tr(C(α)ᵀ S_aa C(α)) = tr S_bb − 2 d·m + dᵀ Q d

with d the diagonal of D, m = diag(Uᵀ cross S_abᵀ U) and Q = (Uᵀ cross crossᵀ U) ∘ (Uᵀ S_aa U). So
one eigendecomposition serves every penalty, and no row is read again for any of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fitters.errors import SelectionError
from fitters.linear.solvers import eigen_gram, invert_spectrum
from fitters.moments.moments import Moments, merge_pooled
from fitters.select.curve import PENALTIES, WEIGHTS, Axis, Curve, search
from fitters.side_by_side import side_by_side

Matrix = npt.NDArray[np.float64]

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
) -> Curve:
    """Return the validation curve of a ridge over penalties × mixing weights, from moments.

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
        msg = f"Validation needs at least 2 folds; got {len(folds)}. Accumulate with more folds."
        raise SelectionError(msg)
    rest = [merge_pooled(*(f for f in folds if f is not held)) for held in folds]
    ways = ("x->y", "y->x") if direction == "both" else (direction,)

    def evaluate(at_weights: Matrix, at_penalties: Matrix) -> Matrix:
        def errors_of(task: tuple[float, str, int]) -> tuple[Matrix, float]:
            weight, way, fold = task
            training = rest[fold]
            if prototypes is not None:
                training = merge_pooled(training, prototypes.scaled(weight))
            return _errors(training, folds[fold], way, at_penalties, center=center)

        tasks = list(itertools.product(at_weights.tolist(), ways, range(len(folds))))
        found = side_by_side(errors_of, tasks)
        shape = len(at_weights), len(ways), len(folds)
        errors = np.array([error for error, _ in found]).reshape(*shape, -1).sum(axis=2)
        sizes = np.array([size for _, size in found]).reshape(shape).sum(axis=2)
        scores: Matrix = (1.0 - errors / sizes[:, :, None]).mean(axis=1)
        return scores

    return search(
        evaluate,
        weights=weights if prototypes is not None else Axis.fixed(1.0),
        penalties=penalties,
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

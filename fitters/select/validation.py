"""Choose penalty and mixing weight by grouped cross-validation over the real pairs.

The prototypes are always in training: they are what is being mixed in, not what is asked about.
The gallery of a fold is that fold's texts only, as at test time; one that also held the training
texts would reward small prototype weights, because fitted texts lie among the real images.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fitters.errors import PairsError, SettingError
from fitters.pairs import Pairs
from fitters.select.curve import PENALTIES, WEIGHTS, Axis, Curve, search
from fitters.select.held_out import HeldOutFold, Source
from fitters.select.ranking import METRICS, Metric, check_metric

Matrix = npt.NDArray[np.float64]


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
) -> Curve:
    """Return the validation curve of a linear aligner over penalties × mixing weights.

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
        Without prototypes the weight plays no part; Procrustes has no penalty.
    metric : {"mrr", "top-1", "top-5", "top-10"}
        See `METRICS` in `fitters.select.ranking`.

    Returns
    -------
    Curve
        Mean over all K pairs of the metric when their fold was held out. The transforms
        are those of the final fit, so the held-out images take part in the mean that centres
        them; their texts and their pairing do not take part in anything.

    Notes
    -----
    One eigendecomposition, of the size of the predicting side, for each fold and weight.
    """
    if method not in {"ridge", "procrustes"}:
        msg = f"Only ridge and procrustes have something to choose here. Got {method!r}."
        raise SettingError(msg)
    check_metric(metric)
    if folds.shape != (real.n,):
        msg = f"folds must have one entry a pair, shape ({real.n},). Got {folds.shape}."
        raise PairsError(msg)
    # Procrustes maps the smaller side into the larger; ridge as asked.
    predict_x = (
        real.y.shape[1] <= real.x.shape[1] if method == "procrustes" else direction == "y->x"
    )
    wide = None if prototypes is None else _in_float64(prototypes)
    pairs = _in_float64(real)
    shared = None if wide is None else Source.of(wide, predict_x=predict_x)
    fold_ids = np.unique(folds)
    parts = [
        HeldOutFold(
            wide,
            pairs.take(folds != fold),
            pairs.take(folds == fold),
            predict_x=predict_x,
            products=shared,
        )
        for fold in fold_ids
    ]

    def evaluate(at_weights: Matrix, at_penalties: Matrix) -> Matrix:
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
        weights=weights if prototypes is not None else Axis.fixed(1.0),
        penalties=penalties if method == "ridge" else Axis.fixed(0.0),
        criterion=METRICS[metric],
        n_queries=real.n,
        n_folds=len(fold_ids),
    )


def _in_float64(pairs: Pairs) -> Pairs:
    return Pairs(
        pairs.x.astype(np.float64, copy=False),
        pairs.y.astype(np.float64, copy=False),
        pairs.groups,
        pairs.weight,
    )

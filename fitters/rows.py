"""What the linear estimators share in scikit-learn's contract: checked rows in, columns out."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.utils.validation import _check_sample_weight, validate_data

from fitters.pairs import Rows, check_weight
from fitters.projection import BaseAligner

Matrix = npt.NDArray[np.float64]


def validate_pairs(
    aligner: BaseAligner, X: Rows, y: Rows, sample_weight: npt.NDArray[Any] | None
) -> tuple[Matrix, Matrix, Matrix]:
    """Return X (n, p), y (n, q) and the weights (n,) as float64, checked in scikit-learn's words.

    Remembers on the estimator whether y had one dimension.
    """
    X, y = validate_data(aligner, X, y, dtype=np.float64, multi_output=True, y_numeric=True)
    aligner._one_column = np.ndim(y) == 1
    y64 = np.asarray(y, dtype=np.float64)
    weight = _check_sample_weight(sample_weight, X, dtype=np.float64)
    check_weight(weight)
    return np.asarray(X), y64[:, None] if y64.ndim == 1 else y64, weight


def as_columns(aligner: BaseAligner, predicted: Matrix) -> Matrix:
    """Return (n, 1) as (n,) where y was given as (n,)."""
    return predicted[:, 0] if aligner._one_column else predicted

"""The contract of every aligner: two projections into one shared space.

An aligner is a scikit-learn estimator, ``fit(X, Y)`` on paired rows, with `project_x` and
`project_y`. What comes out of both has the same number of columns, and the score of an image and a
text is the dot product. Rows have unit length, so that this is a cosine, unless the class says
otherwise (`unit_rows`). Whoever scores never asks what is inside.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.utils.validation import check_is_fitted

from fitters.errors import PairsError
from fitters.pairs import Rows

Matrix = npt.NDArray[np.float64]
Projection: TypeAlias = Any
"""Rows in a shared space: a matrix, or a scipy csr_array where the space is wide."""


class BaseAligner(MultiOutputMixin, RegressorMixin, BaseEstimator, ABC):  # type: ignore[misc]
    """Base of the aligners.

    Subclasses declare what a fitted one consists of, so that it can be saved without pickle:
    `array_shapes` (attributes that are arrays of `array_dtype`) and `fitted_values` (attributes
    that are plain numbers). Constructor parameters must be plain values.
    """

    method: ClassVar[str]
    """Its name in `fitters.aligner.ALIGNERS`."""
    fitted_values: ClassVar[tuple[str, ...]] = ()
    unit_rows: ClassVar[bool] = True
    """Whether projections have unit rows, so that their dot product is a cosine."""
    array_dtype: ClassVar[str] = "float64"
    """Type of its fitted arrays, which is how they are saved."""
    _one_column: bool = False

    @abstractmethod
    def fit(self, X: Rows, y: Rows) -> Self:
        """Fit on n paired rows, X of shape (n, p) and y of shape (n, q) or (n,)."""

    @abstractmethod
    def predict(self, X: Rows) -> Matrix:
        """Return the rows of y for the rows of X, shape (n, q) or (n,), not normalised."""

    @abstractmethod
    def project_x(self, x: Rows) -> Projection:
        """Return x in the shared space: shape (n, r), float64, dense or CSR."""

    @abstractmethod
    def project_y(self, y: Rows) -> Projection:
        """Return y in the shared space: shape (n, r), float64, dense or CSR."""

    @abstractmethod
    def array_shapes(self) -> dict[str, tuple[str, ...]]:
        """Return the fitted arrays by attribute, with their shapes in letters.

        "p" and "q" are the columns of x and y; an equal letter is an equal size.
        """

    def score_pairs(self, x: Rows, y: Rows) -> Matrix:
        """Return the score of each x_i with its y_i, shape (n,): higher is better."""
        if len(x) != len(y):
            msg = f"x has {len(x):,} rows and y has {len(y):,}: they are not pairs."
            raise PairsError(msg)
        of_x: Any = self.project_x(x)
        of_y: Any = self.project_y(y)
        if issparse(of_x):
            return np.asarray(of_x.multiply(of_y).sum(axis=1)).ravel()
        scores: Matrix = np.einsum("nr,nr->n", of_x, of_y)
        return scores

    def check_projected(self, rows: Rows, d: int, side: str) -> Matrix:
        """Return `rows` as float64 after checking that they have `d` columns."""
        check_is_fitted(self)
        rows64 = np.asarray(rows, dtype=np.float64)
        if rows64.ndim != 2 or rows64.shape[1] != d:
            msg = (
                f"{type(self).__name__} was fitted on {side} of {d:,} columns. Got shape "
                f"{rows64.shape}. Pass embeddings of the encoder that it was fitted on."
            )
            raise PairsError(msg)
        return rows64

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags

"""Aligners solved from moments alone: `fit` is `fit_moments` on those of the rows."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Self

import numpy.typing as npt
from sklearn.base import _fit_context

from fitters.moments import Moments
from fitters.pairs import Rows
from fitters.projection import BaseAligner
from fitters.rows import validate_pairs


class FromMoments(BaseAligner):
    """Base of the aligners that are solved from moments alone: a subclass adds `_fit`."""

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit(self, X: Rows, y: Rows, sample_weight: npt.NDArray[Any] | None = None) -> Self:
        """Fit on n paired rows.

        Parameters
        ----------
        X : ndarray of shape (n, p)
        y : ndarray of shape (n, q) or (n,)
        sample_weight : ndarray of shape (n,), optional
            Mass of each row, not negative.
        """
        x64, y64, weight = validate_pairs(self, X, y, sample_weight)
        return self._fit(Moments.from_rows(x64, y64, weight))

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit_moments(self, moments: Moments) -> Self:
        """Fit on the moments of n paired rows: the same solution as `fit` on the rows."""
        self.n_features_in_ = len(moments.shift_x)
        self._one_column = False
        return self._fit(moments)

    @abstractmethod
    def _fit(self, moments: Moments) -> Self:
        """Solve, and set what is fitted."""

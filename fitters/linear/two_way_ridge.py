"""Ridge regression in both directions, averaged."""

from __future__ import annotations

from numbers import Real
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import _fit_context
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted, validate_data

from fitters.linear.ridge import RidgeAligner
from fitters.moments.moments import Moments
from fitters.moments.transform import normalize_rows
from fitters.pairs import Rows
from fitters.projection import BaseAligner
from fitters.rows import Matrix, as_columns, validate_pairs


class TwoWayRidgeAligner(BaseAligner):
    """Align by two ridge regressions, x → y and y → x: the score is the mean of their cosines.

    The shared space is the two spaces side by side, each part at length 1/√2.

    Parameters
    ----------
    alpha, relative, center
        As of `RidgeAligner`, for both directions.

    Attributes
    ----------
    forward_ : ndarray of shape (p, q)
        From x to y.
    backward_ : ndarray of shape (q, p)
        From y to x.
    mean_x_, mean_y_ : ndarray of shape (p,), (q,)
        What is subtracted on each side; 0 if not `center`.
    n_features_in_ : int
        p.
    """

    method: ClassVar[str] = "ridge-both"
    fitted_values: ClassVar[tuple[str, ...]] = ("n_features_in_",)
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "alpha": [Interval(Real, 0, None, closed="left")],
        "relative": ["boolean"],
        "center": ["boolean"],
    }

    def __init__(self, *, alpha: float = 0.3, relative: bool = True, center: bool = True) -> None:
        self.alpha = alpha
        self.relative = relative
        self.center = center

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
        return self._fit(lambda ridge: ridge.fit(x64, y64, weight))

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit_moments(self, moments: Moments) -> Self:
        """Fit on the moments of n paired rows: the same solution as `fit` on the rows."""
        self.n_features_in_ = len(moments.shift_x)
        self._one_column = False
        return self._fit(lambda ridge: ridge.fit_moments(moments))

    def _fit(self, fitted: Any) -> Self:
        forward, backward = (
            fitted(
                RidgeAligner(
                    direction, alpha=self.alpha, relative=self.relative, center=self.center
                )
            )
            for direction in ("x->y", "y->x")
        )
        self.forward_, self.backward_ = forward.coef_, backward.coef_
        self.mean_x_, self.mean_y_ = forward.mean_x_, forward.mean_y_
        return self

    def predict(self, X: Rows) -> Matrix:
        """Return the rows of y by the regression from x, shape (n, q) or (n,)."""
        check_is_fitted(self)
        x64 = validate_data(self, X, reset=False, dtype=np.float64)
        return as_columns(self, (x64 - self.mean_x_) @ self.forward_ + self.mean_y_)

    def project_x(self, x: Rows) -> Matrix:
        """Return x in the shared space: shape (n, p + q), float64, unit rows."""
        rows = self.check_projected(x, len(self.mean_x_), "x") - self.mean_x_
        return _side_by_side(rows, rows @ self.forward_, "x")

    def project_y(self, y: Rows) -> Matrix:
        """Return y in the shared space: shape (n, p + q), float64, unit rows."""
        rows = self.check_projected(y, len(self.mean_y_), "y") - self.mean_y_
        return _side_by_side(rows @ self.backward_, rows, "y")

    def array_shapes(self) -> dict[str, tuple[str, ...]]:
        """Return the fitted arrays and their shapes in letters."""
        maps = {"forward_": ("p", "q"), "backward_": ("q", "p")}
        return {**maps, "mean_x_": ("p",), "mean_y_": ("q",)}


def _side_by_side(in_x: Matrix, in_y: Matrix, what: str) -> Matrix:
    parts = [normalize_rows(part, what=what) for part in (in_x, in_y)]
    joined: Matrix = np.hstack(parts) / np.sqrt(2)
    return joined

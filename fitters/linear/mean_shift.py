"""Only the means: the baseline that any map has to beat."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import _fit_context
from sklearn.utils.validation import check_is_fitted, validate_data

from fitters.moments.moments import Moments
from fitters.moments.transform import normalize_rows
from fitters.pairs import Rows
from fitters.projection import BaseAligner
from fitters.rows import Matrix, as_columns, validate_pairs


class MeanShiftAligner(BaseAligner):
    """Subtract the mean of each side, and nothing else: columns are taken to mean the same.

    That is right for two sides of one space (the image and the text tower of one CLIP model,
    whose cones lie apart), and a floor for any other. The narrower side is filled up with zeros.

    Attributes
    ----------
    mean_x_, mean_y_ : ndarray of shape (p,), (q,)
    n_features_in_ : int
        p.

    References
    ----------
    Liang et al., Mind the Gap, NeurIPS 2022: the offset between the cones of CLIP's two towers.
    """

    method: ClassVar[str] = "mean-shift"
    fitted_values: ClassVar[tuple[str, ...]] = ("n_features_in_",)
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {}

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit(self, X: Rows, y: Rows, sample_weight: npt.NDArray[Any] | None = None) -> Self:
        """Take the means of n paired rows; the pairing plays no part.

        Parameters
        ----------
        X : ndarray of shape (n, p)
        y : ndarray of shape (n, q) or (n,)
        sample_weight : ndarray of shape (n,), optional
            Mass of each row, not negative.
        """
        x64, y64, weight = validate_pairs(self, X, y, sample_weight)
        self.mean_x_, self.mean_y_ = weight @ x64 / weight.sum(), weight @ y64 / weight.sum()
        return self

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit_moments(self, moments: Moments) -> Self:
        """Take the means from moments."""
        self.n_features_in_ = len(moments.shift_x)
        self._one_column = False
        self.mean_x_, self.mean_y_ = moments.mean_x, moments.mean_y
        return self

    def predict(self, X: Rows) -> Matrix:
        """Return x about the mean of y, cut or filled to its columns: shape (n, q) or (n,)."""
        check_is_fitted(self)
        rows = np.asarray(validate_data(self, X, reset=False, dtype=np.float64)) - self.mean_x_
        q = len(self.mean_y_)
        return as_columns(self, _filled(rows[:, :q], q) + self.mean_y_)

    def project_x(self, x: Rows) -> Matrix:
        """Return x in the shared space: shape (n, max(p, q)), float64, unit rows."""
        return self._projected(self.check_projected(x, len(self.mean_x_), "x") - self.mean_x_, "x")

    def project_y(self, y: Rows) -> Matrix:
        """Return y in the shared space: shape (n, max(p, q)), float64, unit rows."""
        return self._projected(self.check_projected(y, len(self.mean_y_), "y") - self.mean_y_, "y")

    def _projected(self, rows: Matrix, side: str) -> Matrix:
        wide = max(len(self.mean_x_), len(self.mean_y_))
        return _filled(normalize_rows(rows, what=side), wide)

    def array_shapes(self) -> dict[str, tuple[str, ...]]:
        """Return the fitted arrays and their shapes in letters."""
        return {"mean_x_": ("p",), "mean_y_": ("q",)}

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        # It fits nothing but a mean.
        tags.regressor_tags.poor_score = True
        return tags


def _filled(rows: Matrix, columns: int) -> Matrix:
    """Return the rows with zeros added on the right up to `columns`."""
    return np.pad(rows, ((0, 0), (0, columns - rows.shape[1])))

"""What CCA, CSA and PLS share: one linear map a side into r paired directions."""

from __future__ import annotations

import copy
from abc import abstractmethod
from numbers import Integral
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted, validate_data

from fitters.linear.from_moments import FromMoments
from fitters.linear.solvers import determined, least_squares, truncation_gap
from fitters.moments.moments import Moments
from fitters.moments.transform import normalize_rows
from fitters.pairs import Rows
from fitters.rows import Matrix, as_columns

COMPONENTS = [Interval(Integral, 1, None, closed="left"), None]
"""The constraint of `n_components`."""


class DirectionsAligner(FromMoments):
    """Base of aligners that map both sides, centred, into r paired directions.

    Directions that the pairs say nothing about (fewer pairs than columns, rank-deficient rows) are
    left out: those whose strength is not above 1e-6 of the largest. LAPACK would choose them, and
    they would count in the length that a cosine divides by. Directions of one strength may come
    turned among themselves, which changes no score unless `n_components` cuts between them.

    Attributes
    ----------
    weights_x_, weights_y_ : ndarray of shape (p, r), (q, r)
        One column a direction. The largest entry of a column of `weights_x_` is positive.
    strengths_ : ndarray of shape (r,)
        How strongly the two sides of a direction go together, descending.
    gap_ : float
        (s_r − s_r+1) / s_1 of the strengths: near 0, which directions were kept is chance.
    mean_x_, mean_y_ : ndarray of shape (p,), (q,)
        What is subtracted on each side.
    coef_ : ndarray of shape (p, q)
        Of `predict`: least squares from the directions of x to y.
    n_features_in_ : int
        p.
    """

    fitted_values: ClassVar[tuple[str, ...]] = ("gap_", "n_features_in_")
    n_components: int | None

    @abstractmethod
    def _solve(self, about: Moments) -> tuple[Matrix, Matrix, Matrix]:
        """Return all directions of x, their strengths and those of y, from centred moments."""

    def _fit(self, moments: Moments) -> Self:
        about = moments.centred
        self.mean_x_, self.mean_y_ = about.shift_x, about.shift_y
        left, values, right = self._solve(about)
        # Where nothing goes together one direction is left, as good as any.
        kept = max(determined(values, self.n_components), 1)
        self.gap_ = truncation_gap(values, kept)
        self.weights_x_, self.weights_y_ = left[:, :kept], right[:, :kept]
        self.strengths_ = values[:kept]
        of_x = self.weights_x_.T @ about.sxx @ self.weights_x_
        self.coef_ = self.weights_x_ @ least_squares(of_x, self.weights_x_.T @ about.sxy)
        return self

    def truncated(self, n_components: int) -> Self:
        """Return a copy that keeps only the first directions, as fitting with fewer would.

        Only for projecting: `predict` still uses all of this one's directions.
        """
        fewer = copy.copy(self)
        fewer.n_components = n_components
        for name, kept in (("weights_x_", self.weights_x_[:, :n_components]),
                           ("weights_y_", self.weights_y_[:, :n_components]),
                           ("strengths_", self.strengths_[:n_components])):  # fmt: skip
            setattr(fewer, name, kept)
        return fewer

    def predict(self, X: Rows) -> Matrix:
        """Return the rows of y that belong to the rows of X, shape (n, q) or (n,).

        Least squares from the directions of x.
        """
        check_is_fitted(self)
        x64 = validate_data(self, X, reset=False, dtype=np.float64)
        return as_columns(self, (x64 - self.mean_x_) @ self.coef_ + self.mean_y_)

    def project_x(self, x: Rows) -> Matrix:
        """Return x in the shared space: shape (n, r), float64."""
        rows = self.check_projected(x, len(self.mean_x_), "x") - self.mean_x_
        return self._weighed(normalize_rows(rows @ self.weights_x_, what="x"))

    def project_y(self, y: Rows) -> Matrix:
        """Return y in the shared space: shape (n, r), float64."""
        rows = self.check_projected(y, len(self.mean_y_), "y") - self.mean_y_
        return self._weighed(normalize_rows(rows @ self.weights_y_, what="y"))

    def _weighed(self, unit: Matrix) -> Matrix:
        return unit

    def array_shapes(self) -> dict[str, tuple[str, ...]]:
        """Return the fitted arrays and their shapes in letters."""
        means: dict[str, tuple[str, ...]] = {"mean_x_": ("p",), "mean_y_": ("q",)}
        sides = {"weights_x_": ("p", "r"), "weights_y_": ("q", "r"), "coef_": ("p", "q")}
        return {**means, **sides, "strengths_": ("r",)}

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.regressor_tags.poor_score = True
        return tags

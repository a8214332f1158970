"""Two baselines: the shift of the mean, and text-to-concept.

Fitted on images alone, each seen by both encoders. Texts then need no map: CLIP's text tower
already writes into the space of its image tower.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.utils._param_validation import Interval

from fitters.aligners.base import FromMoments, mean_rows
from fitters.aligners.solvers import least_squares, solve_ridge
from fitters.moments.moments import Moments
from fitters.moments.transform import normalize_rows
from fitters.pairs import Matrix, Rows
from fitters.settings import MOST, Preparation


class MeanShiftAligner(FromMoments):
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

    Examples
    --------
    >>> images = np.random.default_rng(0).standard_normal((40, 8))
    >>> made = MeanShiftAligner().fit(images + 3, images - 5)
    >>> f"{(made.project_x(images + 3) * made.project_y(images - 5)).sum(axis=1).min():.2f}"
    '1.00'
    """

    method: ClassVar[str] = "mean-shift"
    mixes: ClassVar[bool] = False
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {}

    def _fit_rows(self, x: Matrix, y: Matrix, weight: Matrix) -> Self:
        self.mean_x_, self.mean_y_ = mean_rows(x, y, weight)
        return self

    def _fit(self, moments: Moments) -> Self:
        self.mean_x_, self.mean_y_ = moments.mean_x, moments.mean_y
        return self

    def project_x(self, x: Rows) -> Matrix:
        """Return x in the shared space: shape (n, max(p, q)), float64, unit rows."""
        return self._projected(self.about_mean(x, "x"), "x")

    def project_y(self, y: Rows) -> Matrix:
        """Return y in the shared space: shape (n, max(p, q)), float64, unit rows."""
        return self._projected(self.about_mean(y, "y"), "y")

    def _projected(self, rows: Matrix, side: str) -> Matrix:
        wide = max(len(self.mean_x_), len(self.mean_y_))
        return np.pad(normalize_rows(rows, what=side), ((0, 0), (0, wide - rows.shape[1])))


VARIANCE = 4.5
"""The original scales all entries of a space to this variance before fitting."""


@dataclass(repr=False, eq=False, kw_only=True)
class TextToConceptAligner(FromMoments):
    """Align by least squares from X, image features, to y, CLIP image features of the same images.

    The shared space is CLIP's: project_x(f) = f C + b and project_y(t) = t, both unit length, with
    no centring. y at projection time may be CLIP texts.

    Parameters
    ----------
    alpha : float
        Ridge penalty on the summed squared error of the scaled problem, where each side is scaled
        to variance 4.5 over all its entries; 0 is least squares, of least norm where rows are
        fewer than columns.

    Attributes
    ----------
    coef_ : ndarray of shape (p, q)
    intercept_ : ndarray of shape (q,)
        b.
    scale_x_, scale_y_ : float
        c = √(4.5 / variance of all entries), one a side.
    n_features_in_ : int
        p.

    Notes
    -----
    The original runs a few epochs of gradient descent on the same loss; this is where they lead.

    References
    ----------
    Moayeri et al., Text-To-Concept (and Back) via Cross-Model Alignment, ICML 2023.

    Examples
    --------
    >>> images = np.random.default_rng(0).standard_normal((40, 8))
    >>> texts = images[:, :5]
    >>> made = TextToConceptAligner(alpha=0.0).fit(images, texts)
    >>> f"{(made.project_x(images) * made.project_y(texts)).sum(axis=1).mean():.2f}"
    '1.00'
    """

    method: ClassVar[str] = "text-to-concept"
    preparation: ClassVar[Preparation] = Preparation(images="raw", texts="raw")
    alpha: float = 0.0
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "alpha": [Interval(Real, 0, MOST, closed="left")],
    }

    def _fit(self, moments: Moments) -> Self:
        about = moments.centred
        mean_x, mean_y = about.shift_x, about.shift_y
        self.scale_x_ = _scale(about.sxx, mean_x, about.weight)
        self.scale_y_ = _scale(about.syy, mean_y, about.weight)
        if self.alpha > 0:
            # On scaled rows: c_x² G + α, c_x c_y X'Y; undone, C · c_x / c_y.
            scaled = solve_ridge(
                self.scale_x_**2 * about.sxx,
                self.scale_x_ * self.scale_y_ * about.sxy,
                float(self.alpha),
            )
            self.coef_ = scaled * (self.scale_x_ / self.scale_y_)
        else:
            self.coef_ = least_squares(about.sxx, about.sxy)
        self.intercept_ = mean_y - mean_x @ self.coef_
        return self

    def project_x(self, x: Rows) -> Matrix:
        """Return x in the space of y: shape (n, q), float64, unit rows."""
        rows = self.check_projected(x, len(self.coef_), "x")
        return normalize_rows(rows @ self.coef_ + self.intercept_, what="x")

    def project_y(self, y: Rows) -> Matrix:
        """Return y with unit rows: shape (n, q), float64."""
        return normalize_rows(self.check_projected(y, len(self.intercept_), "y"), what="y")


def _scale(scatter: Matrix, mean: Matrix, weight: float) -> float:
    """Return √(4.5 / variance over all entries), 1 where nothing varies."""
    within = float(np.trace(scatter)) / (weight * len(mean))
    variance = within + float(np.var(mean))
    return float(np.sqrt(VARIANCE / variance)) if variance > 0 else 1.0

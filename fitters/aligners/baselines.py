"""Baselines: the shift of the mean, text-to-concept, and ConSE.

Text-to-concept is fitted on images alone, each seen by both encoders. Texts then need no map:
CLIP's text tower already writes into the space of its image tower.
Of ConSE an image is the mix of the class texts that its own classifier believes in.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.special import softmax
from sklearn.base import _fit_context
from sklearn.utils._param_validation import Interval

from fitters.aligners.base import BaseAligner, FromMoments, mean_rows, validate_pairs
from fitters.errors import SettingError
from fitters.moments import Moments
from fitters.pairs import Matrix, Rows
from fitters.settings import MOST, Preparation
from fitters.solvers import least_squares, solve_ridge
from fitters.sources import Sources, normalize_rows

if TYPE_CHECKING:
    from fitters.settings import FitConfig


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


@dataclass(repr=False, eq=False, kw_only=True)
class ConSEAligner(BaseAligner):
    """Align by convex combination of semantic embeddings; nothing is fitted to pairs.

    With p = softmax(W f + b) of the model's own head and t_c the unit text of class c::

        project_x(f) = Σ_{c in top k} p_c t_c / Σ_{c in top k} p_c, then unit length
        project_y(t) = t, unit length

    so the shared space is the text space. f must be the raw input of the head: neither normalised
    nor centred.

    Parameters
    ----------
    top_k : int
        Classes in the mix; all of them if there are fewer.

    Attributes
    ----------
    weight_ : ndarray of shape (c, p)
        W, one row a class.
    bias_ : ndarray of shape (c,)
        b, 0 if none was given.
    texts_ : ndarray of shape (c, q)
        Class texts as given; the projections use them with unit rows.
    n_features_in_ : int
        p.
    feature_names_in_ : ndarray of shape (p,)
        Only if X had string column names.

    References
    ----------
    Norouzi et al., Zero-Shot Learning by Convex Combination of Semantic Embeddings, ICLR 2014.

    Examples
    --------
    >>> head, names = np.eye(4), np.eye(4, 3) + 1
    >>> made = ConSEAligner(top_k=2).fit(head, names)
    >>> made.project_x(head).shape
    (4, 3)
    """

    method: ClassVar[str] = "conse"
    fitted_on = "head"
    preparation: ClassVar[Preparation] = Preparation(images="raw")
    top_k: int = 10
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "top_k": [Interval(Integral, 1, None, closed="left")]
    }

    @classmethod
    def check_settings(cls, config: FitConfig, *, prototypes: bool, real: bool) -> None:  # noqa: ARG003
        """Raise SettingError if the number of classes is to be chosen: nothing says how."""
        if config.top_k == "auto":
            raise SettingError(
                "top_k='auto' is of ASIF. ConSE has nothing to choose it by: give a number."
            )

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit(self, X: Rows, y: Rows, bias: npt.NDArray[Any] | None = None) -> Self:
        """Remember the head and its class texts.

        Parameters
        ----------
        X : ndarray of shape (c, p)
            Head weights, one row a class, raw.
        y : ndarray of shape (c, q) or (c,)
            Class texts.
        bias : ndarray of shape (c,), optional
            The head's bias.
        """
        weights, texts, _ = validate_pairs(self, X, y, None)
        bias64 = np.zeros(len(weights)) if bias is None else np.asarray(bias, dtype=np.float64)
        if bias64.shape != (len(weights),) or not np.isfinite(bias64).all():
            raise ValueError(
                f"bias must be finite, with one entry a class, shape ({len(weights)},). "
                f"Got shape {bias64.shape}."
            )
        self.weight_, self.bias_, self.texts_ = weights, bias64, texts
        return self

    def fit_sources(self, data: Sources[Any], mix: float = 1.0) -> Self:  # noqa: ARG002
        """Remember the head and its class texts; there is nothing to mix."""
        assert data.prototypes is not None
        return self.fit(data.prototypes.x, data.prototypes.y, data.bias)

    def project_x(self, x: Rows) -> Matrix:
        """Return the mix of class texts for each image: shape (n, q), float64, unit rows."""
        features = self.check_projected(x, self.weight_.shape[1], "x")
        texts = normalize_rows(self.texts_, what="class texts")
        return normalize_rows(self._mix(features, texts), what="mixed texts")

    def project_y(self, y: Rows) -> Matrix:
        """Return y with unit rows: shape (n, q), float64."""
        return normalize_rows(self.check_projected(y, self.texts_.shape[1], "y"), what="y")

    def _mix(self, features: Matrix, texts: Matrix) -> Matrix:
        logits = features @ self.weight_.T + self.bias_
        n, k = len(features), min(self.top_k, len(self.bias_))
        # Stable order: equal logits at the border go to the class of lower index.
        top = np.argsort(-logits, axis=1, kind="stable")[:, :k]
        # softmax over the top k is the softmax over all, divided by its mass in the top k.
        share = softmax(np.take_along_axis(logits, top, axis=1), axis=1)
        starts = np.arange(0, n * k + 1, k)
        return csr_array((share.ravel(), top.ravel(), starts), (n, len(texts))) @ texts

"""Ridge regression to one side or to both, and text-to-concept, its affine kin.

Text-to-concept is fitted on images alone, each seen by both encoders. Texts then need no map:
CLIP's text tower already writes into the space of its image tower.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, ClassVar, Literal, Self

import numpy as np
import scipy.linalg
from sklearn.utils._param_validation import Interval, StrOptions

from fitters.aligners import FromMoments, OneWay, mean_rows
from fitters.moments import Folds, Moments
from fitters.pairs import Matrix, Pairs, Rows
from fitters.select import Axis, Choice, Search, Surface
from fitters.select.held_out import Folded, cross_validate, validate_by_error
from fitters.select.left_out import leave_one_group_out
from fitters.select.noise import explained_by_features, pairs_to_weigh, weigh_noise
from fitters.settings import MOST, Preparation
from fitters.solvers import (
    Spectrum,
    least_squares,
    relative_penalty,
    solve_ridge,
    solve_ridge_dual,
)
from fitters.sources import Sources, normalize_rows


@dataclass(repr=False, eq=False, kw_only=True)
class RidgeAligner(FromMoments, OneWay):
    """Align by ridge regression from one space into the other.

    ``direction="y->x"`` predicts image rows from text rows: the shared space is x, and the
    prediction for a class text is a synthesised row of a classification head. ``"x->y"`` predicts
    text rows from image rows: the shared space is y.

    Minimises, with a the predicting and b the predicted side::

        Σ w ||a C - b||^2 + alpha ||C||^2

    Parameters
    ----------
    direction : {"y->x", "x->y"}
    alpha : float
        Penalty, not negative.
    relative : bool
        True: alpha counts in units of the mean squared column of a, α = alpha · tr(aᵀa) / p, so
        that the same number means the same shrinkage at any n, weight or scale. False: the number
        of ``sklearn.linear_model.Ridge``.
    center : bool
        Subtract the means of a and b first, as an intercept does; the projections are then taken
        about these means too. False where the rows come centred (see `SideTransform`).
    first_share : float
        What the cosine of the fit on prototypes alone counts beside that of the fit on both
        sources, where `fit_sources` makes both: the score is their weighted mean.

    Attributes
    ----------
    coef_ : ndarray of shape (p, q) for "x->y", (q, p) for "y->x"
        C: one row a predicting column.
    first_coef_ : ndarray of shape (q, p)
        C of the prototypes alone; only with `first_share`.
    mean_x_, mean_y_ : ndarray of shape (p,), (q,)
        What is subtracted on each side; 0 if not `center`.
    alpha_ : float
        The absolute penalty.
    n_features_in_ : int
        p.
    feature_names_in_ : ndarray of shape (p,)
        Only if X had string column names.

    References
    ----------
    Hastie et al., The Elements of Statistical Learning, 2009, eq. 3.44. The direction from text to
    image suffers less from hubs: Shigeto et al., Ridge Regression, Hubness, and Zero-Shot
    Learning, 2015.

    Examples
    --------
    >>> images = np.random.default_rng(0).standard_normal((40, 8))
    >>> texts = images[:, :5]
    >>> made = RidgeAligner("x->y", alpha=1e-6).fit(images, texts)
    >>> f"{(made.project_x(images) * made.project_y(texts)).sum(axis=1).mean():.2f}"
    '1.00'
    """

    method: ClassVar[str] = "ridge"
    by_error: ClassVar[bool] = True
    # Ranks are what is reported; the cosine, which grows as predictions shrink to their mean, takes
    # ten to a hundred times the penalty.
    criterion: ClassVar[Literal["cosine", "rank"]] = "rank"
    direction: str = field(default="y->x", kw_only=False)
    alpha: float = 0.3
    relative: bool = True
    center: bool = True
    first_share: float = 0.0
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "direction": [StrOptions({"y->x", "x->y"})],
        "alpha": [Interval(Real, 0, MOST, closed="left")],
        "relative": ["boolean"],
        "center": ["boolean"],
        "first_share": [Interval(Real, 0, 1, closed="both")],
    }

    def tune(self, data: Sources[Any], search: Search) -> Choice:
        """Choose penalty and mixing weight in closed form.

        By the held-out squared error; else by leaving out names, of prototypes alone; or by the
        rank of the texts of held-out real pairs. From texts to images no mixing weight is chosen:
        the prototypes choose the penalty, and the fits with the real pairs are averaged over how
        noisy these may be; see `fitters.select.noise.weigh_noise`. Without a penalty to choose it
        is fitted again without each fold, which says if a fold leaves too few rows.
        """
        axes = search.axes(mixed=data.mixed)
        if self._averages(data, search, axes):
            return self._weighed(data, search, axes["penalty"])
        if "penalty" not in search.options or not any(a.searched for a in axes.values()):
            return super().tune(data, search)
        way: Any = self.direction
        if search.by_error or isinstance(data.given[0], Folds):
            surface = by_squared_error(data, search, axes, way)
        elif data.real is None:
            surface = leave_one_group_out(
                data.given[0], direction=way, penalties=axes["penalty"],
                criterion=search.config.criterion,  # type: ignore[arg-type]   # not "error"
            )  # fmt: skip
        else:
            folded = Folded.of(data, search, axes)
            surface = cross_validate(
                "ridge", real=folded.real, folds=folded.folds, prototypes=folded.prototypes,
                direction=way, penalties=axes["penalty"], weights=axes["weight"],
                metric=search.metric,
            )  # fmt: skip
        return search.chosen(axes, surface)

    def _averages(self, data: Sources[Any], search: Search, axes: Mapping[str, Axis]) -> bool:
        """Whether the fits with the real pairs are averaged over their noise."""
        rows = data.mixed and not isinstance(data.given[0], Folds)
        penalised = axes["penalty"].searched or axes["penalty"].values[0] > 0
        weighed = search.config.mix == "auto" and "weight" not in search.grid
        # Otherwise the real pairs cannot tell what they are worth.
        back = self.direction == "y->x" and not self.center and self.relative
        return rows and penalised and weighed and back and not search.by_error

    def _weighed(self, data: Sources[Pairs], search: Search, penalties: Axis) -> Choice:
        """Choose the penalty on the prototypes, and weigh the noises of the real pairs."""
        prototypes, real = data.prototypes, data.real
        assert prototypes is not None
        assert real is not None
        surface = None
        if penalties.searched:
            surface = leave_one_group_out(
                prototypes, penalties=penalties,
                criterion=search.config.criterion,  # type: ignore[arg-type]   # not "error"
            )  # fmt: skip
        choice = search.chosen({"penalty": penalties}, surface)
        gram, cross, alpha = _normal_equations(prototypes, choice.params["alpha"])
        weighed, folds = pairs_to_weigh(real, search.n_folds, search.rng)
        texts = weighed.y.astype(np.float64)
        covered, explained = explained_by_features(gram, cross, texts, alpha)
        return weigh_noise(
            choice, weighed, folds, kernel=texts @ texts.T, covered=covered, explained=explained,
            unit=alpha, criterion=search.metric,
        )  # fmt: skip

    def fit_sources(
        self,
        data: Sources[Any],
        mix: float = 1.0,
        *,
        noises: Mapping[float, float] | None = None,
        without: Mapping[float, float] | None = None,
    ) -> Self:
        """Fit on both sources, a prototype with `mix` times the mass of a real pair.

        With `noises`, the fits are averaged over the mass of a prototype: by the noise of a real
        pair, that of a prototype being 1, and over those of fits `without` the prototypes.
        """
        if noises is None or data.prototypes is None or data.real is None:
            return super().fit_sources(data, mix)
        texts, images = data.real.y.astype(np.float64), data.real.x.astype(np.float64)
        gram, cross, self.alpha_ = _normal_equations(data.prototypes, self.alpha)
        # T Tᵀ = α (gram + α I)⁻¹: what the prototypes leave of a kernel is that of rows turned by
        # T, and the correction by the pairs a ridge on these.
        eye = np.eye(len(gram))
        lower = np.linalg.cholesky(gram + self.alpha_ * eye)
        turn = np.sqrt(self.alpha_) * scipy.linalg.solve_triangular(lower, eye, lower=True).T
        first = turn @ (turn.T @ cross) / self.alpha_
        root = np.sqrt(data.real.row_weight)[:, None]
        averaged, alone = (
            {self.alpha_ * noise: share for noise, share in shares.items()}
            for shares in (noises, without or {})
        )
        left = Spectrum.of_rows(root * texts @ turn, root * (images - texts @ first))
        self.coef_ = sum(noises.values()) * first + turn @ left.mean(averaged)
        self.coef_ += Spectrum.of_rows(root * texts, root * images).mean(alone)
        if self.first_share:
            self.first_coef_ = first
        self.n_features_in_ = images.shape[1]
        self.mean_x_, self.mean_y_ = np.zeros(images.shape[1]), np.zeros(texts.shape[1])
        return self

    @property
    def reads_few_rows(self) -> bool:  # type: ignore[override]
        """With a penalty, the n × n system of n rows is the smaller one."""
        return self.alpha > 0

    def _fit_rows(self, x: Matrix, y: Matrix, weight: Matrix) -> Self:
        self.mean_x_, self.mean_y_ = mean_rows(x, y, weight, centre=self.center)
        # The root of the weight on both sides keeps the gram symmetric to the last bit.
        root = np.sqrt(weight)[:, None]
        sides = root * (x - self.mean_x_), root * (y - self.mean_y_)
        a, b = sides[::-1] if self.direction == "y->x" else sides
        n, p = a.shape
        if n >= p or self.alpha == 0:
            return self._solve(a.T @ a, a.T @ b)
        # Fewer rows than columns: the n × n system is the smaller one and has the same solution.
        mean_square = float(np.sum(a * a)) / p
        self.alpha_ = self.alpha * mean_square if self.relative else float(self.alpha)
        # Where every row of a is its mean, there is nothing to predict from.
        nothing = np.zeros((p, b.shape[1]))
        self.coef_ = solve_ridge_dual(a, b, self.alpha_) if self.alpha_ > 0 else nothing
        return self

    def _fit(self, moments: Moments) -> Self:
        about = moments.centred if self.center else moments.uncentred
        self.mean_x_, self.mean_y_ = about.shift_x, about.shift_y
        sides = about.swapped if self.direction == "y->x" else about
        return self._solve(sides.sxx, sides.sxy)

    def _solve(self, gram: Matrix, cross: Matrix) -> Self:
        alpha = float(self.alpha)
        self.alpha_ = relative_penalty(gram, alpha) if self.relative else alpha
        if alpha > 0 and self.alpha_ == 0:
            self.coef_ = np.zeros_like(cross)
        else:
            self.coef_ = solve_ridge(gram, cross, self.alpha_)
        return self

    def _map(self, rows: Matrix) -> Matrix:
        predicted = rows @ self.coef_
        return (
            self.with_first(predicted, rows @ self.first_coef_) if self.first_share else predicted
        )


def _normal_equations(prototypes: Pairs, penalty: float) -> tuple[Matrix, Matrix, float]:
    """Return gram and cross, from texts of prototypes to their rows, and the absolute penalty."""
    texts = prototypes.y.astype(np.float64)
    weighted = texts.T * prototypes.row_weight
    gram = weighted @ texts
    return gram, weighted @ prototypes.x.astype(np.float64), relative_penalty(gram, penalty)


def by_squared_error(
    data: Sources[Any], search: Search, axes: Mapping[str, Axis], direction: str
) -> Surface:
    """Return the held-out R² over weight × penalty; data are pairs, or moments by fold."""
    if isinstance(data.given[0], Folds):
        folds: Any = data.real
        prototypes = None if data.prototypes is None else data.prototypes[0]
    else:
        folded = Folded.of(data, search, axes)
        folds, prototypes = folded.of_folds, folded.of_prototypes
    return validate_by_error(
        folds, prototypes, direction=direction, penalties=axes["penalty"], weights=axes["weight"]
    )


@dataclass(repr=False, eq=False, kw_only=True)
class TwoWayRidgeAligner(FromMoments):
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

    Examples
    --------
    >>> images = np.random.default_rng(0).standard_normal((40, 8))
    >>> texts = images[:, :5]
    >>> made = TwoWayRidgeAligner(alpha=1e-6).fit(images, texts)
    >>> bool(((made.project_x(images) * made.project_y(texts)).sum(axis=1) > 0.5).all())
    True
    """

    method: ClassVar[str] = "ridge-both"
    by_error: ClassVar[bool] = True
    alpha: float = 0.3
    relative: bool = True
    center: bool = True
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "alpha": [Interval(Real, 0, MOST, closed="left")],
        "relative": ["boolean"],
        "center": ["boolean"],
    }

    def tune(self, data: Sources[Any], search: Search) -> Choice:
        """Choose by the mean error of both directions in closed form, or by fitting again."""
        axes = search.axes(mixed=data.mixed, coarse=True)
        of_moments = isinstance(data.given[0], Folds)
        if not (search.by_error or of_moments) or not any(a.searched for a in axes.values()):
            return super().tune(data, search)
        return search.chosen(axes, by_squared_error(data, search, axes, "both"))

    def _fit_rows(self, x: Matrix, y: Matrix, weight: Matrix) -> Self:
        return self._fit_both(lambda ridge: ridge.fit(x, y, weight))

    def _fit(self, moments: Moments) -> Self:
        return self._fit_both(lambda ridge: ridge.fit_moments(moments))

    def _fit_both(self, fitted: Callable[[RidgeAligner], RidgeAligner]) -> Self:
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

    def project_x(self, x: Rows) -> Matrix:
        """Return x in the shared space: shape (n, p + q), float64, unit rows."""
        rows = self.about_mean(x, "x")
        return _side_by_side(rows, rows @ self.forward_, "x")

    def project_y(self, y: Rows) -> Matrix:
        """Return y in the shared space: shape (n, p + q), float64, unit rows."""
        rows = self.about_mean(y, "y")
        return _side_by_side(rows @ self.backward_, rows, "y")


def _side_by_side(in_x: Matrix, in_y: Matrix, what: str) -> Matrix:
    parts = [normalize_rows(part, what=what) for part in (in_x, in_y)]
    return np.hstack(parts) / np.sqrt(2)


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

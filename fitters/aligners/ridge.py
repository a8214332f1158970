"""Ridge regression to one side or to both, and kernel ridge: one kernel a supporting row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import scipy.linalg
from sklearn.base import _fit_context
from sklearn.utils._param_validation import Interval, StrOptions

from fitters.aligners import Constraints, FromMoments, OneWay, mean_rows, validate_pairs
from fitters.errors import SettingError, ZeroRowError
from fitters.kernels import correct_first, gaussian, solve_kernel
from fitters.moments import Folds, Moments
from fitters.pairs import Matrix, Pairs, Rows
from fitters.select import Axis, Choice, Search, Surface
from fitters.select.held_out import Folded, cross_validate, validate_by_error
from fitters.select.left_out import (
    GAMMAS,
    KERNEL_PENALTIES,
    choose_on_prototypes,
    leave_one_group_out,
)
from fitters.select.noise import (
    cross_validate_kernel,
    explained_by,
    explained_by_features,
    pairs_to_weigh,
    weigh_noise,
)
from fitters.settings import MOST
from fitters.solvers import Spectrum, relative_penalty, solve_ridge, solve_ridge_dual
from fitters.sources import Sources, normalize_rows

if TYPE_CHECKING:
    from fitters.settings import FitConfig


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
    direction: str = field(default="y->x", kw_only=False)
    alpha: float = 0.3
    relative: bool = True
    center: bool = True
    first_share: float = 0.0
    _parameter_constraints: ClassVar[Constraints] = {
        "direction": [StrOptions({"y->x", "x->y"})],
        "alpha": [Interval(Real, 0, MOST, closed="left")],
        "relative": ["boolean"],
        "center": ["boolean"],
        "first_share": [Interval(Real, 0, 1, closed="both")],
    }

    @property
    def criterion(self) -> Literal["cosine", "rank"]:  # type: ignore[override]
        """What loses least, in either direction: see docs/statistics.md."""
        return "cosine" if self.direction == "y->x" else "rank"

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
    _parameter_constraints: ClassVar[Constraints] = {
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
    return np.hstack([normalize_rows(part, what=what) for part in (in_x, in_y)]) / np.sqrt(2)


BLOCK_ROWS = 4096
"""Rows predicted at a time: the kernel between them and the support stays small."""


@dataclass(repr=False, eq=False, kw_only=True)
class KernelRidgeAligner(OneWay):
    """Align by kernel ridge regression from one space into the other.

    ``direction="y->x"`` predicts image rows from text rows, nonlinearly: the shared space is x, and
    the prediction for a class text is a synthesised row of a classification head. ``"x->y"``
    predicts text rows from image rows: the shared space is y.

    Minimises, with a the predicting and b the predicted side and k(a, a') = exp(-γ ‖a - a'‖²)::

        Σ w ||f(a) - b||² + alpha ||f||²_k

    whose solution is f(a) = Σ_j k(a, a_j) A_j with (K + alpha diag(1/w)) A = B.

    Parameters
    ----------
    direction : {"y->x", "x->y"}
    gamma : float
        Inverse squared width, above 0.
    relative : bool
        True: gamma counts in units of 1 / mean ‖a - mean‖², so that the same number means the same
        width at any scale. For centred unit rows both are the same. False: γ = gamma.
    alpha : float
        Penalty, above 0, on the kernel whose diagonal is 1: the number of
        ``sklearn.kernel_ridge.KernelRidge``.
    center : bool
        Subtract the mean of b first, as an intercept does; the projections are then taken about
        these means too. A shift of a changes nothing. False where the rows come centred (see
        `SideTransform`).
    first_share : float
        What the cosine of the fit on prototypes alone counts beside that of the fit on both
        sources, where `fit_sources` makes both: the score is their weighted mean.

    Attributes
    ----------
    support_ : ndarray of shape (m, q) for "y->x", (m, p) for "x->y"
        Rows about which the kernels lie: the predicting rows.
    dual_ : ndarray of shape (m, p) for "y->x", (m, q) for "x->y"
        A.
    first_ : ndarray of shape (c, p)
        A of the c prototypes alone, the first rows of `support_`; only with `first_share`.
    mean_x_, mean_y_ : ndarray of shape (p,), (q,)
        What is subtracted on each side; 0 if not `center`.
    gamma_ : float
        The absolute γ.
    residual_ : float
        ‖B - (K + alpha diag(1/w)) A‖ / ‖B‖: the error of the solver.
    n_features_in_ : int
        p.
    feature_names_in_ : ndarray of shape (p,)
        Only if X had string column names.

    Notes
    -----
    Cost of the exact solution for n rows: n³/3 products and 4 n² bytes beyond 6,000 rows (float32,
    then refined), 8 n² below.

    References
    ----------
    Saunders et al., Ridge Regression Learning Algorithm in Dual Variables, ICML 1998. The direction
    from text to image suffers less from hubs: Shigeto et al., 2015.

    Examples
    --------
    >>> images = np.random.default_rng(0).standard_normal((40, 8))
    >>> texts = images[:, :5]
    >>> made = KernelRidgeAligner(alpha=1e-3).fit(images, texts)
    >>> f"{(made.project_x(images) * made.project_y(texts)).sum(axis=1).mean():.2f}"
    '1.00'
    """

    method: ClassVar[str] = "kernel-ridge"
    by_error: ClassVar[bool] = True
    direction: str = field(default="y->x", kw_only=False)
    gamma: float = 4.0
    relative: bool = True
    alpha: float = 0.01
    center: bool = True
    first_share: float = 0.0
    _parameter_constraints: ClassVar[Constraints] = {
        "direction": [StrOptions({"y->x", "x->y"})],
        "gamma": [Interval(Real, 0, MOST, closed="neither")],
        "relative": ["boolean"],
        "alpha": [Interval(Real, 0, MOST, closed="neither")],
        "center": ["boolean"],
        "first_share": [Interval(Real, 0, 1, closed="both")],
    }

    @classmethod
    def check_settings(cls, config: FitConfig, *, prototypes: bool, real: bool) -> None:  # noqa: ARG003
        """Raise SettingError for a penalty of 0, or a criterion that prototypes do not have."""
        if config.penalty == 0:
            raise SettingError(
                "Kernel ridge needs a penalty above 0: a kernel of similar texts is singular. "
                "Got 0."
            )
        if config.criterion == "error" and not real:
            raise SettingError(
                "Kernel ridge is chosen on prototypes by 'cosine' or 'rank'. Got criterion 'error'."
            )

    def tune(self, data: Sources[Pairs], search: Search) -> Choice:
        """Choose width and penalty on the prototypes; real pairs only say how noisy they are.

        A `mix` that is given is the mass of a prototype. Without prototypes, width and penalty are
        chosen on the real pairs.
        """
        config, prototypes, real = search.config, data.prototypes, data.real
        if config.criterion == "error":
            # Of the criteria for both kinds of data, this is the one that real pairs have too.
            config = replace(config, criterion="cosine", validation="squared")
            search = replace(search, config=config)
        axes = {
            "penalty": search.axis("penalty", KERNEL_PENALTIES),
            "gamma": search.axis("gamma", GAMMAS),
        }
        is_open = any(axis.searched for axis in axes.values())
        choice = search.chosen(axes, self._shape(data, search, axes) if is_open else None)
        if prototypes is None or real is None:
            return choice
        if config.mix != "auto":
            # A real pair has `mix` times the penalty that the prototypes keep.
            params = choice.params | {"alpha": choice.params["alpha"] * config.mix}
            facts = {"of_prototypes": choice.facts} if choice.facts else {}
            return Choice(params, config.mix, facts | {"mix": config.mix}, choice.axes)
        weighed, folds = pairs_to_weigh(real, search.n_folds, search.rng)
        head = prototypes.take(prototypes.row_weight > 0)
        texts, gamma = weighed.y.astype(np.float64), choice.params["gamma"]
        covered, explained = explained_by(head, texts, gamma, choice.params["alpha"], search.rng)
        return weigh_noise(
            choice, weighed, folds, kernel=gaussian(texts, texts, gamma), covered=covered,
            explained=explained, criterion=search.metric,
        )  # fmt: skip

    def _shape(self, data: Sources[Pairs], search: Search, axes: Mapping[str, Axis]) -> Surface:
        """Return the scores over width and penalty."""
        grids: dict[str, Any] = {"gammas": axes["gamma"], "penalties": axes["penalty"]}
        if data.prototypes is None:
            folded = Folded.of(data, search, axes)
            return cross_validate_kernel(
                real=folded.real, folds=folded.folds, **grids, criterion=search.metric
            )
        by: Any = search.config.criterion
        return choose_on_prototypes(data.prototypes, **grids, criterion=by, rng=search.rng)

    def fit_sources(
        self,
        data: Sources[Pairs],
        mix: float = 1.0,
        *,
        noises: Mapping[float, float] | None = None,
        without: Mapping[float, float] | None = None,
    ) -> Self:
        """Fit on the rows of both sources, a prototype with `mix` times the mass of a real pair.

        With `noises`, the real pairs correct what the fit on the prototypes leaves of them,
        averaged over their noise, and over that of fits `without` the prototypes; see
        `fitters.kernels.correct_first`. Rows are taken as they are, γ as the
        absolute one.
        """
        if noises is None or data.prototypes is None or data.real is None:
            return super().fit_sources(data, mix)
        head = data.prototypes.take(data.prototypes.row_weight > 0)
        support, targets = head.y.astype(np.float64), head.x.astype(np.float64)
        self.gamma_, self.n_features_in_ = float(self.gamma), targets.shape[1]
        first_, self.dual_, self.residual_ = correct_first(
            support, targets, data.real, self.gamma_, self.alpha / head.row_weight, noises,
            without or {},
        )  # fmt: skip
        if self.first_share:
            self.first_ = first_
        self.support_ = np.concatenate([support, data.real.y])
        self.mean_x_, self.mean_y_ = np.zeros(targets.shape[1]), np.zeros(support.shape[1])
        return self

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit(
        self,
        X: Rows,
        y: Rows,
        sample_weight: npt.NDArray[Any] | None = None,
    ) -> Self:
        """Fit on n paired rows.

        Parameters
        ----------
        X : ndarray of shape (n, p)
        y : ndarray of shape (n, q) or (n,)
        sample_weight : ndarray of shape (n,), optional
            Mass of each row, not negative.

        Raises
        ------
        SingularMomentsError
            If alpha is too small for the rows; the message says what to change.
        """
        x64, y64, weight = validate_pairs(self, X, y, sample_weight)
        self.mean_x_, self.mean_y_ = mean_rows(x64, y64, weight, centre=self.center)
        used = weight > 0
        weight = weight[used]
        sides = x64[used] - self.mean_x_, y64[used] - self.mean_y_
        a, b = sides[::-1] if self.direction == "y->x" else sides
        self.gamma_ = float(self.gamma)
        if self.relative:
            spread = float(weight @ np.einsum("nd,nd->n", a, a)) / float(weight.sum())
            # Rows that are all the same have no width; any kernel of them is 1.
            self.gamma_ = self.gamma / spread if spread > 0 else self.gamma
        if not np.isfinite(self.gamma_):
            raise SettingError(
                f"gamma is not finite at this scale of rows: {self.gamma_}. Rescale the rows."
            )
        self.support_ = a
        self.dual_, self.residual_ = solve_kernel(a, b, self.gamma_, self.alpha / weight)
        return self

    def _map(self, rows: Matrix) -> Matrix:
        """Return f of each (shifted) row of the predicting side.

        Raises
        ------
        ZeroRowError
            If the kernel is too narrow to reach a row.
        """
        out = np.empty((len(rows), self.dual_.shape[1]))
        for start in range(0, len(rows), BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            kernel = gaussian(rows[block], self.support_, self.gamma_)
            alone = np.flatnonzero(~kernel.any(axis=1))
            if len(alone):
                raise ZeroRowError(
                    f"A kernel of gamma {self.gamma_:g} is 0 between {len(alone):,} rows (first: "
                    f"row {start + alone[0]:,}) and all that were fitted. Fit with a smaller gamma."
                )
            out[block] = kernel @ self.dual_
            if self.first_share:
                first = kernel[:, : len(self.first_)] @ self.first_
                out[block] = self.with_first(out[block], first)
        return out

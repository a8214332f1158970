"""Kernel ridge regression: nonlinear, with one kernel a supporting row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import _fit_context
from sklearn.utils._param_validation import Interval, StrOptions

from fitters.aligners import OneWay, mean_rows, validate_pairs
from fitters.errors import SettingError, ZeroRowError
from fitters.kernels import correct_first, gaussian, solve_kernel
from fitters.pairs import Matrix, Pairs, Rows
from fitters.select import Axis, Choice, Search, Surface
from fitters.select.held_out import Folded
from fitters.select.left_out import GAMMAS, KERNEL_PENALTIES, choose_on_prototypes
from fitters.select.noise import cross_validate_kernel, explained_by, pairs_to_weigh, weigh_noise
from fitters.settings import MOST
from fitters.sources import Sources

if TYPE_CHECKING:
    from fitters.settings import FitConfig

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
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
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
        return choose_on_prototypes(
            data.prototypes, **grids, criterion=by, rng=search.rng,
            # If a grid is given, these are one of many controls of the same texts.
            precision="float32" if search.grid else "float64",
        )  # fmt: skip

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

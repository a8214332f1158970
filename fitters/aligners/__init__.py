"""Aligners: maps between two embedding spaces, in closed form or by a kernel.

An aligner is an object with `fit`, `project_x` and `project_y`. It is fitted on paired rows,
``fit(X, Y)``, and projects both sides into one space: what comes out has the same number of
columns, and the score of an image and a text is the dot product. Rows have unit length, so that
this is a cosine, unless the class says otherwise (`unit_rows`).

That is all that an aligner must have. With `sample_weight` in `fit`, prototypes and real pairs are
mixed by weight; with `fit_moments`, no row is read twice; with `tune`, it chooses its own settings.
For what is missing there are `fit_on` and `tune_by_refitting` here. The classes of this package
inherit from `BaseAligner`, which makes them scikit-learn estimators.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Mapping
from inspect import Parameter, Signature, signature
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeAlias

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, _fit_context
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from fitters.errors import PairsError, SettingError
from fitters.kept import kept
from fitters.moments import Folds, Moments, merge_pooled, moments_of
from fitters.pairs import Matrix, Pairs, Rows, check_weight
from fitters.select import Axis, Choice, Search, parameter_of
from fitters.select.held_out import Folded, Refit, validate_by_refitting
from fitters.settings import Preparation
from fitters.sources import Sources, normalize_rows, unit_or_zero

if TYPE_CHECKING:
    from fitters.settings import FitConfig

Projection: TypeAlias = Any
"""Rows in a shared space: a matrix, or a scipy csr_array where the space is wide."""

Constraints: TypeAlias = dict[str, list[Any]]
"""What scikit-learn checks the parameters of an estimator against."""


class BaseAligner(BaseEstimator, ABC):  # type: ignore[misc]
    """Base of the aligners.

    What is fitted is saved without pickle: attributes whose names end in "_" that are arrays of
    floats, as `array_dtype`, or plain numbers. Constructor parameters must be plain values.

    Examples
    --------
    >>> class Same(BaseAligner):
    ...     fit = lambda self, X, y: self
    ...     project_x = project_y = lambda self, rows: rows
    >>> Same().fit(np.eye(2), np.eye(2)).project_x(np.eye(2))
    array([[1., 0.],
           [0., 1.]])
    """

    method: ClassVar[str]
    """Its name in `fitters.methods.aligners`, and in saved files."""
    fitted_on: ClassVar[Literal["moments", "rows", "head", "training"]] = "rows"
    """What it needs: second moments, the rows themselves, a classification head, or rows again and
    again."""
    preparation: ClassVar[Preparation] = Preparation()
    by_error: ClassVar[bool] = False
    """Whether its settings can be chosen by the held-out squared error."""
    criterion: ClassVar[Literal["cosine", "rank"]] = "cosine"
    """What it is chosen by on prototypes alone, where it leaves names out in closed form."""
    reads_few_rows: bool = False
    """Whether `fit` is to be preferred to `fit_moments` on no more rows than columns."""
    mixes: ClassVar[bool] = True
    """Whether the mass of prototypes beside real pairs changes what is fitted."""
    unit_rows: ClassVar[bool] = True
    """Whether projections have unit rows, so that their dot product is a cosine."""
    array_dtype: ClassVar[str] = "float64"
    """Type of its fitted arrays, which is how they are saved."""

    @abstractmethod
    def fit(self, X: Rows, y: Rows) -> Self:
        """Fit on n paired rows, X of shape (n, p) and y of shape (n, q) or (n,)."""

    @classmethod
    def check_settings(cls, config: FitConfig, *, prototypes: bool, real: bool) -> None:
        """Raise SettingError for settings that this aligner cannot have together; no row is read.

        Parameters
        ----------
        config : FitConfig
        prototypes, real : bool
            Which sources the fit is on.
        """

    def tune(self, data: Sources[Any], search: Search) -> Choice:
        """Choose what `search` leaves open: by fitting again without each fold.

        Parameters
        ----------
        data : Sources of Pairs, or of Folds
            What the final fit is on.
        search : Search

        Raises
        ------
        SelectionError
            If there are too few groups to choose from.
        """
        return tune_by_refitting(self, data, search)

    def fit_sources(self, data: Sources[Any], mix: float = 1.0) -> Self:
        """Fit on both sources, a prototype with `mix` times the mass of a real pair."""
        return fit_on(self, data, mix)

    @property
    def facts_(self) -> dict[str, Any]:
        """What an alignment records of the fit, as plain values for JSON."""
        gap = getattr(self, "gap_", None)
        return {} if gap is None else {"singular_value_gap": gap}

    @abstractmethod
    def project_x(self, x: Rows) -> Projection:
        """Return x in the shared space: shape (n, r), float64, dense or CSR."""

    @abstractmethod
    def project_y(self, y: Rows) -> Projection:
        """Return y in the shared space: shape (n, r), float64, dense or CSR."""

    def check_projected(self, rows: Rows, d: int, side: str) -> Matrix:
        """Return `rows` as float64 after checking that they have `d` columns."""
        check_is_fitted(self)
        return _columned(self, rows, d, side)

    def about_mean(self, rows: Rows, side: Literal["x", "y"]) -> Matrix:
        """Return rows of a side as float64, checked, less the mean that was fitted to it."""
        check_is_fitted(self)
        mean: Matrix = getattr(self, f"mean_{side}_")
        return self.check_projected(rows, len(mean), side) - mean

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.target_tags.multi_output = True
        return tags


def _columned(aligner: Any, rows: Rows, d: int, side: str) -> Matrix:
    rows64 = np.asarray(rows, dtype=np.float64)
    if rows64.ndim != 2 or rows64.shape[1] != d:
        raise PairsError(
            f"{type(aligner).__name__} was fitted on {side} of {d:,} columns. Got shape "
            f"{rows64.shape}. Pass embeddings of the encoder that it was fitted on."
        )
    return rows64


class MatrixAligner:
    """Two matrices that a function fits: rows are projected by them, and brought to unit length.

    `matrix_aligner` makes the class of a function; its constructor has the settings of the
    function.

    Attributes
    ----------
    a_, b_ : float64 arrays of shape (p, r), (q, r)
        What the function returned.
    """

    function: ClassVar[Callable[..., Any]]
    a_: Matrix
    b_: Matrix

    def __init__(self, **settings: Any) -> None:
        bound = signature(type(self)).bind(**settings)
        bound.apply_defaults()
        vars(self).update(bound.arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return _matrix_aligner_with, (type(self).function, vars(self))

    def fit(self, X: Rows, y: Rows) -> Self:
        """Fit on n paired rows, of shape (n, p) and (n, q).

        Raises
        ------
        PairsError
            If the function does not return two finite matrices of as many columns.
        """
        return self._fit(X, y)

    def _fit(self, *rows: Rows) -> Self:
        function = type(self).function
        found = function(*rows, **params_of(self))
        name = getattr(function, "__name__", repr(function))
        p, q = rows[0].shape[1], rows[1].shape[1]
        try:
            a, b = (np.asarray(matrix, dtype=np.float64) for matrix in found)
            good = a.ndim == b.ndim == 2 and a.shape == (p, b.shape[1]) and len(b) == q
        except (TypeError, ValueError):
            good = False
        if not good or not (np.isfinite(a).all() and np.isfinite(b).all()):
            raise PairsError(
                f"{name} must return two finite matrices of shapes ({p}, r) and ({q}, r): those "
                "that images and texts are multiplied by."
            )
        self.a_, self.b_ = a, b
        return self

    def project_x(self, x: Rows) -> Matrix:
        """Return x @ a_ at unit length, shape (n, r); rows of zeros stay zeros."""
        return unit_or_zero(_columned(self, x, len(self.a_), "x") @ self.a_)

    def project_y(self, y: Rows) -> Matrix:
        """Return y @ b_ at unit length, shape (n, r); rows of zeros stay zeros."""
        return unit_or_zero(_columned(self, y, len(self.b_), "y") @ self.b_)


class _WeightedMatrixAligner(MatrixAligner):
    def fit(self, X: Rows, y: Rows, sample_weight: Matrix | None = None) -> Self:
        """Fit on n paired rows, with the mass of each."""
        return self._fit(X, y, np.ones(len(X)) if sample_weight is None else sample_weight)


def fits_matrices(function: Any) -> bool:
    """Return whether this is a function of paired rows: it needs two or three arguments."""
    return not isinstance(function, type) and len(_needed(function)) in (2, 3)


def matrix_aligner(function: Callable[..., Any]) -> type[MatrixAligner]:
    """Return the class of aligners whose two matrices a function returns.

    Parameters
    ----------
    function : callable
        ``f(x, y)`` or ``f(x, y, weight)``: rows of shape (n, p) and (n, q), prepared as those of
        other methods are (unit length, centred, unit length), and the mass of each, shape (n,).
        It returns A of shape (p, r) and B of shape (q, r): the score of an image and a text is the
        cosine of x @ A and y @ B. With `weight`, prototypes and real pairs are mixed by weight.
        Keyword arguments with a default, such as ``alpha=0.1``, are settings if a setting has
        their name; see `fitters.methods.Method`.
    """
    needed = _needed(function)
    weighted = len(needed) == 3
    own = [one for one in signature(function).parameters.values() if one.name not in needed]
    return type(
        getattr(function, "__name__", "MatrixAligner"),
        (_WeightedMatrixAligner if weighted else MatrixAligner,),
        {
            "function": staticmethod(function),
            "__doc__": function.__doc__,
            "__module__": function.__module__,
            "__signature__": Signature([one.replace(kind=one.KEYWORD_ONLY) for one in own]),
        },
    )


def _matrix_aligner_with(function: Callable[..., Any], state: dict[str, Any]) -> MatrixAligner:
    made = matrix_aligner(function)()
    vars(made).update(state)
    return made


def _needed(function: Any) -> list[str]:
    """Return the arguments that a function must be given."""
    try:
        found = signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    kinds = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    return [one.name for one in found if one.default is one.empty and one.kind in kinds]


def validate_pairs(
    aligner: BaseAligner, X: Rows, y: Rows, sample_weight: npt.NDArray[Any] | None
) -> tuple[Matrix, Matrix, Matrix]:
    """Return X (n, p), y (n, q) and the weights (n,), float64, checked in scikit-learn's words."""
    X, y = validate_data(aligner, X, y, dtype=np.float64, multi_output=True, y_numeric=True)
    y64 = np.asarray(y, dtype=np.float64)
    weight = _check_sample_weight(sample_weight, X, dtype=np.float64)
    check_weight(weight)
    return np.asarray(X), y64[:, None] if y64.ndim == 1 else y64, weight


def changed_copy(aligner: Any, **changes: Any) -> Any:
    """Return an aligner like this one, not fitted, with other constructor parameters."""
    return type(aligner)(**params_of(aligner) | changes)


def params_of(aligner: Any) -> dict[str, Any]:
    """Return the constructor parameters of an aligner, which it keeps under their own names.

    Raises
    ------
    SettingError
        If it does not.
    """
    names = signature(type(aligner)).parameters
    lost = [name for name in names if not hasattr(aligner, name)]
    if lost:
        raise SettingError(
            f"{type(aligner).__name__} does not keep its parameter {lost[0]!r}, so that it cannot "
            f"be saved or fitted again. Write self.{lost[0]} = {lost[0]} in its __init__."
        )
    return {name: getattr(aligner, name) for name in names}


def fit_on(aligner: Any, data: Sources[Any], mix: float = 1.0) -> Any:
    """Fit an aligner on the rows or the moments of both sources, and return it."""
    if not hasattr(aligner, "fit_moments"):
        return aligner.fit(*stacked(data, mix)[: 3 if takes_weights(aligner) else 2])
    if isinstance(data.given[0], Folds):
        parts = [*(data.real or ()), *(part.scaled(mix) for part in data.prototypes or ())]
        return aligner.fit_moments(merge_pooled(*parts))
    # Moments square every column of both sides, 60 ms for 1,280, where ridge and Procrustes look at
    # one gram or none. Of many rows they are the smaller thing: there rows are not copied together.
    columns = data.given[0].x.shape[1] + data.given[0].y.shape[1]
    few = sum(source.n for source in data.given) <= columns
    if few and getattr(aligner, "reads_few_rows", False):
        return aligner.fit(*stacked(data, mix))
    # Moments add: mixing is scaling one source's sums, and no row is read twice.
    masses = zip(data.given, data.masses(mix), strict=True)
    return aligner.fit_moments(merge_pooled(*(_moments_of(s).scaled(mass) for s, mass in masses)))


_moments_of = kept(moments_of)


def takes_weights(aligner: Any) -> bool:
    """Return whether `fit` of an aligner, or of its class, has a parameter `sample_weight`."""
    return "sample_weight" in signature(aligner.fit).parameters


def stacked(data: Sources[Pairs], mix: float) -> tuple[Rows, Rows, Matrix]:
    """Return x, y and the masses of all rows, prototypes first."""
    x, y = (np.concatenate([getattr(source, side) for source in data.given]) for side in "xy")
    masses = zip(data.given, data.masses(mix), strict=True)
    return x, y, np.concatenate([mass * source.row_weight for source, mass in masses])


def tune_by_refitting(
    aligner: Any, data: Sources[Any], search: Search, axes: Mapping[str, Axis] | None = None
) -> Choice:
    """Choose settings of any aligner by fitting it again without each fold.

    Penalty and mixing weight, unless other axes are given.
    """
    axes = axes or search.axes(mixed=data.mixed, coarse=True)
    if not any(axis.searched for axis in axes.values()):
        return search.chosen(axes, None)
    folded = Folded.of(data, search, axes)
    surface = validate_by_refitting(
        refits_of(aligner, folded, search.options), real=folded.real, folds=folded.folds, axes=axes,
        metric=search.metric,
    )  # fmt: skip
    return search.chosen(axes, surface)


def refits_of(aligner: Any, folded: Folded, options: Container[str]) -> Refit:
    """Return what fits an aligner like this one without a fold, with the values of some axes."""
    without = folded.moments_without if hasattr(aligner, "fit_moments") else None

    def refit(fold: int, at: Mapping[str, float]) -> Any:
        # Numbers of anchors are whole: a grid may hold them as floats.
        changes = {
            parameter_of(name): round(value) if name == "top_k" else value
            for name, value in at.items() if name in options
        }  # fmt: skip
        made = changed_copy(aligner, **changes)
        data = without[fold] if without else folded.rows_without(fold)
        return fit_on(made, data, at.get("weight", 1.0))

    return refit


def mean_rows(
    x: Matrix, y: Matrix, weight: Matrix, *, centre: bool = True
) -> tuple[Matrix, Matrix]:
    """Return the weighted mean of each side, shapes (p,) and (q,); zeros without centring."""
    if not centre:
        return np.zeros(x.shape[1]), np.zeros(y.shape[1])
    return weight @ x / weight.sum(), weight @ y / weight.sum()


class OneWay(BaseAligner):
    """Base of the regressions from one space into the other: the shared space is the latter.

    A subclass has `direction`, "y->x" or "x->y", and `mean_x_` and `mean_y_`; it adds `_map`.
    """

    direction: str
    first_share: float = 0.0
    """What the cosine of the fit on prototypes alone counts beside that of the fit on both."""
    mean_x_: Matrix
    mean_y_: Matrix

    def with_first(self, predicted: Matrix, first: Matrix) -> Matrix:
        """Return rows whose dot product is the weighted mean of two cosines, by `first_share`."""
        both: Matrix = unit_or_zero(predicted) + self.first_share * unit_or_zero(first)
        return both / (1 + self.first_share)

    @abstractmethod
    def _map(self, rows: Matrix) -> Matrix:
        """Return what is predicted from rows of the predicting side, both about their means."""

    def project_x(self, x: Rows) -> Matrix:
        """Return x in the shared space: shape (n, r), float64, unit rows."""
        rows = self.about_mean(x, "x")
        return normalize_rows(rows if self.direction == "y->x" else self._map(rows), what="x")

    def project_y(self, y: Rows) -> Matrix:
        """Return y in the shared space: shape (n, r), float64; unit rows but for `first_share`."""
        rows = self.about_mean(y, "y")
        if self.first_share and self.direction == "y->x":
            return self._map(rows)
        return normalize_rows(rows if self.direction == "x->y" else self._map(rows), what="y")


class FromMoments(BaseAligner):
    """Base of the aligners that need moments alone: a subclass adds `_fit`.

    Where the rows themselves are cheaper, or other forms more exact, it adds `_fit_rows` too.
    """

    fitted_on = "moments"

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
        return self._fit_rows(x64, y64, weight)

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit_moments(self, moments: Moments) -> Self:
        """Fit on the moments of n paired rows: the same solution as `fit` on the rows."""
        self.n_features_in_ = len(moments.shift_x)
        return self._fit(moments)

    def _fit_rows(self, x: Matrix, y: Matrix, weight: Matrix) -> Self:
        """Solve from the rows and their weights, and set what is fitted."""
        return self._fit(Moments.from_rows(x, y, weight))

    @abstractmethod
    def _fit(self, moments: Moments) -> Self:
        """Solve from moments, and set what is fitted."""

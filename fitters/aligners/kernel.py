"""Kernel ridge regression and its solvers.

Up to `DOUBLE_ROWS` rows by a float64 Cholesky factor. Beyond, in place by a float32 factor (4 n²
bytes, the one matrix held), then refined: the residual is taken in float64 from kernel blocks made
anew, and the factor solves for the correction until the residual is below `TOLERANCE`. Whether it
is, `SAMPLE` rows say: all rows of 21,841 take as long as the factor.

A benchmark solves for the same prototypes with ever other real pairs, and decomposes one kernel of
class texts for ever other image rows. Both are kept a while: `solve_first` and `decompose_kernel`.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import scipy.linalg
from sklearn.base import _fit_context
from sklearn.utils._param_validation import Interval, StrOptions

from featstore.parallel import map_threads
from fitters.aligners.base import Matrix, OneWay, as_columns, mean_rows, validate_pairs
from fitters.aligners.solvers import eigen_gram
from fitters.errors import SettingError, SingularMomentsError
from fitters.feature_maps import METHODS, NystroemMap, choose_landmarks, gaussian
from fitters.kept import Kept, digest_of
from fitters.pairs import Rows

DOUBLE_ROWS = 6000
"""A float64 kernel of so many rows takes 288 MB."""

TOLERANCE = 1e-5
"""Of ‖B - (K + diag(penalty)) A‖ / ‖B‖."""

ROUNDS = 4

SAMPLE = 2048
"""Rows, spread evenly, whose residual says whether another round is needed."""

ADDED_SAMPLE = 128
"""The same, where rows were added to a solution that was measured."""

_BLOCK_ROWS = 256


@dataclass(frozen=True, eq=False)
class Solution:
    """A solved system in float64, with what it takes to add rows to it.

    Attributes
    ----------
    gamma : float
    penalty : ndarray of shape (n,)
    factor : ndarray of shape (n, n)
        Lower Cholesky factor of K + diag(penalty).
    dual : ndarray of shape (n, q)
    residual : float
        As `solve_kernel` returns it.
    """

    gamma: float
    penalty: Matrix
    factor: Matrix
    dual: Matrix
    residual: float

    @property
    def n_bytes(self) -> int:
        """What it takes in memory."""
        return sum(array.nbytes for array in (self.penalty, self.factor, self.dual))

    def eliminate(self, rows: Matrix, others: Matrix) -> tuple[Matrix, Matrix, Matrix]:
        """Return what the n rows solved for do to k others: M = K + diag(penalty), R their kernel.

        Parameters
        ----------
        rows, others : ndarray of shape (n, d), (k, d)

        Returns
        -------
        weights : ndarray of shape (n, k)
            M⁻¹ Rᵀ.
        covered : ndarray of shape (k, k)
            R M⁻¹ Rᵀ, which is taken from the kernel of the others.
        explained : ndarray of shape (k, q)
            R M⁻¹ B, which is taken from their targets.
        """
        reach = gaussian(others, rows, self.gamma)
        weights = scipy.linalg.cho_solve((self.factor, True), reach.T, check_finite=False)
        return weights, reach @ weights, reach @ self.dual

    def extended(self, rows: Matrix, targets: Matrix, penalty: Matrix) -> tuple[Matrix, float]:
        """Return dual coefficients and residual of all rows, of which those solved for come first.

        Block elimination: S = K_RR + diag(penalty) - R M⁻¹ Rᵀ is solved for the k others. The
        arguments are those of `solve_kernel`; the residual is measured on at most `ADDED_SAMPLE`
        rows.

        Raises
        ------
        scipy.linalg.LinAlgError
            If S is not positive definite to the last bit.
        """
        n, first = len(rows), len(self.dual)
        others = rows[first:]
        weights, covered, explained = self.eliminate(rows[:first], others)
        system = gaussian(others, others, self.gamma) - covered
        diagonal = np.diag_indices(len(others))
        system[diagonal] = 1 + penalty[first:] - covered[diagonal]
        dual = np.empty_like(targets)
        factor = scipy.linalg.cho_factor(system, lower=True, check_finite=False)
        dual[first:] = scipy.linalg.cho_solve(
            factor, targets[first:] - explained, check_finite=False
        )
        np.subtract(self.dual, weights @ dual[first:], out=dual[:first])
        at = np.unique(np.linspace(0, n - 1, min(n, ADDED_SAMPLE)).round().astype(np.intp))
        left = _residual(rows, targets, dual, self.gamma, penalty, at)
        return dual, float(np.linalg.norm(left)) / (float(np.linalg.norm(targets[at])) or 1.0)


# For 1,000 prototypes and images of 1,280 values a solution takes 18 MB.
_SOLUTIONS: Kept[Solution] = Kept(64_000_000, lambda solution: solution.n_bytes)

# For 1,000 texts 8 MB a width, of which a choice looks at five or more.
_DECOMPOSED: Kept[tuple[Matrix, Matrix]] = Kept(
    48_000_000, lambda found: found[0].nbytes + found[1].nbytes
)


def decompose_kernel(rows: Matrix, weight: Matrix, gamma: float) -> tuple[Matrix, Matrix]:
    """Return eigenvalues and eigenvectors of the kernel of rows multiplied by √weight.

    They serve every penalty and every target, and are kept: a head and its controls have the same
    texts. Callers leave both arrays as they are.

    Parameters
    ----------
    rows : ndarray of shape (n, d)
    weight : ndarray of shape (n,)
    gamma : float

    Returns
    -------
    values : ndarray of shape (n,)
        Ascending, none negative.
    vectors : ndarray of shape (n, n)
        In columns.
    """

    def decompose() -> tuple[Matrix, Matrix]:
        root = np.sqrt(weight)[:, None]
        return eigen_gram(root * gaussian(rows, rows, gamma) * root.T)

    return _DECOMPOSED.get(digest_of(rows, weight, gamma), decompose)


def solve_first(rows: Matrix, targets: Matrix, gamma: float, penalty: Matrix) -> Solution:
    """Return the solution of at most `DOUBLE_ROWS` rows, which is kept for the next call.

    The arguments and errors are those of `solve_kernel`. Of each penalty 12 digits count: that of
    the prototypes is the same at every mixing weight but for the rounding of α w / w.
    """
    penalty = np.array([float(f"{value:.12g}") for value in penalty])

    def solve() -> Solution:
        factor = _factor(rows, gamma, penalty, np.float64)
        dual, residual = _refine(factor, rows, targets, gamma, penalty)
        return Solution(gamma, penalty, factor, dual, residual)

    return _SOLUTIONS.get(digest_of(rows, targets, gamma, penalty), solve)


def solve_kernel(
    rows: Matrix,
    targets: Matrix,
    gamma: float,
    penalty: Matrix,
    *,
    in_double: bool | None = None,
    n_first: int = 0,
) -> tuple[Matrix, float]:
    """Return the dual coefficients A of kernel ridge regression, and their relative residual.

    Minimises, over f(a) = Σ_j k(a, a_j) A_j::

        Σ w_i ‖f(a_i) - b_i‖² + alpha ‖f‖²_k,   penalty_i = alpha / w_i

    Parameters
    ----------
    rows, targets : ndarray of shape (n, d), (n, q)
    gamma : float
    penalty : ndarray of shape (n,)
        Above 0.
    in_double : bool, optional
        By default decided by `DOUBLE_ROWS`.
    n_first : int
        So many rows at the front will come again, with the same targets and penalties: they are
        solved by `solve_first`, and the others added. No part beyond `DOUBLE_ROWS` rows.

    Returns
    -------
    dual : ndarray of shape (n, q)
    residual : float
        ‖B - (K + diag(penalty)) A‖ / ‖B‖, measured on at most `SAMPLE` rows, spread evenly.

    Raises
    ------
    SingularMomentsError
        If the penalty is too small for the precision: the factor breaks down, or refinement does
        not reach `TOLERANCE`.
    """
    n = len(rows)
    double = n <= DOUBLE_ROWS if in_double is None else in_double
    if n_first and double and n <= DOUBLE_ROWS:
        first = solve_first(rows[:n_first], targets[:n_first], gamma, penalty[:n_first])
        if n_first == n:
            return first.dual.copy(), first.residual
        try:
            added = first.extended(rows, targets, penalty)
        except scipy.linalg.LinAlgError:
            added = first.dual, np.inf
        if added[1] < TOLERANCE:
            return added
    factor = _factor(rows, gamma, penalty, np.float64 if double else np.float32)
    return _refine(factor, rows, targets, gamma, penalty)


def _factor(
    rows: Matrix, gamma: float, penalty: Matrix, dtype: type[np.floating[Any]]
) -> npt.NDArray[Any]:
    """Return the lower Cholesky factor of K + diag(penalty)."""
    system = gaussian(rows, rows, gamma, dtype=dtype)
    diagonal = np.diag_indices(len(rows))
    # Rounding leaves the diagonal a little below 1.
    system[diagonal] = 1 + penalty.astype(dtype)
    try:
        # The transpose of a symmetric matrix is itself, in the order that LAPACK overwrites.
        factor: npt.NDArray[Any] = scipy.linalg.cho_factor(
            system.T, lower=True, overwrite_a=True, check_finite=False
        )[0]
    except scipy.linalg.LinAlgError as err:
        raise SingularMomentsError(_too_small(len(rows), penalty, dtype)) from err
    return factor


def _refine(
    factor: npt.NDArray[Any], rows: Matrix, targets: Matrix, gamma: float, penalty: Matrix
) -> tuple[Matrix, float]:
    """Return the dual coefficients by a factor, corrected until `TOLERANCE`, and the residual."""
    n, dtype = len(rows), factor.dtype.type
    dual = np.zeros_like(targets)
    left = targets
    sample = np.unique(np.linspace(0, n - 1, min(n, SAMPLE)).round().astype(np.intp))
    scale = float(np.linalg.norm(targets[sample])) or 1.0
    residual = 1.0
    for _ in range(ROUNDS):
        dual += scipy.linalg.cho_solve((factor, True), left.astype(dtype), check_finite=False)
        seen = _residual(rows, targets, dual, gamma, penalty, sample)
        before, residual = residual, float(np.linalg.norm(seen)) / scale
        if residual < TOLERANCE:
            return dual, residual
        if residual > before / 2:
            break
        left = _residual(rows, targets, dual, gamma, penalty, np.arange(n))
    raise SingularMomentsError(_too_small(n, penalty, dtype))


def _residual(
    rows: Matrix,
    targets: Matrix,
    dual: Matrix,
    gamma: float,
    penalty: Matrix,
    at: npt.NDArray[np.intp],
) -> Matrix:
    """Return rows `at` of B - (K + diag(penalty)) A in float64, whatever made the factor."""
    left: Matrix = targets[at] - penalty[at, None] * dual[at]

    def subtract(start: int) -> None:
        block = slice(start, start + _BLOCK_ROWS)
        kernel = gaussian(rows[at[block]], rows, gamma)
        # The row's own entry is 1, in the factor as here.
        kernel[np.arange(len(kernel)), at[block]] = 1
        left[block] -= kernel @ dual

    map_threads(subtract, range(0, len(at), _BLOCK_ROWS))
    return left


def _too_small(n: int, penalty: Matrix, dtype: type[np.floating[Any]]) -> str:
    return (
        f"A penalty of {penalty.min():.3g} is below the rounding of a kernel of {n:,} rows in "
        f"{np.dtype(dtype).name}. Use a larger alpha, a larger gamma, or landmarks."
    )


BLOCK_ROWS = 4096
"""Rows predicted at a time: the kernel between them and the support stays small."""


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
    n_landmarks : int or None
        None, or not fewer than the rows: exact. Else f is a combination of kernels about so many
        rows only (Nyström), the best one; what is stored and evaluated shrinks to them.
    landmarks : {"uniform", "k-means++"}
        How they are drawn; see `choose_landmarks`.
    seed : int
        Draws them.

    Attributes
    ----------
    support_ : ndarray of shape (m, q) for "y->x", (m, p) for "x->y"
        Rows about which the kernels lie: the predicting rows, or the landmarks.
    dual_ : ndarray of shape (m, p) for "y->x", (m, q) for "x->y"
        A.
    mean_x_, mean_y_ : ndarray of shape (p,), (q,)
        What is subtracted on each side; 0 if not `center`.
    gamma_ : float
        The absolute γ.
    residual_ : float
        ‖B - (K + alpha diag(1/w)) A‖ / ‖B‖: the error of the solver. 0 from landmarks, where the
        small system is solved in float64.
    n_features_in_ : int
        p.
    feature_names_in_ : ndarray of shape (p,)
        Only if X had string column names.

    Notes
    -----
    `predict` gives y from X. For "y->x" there is no way back through the kernel: it returns the
    supporting text whose projection is nearest to the image. Good enough to look at, not what the
    aligner is for.

    Cost of the exact solution for n rows: n³/3 products and 4 n² bytes beyond 6,000 rows (float32,
    then refined), 8 n² below. From m landmarks: n m² products, 8 n m bytes.

    References
    ----------
    Saunders et al., Ridge Regression Learning Algorithm in Dual Variables, ICML 1998. The direction
    from text to image suffers less from hubs: Shigeto et al., 2015.
    """

    method: ClassVar[str] = "kernel-ridge"
    fitted_values: ClassVar[tuple[str, ...]] = ("gamma_", "residual_", "n_features_in_")
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "direction": [StrOptions({"y->x", "x->y"})],
        "gamma": [Interval(Real, 0, None, closed="neither")],
        "relative": ["boolean"],
        "alpha": [Interval(Real, 0, None, closed="neither")],
        "center": ["boolean"],
        "n_landmarks": [Interval(Integral, 1, None, closed="left"), None],
        "landmarks": [StrOptions(set(METHODS))],
        "seed": [Interval(Integral, 0, None, closed="left")],
    }

    def __init__(
        self,
        direction: str = "y->x",
        *,
        gamma: float = 4.0,
        relative: bool = True,
        alpha: float = 0.01,
        center: bool = True,
        n_landmarks: int | None = None,
        landmarks: str = "uniform",
        seed: int = 0,
    ) -> None:
        self.direction = direction
        self.gamma = gamma
        self.relative = relative
        self.alpha = alpha
        self.center = center
        self.n_landmarks = n_landmarks
        self.landmarks = landmarks
        self.seed = seed

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit(
        self,
        X: Rows,
        y: Rows,
        sample_weight: npt.NDArray[Any] | None = None,
        *,
        n_first: int = 0,
    ) -> Self:
        """Fit on n paired rows.

        Parameters
        ----------
        X : ndarray of shape (n, p)
        y : ndarray of shape (n, q) or (n,)
        sample_weight : ndarray of shape (n,), optional
            Mass of each row, not negative.
        n_first : int
            So many rows at the front, such as prototypes, will be fitted again with others behind
            them: their part of the exact solution is kept for the next fit. The result is the same.

        Raises
        ------
        SingularMomentsError
            If alpha is too small for the rows; the message says what to change.
        """
        x64, y64, weight = validate_pairs(self, X, y, sample_weight)
        self.mean_x_, self.mean_y_ = np.zeros(x64.shape[1]), np.zeros(y64.shape[1])
        if self.center:
            self.mean_x_, self.mean_y_ = mean_rows(x64, y64, weight)
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
        if self.n_landmarks is None or self.n_landmarks >= len(a):
            self.support_ = a
            n_first = int(used[:n_first].sum())
            self.dual_, self.residual_ = solve_kernel(
                a, b, self.gamma_, self.alpha / weight, n_first=n_first
            )
        else:
            self._fit_landmarks(a, b, weight)
        return self

    def _fit_landmarks(self, a: Matrix, b: Matrix, weight: Matrix) -> None:
        assert self.n_landmarks is not None
        chosen = choose_landmarks(
            a,
            int(self.n_landmarks),
            np.random.default_rng(self.seed),
            method=self.landmarks,  # type: ignore[arg-type]   # checked by its constraint
            weight=weight,
        )
        features = NystroemMap.of_landmarks(a[chosen], self.gamma_)
        gram, cross = features.normal_equations(a, b, weight)
        gram[np.diag_indices_from(gram)] += self.alpha
        solution = scipy.linalg.solve(gram, cross, assume_a="pos", overwrite_a=True)
        self.support_, self.dual_ = features.landmarks, features.root @ solution
        self.residual_ = 0.0

    def predict(self, X: Rows) -> Matrix:
        """Return the rows of y that belong to the rows of X, shape (n, q) or (n,)."""
        x64 = self.new_rows(X) - self.mean_x_
        if self.direction == "x->y":
            return as_columns(self, self._map(x64) + self.mean_y_)
        fitted = self._map(self.support_)
        lengths = np.linalg.norm(fitted, axis=1)
        scores = x64 @ (fitted / np.where(lengths > 0, lengths, 1)[:, None]).T
        return as_columns(self, self.support_[np.argmax(scores, axis=1)] + self.mean_y_)

    def _map(self, rows: Matrix) -> Matrix:
        """Return f of each (shifted) row of the predicting side."""
        out = np.empty((len(rows), self.dual_.shape[1]))
        for start in range(0, len(rows), BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            out[block] = gaussian(rows[block], self.support_, self.gamma_) @ self.dual_
        return out

    def array_shapes(self) -> dict[str, tuple[str, ...]]:
        """Return the fitted arrays and their shapes in letters."""
        back = self.direction == "y->x"
        return {
            "support_": ("m", "q" if back else "p"),
            "dual_": ("m", "p" if back else "q"),
            "mean_x_": ("p",),
            "mean_y_": ("q",),
        }

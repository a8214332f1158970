"""The Gaussian kernel: its features by Nyström landmarks, and solvers of kernel ridge regression.

A solution is exact up to `DOUBLE_ROWS` rows by a float64 Cholesky factor. Beyond, in place by a
float32 factor (4 n² bytes, the one matrix held), then refined: the residual is taken in float64
from kernel blocks made anew, and the factor solves for the correction until the residual is below
`TOLERANCE`. Whether it is, `SAMPLE` rows say: all rows of 21,841 take as long as the factor.

A benchmark solves for the same prototypes with ever other real pairs, and decomposes one kernel of
class texts for ever other image rows. Both are kept a while: `solve_first` and `decompose_kernel`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import scipy.linalg

from featstore.parallel import map_threads
from fitters.errors import SingularMomentsError
from fitters.kept import remember
from fitters.pairs import Matrix, Pairs, Rows
from fitters.solvers import Spectrum, eigen_gram

BLOCK_ROWS = 1024
"""Rows of the kernel matrix filled at a time: what is needed beyond the result stays small."""


def gaussian(
    a: Rows,
    b: Rows,
    gamma: float,
    *,
    dtype: npt.DTypeLike = np.float64,
    block_rows: int = BLOCK_ROWS,
) -> npt.NDArray[Any]:
    """Return the kernel matrix of two sets of rows.

    Parameters
    ----------
    a, b : ndarray of shape (n, d), (m, d)
    gamma : float
        Above 0. For unit rows, squared distances lie between 0 and 4.
    dtype : dtype
        Of the products and the result. In float32 an entry is off by up to about
        2e-7 · gamma · (‖a‖² + ‖b‖²).
    block_rows : int
        Rows of the matrix that are filled at a time.

    Returns
    -------
    ndarray of shape (n, m)
        Entries in [0, 1].
    """
    a, b = np.asarray(a, dtype), np.asarray(b, dtype)
    own_a, own_b = np.einsum("nd,nd->n", a, a), np.einsum("md,md->m", b, b)
    out: npt.NDArray[Any] = np.empty((len(a), len(b)), dtype)
    for start in range(0, len(a), block_rows):
        rows = slice(start, start + block_rows)
        block = out[rows]
        np.matmul(a[rows], b.T, out=block)
        block *= -2
        block += own_a[rows, None]
        block += own_b
        # Rounding can leave the distance of equal rows a little below 0.
        np.maximum(block, 0, out=block)
        block *= -gamma
        np.exp(block, out=block)
    return out


def choose_landmarks(
    rows: Rows, n_landmarks: int, rng: np.random.Generator
) -> npt.NDArray[np.intp]:
    """Return the positions of `n_landmarks` rows drawn evenly, ascending; at most of all.

    Parameters
    ----------
    rows : ndarray of shape (n, d)
    n_landmarks : int
        At least 1.
    rng : numpy.random.Generator
    """
    if n_landmarks >= len(rows):
        return np.arange(len(rows))
    return np.sort(rng.choice(len(rows), n_landmarks, replace=False))


DROPPED = 1e-12
"""Eigenvalues of the landmarks' kernel below this share of the largest are rounding."""

_AT_A_TIME = 8


@dataclass(frozen=True, eq=False)
class NystroemMap:
    """Row-wise map φ with φ(a)·φ(b) ≈ exp(-gamma ‖a - b‖²), exact where a or b is a landmark.

    With K(L, L) = U diag(s) Uᵀ on the landmarks L, φ(a) = K(a, L) U diag(1/√s), without the
    directions whose s is rounding (`DROPPED`).

    Attributes
    ----------
    landmarks : ndarray of shape (m, d)
    root : ndarray of shape (m, r)
        U diag(1/√s).
    gamma : float

    References
    ----------
    Williams and Seeger, Using the Nyström Method to Speed Up Kernel Machines, NIPS 2000.
    """

    landmarks: Matrix
    root: Matrix
    gamma: float

    @classmethod
    def of_landmarks(cls, landmarks: Rows, gamma: float) -> Self:
        """Return the map of these landmarks, shape (m, d)."""
        kept = np.asarray(landmarks, np.float64)
        values, vectors = eigen_gram(gaussian(kept, kept, gamma))
        used = values > DROPPED * values[-1]
        return cls(kept, vectors[:, used] / np.sqrt(values[used]), float(gamma))

    @property
    def n_features(self) -> int:
        """Columns that it gives, r."""
        return int(self.root.shape[1])

    def apply(self, rows: Rows) -> Matrix:
        """Return φ of each row, shape (n, r), float64."""
        return gaussian(rows, self.landmarks, self.gamma) @ self.root

    def normal_equations(
        self, rows: Rows, targets: Rows, weight: npt.NDArray[Any]
    ) -> tuple[Matrix, Matrix]:
        """Return ΦᵀWΦ and ΦᵀWB, which ridge regression on the features needs, without Φ.

        Parameters
        ----------
        rows, targets : ndarray of shape (n, d), (n, q)
        weight : ndarray of shape (n,)

        Returns
        -------
        gram, cross : ndarray of shape (r, r), (r, q)
            float64.
        """

        def of_block(start: int) -> tuple[Matrix, Matrix]:
            block = slice(start, start + BLOCK_ROWS)
            root = np.sqrt(weight[block])[:, None]
            mapped = root * self.apply(rows[block])
            return mapped.T @ mapped, mapped.T @ (root * targets[block])

        gram = np.zeros((self.n_features, self.n_features))
        cross = np.zeros((self.n_features, targets.shape[1]))
        starts = range(0, len(rows), BLOCK_ROWS)
        # A few blocks at a time: each leaves two matrices of the size of the result.
        for first in range(0, len(starts), _AT_A_TIME):
            for of_gram, of_cross in map_threads(of_block, starts[first : first + _AT_A_TIME]):
                gram += of_gram
                cross += of_cross
        return gram, cross


DOUBLE_ROWS = 6000
"""A float64 kernel of so many rows takes 288 MB."""

TOLERANCE = 1e-5
"""Of ‖B - (K + diag(penalty)) A‖ / ‖B‖."""

ROUNDS = 4

SAMPLE = 2048
"""Rows, spread evenly, whose residual says whether another round is needed."""


_BLOCK_ROWS = 256


@dataclass(frozen=True, eq=False)
class Solution:
    """A solved system in float64, with what it takes to add rows to it.

    Attributes
    ----------
    gamma : float
    factor : ndarray of shape (n, n)
        Lower Cholesky factor of K + diag(penalty).
    dual : ndarray of shape (n, q)
    residual : float
        As `solve_kernel` returns it.
    """

    gamma: float
    factor: Matrix
    dual: Matrix
    residual: float

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

    # For 1,000 texts 8 MB a width, of which a choice looks at five or more.
    return remember(decompose, "kernel", rows, weight, gamma)


def solve_first(rows: Matrix, targets: Matrix, gamma: float, penalty: Matrix) -> Solution:
    """Return the solution of at most `DOUBLE_ROWS` rows, which is kept for the next call.

    The arguments and errors are those of `solve_kernel`.
    """

    def solve() -> Solution:
        factor = _factor(rows, gamma, penalty, np.float64)
        dual, residual = _refine(factor, rows, targets, gamma, penalty)
        return Solution(gamma, factor, dual, residual)

    # For 1,000 prototypes and images of 1,280 values it takes 18 MB.
    return remember(solve, "solution", rows, targets, gamma, penalty)


def correct_first(
    rows: Matrix,
    targets: Matrix,
    others: Pairs,
    gamma: float,
    penalty: Matrix,
    noises: Mapping[float, float],
    without: Mapping[float, float],
) -> tuple[Matrix, Matrix, float]:
    """Return the solution of n rows, and its correction by k others averaged over their noise.

    With S the kernel of the others that the rows leave and r what they leave of their targets, the
    others get Σ_ν p_ν (S + ν diag(1/w))⁻¹ r, and the rows what block elimination makes of that.

    Parameters
    ----------
    rows, targets : ndarray of shape (n, d), (n, q)
    others : Pairs
        Their `y` are kernel rows, their `x` targets; weights above 0.
    gamma : float
    penalty : ndarray of shape (n,)
        Of the rows.
    noises, without : mapping of float to float
        Noise ν → its share p_ν, of fits with the rows and without them. Noise without end corrects
        nothing.

    Returns
    -------
    first : ndarray of shape (n, q)
        Dual coefficients of the rows alone.
    both : ndarray of shape (n + k, q)
        Those of the averaged fit, the rows' first.
    residual : float
        Of the rows alone; see `solve_kernel`.

    Raises
    ------
    SingularMomentsError
        As `solve_kernel`.
    """
    texts, images = others.y.astype(np.float64), others.x.astype(np.float64)
    if len(rows) <= DOUBLE_ROWS:
        solution = solve_first(rows, targets, gamma, penalty)
        first, residual = solution.dual, solution.residual
        weights, covered, explained = solution.eliminate(rows, texts)
    else:
        reach = gaussian(texts, rows, gamma)
        solved, residual = solve_kernel(rows, np.hstack([targets, reach.T]), gamma, penalty)
        first, weights = solved[:, : targets.shape[1]], solved[:, targets.shape[1] :]
        covered, explained = reach @ weights, reach @ first
    kernel, root = gaussian(texts, texts, gamma), np.sqrt(others.row_weight)[:, None]

    def averaged(system: Matrix, left: Matrix, shares: Mapping[float, float]) -> Matrix:
        if not any(share and np.isfinite(noise) for noise, share in shares.items()):
            return np.zeros_like(left)
        return root * Spectrum.of(root * system * root.T, root * left).mean(shares)

    correction = averaged(kernel - (covered + covered.T) / 2, images - explained, noises)
    own = sum(noises.values()) * first - weights @ correction
    both = np.concatenate([own, correction + averaged(kernel, images, without)])
    return first, both, residual


def solve_kernel(
    rows: Matrix, targets: Matrix, gamma: float, penalty: Matrix
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
    dtype = np.float64 if len(rows) <= DOUBLE_ROWS else np.float32
    return _refine(_factor(rows, gamma, penalty, dtype), rows, targets, gamma, penalty)


def _factor(
    rows: Matrix, gamma: float, penalty: Matrix, dtype: type[np.floating[Any]]
) -> npt.NDArray[Any]:
    """Return the lower Cholesky factor of K + diag(penalty)."""
    system = gaussian(rows, rows, gamma, dtype=dtype)
    # Rounding leaves the diagonal a little below 1.
    system[np.diag_indices(len(rows))] = 1 + penalty.astype(dtype)
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
        f"{np.dtype(dtype).name}. Use a larger alpha or a larger gamma."
    )

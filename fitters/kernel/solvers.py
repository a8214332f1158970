"""Solve (K + diag(penalty)) A = B for a Gaussian K, in as little memory as n rows allow.

Up to `DOUBLE_ROWS` rows by a float64 Cholesky factor. Beyond, in place by a float32 factor (4 n²
bytes, the one matrix held), then refined: the residual is taken in float64 from kernel blocks made
anew, and the factor solves for the correction until the residual is below `TOLERANCE`. Whether it
is, `SAMPLE` rows say: all rows of 21,841 take as long as the factor.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.linalg

from fitters.errors import SingularMomentsError
from fitters.feature_maps.kernels import gaussian
from fitters.side_by_side import side_by_side

Matrix = npt.NDArray[np.float64]

DOUBLE_ROWS = 6000
"""A float64 kernel of so many rows takes 288 MB."""

TOLERANCE = 1e-5
"""Of ‖B - (K + diag(penalty)) A‖ / ‖B‖."""

ROUNDS = 4

SAMPLE = 2048
"""Rows, spread evenly, whose residual says whether another round is needed."""

_BLOCK_ROWS = 256


def solve_kernel(
    rows: Matrix, targets: Matrix, gamma: float, penalty: Matrix, *, in_double: bool | None = None
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
    dtype: type[np.floating[Any]] = np.float64 if double else np.float32
    system = gaussian(rows, rows, gamma, dtype=dtype)
    diagonal = np.diag_indices(n)
    # Rounding leaves the diagonal a little below 1.
    system[diagonal] = 1 + penalty.astype(dtype)
    try:
        # The transpose of a symmetric matrix is itself, in the order that LAPACK overwrites.
        factor = scipy.linalg.cho_factor(system.T, lower=True, overwrite_a=True, check_finite=False)
    except scipy.linalg.LinAlgError as err:
        raise SingularMomentsError(_too_small(n, penalty, dtype)) from err
    del system
    dual = np.zeros_like(targets)
    left = targets
    sample = np.unique(np.linspace(0, n - 1, min(n, SAMPLE)).round().astype(np.intp))
    scale = float(np.linalg.norm(targets[sample])) or 1.0
    residual = 1.0
    for _ in range(ROUNDS):
        dual += scipy.linalg.cho_solve(factor, left.astype(dtype), check_finite=False)
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

    side_by_side(subtract, range(0, len(at), _BLOCK_ROWS))
    return left


def _too_small(n: int, penalty: Matrix, dtype: type[np.floating[Any]]) -> str:
    return (
        f"A penalty of {penalty.min():.3g} is below the rounding of a kernel of {n:,} rows in "
        f"{np.dtype(dtype).name}. Use a larger alpha, a larger gamma, or landmarks."
    )

"""Closed-form solvers: arrays in, arrays out, float64.

Notation: `a` is the side that predicts and `b` the side that is predicted, whichever of x and y
they are. gram = Σ w a aᵀ and cross = Σ w a bᵀ, about the mean or about 0 as the caller chose.

The shapes in the annotations are executable: the tests check every call with beartype.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg

from fitters.errors import SettingError, SingularMomentsError

if TYPE_CHECKING:
    # Not a dependency: the annotations are strings. tests/fitters/conftest.py puts the name here
    # and hooks every function, and a test sees to it that a wrong shape is refused.
    from jaxtyping import Float


def relative_penalty(gram: Float[np.ndarray, "p p"], penalty: float) -> float:
    """Return α = penalty · tr(gram) / p, the penalty in units of the mean squared column."""
    return penalty * float(np.trace(gram)) / len(gram)


def solve_ridge(
    gram: Float[np.ndarray, "p p"], cross: Float[np.ndarray, "p q"], alpha: float
) -> Float[np.ndarray, "p q"]:
    """Solve ridge regression from a to b, given their second moments.

    Minimises, over C of shape (p, q)::

        Σ w ||a C - b||^2 + alpha ||C||^2

    Parameters
    ----------
    gram, cross : ndarray of shape (p, p), (p, q)
    alpha : float
        On the summed squared error: the number of ``sklearn.linear_model.Ridge(alpha=alpha)``.

    Raises
    ------
    SettingError
        If alpha < 0.
    SingularMomentsError
        If alpha is 0 and gram is singular; the message gives its rank.

    References
    ----------
    Hastie et al., The Elements of Statistical Learning, 2009, eq. 3.44.
    """
    _check_penalties(alpha)
    if alpha == 0:
        _check_full_rank(gram)
    system = gram.copy()
    system[np.diag_indices_from(system)] += alpha
    if not system.any():
        return np.zeros_like(cross)
    try:
        factor = scipy.linalg.cho_factor(system, check_finite=False)
    except scipy.linalg.LinAlgError:
        # alpha below the rounding of gram: not positive to the last bit.
        return np.asarray(ridge_path(gram, cross, np.array([alpha]))[0])
    return np.asarray(scipy.linalg.cho_solve(factor, cross, check_finite=False))


def solve_ridge_dual(
    a: Float[np.ndarray, "n p"], b: Float[np.ndarray, "n q"], alpha: float
) -> Float[np.ndarray, "p q"]:
    """Solve the same problem from n < p rows: Cᵀ = bᵀ (a aᵀ + alpha I)⁻¹ a.

    Weighted rows come multiplied by √w; alpha must be above 0.
    """
    _check_penalties(alpha)
    if alpha == 0:
        msg = "The dual form needs alpha > 0. Solve the normal equations instead."
        raise SettingError(msg)
    solution: np.ndarray = a.T @ solve_ridge(a @ a.T, b, alpha)
    return solution


def eigen_gram(
    gram: Float[np.ndarray, "p p"],
) -> tuple[Float[np.ndarray, " p"], Float[np.ndarray, "p p"]]:
    """Return eigenvalues (ascending, none negative) and eigenvectors (columns) of gram.

    This one decomposition serves every penalty.
    """
    values, vectors = np.linalg.eigh(gram)
    # gram is a sum of squares: what is below 0 is rounding.
    return np.maximum(values, 0.0), vectors


def ridge_path(
    gram: Float[np.ndarray, "p p"],
    cross: Float[np.ndarray, "p q"],
    alphas: Float[np.ndarray, " k"],
) -> Float[np.ndarray, "k p q"]:
    """Solve ridge regression for every alpha from one eigendecomposition.

    gram = U diag(s) Uᵀ gives C(alpha) = U diag(1 / (s + alpha)) Uᵀ cross.

    Raises
    ------
    SettingError, SingularMomentsError
        As `solve_ridge`.
    """
    _check_penalties(*alphas)
    if (alphas == 0).any():
        _check_full_rank(gram)
    values, vectors = eigen_gram(gram)
    rotated = vectors.T @ cross
    path = np.empty((len(alphas), *cross.shape))
    for k, alpha in enumerate(alphas):
        path[k] = (vectors * invert_spectrum(values, float(alpha))) @ rotated
    return path


def invert_spectrum(values: Float[np.ndarray, " p"], alpha: float) -> Float[np.ndarray, " p"]:
    """Return 1 / (s + alpha), and 0 where s + alpha is 0."""
    shifted = values + alpha
    inverse = np.zeros_like(shifted)
    np.divide(1.0, shifted, out=inverse, where=shifted > 0)
    return inverse


def polar_factor(
    cross: Float[np.ndarray, "p q"],
) -> tuple[Float[np.ndarray, "p q"], Float[np.ndarray, " r"]]:
    """Solve orthogonal Procrustes: the rotation R that takes a to b best.

    Maximises tr(Rᵀ cross), which for a square cross minimises Σ w ||a R - b||^2 over rotations.
    With cross = U diag(s) Vᵀ, R = U Vᵀ: orthogonal if p = q, semi-orthogonal (R Rᵀ = I or
    RᵀR = I, whichever is smaller) if not.

    Returns
    -------
    rotation : ndarray of shape (p, q)
    singular_values : ndarray of shape (r,), r = min(p, q), descending
        A last value near 0 relative to the first says that the data leave R undetermined there.

    Notes
    -----
    Always in float64: in float32 a rank-deficient cross gave a rotation 4.5e-2 off.
    """
    u, values, vt = np.linalg.svd(cross.astype(np.float64, copy=False), full_matrices=False)
    return u @ vt, values


def singular_value_gap(values: Float[np.ndarray, " r"]) -> float:
    """Return the smallest singular value over the largest: near 0, R is not determined by the data.

    The rotation moves by about ‖error of cross‖ / (sum of the two smallest singular values), so a
    gap at rounding level means that some directions of R are arbitrary.
    """
    return float(values[-1] / values[0]) if values[0] > 0 else 0.0


def _check_penalties(*alphas: float) -> None:
    bad = [alpha for alpha in alphas if not (np.isfinite(alpha) and alpha >= 0)]
    if bad:
        msg = f"A ridge penalty must be a finite number that is not negative. Got {bad[0]}."
        raise SettingError(msg)


def _check_full_rank(gram: np.ndarray) -> None:
    rank = int(np.linalg.matrix_rank(gram, hermitian=True))
    if rank < len(gram):
        msg = (
            f"Without a penalty there is no unique solution: {len(gram):,} columns, rank {rank:,}. "
            "Use a penalty above 0, or more rows."
        )
        raise SingularMomentsError(msg)

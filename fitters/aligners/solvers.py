"""Closed-form solvers: arrays in, arrays out, float64.

Notation: `a` is the side that predicts and `b` the side that is predicted, whichever of x and y
they are. gram = Σ w a aᵀ and cross = Σ w a bᵀ, about the mean or about 0 as the caller chose.

The shapes in the annotations are executable: the tests check every call with beartype.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg

from fitters.errors import SingularMomentsError
from fitters.spectrum import Spectrum, eigen_gram

if TYPE_CHECKING:
    # Not a dependency: the annotations are strings. tests/fitters/conftest.py puts the name here
    # and hooks every function, and a test sees to it that a wrong shape is refused.
    from jaxtyping import Float


DETERMINED = 1e-6
"""A direction counts as found in the data if its singular value is above this part of the largest.

Rows in float32 are off by up to 6e-8 of themselves, which in products of thousands of rows leaves
up to some 1e-7 where there is nothing; in exact arithmetic a cross of fewer pairs than columns has
singular values of 0. What belongs to either is whatever LAPACK returns.
"""


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
    SingularMomentsError
        If alpha is 0 and gram is singular; the message gives its rank.

    References
    ----------
    Hastie et al., The Elements of Statistical Learning, 2009, eq. 3.44.
    """
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
        return Spectrum.of(gram, cross).fit(alpha)
    return np.asarray(scipy.linalg.cho_solve(factor, cross, check_finite=False))


def solve_ridge_dual(
    a: Float[np.ndarray, "n p"], b: Float[np.ndarray, "n q"], alpha: float
) -> Float[np.ndarray, "p q"]:
    """Solve the same problem from n < p rows: Cᵀ = bᵀ (a aᵀ + alpha I)⁻¹ a.

    Weighted rows come multiplied by √w; alpha must be above 0.
    """
    return a.T @ solve_ridge(a @ a.T, b, alpha)


def polar_factor(
    cross: Float[np.ndarray, "p q"], rank: int | None = None
) -> tuple[Float[np.ndarray, "p q"], Float[np.ndarray, " r"]]:
    """Solve orthogonal Procrustes: the rotation R that takes a to b best, unique in every case.

    Maximises tr(Rᵀ cross) over R of spectral norm at most 1, which for a square cross of full rank
    minimises Σ w ||a R - b||^2 over rotations. With cross = U diag(s) Vᵀ, R = U_r V_rᵀ, where r
    counts the singular values above `DETERMINED` times the largest: R is orthogonal if p = q = r,
    semi-orthogonal (R Rᵀ = I or RᵀR = I) if r is the smaller of p and q. If r is less, the data
    leave R open outside r directions, any completion is as good, and this is the maximiser of
    least norm: the partial isometry that is 0 there.

    Parameters
    ----------
    rank : int, optional
        Keep at most so many directions, the first.

    Returns
    -------
    rotation : ndarray of shape (p, q)
    singular_values : ndarray of shape (min(p, q),), descending

    Notes
    -----
    Always in float64: in float32 a rank-deficient cross gave a rotation 4.5e-2 off.

    References
    ----------
    Schönemann, A generalized solution of the orthogonal Procrustes problem, 1966. Higham, Functions
    of Matrices, 2008, theorem 8.3: the partial isometry of a polar decomposition is unique.
    """
    u, values, vt = np.linalg.svd(cross.astype(np.float64, copy=False), full_matrices=False)
    kept = determined(values, rank)
    return u[:, :kept] @ vt[:kept], values


def determined(values: Float[np.ndarray, " r"], most: int | None = None) -> int:
    """Return how many singular values, descending, are above `DETERMINED` times the first.

    `most`, if that is fewer.
    """
    found = int(np.count_nonzero(values > DETERMINED * values[0]))
    return found if most is None else min(found, int(most))


def truncation_gap(values: Float[np.ndarray, " r"], rank: int) -> float:
    """Return (s_rank − s_rank+1) / s_1: near 0, the data do not say which directions to keep.

    With nothing cut off, s_rank+1 counts as 0: near 0, the data leave the rotation partly open.
    """
    if values[0] <= 0 or rank == 0:
        return 0.0
    following = values[rank] if rank < len(values) else 0.0
    return float((values[rank - 1] - following) / values[0])


def fix_signs(
    left: Float[np.ndarray, "p r"], right: Float[np.ndarray, "q r"]
) -> tuple[Float[np.ndarray, "p r"], Float[np.ndarray, "q r"]]:
    """Return both with every pair of columns multiplied by ±1, so that the sign is not chance.

    The largest entry of a column of `left` is positive; of equal ones, the first.
    """
    largest = np.abs(left).argmax(axis=0)
    signs = np.where(left[largest, np.arange(left.shape[1])] < 0, -1.0, 1.0)
    return left * signs, right * signs


def leading_directions(
    cross: Float[np.ndarray, "p q"],
) -> tuple[Float[np.ndarray, "p r"], Float[np.ndarray, " r"], Float[np.ndarray, "q r"]]:
    """Return U, s and V of cross = U diag(s) Vᵀ, s descending, signs fixed by `fix_signs`."""
    u, values, vt = np.linalg.svd(cross.astype(np.float64, copy=False), full_matrices=False)
    left, right = fix_signs(u, vt.T)
    return left, values, right


def inverse_root(cov: Float[np.ndarray, "p p"], alpha: float) -> Float[np.ndarray, "p p"]:
    """Return (cov + alpha I)^(−1/2), symmetric; 0 in directions that have no variance.

    A direction counts as having none if its eigenvalue is at rounding level, p · 2.2e-16 of the
    largest.
    """
    values, vectors = eigen_gram(cov)
    shifted = values + alpha
    roots = np.zeros_like(shifted)
    lowest = len(cov) * np.finfo(np.float64).eps * shifted[-1]
    np.divide(1.0, np.sqrt(shifted), out=roots, where=shifted > lowest)
    return (vectors * roots) @ vectors.T


def solve_cca(
    cov_xx: Float[np.ndarray, "p p"],
    cov_xy: Float[np.ndarray, "p q"],
    cov_yy: Float[np.ndarray, "q q"],
    alpha_x: float,
    alpha_y: float,
) -> tuple[Float[np.ndarray, "p r"], Float[np.ndarray, " r"], Float[np.ndarray, "q r"]]:
    """Solve canonical correlation analysis with a ridge on both covariances.

    With S₁ = cov_xx + alpha_x I and S₂ = cov_yy + alpha_y I, and the singular value decomposition
    S₁^(−1/2) cov_xy S₂^(−1/2) = U diag(s) Vᵀ::

        W_x = S₁^(−1/2) U,   W_y = S₂^(−1/2) V

    Returns
    -------
    weights_x : ndarray of shape (p, r), r = min(p, q)
    strengths : ndarray of shape (r,)
        s, descending, within [0, 1]: with both alphas 0 the canonical correlations, else below the
        correlations of the projected rows.
    weights_y : ndarray of shape (q, r)

    References
    ----------
    Hotelling, Relations between two sets of variates, 1936; with a ridge: Vinod, Canonical ridge
    and econometrics of joint production, 1976.
    """
    root_x, root_y = inverse_root(cov_xx, alpha_x), inverse_root(cov_yy, alpha_y)
    u, values, v = leading_directions(root_x @ cov_xy @ root_y)
    left, right = fix_signs(root_x @ u, root_y @ v)
    # Above 1 is rounding.
    return left, np.minimum(values, 1.0), right


def least_squares(
    gram: Float[np.ndarray, "p p"], cross: Float[np.ndarray, "p q"]
) -> Float[np.ndarray, "p q"]:
    """Solve gram C = cross; the solution of least norm where gram is singular."""
    root = inverse_root(gram, 0.0)
    return root @ (root @ cross)


def _check_full_rank(gram: np.ndarray) -> None:
    rank = int(np.linalg.matrix_rank(gram, hermitian=True))
    if rank < len(gram):
        raise SingularMomentsError(
            f"Without a penalty there is no unique solution: {len(gram):,} columns, rank {rank:,}. "
            "Use a penalty above 0, or more rows."
        )

"""Closed-form solvers, arrays in, arrays out, float64; and which captions would help most.

Penalised least squares is decomposed once: every penalty, average and left-out group follow. Over
the weighted rows Φ = √w φ(a) and targets B = √w b the problem is::

    minimise over C   ‖Φ C − B‖² + α ‖C‖²,      C = lhs · 1 / (λ + α) · rhs

with the eigenvalues λ of ΦᵀΦ, or of the kernel ΦΦᵀ where there are fewer rows or no columns.

A fit without the group I predicts its rows by O = X Qᵀ + D, Q being Φ in the eigenbasis, and D
nothing but blocks of I. With H = Φ (ΦᵀΦ + α)⁻¹ Φᵀ, X is (I − H_II)⁻¹ H_I seen in the eigenbasis; in
the dual, with G = (ΦΦᵀ + α)⁻¹, it is −G_II⁻¹ G_I. What is left out has no part in its prediction:
O_II = 0, which says what D is.

Notation: `a` is the side that predicts and `b` the side that is predicted, whichever of x and y
they are. gram = Σ w a aᵀ and cross = Σ w a bᵀ, about the mean or about 0 as the caller chose.

The shapes in the annotations are executable: the tests check every call with beartype.

Which images' captions would help most (`suggest`) is a design of experiments: no caption is there
yet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import scipy.linalg

from fitters.errors import SettingError, SingularMomentsError
from fitters.pairs import Matrix

if TYPE_CHECKING:
    from jaxtyping import Float


Parts = Sequence[npt.NDArray[np.intp]]
"""Rows that are left out together; every other row is left out alone."""


@dataclass(frozen=True, eq=False)
class Spectrum:
    """A penalised least-squares problem by its eigenvalues.

    Attributes
    ----------
    values : ndarray of shape (r,)
        λ, ascending; where infinite, nothing is fitted in that direction.
    vectors : ndarray of shape (m, r)
        Eigenvectors of the gram of m columns, or of the kernel of m rows.
    lhs : ndarray of shape (k, r)
        What a row of coefficients is in the eigenbasis: new rows are seen in it by ``rows @ lhs``.
    rhs : ndarray of shape (r, q)
        The targets, seen from the eigenbasis.
    rows : ndarray of shape (n, r), optional
        Q, the weighted rows in the eigenbasis: those that may be left out.
    targets : ndarray of shape (n, q), optional
        √w b of these.
    dual : bool
        The decomposition is that of a kernel.

    Examples
    --------
    >>> a, b = np.random.default_rng(0).standard_normal((2, 9, 3))
    >>> made = Spectrum.of_rows(a, b)
    >>> np.allclose(made.fit(0.5), np.linalg.solve(a.T @ a + 0.5 * np.eye(3), a.T @ b))
    True
    >>> without = np.linalg.solve(a[1:].T @ a[1:] + 0.5 * np.eye(3), a[1:].T @ b[1:])
    >>> np.allclose(made.left_out(0.5)[0], a[0] @ without)
    True
    """

    values: Matrix
    vectors: Matrix
    lhs: Matrix
    rhs: Matrix
    rows: Matrix = field(default_factory=lambda: np.empty((0, 0)))
    targets: Matrix = field(default_factory=lambda: np.empty((0, 0)))
    dual: bool = False

    @classmethod
    def of(cls, gram: Matrix, cross: Matrix, lhs: Matrix | None = None) -> Spectrum:
        """Return the problem of ΦᵀΦ and ΦᵀB, whose coefficients `lhs` multiplies if it is given."""
        values, vectors = eigen_gram(gram)
        return cls(values, vectors, vectors if lhs is None else lhs @ vectors, vectors.T @ cross)

    @classmethod
    def of_kernel(
        cls, decomposed: tuple[Matrix, Matrix], targets: Matrix, lhs: Matrix | None = None
    ) -> Spectrum:
        """Return the problem of `eigen_gram` of the kernel ΦΦᵀ; `lhs` is Φᵀ where it is known."""
        values, vectors = decomposed
        left = vectors if lhs is None else lhs @ vectors
        return cls(values, vectors, left, vectors.T @ targets, vectors, targets, dual=True)

    @classmethod
    def of_rows(cls, rows: Matrix, targets: Matrix) -> Spectrum:
        """Return the problem of weighted rows, in the smaller of both forms."""
        if len(rows) <= rows.shape[1]:
            return cls.of_kernel(eigen_gram(rows @ rows.T), targets, rows.T)
        return cls.of(rows.T @ rows, rows.T @ targets).beside(rows, targets)

    def beside(self, rows: Matrix, targets: Matrix) -> Spectrum:
        """Return the problem with those of its weighted rows that may be left out."""
        return replace(self, rows=rows @ self.lhs, targets=targets)

    def inverse(self, alpha: float) -> Matrix:
        """Return 1 / (λ + alpha), and 0 where λ + alpha is 0; shape (r,)."""
        return inverse_of(self.values, alpha)

    def fit(self, alpha: float) -> Matrix:
        """Return the coefficients at a penalty, shape (k, q)."""
        return self.mean({alpha: 1.0})

    def mean(self, shares: Mapping[float, float]) -> Matrix:
        """Return Σ p C(α) by penalty α → share p, shape (k, q). A penalty without end adds 0."""
        finite = [(share, alpha) for alpha, share in shares.items() if share and np.isfinite(alpha)]
        inverse = sum((p * self.inverse(alpha) for p, alpha in finite), np.zeros(len(self.values)))
        return (self.lhs * inverse) @ self.rhs

    def left_out(self, alpha: float, parts: Parts = (), asked: Matrix | None = None) -> Matrix:
        """Return what each row is predicted to be by a fit without it, shape (n, q).

        Parameters
        ----------
        alpha : float
            Above 0 in the dual.
        parts : sequence of int arrays
            Rows that are left out together.
        asked : ndarray of shape (n, k), optional
            What the fit without a row is asked instead of its own: columns of φ, or kernels with
            all rows times their √w. Predictions are then b; of the rows themselves they are √w b.
        """
        x = self.without(alpha, parts, None if asked is None else asked @ self.lhs)
        own, blocks = self.inside(x, parts)
        predicted: Matrix = x @ self.rhs + own[:, None] * self.targets
        for part, block in blocks:
            predicted[part] += block @ self.targets[part]
        return predicted

    def without(self, alpha: float, parts: Parts = (), reach: Matrix | None = None) -> Matrix:
        """Return X of the predictions, shape (n, r); `reach` is what is asked, in the eigenbasis.

        A row of X depends on the rows alone, not on their targets.
        """
        inverse = self.inverse(alpha)
        scaled = self.rows * inverse
        own = _products(scaled, self.rows)[:, None]
        # A leverage of 1 leaves nothing of the row's own direction.
        x: Matrix = -scaled / own if self.dual else scaled / (1 - own)
        for part in parts:
            block = scaled[part] @ self.rows[part].T
            left = -block if self.dual else np.eye(len(part)) - block
            x[part] = np.linalg.solve(left, scaled[part])
        if reach is None:
            return x
        reach = reach * inverse
        found: Matrix = reach + _products(reach, self.rows)[:, None] * x
        for part in parts:
            found[part] = reach[part] + reach[part] @ self.rows[part].T @ x[part]
        return found

    def inside(
        self, x: Matrix, parts: Parts
    ) -> tuple[Matrix, list[tuple[npt.NDArray[np.intp], Matrix]]]:
        """Return D: the values of rows that are left out alone, shape (n,), and a block a part."""
        own = -_products(x, self.rows)
        blocks = [(part, -x[part] @ self.rows[part].T) for part in parts]
        for part, _ in blocks:
            own[part] = 0.0
        return own, blocks


def eigen_gram(gram: npt.NDArray[np.floating[Any]]) -> tuple[Matrix, Matrix]:
    """Return eigenvalues (ascending, none negative) and eigenvectors (columns) of a gram.

    This one decomposition serves every penalty.
    """
    values, vectors = np.linalg.eigh(gram)
    # A gram is a sum of squares: what is below 0 is rounding.
    return np.maximum(values, 0.0), vectors


def inverse_of(values: Matrix, alpha: float) -> Matrix:
    """Return 1 / (λ + alpha) of eigenvalues λ, and 0 where λ + alpha is 0; shape (r,)."""
    shifted = values + alpha
    return np.divide(1.0, shifted, out=np.zeros_like(shifted), where=shifted > 0)


def _products(one: Matrix, other: Matrix) -> Matrix:
    """Return the product of each row with the same row of another, shape (n,)."""
    return np.einsum("nr,nr->n", one, other)


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
    if alpha == 0 and (rank := int(np.linalg.matrix_rank(gram, hermitian=True))) < len(gram):
        raise SingularMomentsError(
            f"Without a penalty there is no unique solution: {len(gram):,} columns, rank {rank:,}. "
            "Use a penalty above 0, or more rows."
        )
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


def most_informative(
    images: npt.NDArray[np.floating], known: npt.NDArray[np.floating], n: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return n images, best first, that leave a linear map from images least uncertain.

    Parameters
    ----------
    images : array of shape (m, p)
        Candidates, which stand for the images to come too: unit rows about their mean.
    known : array of shape (c, p)
        Rows whose text is known, such as those of a head: unit rows about their mean.
    n : int
        From 1 to m.

    Returns
    -------
    chosen : int64 array of shape (n,)
        Rows of `images`, in the order of the choice.
    left : float64 array of shape (n,)
        Share of the mean squared error expected over `images` that is left after each, where the
        known rows alone leave 1.

    Raises
    ------
    SettingError
        If n is not from 1 to m.

    Notes
    -----
    A Bayesian linear map with a prior N(0, I) and noise of variance 1 has the posterior covariance
    P = (I + Σ x xᵀ)⁻¹ over the known rows x: of a unit row in a direction that no other has, one
    pair takes half of the variance. The error expected at the images is tr(P S), with S their mean
    x xᵀ, and each step takes the image that lowers it most, by xᵀ P S P x / (1 + xᵀ P x): far from
    what is known, and in the middle of many images. No text is read, and nothing is chosen. This is
    the Bayesian A-optimal design at the images, greedily (Chaloner and Verdinelli, 1995; Yu, Bi and
    Tresp, Active Learning via Transductive Experimental Design, 2006).

    Examples
    --------
    >>> import numpy as np
    >>> images = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    >>> chosen, left = most_informative(images, np.array([[1.0, 0.0]] * 9), 2)
    >>> chosen.tolist(), left.round(2).tolist()
    ([1, 2], [0.54, 0.42])
    """
    m, p = images.shape
    if not 0 < n <= m:
        raise SettingError(f"From 1 to {m:,} of these images can be suggested; got {n:,}.")
    x, rows = np.asarray(images, np.float64), np.asarray(known, np.float64)
    of_images = x.T @ x / m
    # P x of every image, as rows.
    moved = np.linalg.solve(np.eye(p) + rows.T @ rows, x.T).T
    before = remaining = float(np.sum(moved * x)) / m
    chosen, left = list[int](), list[float]()
    for _ in range(n):
        gain = np.sum((moved @ of_images) * moved, axis=1) / (1.0 + np.sum(moved * x, axis=1))
        gain[chosen] = -1.0
        best = int(np.argmax(gain))
        remaining -= float(gain[best])
        own = moved[best]
        moved = moved - np.outer(x @ own, own) / (1.0 + float(own @ x[best]))
        chosen.append(best)
        left.append(remaining / before)
    return np.array(chosen), np.array(left)

"""The Gaussian kernel, and its features by Nyström landmarks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from featstore.parallel import map_threads
from fitters.pairs import Matrix, Rows
from fitters.spectrum import eigen_gram

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

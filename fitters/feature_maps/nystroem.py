"""Nyström features: a kernel seen from a few landmarks, as plain columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from fitters.errors import PairsError
from fitters.feature_maps.kernels import BLOCK_ROWS, check_gamma, gaussian
from fitters.feature_maps.landmarks import Method, choose_landmarks
from fitters.pairs import Rows
from fitters.side_by_side import side_by_side

Matrix = npt.NDArray[np.float64]

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

    kind: ClassVar[str] = "nystroem"

    def __post_init__(self) -> None:
        check_gamma(self.gamma)
        if self.root.ndim != 2 or len(self.root) != len(self.landmarks):
            msg = (
                f"{len(self.landmarks):,} landmarks need a root of as many rows. Got shape "
                f"{self.root.shape}."
            )
            raise PairsError(msg)

    @classmethod
    def of_landmarks(cls, landmarks: Rows, gamma: float) -> Self:
        """Return the map of these landmarks, shape (m, d)."""
        kept = np.asarray(landmarks, np.float64)
        values, vectors = np.linalg.eigh(gaussian(kept, kept, gamma))
        used = values > DROPPED * values[-1]
        return cls(kept, vectors[:, used] / np.sqrt(values[used]), float(gamma))

    @classmethod
    def fit(
        cls,
        rows: Rows,
        gamma: float,
        n_landmarks: int,
        rng: np.random.Generator,
        *,
        method: Method = "uniform",
    ) -> Self:
        """Return the map with landmarks drawn from `rows`, shape (n, d)."""
        return cls.of_landmarks(
            rows[choose_landmarks(rows, n_landmarks, rng, method=method)], gamma
        )

    @property
    def n_columns(self) -> int:
        """Columns that it takes, d."""
        return int(self.landmarks.shape[1])

    @property
    def n_features(self) -> int:
        """Columns that it gives, r."""
        return int(self.root.shape[1])

    def apply(self, rows: Rows) -> Matrix:
        """Return φ of each row, shape (n, r), float64."""
        mapped: Matrix = gaussian(rows, self.landmarks, self.gamma) @ self.root
        return mapped

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
            for of_gram, of_cross in side_by_side(of_block, starts[first : first + _AT_A_TIME]):
                gram += of_gram
                cross += of_cross
        return gram, cross

    def arrays(self) -> dict[str, Matrix]:
        """Return what it consists of besides gamma."""
        return {"landmarks": self.landmarks, "root": self.root}

    @classmethod
    def from_arrays(cls, gamma: float, arrays: dict[str, npt.NDArray[Any]]) -> Self:
        """Return the map that `arrays` described."""
        return cls(arrays["landmarks"], arrays["root"], gamma)

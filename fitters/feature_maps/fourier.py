"""Random Fourier features: a Gaussian kernel as cosines and sines of random projections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from fitters.errors import PairsError, SettingError
from fitters.feature_maps.kernels import check_gamma
from fitters.pairs import Rows

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class FourierMap:
    """Row-wise map φ with E[φ(a)·φ(b)] = exp(-gamma ‖a - b‖²), from no data at all.

    φ(a) = √(1/m) [cos(a W), sin(a W)] with the m columns of W drawn from N(0, 2 gamma I). The
    pair of both has a smaller variance than a cosine with a random phase, which is what
    ``sklearn.kernel_approximation.RBFSampler`` draws, and φ(a)·φ(a) = 1 exactly.

    Attributes
    ----------
    frequencies : ndarray of shape (d, m)
        W.
    gamma : float

    References
    ----------
    Rahimi and Recht, Random Features for Large-Scale Kernel Machines, NIPS 2007; for the pair,
    Sutherland and Schneider, On the Error of Random Fourier Features, UAI 2015.
    """

    frequencies: Matrix
    gamma: float

    kind: ClassVar[str] = "fourier"

    def __post_init__(self) -> None:
        check_gamma(self.gamma)
        if self.frequencies.ndim != 2 or 0 in self.frequencies.shape:
            msg = f"frequencies must have shape (d, m). Got {self.frequencies.shape}."
            raise PairsError(msg)

    @classmethod
    def draw(cls, d: int, gamma: float, n_features: int, rng: np.random.Generator) -> Self:
        """Return a map of rows with `d` columns to `n_features`, an even number."""
        check_gamma(gamma)
        if n_features < 2 or n_features % 2:
            msg = f"Cosines come with sines: n_features must be even and above 0. Got {n_features}."
            raise SettingError(msg)
        drawn = rng.standard_normal((d, n_features // 2)) * np.sqrt(2 * gamma)
        return cls(drawn, float(gamma))

    @property
    def n_columns(self) -> int:
        """Columns that it takes, d."""
        return len(self.frequencies)

    @property
    def n_features(self) -> int:
        """Columns that it gives, 2 m."""
        return int(2 * self.frequencies.shape[1])

    def apply(self, rows: Rows) -> Matrix:
        """Return φ of each row, shape (n, 2 m), float64."""
        if rows.ndim != 2 or rows.shape[1] != self.n_columns:
            msg = f"This map takes rows of {self.n_columns} columns. Got shape {rows.shape}."
            raise PairsError(msg)
        angles = np.asarray(rows, np.float64) @ self.frequencies
        both = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
        mapped: Matrix = both / np.sqrt(self.frequencies.shape[1])
        return mapped

    def arrays(self) -> dict[str, Matrix]:
        """Return what it consists of besides gamma."""
        return {"frequencies": self.frequencies}

    @classmethod
    def from_arrays(cls, gamma: float, arrays: dict[str, npt.NDArray[Any]]) -> Self:
        """Return the map that `arrays` described."""
        return cls(arrays["frequencies"], gamma)

"""The Gaussian kernel exp(-gamma ‖a - b‖²), filled block by block."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fitters.errors import PairsError, SettingError
from fitters.pairs import Rows

BLOCK_ROWS = 1024
"""Rows of the kernel matrix filled at a time: what is needed beyond the result stays small."""


def check_gamma(gamma: float) -> None:
    """Raise SettingError unless gamma is a finite number above 0."""
    if not (np.isfinite(gamma) and gamma > 0):
        msg = f"gamma, the inverse squared width, must be finite and above 0. Got {gamma}."
        raise SettingError(msg)


def gaussian(
    a: Rows, b: Rows, gamma: float, *, dtype: npt.DTypeLike = np.float64
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

    Returns
    -------
    ndarray of shape (n, m)
        Entries in [0, 1].

    Raises
    ------
    PairsError
        If a and b have different numbers of columns.
    SettingError
        If gamma is not above 0.
    """
    check_gamma(gamma)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        msg = f"A kernel compares rows of one space. Got shapes {a.shape} and {b.shape}."
        raise PairsError(msg)
    a, b = np.asarray(a, dtype), np.asarray(b, dtype)
    own_a, own_b = np.einsum("nd,nd->n", a, a), np.einsum("md,md->m", b, b)
    out: npt.NDArray[Any] = np.empty((len(a), len(b)), dtype)
    for start in range(0, len(a), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
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

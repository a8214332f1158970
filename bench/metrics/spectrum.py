"""How many directions a cloud of rows uses: the spectrum of its covariance."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import MetricError

# Rows converted to float64 at a time.
_ROWS = 8_192


def covariance_spectrum(rows: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return the eigenvalues of the covariance (1/n), largest first, shape (d,).

    Raises
    ------
    MetricError
        If there are fewer than two rows, or they do not vary.
    """
    n, d = rows.shape
    if n < 2:
        msg = f"A spectrum needs at least 2 rows; got {n}."
        raise MetricError(msg)
    mean = rows.mean(axis=0, dtype=np.float64)
    scatter = np.zeros((d, d))
    for start in range(0, n, _ROWS):
        block = rows[start : start + _ROWS].astype(np.float64) - mean
        scatter += block.T @ block
    values = np.maximum(np.linalg.eigvalsh(scatter / n)[::-1], 0.0)
    if not values[0] > 0:
        msg = "Rows that do not vary have no spectrum."
        raise MetricError(msg)
    return values


def spectrum_summary(values: NDArray[np.float64]) -> dict[str, float]:
    """Return three readings of how many directions there are, and the share of the first.

    With eigenvalues λ and shares p = λ / Σλ:

    - ``effective-rank``: exp of the entropy of the shares of the singular values √λ (Roy and
      Vetterli, The Effective Rank, EUSIPCO 2007).
    - ``participation``: (Σλ)² / Σλ².
    - ``directions-90``: fewest directions that hold 90 % of the variance.
    - ``first-share``: p of the first.
    """
    roots = np.sqrt(values)
    shares = roots[roots > 0] / roots.sum()
    held = np.cumsum(values) / values.sum()
    return {
        "effective-rank": float(np.exp(-np.sum(shares * np.log(shares)))),
        "participation": float(values.sum() ** 2 / np.sum(values**2)),
        "directions-90": float(np.argmax(held >= 0.9 - 1e-12) + 1),
        "first-share": float(held[0]),
    }

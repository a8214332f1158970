"""The gap between two clouds of rows in one space: how far apart, and how easily told apart."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve

from bench.errors import MetricError
from bench.metrics.neighbours import unit_rows

# Permutations computed at once; bounds the memory at _AT_ONCE × rows × 4 bytes.
_AT_ONCE = 64


def centroid_gap(
    x: NDArray[np.floating[Any]],
    y: NDArray[np.floating[Any]],
    *,
    n_permutations: int = 999,
    rng: np.random.Generator,
) -> tuple[float, float, float]:
    """Return the distance of the centroids of unit rows, its chance level, and a p.

    Parameters
    ----------
    x, y : arrays of shape (n, d) and (m, d)
    n_permutations : int
        Times the rows of both are dealt anew to two sides of n and m.
    rng : Generator

    Returns
    -------
    distance : float
        ‖mean of x − mean of y‖.
    chance : float
        Mean distance when rows are dealt anew; NaN without permutations.
    p : float
        Share of deals whose distance is at least this one; the true one counts.

    References
    ----------
    Liang et al., Mind the Gap, NeurIPS 2022.
    """
    _check_columns(x, y)
    rows = np.concatenate([unit_rows(x), unit_rows(y)]).astype(np.float64)
    n, m = len(x), len(y)
    distance = float(np.linalg.norm(rows[:n].mean(axis=0) - rows[n:].mean(axis=0)))
    total = rows.sum(axis=0)
    seen: list[float] = []
    for start in range(0, n_permutations, _AT_ONCE):
        size = min(_AT_ONCE, n_permutations - start)
        deal = np.zeros((size, n + m))
        for row in deal:
            row[rng.permutation(n + m)[:n]] = 1.0
        first = deal @ rows
        seen.extend(np.linalg.norm(first / n - (total - first) / m, axis=1).tolist())
    reached = sum(value >= distance - 1e-12 for value in seen)
    chance = float(np.mean(seen)) if seen else float("nan")
    return distance, chance, (1 + reached) / (1 + n_permutations)


def linear_separability(
    x: NDArray[np.floating[Any]],
    y: NDArray[np.floating[Any]],
    *,
    n_folds: int = 5,
    max_rows: int = 5_000,
    rng: np.random.Generator,
) -> float:
    """Return the balanced accuracy with which a linear rule tells unit rows of x from those of y.

    Linear discriminant analysis with the covariance shrunk by Ledoit and Wolf's rule and equal
    priors, on folds that it was not fitted on; chance is 0.5.

    Parameters
    ----------
    x, y : arrays of shape (n, d) and (m, d)
    n_folds : int
    max_rows : int
        Rows a side, drawn where there are more.
    rng : Generator

    Raises
    ------
    MetricError
        If a side has fewer rows than there are folds.
    """
    _check_columns(x, y)
    sides = []
    for rows in (x, y):
        if len(rows) < max(2, n_folds):
            msg = f"{n_folds} folds need at least {n_folds} rows a side; got {len(rows)}."
            raise MetricError(msg)
        order = rng.permutation(len(rows))[:max_rows]
        sides.append(unit_rows(rows[order]).astype(np.float64))
    folds = [np.arange(len(side)) % n_folds for side in sides]
    right = np.zeros(2)
    for fold in range(n_folds):
        rest = [side[own != fold] for side, own in zip(sides, folds, strict=True)]
        direction, middle = _discriminant(*rest)
        for side, sign in ((0, 1.0), (1, -1.0)):
            held = sides[side][folds[side] == fold]
            right[side] += np.count_nonzero(sign * (held @ direction - middle) > 0)
    return float(np.mean(right / [len(side) for side in sides]))


def _discriminant(
    x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """Return w and t of the rule w·row > t for x: linear discriminant analysis, equal priors.

    scikit-learn's solves by a singular value decomposition: on 1,280 columns 8.6 s of processor a
    fit on a busy machine, this 2.9 s there.
    """
    from sklearn.covariance import ledoit_wolf

    means = x.mean(axis=0), y.mean(axis=0)
    centred = np.concatenate([x - means[0], y - means[1]])
    # Columns of equal spread, as in scikit-learn: the shrinkage is towards a multiple of I.
    spread = centred.std(axis=0)
    spread[spread == 0] = 1.0
    covariance, _ = ledoit_wolf(centred / spread, assume_centered=True)
    direction = solve(covariance, (means[0] - means[1]) / spread, assume_a="pos") / spread
    return direction, float(direction @ (means[0] + means[1]) / 2.0)


def _check_columns(x: NDArray[Any], y: NDArray[Any]) -> None:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or not len(x) or not len(y):
        msg = f"A gap is between rows of one space; got shapes {x.shape} and {y.shape}."
        raise MetricError(msg)

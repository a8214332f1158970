"""Rows of another encoder in one column of vectors, without labels.

`footprints` are facts of a row's bits. `unusual` is a guess, by distance: rows that lie apart from
the others with a gap between. docs/bridge.md says what neither sees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigh, solve_triangular

from fitters.moments.transform import unit_or_zero

Matrix = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
#: Returns blocks of rows, in their order.
Blocks = Callable[[], Iterator[Matrix]]

#: Rows from which on unusual ones were looked for in simulations.
ENOUGH = 1000

#: Share of the rows that the others are measured by, and steps of concentration.
_KEEP, _STEPS = 0.8, 2

#: Principal coordinates whose split is a start, and rows that a column needs.
_STARTS, _PER_COLUMN = 3, 2

#: Part of the mean variance that is added to each.
_SHRINK = 1e-3

#: Distances, in medians, from which on a row is near the edge, and from which on unusual.
_EDGE, _FAR = 5.0, 10.0

#: The least share of unusual rows that is told.
_LEAST = 0.003

#: A length so close to 1 is 1.
_UNIT = 2e-3

#: Steps of int8, and how far from one a value may be.
_LEVELS, _OFF = 127.5, 0.01


def footprints(rows: Matrix) -> dict[str, Mask]:
    """Return what the bits of each row say of its origin, by name, each of shape (n,).

    Parameters
    ----------
    rows : ndarray of shape (n, d)
        Finite, none all zeros.

    Returns
    -------
    dict
        ``float16``, ``bfloat16``: every value is one of this type. ``int8``: the values are
        multiples of one step, at most 127 of them; of fewer than 64 columns some are missed.
        ``padded``: the last eighth of the columns, 8
        or more, is 0. ``unit``: the length is 1.

    Examples
    --------
    >>> found = footprints(np.array([[0.6, 0.8], [1 / 3, 0.25]]))
    >>> found["unit"], found["float16"]
    (array([ True, False]), array([False, False]))
    """
    with np.errstate(over="ignore", invalid="ignore"):
        own = np.asarray(rows, np.float32)
        half = own.astype(np.float16).astype(np.float32) == own
        grid = on_grid(own)
    exact = own == rows  # of float64, which has values that float32 has not
    cut = (np.ascontiguousarray(own).view(np.uint32) & 0xFFFF) == 0
    size = max(8, own.shape[1] // 8)
    norms = np.linalg.norm(np.asarray(rows, np.float64), axis=1)
    return {
        "float16": (half & exact).all(axis=1),
        "bfloat16": (cut & exact).all(axis=1),
        "int8": grid,
        "padded": ~own[:, -size:].any(axis=1) & (size < own.shape[1]),
        "unit": np.abs(norms - 1) < _UNIT,
    }


def on_grid(rows: Matrix) -> Mask:
    """Return which rows are multiples of one step, the least difference of two sizes."""
    sizes = np.sort(np.abs(np.asarray(rows, np.float64)), axis=1)
    most = sizes[:, -1:]
    gaps = np.diff(sizes, axis=1, prepend=0.0)
    gaps[gaps <= 1e-4 * most] = np.inf  # two roundings of one size, or less than any step
    levels = np.round(most / gaps.min(axis=1, keepdims=True))
    steps = sizes / most * levels
    nearest = np.round(steps)
    even = (np.abs(steps - nearest) <= _OFF) & ((nearest > 0) | (sizes == 0))
    found: Mask = even.all(axis=1) & (levels[:, 0] <= _LEVELS)
    return found


def unusual(blocks: Blocks, sample: Matrix) -> npt.NDArray[np.intp]:
    """Return the numbers of the rows that lie apart from the others; none without a gap between.

    The distance is Mahalanobis's under the mean and covariance of the 80 % nearest rows, over its
    median. These are found from all rows, and from the larger side of Otsu's split of each of
    three principal coordinates: a tight group of foreign rows hides itself from the first start.
    It is told if .3 % of the rows or more are beyond 10 and no more lie between 5 and 10. A
    heavy tail leaves no gap. Rows of length 1 are asked first, then rows as they are.

    Parameters
    ----------
    blocks : callable
        Returns the rows, (b, d) a block.
    sample : ndarray of shape (m, d)
        Rows that mean and covariance are estimated on, `ENOUGH` or more for an answer.

    References
    ----------
    Rousseeuw and Van Driessen, A Fast Algorithm for the Minimum Covariance Determinant Estimator,
    1999: the steps. Otsu, A Threshold Selection Method from Gray-Level Histograms, 1979.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> rows = rng.standard_normal((1000, 16))
    >>> rows[7:17] = 9 * rng.standard_normal((10, 16))
    >>> unusual(lambda: iter([rows]), rows)
    array([ 7,  8,  9, 10, 11, 12, 13, 14, 15, 16])
    """
    if len(sample) < ENOUGH:
        return np.empty(0, np.intp)
    for scaled in (unit_or_zero, np.asarray):
        distance = _trimmed(np.asarray(scaled(sample), np.float32))
        far = np.concatenate([distance(scaled(block)) for block in blocks()])
        # A row pulls the covariance that it is measured by: without it, D would be D / (1 - D / n).
        median = np.median(far)
        far *= (1 - median / (_KEEP * len(sample))) / median
        beyond = far > _FAR
        between = np.count_nonzero((far > _EDGE) & ~beyond)
        if beyond.mean() >= _LEAST and between <= beyond.sum():
            return np.flatnonzero(beyond)
    return np.empty(0, np.intp)


def _trimmed(rows: Matrix) -> Callable[[Matrix], npt.NDArray[np.float32]]:
    """Return the squared distance of the start with most rows far beyond the median."""
    n, d = rows.shape
    mean = rows.mean(axis=0)
    values, axes = eigh(np.asarray((rows - mean).T @ (rows - mean), np.float64))
    size = d if n >= _PER_COLUMN * d else max(2, n // _PER_COLUMN)
    axes = axes[:, -size:].astype(np.float32)
    turned, gram = (rows - mean) @ axes, np.diag(values[-size:].astype(np.float32))
    starts = [np.ones(n, bool), *map(_larger, turned[:, -_STARTS:].T)]
    # Later steps have so many rows a column.
    least = _KEEP * _PER_COLUMN * size
    found = [_concentrated(turned, gram, kept) for kept in starts if kept.sum() >= least]
    own, _ = max(found, key=lambda pair: pair[1])
    return lambda block: own((np.asarray(block, np.float32) - mean) @ axes)


_Distance = Callable[[Matrix], npt.NDArray[np.float32]]


def _concentrated(rows: Matrix, gram: Matrix, kept: Mask) -> tuple[_Distance, int]:
    """Return the distance from the nearest rows, found from these, and how many are beyond it."""
    for step in range(_STEPS + 1):
        distance = _mahalanobis(rows, gram, kept)
        far = distance(rows)
        if step < _STEPS:
            kept = far <= np.partition(far, int(_KEEP * len(far)))[int(_KEEP * len(far))]
    return distance, int(np.count_nonzero(far > _FAR * np.median(far)))


def _mahalanobis(rows: Matrix, gram: Matrix, kept: Mask) -> _Distance:
    """Return the squared distance under mean and covariance of the rows kept.

    `rows` sum to 0, and `gram` is theirs: what is left out is taken from it.
    """
    out = rows[~kept]
    n, d = len(rows) - len(out), rows.shape[1]
    mean = -out.sum(axis=0) / n
    covariance = (gram - out.T @ out) / n - np.outer(mean, mean)
    covariance[np.diag_indices(d)] += _SHRINK * np.trace(covariance) / d
    root = np.linalg.cholesky(covariance)
    turn = solve_triangular(root, np.eye(d, dtype=np.float32), lower=True).T

    def distance(block: Matrix) -> npt.NDArray[np.float32]:
        turned = (block - mean) @ turn
        found: npt.NDArray[np.float32] = np.einsum("nd,nd->n", turned, turned)
        return found

    return distance


def _larger(values: Matrix) -> Mask:
    """Return the larger side of the split with most variance between its sides."""
    ordered = np.sort(np.asarray(values, np.float64))
    n, below_n = len(ordered), np.arange(1, len(ordered))
    sums = np.cumsum(ordered - ordered.mean())[:-1]
    between = sums**2 / (below_n * (n - below_n))
    below: Mask = values <= ordered[between.argmax()]
    return below if 2 * np.count_nonzero(below) >= len(below) else ~below

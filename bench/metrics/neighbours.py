"""Nearest neighbours within a set of rows, and how far two sets of paired rows agree on them.

Blockwise: 21,000 rows need the rows and one block of scores, never all 4.4e8 scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import MetricError
from bench.metrics.equal_rows import EqualColumns
from bench.metrics.first_places import first_places

# Scores held at once: 32 MiB.
BLOCK_SCORES = 8_000_000


def nearest_rows(rows: NDArray[np.floating[Any]], k: int) -> NDArray[np.int64]:
    """Return the k nearest other rows of every row by cosine, nearest first, shape (n, k).

    At equal cosine the lower position comes first.

    Raises
    ------
    MetricError
        If there are not more than k rows, or a row has no direction.
    """
    unit = unit_rows(rows)
    n = len(unit)
    if not 0 < k < n:
        msg = f"{k} neighbours of a row need at least {k + 1} rows; got {n:,}."
        raise MetricError(msg)
    none_relevant = np.full(n, -1), np.zeros(n, dtype=np.int64)
    size = max(1, BLOCK_SCORES // n)
    equal = EqualColumns.of(unit)
    found = []
    for start in range(0, n, size):
        scores = equal.tie(unit[start : start + size] @ unit.T)
        own = np.arange(start, start + len(scores))
        scores[own - start, own] = -np.inf
        found.append(first_places(scores, none_relevant[0][own], none_relevant[1], k))
    return np.concatenate(found)


def mutual_knn(
    x: NDArray[np.floating[Any]], y: NDArray[np.floating[Any]], k: Sequence[int]
) -> dict[int, float]:
    """Return for every k the mean share of neighbours that x_i and y_i have in common.

    Two unrelated sets share k / (n - 1) on average: `mutual_knn_chance`.

    Parameters
    ----------
    x, y : arrays of shape (n, p) and (n, q)
        Row i of both is one item. Cosine neighbours, the item itself left out.
    k : sequence of int

    References
    ----------
    Huh et al., The Platonic Representation Hypothesis, ICML 2024.
    """
    check_paired(x, y)
    of_x, of_y = nearest_rows(x, max(k)), nearest_rows(y, max(k))
    shared = {}
    for count in k:
        both = np.sort(np.concatenate([of_x[:, :count], of_y[:, :count]], axis=1), axis=1)
        shared[count] = float((both[:, 1:] == both[:, :-1]).sum() / (len(x) * count))
    return shared


def mutual_knn_chance(n: int, k: int) -> float:
    """Return the share that unrelated neighbours have in common on average: k / (n - 1)."""
    return k / (n - 1)


def occurrence_skew(top: NDArray[np.int64], gallery: int) -> dict[str, float]:
    """Return how unevenly gallery items occur among the first k of the queries.

    N(y) counts the queries that have y among their first k. ``hub-skew`` is its skewness, the
    third standardised moment: 0 for a symmetric spread, large where few items, hubs, are near to
    everything. ``hub-max`` is the largest N over its mean, and ``hub-never`` the share of items
    that nobody finds.

    Parameters
    ----------
    top : int64 array of shape (n, k)
        Gallery positions of the first k of every query.
    gallery : int

    References
    ----------
    Radovanović et al., Hubs in Space, JMLR 2010.
    """
    counts = np.bincount(top.ravel(), minlength=gallery).astype(np.float64)
    centred = counts - counts.mean()
    spread = np.sqrt(np.mean(centred**2))
    skew = float(np.mean(centred**3) / spread**3) if spread > 0 else 0.0
    return {
        "hub-skew": skew,
        "hub-max": float(counts.max() / counts.mean()),
        "hub-never": float(np.mean(counts == 0)),
    }


def occurrence_skew_chance(n: int, k: int, gallery: int) -> dict[str, float]:
    """Return the skewness and the share of items never found if every query chose at random.

    N is then binomial with n draws of probability q = k / g.
    """
    q = min(1.0, k / gallery)
    variance = n * q * (1 - q)
    skew = (1 - 2 * q) / np.sqrt(variance) if variance > 0 else 0.0
    return {"hub-skew": float(skew), "hub-never": float((1 - q) ** n)}


def unit_rows(rows: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Return the rows at length 1, float32.

    Raises
    ------
    MetricError
        If a row is 0 or not finite.
    """
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
    bad = np.flatnonzero(~((lengths > 0) & np.isfinite(lengths)))
    if len(bad):
        msg = f"{len(bad):,} of {len(rows):,} rows have no direction (first: row {bad[0]:,})."
        raise MetricError(msg)
    unit: NDArray[np.float32] = (rows / lengths[:, None]).astype(np.float32)
    return unit


def check_paired(x: NDArray[Any], y: NDArray[Any]) -> None:
    """Raise MetricError unless both have as many rows."""
    if len(x) != len(y):
        msg = f"x has {len(x):,} rows and y has {len(y):,}: they are not pairs."
        raise MetricError(msg)

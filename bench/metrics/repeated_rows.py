"""Rows of a product that occur more than once: they get one row of scores.

Equal rows tie, and a tie must not hang on the kernel that a row's place in its block gives it to.
Equal columns come out of one product with equal bits; of rows in several blocks no library says so.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Rows that differ almost always differ in these.
_LOOKED_AT = 4


@dataclass(frozen=True, eq=False)
class RepeatedRows:
    """Which of n rows are the same as another.

    Attributes
    ----------
    firsts : float32 array of shape (k, r)
        Every row that occurs more than once, one time.
    positions : int64 array
        Where they all are, ascending.
    which : int64 array
        Which of the k is there.
    """

    firsts: NDArray[np.float32]
    positions: NDArray[np.int64]
    which: NDArray[np.int64]

    @classmethod
    def of(cls, rows: NDArray[np.float32]) -> RepeatedRows:
        """Find them in rows of shape (n, r), by their bytes."""
        key = np.zeros(len(rows), dtype=np.uint64)
        for column in rows[:, :_LOOKED_AT].T:
            key = key * np.uint64(0x9E3779B97F4A7C15) + np.ascontiguousarray(column).view(np.uint32)
        _, code, counts = np.unique(key, return_inverse=True, return_counts=True)
        places: dict[bytes, list[int]] = {}
        for position in np.flatnonzero(counts[code] > 1).tolist():
            places.setdefault(rows[position].tobytes(), []).append(position)
        groups = [found for found in places.values() if len(found) > 1]
        positions = np.array([p for found in groups for p in found], dtype=np.int64)
        which = np.repeat(np.arange(len(groups)), [len(found) for found in groups])
        order = np.argsort(positions)
        firsts = rows[np.array([found[0] for found in groups], dtype=np.int64)]
        return cls(firsts, positions[order], which[order])

    def scores(self, columns: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return their scores on columns of shape (r, m), shape (k, m)."""
        # A single row would go through another kernel: see `of_blocks`.
        rows = np.repeat(self.firsts, 2, axis=0) if len(self.firsts) == 1 else self.firsts
        return np.asarray(rows @ columns)[: len(self.firsts)]

    def put(self, same: NDArray[np.float32], scores: NDArray[np.float32], start: int) -> None:
        """Write these scores over those of a block of rows from `start` on."""
        here = slice(*np.searchsorted(self.positions, (start, start + len(scores))))
        scores[self.positions[here] - start] = same[self.which[here]]

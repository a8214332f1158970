"""Rows that can be read by number, wherever they lie."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from featstore.store.bfloat16 import from_bfloat16


class RowSource(Protocol):
    """Rows that can be read by number."""

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (n, d)."""

    @property
    def dtype(self) -> str:
        """Stored dtype, a name of `featstore.store.layout.DTYPES`."""

    def read(self, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Return the rows of these numbers, in this order, as they are stored.

        bfloat16 comes as its bits, uint16. Where it costs no copy the result is a read-only
        view, even if `out` is given; otherwise it is `out`, or a new array.
        """


@runtime_checkable
class ForeseeingRows(RowSource, Protocol):
    """Rows that are cheaper to read if it is known which ones will follow."""

    def foresee(self, rows: np.ndarray) -> None:
        """Take notice that all these rows will be read soon, some at a time."""


class MemoryRows:
    """Rows that are already in memory, such as class texts."""

    def __init__(self, rows: np.ndarray) -> None:
        self._rows = rows

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (n, d)."""
        n, dim = self._rows.shape
        return n, dim

    @property
    def dtype(self) -> str:
        """Dtype of the rows."""
        return str(self._rows.dtype)

    def read(self, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Return the rows of these numbers, in this order."""
        check_bounds(rows, self.shape[0])
        return gather(self._rows, rows, out)


def is_run(rows: np.ndarray) -> bool:
    """Tell whether `rows` are consecutive and ascending; no rows are not."""
    if not rows.size or rows.item(-1) - rows.item(0) != rows.size - 1:
        return False
    # Ascending, and no longer from end to end than there are rows. Counting is the fastest `all`.
    return int(np.count_nonzero(rows[1:] > rows[:-1])) == rows.size - 1


def check_bounds(rows: np.ndarray, n: int) -> None:
    """Raise IndexError if a row is not in 0 to n - 1."""
    if rows.size and (int(rows.min()) < 0 or int(rows.max()) >= n):
        msg = f"Rows {int(rows.min()):,} to {int(rows.max()):,} are outside 0 to {n - 1:,}."
        raise IndexError(msg)


def gather(array: np.ndarray, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Return ``array[rows]`` for rows that were checked, in `out` if given.

    ``np.take`` with ``mode="clip"`` skips NumPy's own check and is 1.6 times as fast; for a
    row out of bounds it would return another one.
    """
    if out is None:
        out = np.empty((rows.size, array.shape[1]), dtype=array.dtype)
    return np.take(array, rows, axis=0, out=out, mode="clip")


def decode(stored: np.ndarray, dtype: str, out: np.ndarray) -> np.ndarray:
    """Convert stored values to floats of `out`'s dtype, in `out`."""
    if dtype != "bfloat16":
        np.copyto(out, stored, casting="same_kind")
    elif out.dtype == np.float32:
        from_bfloat16(stored, out)
    else:
        np.copyto(out, from_bfloat16(stored), casting="same_kind")
    return out

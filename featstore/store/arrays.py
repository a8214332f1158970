"""Read rows of one stored array: memory-mapped files, checked against the commit's sizes.

A reader maps the data part of each file and never trusts a size that it has not compared:
a truncated mapped file would be a crash, not an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from featstore.errors import CorruptStoreError
from featstore.store.layout import DTYPES, ArrayLayout


class RowSource(Protocol):
    """Rows that can be read by number."""

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (n, d)."""

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return the rows of these numbers, in this order, in the stored dtype."""


class MemoryRows:
    """Rows that are already in memory, such as class texts."""

    def __init__(self, rows: np.ndarray) -> None:
        self._rows = rows

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (n, d)."""
        n, dim = self._rows.shape
        return n, dim

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return the rows of these numbers, in this order."""
        found: np.ndarray = self._rows[rows]
        return found


class StoredRows:
    """Rows of an embedding array on disk.

    Parameters
    ----------
    directory : Path
        Directory of the array (it holds ``zarr.json`` and ``c/``).
    layout : ArrayLayout
        From the array's metadata, with n from the commit.

    Raises
    ------
    CorruptStoreError
        If a data file is missing or has another size than the layout gives it.
    """

    def __init__(self, directory: Path, layout: ArrayLayout) -> None:
        self._layout = layout
        self._parts: Sequence[np.ndarray] = [
            _map_file(directory / layout.file_name(file), layout, file)
            for file in range(layout.n_files)
        ]

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (n, d)."""
        return self._layout.n, self._layout.dim

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return the rows of these numbers, in this order, in the stored dtype.

        Contiguous rows inside one file come back as a read-only view without a copy.
        """
        if rows.size and (int(rows.min()) < 0 or int(rows.max()) >= self._layout.n):
            msg = (
                f"Rows {int(rows.min()):,} to {int(rows.max()):,} are outside 0 to "
                f"{self._layout.n - 1:,}."
            )
            raise IndexError(msg)
        per_file = self._layout.shard_rows or self._layout.n
        if rows.size and _contiguous(rows) and rows[0] // per_file == rows[-1] // per_file:
            start = int(rows[0]) % per_file
            return self._parts[int(rows[0]) // per_file][start : start + rows.size]
        out = np.empty((rows.size, self._layout.dim), dtype=DTYPES[self._layout.dtype])
        files = rows // per_file
        for file in np.unique(files):
            here = np.flatnonzero(files == file)
            out[here] = self._parts[int(file)][rows[here] % per_file]
        return out


def _contiguous(rows: np.ndarray) -> bool:
    return int(rows[-1]) - int(rows[0]) == rows.size - 1 and bool((np.diff(rows) == 1).all())


def _map_file(path: Path, layout: ArrayLayout, file: int) -> np.ndarray:
    """Map the valid rows of one data file, read-only."""
    try:
        size = path.stat().st_size
    except FileNotFoundError as err:
        msg = f"{path} is missing. The set cannot be read; extract or fetch it again."
        raise CorruptStoreError(msg) from err
    if size != layout.file_bytes(file) or path.is_symlink():
        msg = (
            f"{path} has {size:,} bytes, expected {layout.file_bytes(file):,}: it was truncated "
            "or replaced. The set cannot be read; extract or fetch it again."
        )
        raise CorruptStoreError(msg)
    rows = layout.file_rows(file)
    mapped = np.memmap(
        path,
        dtype=DTYPES[layout.dtype],
        mode="r",
        shape=(rows.stop - rows.start, layout.dim),
    )
    return mapped.view(np.ndarray)

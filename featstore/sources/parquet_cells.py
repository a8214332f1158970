"""Cells of Parquet files: the bytes of one row, without holding the file or a row group."""

from __future__ import annotations

import mmap
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

from featstore.errors import ItemReadError
from featstore.sources.arrow_tables import arrow, column_cells, unreadable
from featstore.store.parquet import check_sizes

#: Rows that are unpacked at once. Few, because a dictionary can make each of them large.
BATCH_ROWS = 8

#: Cells of one Parquet file that are kept after they were passed.
WINDOW_BYTES = 32 * 2**20


def open_parquet(path: Path) -> Any:
    """Return a ``pyarrow.parquet.ParquetFile``, after its sizes were checked.

    Raises
    ------
    ManifestError
        If the file is truncated, is no Parquet, or claims far more than it can hold.
    """
    pyarrow = arrow()
    try:
        with path.open("rb") as file:
            if path.stat().st_size:
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                    check_sizes(data)
        return pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=2**20)
    except (OSError, ValueError, pyarrow.ArrowException) as err:
        raise unreadable(path, err) from err


class ParquetCells:
    """The cells of a Parquet file, unpacked page by page.

    Reading forwards unpacks everything once; going back begins the row group again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = open_parquet(path)
        metadata = self._file.metadata
        sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        self._starts = [0, *accumulate(sizes)][: len(sizes)]
        self._rows = metadata.num_rows
        self._lock = threading.Lock()
        self._column = ""
        self._next = 0
        self._batches: Iterator[Any] = iter(())
        self._window: OrderedDict[int, bytes] = OrderedDict()
        self._held = 0

    def get(self, column: str, row: int) -> bytes:
        """Return the bytes in one row of a column, such as ``image.bytes``.

        Raises
        ------
        ItemReadError
            If there is no such row or column, or it cannot be unpacked.
        """
        if row >= self._rows:
            msg = f"{self._path.name} has {self._rows:,} rows and no row {row:,}."
            raise ItemReadError(msg)
        with self._lock:
            if column != self._column:
                self._restart(column, row)
            if row not in self._window and not self._ahead(row):
                self._restart(column, row)
            try:
                while row not in self._window:
                    self._advance()
            except Exception as err:
                self._column = ""
                raise ItemReadError(str(unreadable(self._path, err))) from err
            return self._window[row]

    def close(self) -> None:
        """Close the file."""
        self._batches = iter(())
        self._window.clear()
        self._file.close()

    def _ahead(self, row: int) -> bool:
        """Return whether reading on is the shortest way to `row`."""
        return self._next <= row and self._group(row) <= self._group(self._next)

    def _group(self, row: int) -> int:
        return bisect_right(self._starts, row) - 1

    def _restart(self, column: str, row: int) -> None:
        group = self._group(row)
        self._column, self._next = column, self._starts[group]
        self._batches = self._file.iter_batches(
            batch_size=BATCH_ROWS,
            row_groups=range(group, len(self._starts)),
            columns=[column],
            use_threads=False,
        )
        self._window.clear()
        self._held = 0

    def _advance(self) -> None:
        try:
            batch = next(self._batches)
        except StopIteration as err:
            msg = "it has fewer rows than it says"
            raise ValueError(msg) from err
        for cell in column_cells(batch, self._column):
            data = cell if isinstance(cell, bytes) else b""
            self._window[self._next] = data
            self._held += len(data)
            self._next += 1
        while self._held > WINDOW_BYTES and len(self._window) > batch.num_rows:
            self._held -= len(self._window.popitem(last=False)[1])

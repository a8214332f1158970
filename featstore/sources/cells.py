"""Cells of Parquet and Arrow files: the bytes of one row, without holding the file."""

from __future__ import annotations

import mmap
import struct
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from featstore.errors import ItemReadError, ManifestError
from featstore.store.parquet import check_sizes

#: Rows that are unpacked at once. Few, because a dictionary can make each of them large.
BATCH_ROWS = 8

#: Cells of one Parquet file that are kept after they were passed.
WINDOW_BYTES = 32 * 2**20


def arrow() -> Any:
    """Return the module pyarrow.

    Raises
    ------
    ManifestError
        If it is not installed.
    """
    try:
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError as err:
        msg = "Parquet with images and Arrow need pyarrow: pip install 'headstock[sources]'."
        raise ManifestError(msg) from err
    return pyarrow


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


def unreadable(path: Path, err: BaseException) -> ManifestError:
    """Return the error for a table that cannot be read."""
    reason = getattr(err, "strerror", None) or (str(err).splitlines() or [type(err).__name__])[0]
    msg = f"{path} is truncated, damaged or no table that is read here: {reason[:200]}."
    return ManifestError(msg)


class ParquetCells:
    """The cells of a Parquet file, unpacked page by page.

    Reading forwards unpacks everything once; going back begins the row group again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = open_parquet(path)
        metadata = self._file.metadata
        sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        self._starts = [sum(sizes[:i]) for i in range(len(sizes))]
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


def column_cells(batch: Any, column: str) -> list[Any]:
    """Return the values of a column, or with ``a.b`` of the field b of the structs in a."""
    if column in batch.schema.names:
        return list(batch.column(column).to_pylist())
    name, _, field = column.rpartition(".")
    values = batch.column(name).to_pylist()
    return [None if value is None else value[field] for value in values]


class ArrowCells:
    """The cells of an uncompressed Arrow stream file, mapped: any row costs the same."""

    def __init__(self, path: Path) -> None:
        pyarrow = arrow()
        self._path = path
        try:
            check_uncompressed(path)
            self._source = pyarrow.memory_map(str(path))
            try:
                with pyarrow.ipc.open_stream(self._source) as reader:
                    self.schema = reader.schema
                    self.batches = list(reader)
                for batch in self.batches:
                    # Offsets that lead out of their buffer would be followed blindly later.
                    batch.validate(full=True)
            except BaseException:
                self._source.close()
                raise
        except (OSError, ValueError, struct.error, pyarrow.ArrowException) as err:
            raise unreadable(path, err) from err
        counts = [batch.num_rows for batch in self.batches]
        self._starts = [sum(counts[:i]) for i in range(len(counts))]
        self.rows = sum(counts)

    def get(self, column: str, row: int) -> bytes:
        """Return the bytes in one row of a column; see `ParquetCells.get`."""
        if row >= self.rows:
            msg = f"{self._path.name} has {self.rows:,} rows and no row {row:,}."
            raise ItemReadError(msg)
        at = bisect_right(self._starts, row) - 1
        try:
            value = column_cells(self.batches[at].slice(row - self._starts[at], 1), column)[0]
        except (KeyError, TypeError) as err:
            msg = f"{self._path.name} has no column {column!r}."
            raise ItemReadError(msg) from err
        return value if isinstance(value, bytes) else b""

    def close(self) -> None:
        """Let the mapping go; it ends with the last batch."""
        self.batches = []


def check_uncompressed(path: Path) -> None:
    """Raise ValueError if an Arrow stream has compressed batches, whose sizes may lie.

    The messages of a stream are FlatBuffers (Message.fbs of Arrow): field 2 of a message is its
    header, of type 3 for a batch, and field 3 of a batch is its compression.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        while head := file.read(8):
            mark, length = struct.unpack("<Ii", head)
            if mark != 0xFFFFFFFF or not 0 <= length <= size - file.tell():
                msg = "it is no Arrow stream"
                raise ValueError(msg)
            if length == 0:
                return
            message = file.read(length)
            root = struct.unpack_from("<I", message)[0]
            kind = _field(message, root, 1)
            header = _field(message, root, 2)
            body = _field(message, root, 3)
            if kind is not None and header is not None and message[kind] in (2, 3):
                table = header + struct.unpack_from("<I", message, header)[0]
                if message[kind] == 2:
                    msg = "it has dictionaries, which are not read here"
                    raise ValueError(msg)
                if _field(message, table, 3) is not None:
                    msg = "its batches are compressed; save the dataset uncompressed"
                    raise ValueError(msg)
            skip = 0 if body is None else struct.unpack_from("<q", message, body)[0]
            if not 0 <= skip <= size - file.tell():
                msg = "it is truncated"
                raise ValueError(msg)
            file.seek(skip, 1)


def _field(message: bytes, table: int, number: int) -> int | None:
    """Return where a field of a FlatBuffers table lies, or None if it is absent."""
    vtable = table - struct.unpack_from("<i", message, table)[0]
    if not 0 <= vtable < len(message):
        msg = "it has a damaged message"
        raise ValueError(msg)
    slot = 4 + 2 * number
    if slot + 2 > struct.unpack_from("<H", message, vtable)[0]:
        return None
    offset = struct.unpack_from("<H", message, vtable + slot)[0]
    return table + offset if offset else None

"""Cells of Arrow stream files, as datasets saved to disk have them: mapped, never unpacked."""

from __future__ import annotations

import struct
from bisect import bisect_right
from itertools import accumulate
from pathlib import Path

from featstore.errors import ItemReadError
from featstore.sources.arrow_tables import arrow, column_cells, unreadable

#: Types of messages in an Arrow stream.
_DICTIONARY, _BATCH = 2, 3


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
                    self.columns = reader.schema.names  # also checks that they are UTF-8
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
        self._starts = [0, *accumulate(counts)][: len(counts)]
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

    The messages of a stream are FlatBuffers (Message.fbs of Arrow): field 1 of a message is the
    type of its header, field 2 the header, and field 3 of a batch is its compression.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        while True:
            head = file.read(8)
            if len(head) < 8:
                msg = "it lacks the end mark: it is truncated"
                raise ValueError(msg)
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
            type_ = 0 if kind is None else struct.unpack_from("B", message, kind)[0]
            if header is not None and type_ in (_DICTIONARY, _BATCH):
                table = header + struct.unpack_from("<I", message, header)[0]
                if type_ == _DICTIONARY:
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

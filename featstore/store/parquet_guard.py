"""Parquet tables of unknown origin, checked before anything large is allocated.

A struct becomes a dict of field number -> value, a list a list; everything is bounded by the
bytes that are there, so a claim costs no more memory than stating it does.

The sizes in the footer and in every page header are read here, without decompressing
anything, and must fit the size of the file: a few kilobytes that claim gigabytes are refused
before polars sees them.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from mmap import mmap
from pathlib import Path
from typing import Any

import polars as pl

from featstore.errors import CorruptStoreError

#: Structures of Parquet metadata nest less deeply.
MAX_DEPTH = 24

_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12
_INTEGERS = (4, 5, 6)


class ThriftError(ValueError):
    """Bytes that are not a structure of the compact protocol."""


class ThriftReader:
    """Read structures from `data`, starting at `position` and ending before `end`."""

    def __init__(self, data: bytes | mmap, position: int = 0, end: int | None = None) -> None:
        self._data = data
        self._end = len(data) if end is None else end
        self.position = position

    def struct(self, depth: int = MAX_DEPTH) -> dict[int, Any]:
        """Return the structure at the position, and move behind it."""
        if depth == 0:
            raise ThriftError("nested too deep")
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            step, kind = head >> 4, head & 0x0F
            number = number + step if step else self._zigzag()
            fields[number] = kind == _TRUE if kind in (_TRUE, _FALSE) else self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in _INTEGERS:
            return self._zigzag()
        if kind in (_TRUE, _FALSE, _BYTE):
            return self._byte()
        if kind == _DOUBLE:
            return self._bytes(8)
        if kind == _BINARY:
            return self._bytes(self._varint())
        if kind in (_LIST, _SET):
            return self._list(depth - 1)
        if kind == _STRUCT:
            return self.struct(depth - 1)
        raise ThriftError(f"a value of unknown type {kind}")

    def _list(self, depth: int) -> list[Any]:
        head = self._byte()
        size, kind = head >> 4, head & 0x0F
        size = self._varint() if size == 15 else size
        if size > self._end - self.position or depth <= 0:
            raise ThriftError(f"a list of {size:,} values in {self._end - self.position:,} bytes")
        return [self._value(kind, depth) for _ in range(size)]

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise ThriftError("an integer of more than 64 bits")

    def _byte(self) -> int:
        position = self.position
        if position >= self._end:
            raise ThriftError("the structure ends too early")
        self.position = position + 1
        return self._data[position]

    def _bytes(self, n_bytes: int) -> bytes:
        end = self.position + n_bytes
        if end > self._end:
            raise ThriftError("the structure ends too early")
        value = self._data[self.position : end]
        self.position = end
        return value


#: Tables may unpack to this much, ...
FREE_BYTES = 64 * 2**20

#: ... and beyond it to so many times the size of their file.
MAX_RATIO = 256

#: Encodings of values that cannot grow beyond their page: plain, dictionary, run lengths
#: (one value a row, bounded by the number of rows) and the two deltas without prefixes.
_ENCODINGS = frozenset({0, 2, 3, 4, 5, 6, 8, 9})

#: Bytes that a row costs at least in each column, once read.
_CELL_BYTES = 16

_MAGIC = b"PAR1"


def read_table(data: bytes, *, where: str, schema: Mapping[str, Any]) -> pl.DataFrame:
    """Return the table in `data`, the bytes of a Parquet file.

    Parameters
    ----------
    data : bytes
        The whole file.
    where : str
        Its name, for messages.
    schema : mapping
        Columns that must be there, without nulls, and their polars types.

    Raises
    ------
    CorruptStoreError
        If it is not Parquet, would unpack to far more than it is, or lacks a column.
    """
    try:
        table = unpack(data)
    except ValueError as err:
        raise CorruptStoreError(f"{where} is not a table that a store holds: {err}.") from err
    for column, dtype in schema.items():
        if table.schema.get(column) != dtype or table[column].null_count():
            raise CorruptStoreError(
                f"{where} has no column {column!r} of {dtype} values in every row."
            )
    return table


def unpack(data: bytes) -> pl.DataFrame:
    """Return the table in `data`, the bytes of a Parquet file.

    Raises
    ------
    ValueError
        If it is not Parquet, or would unpack to far more than it is; the message is the reason.
    """
    check_sizes(data)
    table = _read(data)
    check_values(table, len(data))
    return table


def _read(data: bytes, columns: list[str] | None = None) -> pl.DataFrame:
    try:
        return pl.read_parquet(io.BytesIO(data), columns=columns, use_statistics=False)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as err:
        raise ValueError((str(err).splitlines() or [type(err).__name__])[0][:200]) from err


def unpack_columns(data: bytes, folder: Path) -> None:
    """Write the table in `data` into a folder, an Arrow file a column, for `map_columns`.

    One column at a time is in memory. Each is one piece, so that whoever needs the table in one
    piece, as a writer of Parquet does, copies nothing.

    Raises
    ------
    ValueError
        As `unpack`.
    ImportError
        If pyarrow is not installed.
    OSError
        If the file system refuses.
    """
    import pyarrow as pa

    check_sizes(data)
    for number, name in enumerate(pl.read_parquet_schema(io.BytesIO(data))):
        column = _read(data, [name])
        check_values(column, len(data))
        table = column.rechunk().to_arrow(compat_level=pl.CompatLevel.newest())
        del column
        with (folder / f"{number:04d}.arrow").open("wb") as file:
            with pa.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table)
            os.fsync(file.fileno())


def map_columns(folder: Path) -> pl.DataFrame:
    """Return the table that `unpack_columns` wrote: read-only, and in memory only as it is read.

    Raises
    ------
    ImportError
        If pyarrow is not installed.
    OSError
        If the files are not there.
    """
    import pyarrow as pa

    columns: list[pl.DataFrame] = []
    for path in sorted(folder.glob("*.arrow")):
        with pa.memory_map(str(path)) as source:
            column: Any = pl.from_arrow(pa.ipc.open_file(source).read_all(), rechunk=False)
            columns.append(column)
    return pl.concat(columns, how="horizontal")


def check_values(table: pl.DataFrame, n_bytes: int) -> None:
    """Raise ValueError if the texts of a table are far more than the bytes it was read from.

    The rows of one entry of a dictionary share its bytes, but only until someone copies them.
    """
    _allow(sum(map(_value_bytes, table.get_columns())), n_bytes)


def check_sizes(data: bytes | mmap, *, pages: bool = True) -> None:
    """Raise ValueError if what the file claims cannot be true of a file of its size.

    Only the footer and, with `pages`, the headers of pages are looked at, so a mapped file is read
    in parts.
    """
    if len(data) < 12 or data[:4] != _MAGIC or data[-4:] != _MAGIC:
        raise ValueError("it does not begin and end as Parquet does")
    length = int.from_bytes(data[-8:-4], "little")
    start = len(data) - 8 - length
    if start < 4:
        raise ValueError(f"its footer of {length:,} bytes is longer than the file")
    footer = ThriftReader(data[start:-8]).struct()
    try:
        rows = _size(footer[3])
        leaves = [element for element in footer[2] if 5 not in element]
        # Values of a fixed length are copied out of a dictionary, row by row.
        cells = sum(max(_CELL_BYTES, _size(element.get(2, 0))) for element in leaves)
        total = rows * max(_CELL_BYTES, cells)
        _allow(total, len(data))
        group_rows = 0
        for group in footer[4]:
            group_rows += _size(group[3])
            for chunk in group[1]:
                total += _chunk_bytes(data, chunk[3], rows=_size(group[3]), pages=pages)
                _allow(total, len(data))
        if group_rows != rows:
            raise ValueError(f"its parts have {group_rows:,} rows, its footer says {rows:,}")
    except (LookupError, TypeError, AttributeError) as err:
        # A field of another type than the footer's: found by fuzzing.
        raise ValueError(f"its footer lacks {err}") from err


def _chunk_bytes(data: bytes | mmap, chunk: Mapping[int, Any], *, rows: int, pages: bool) -> int:
    """Return the bytes that the pages of a column chunk unpack to, page header by header."""
    odd = set(chunk[2]) - _ENCODINGS
    if odd:
        raise ValueError(f"a column has encodings {sorted(odd)}, which are not read here")
    # A column of lists has more values than rows; each costs memory like a row.
    allowed = max(rows, _size(chunk[5]))
    position = min(_size(chunk[9]), _size(chunk.get(11, chunk[9])))
    end = position + _size(chunk[7])
    if end > len(data):
        raise ValueError("a column lies outside the file")
    total = max(0, _size(chunk[6]))
    unpacked = values = 0
    while pages and position < end:
        reader = ThriftReader(data, position, end)
        page = reader.struct()
        unpacked += _size(page[2])
        position = reader.position + _size(page[3])
        head = page.get(5) or page.get(8) or {}
        values += _size(head.get(1, 0))
        if values > allowed:
            raise ValueError(f"the pages of a column hold more than its {allowed:,} values")
        if head.get(4 if 8 in page else 2, 0) not in _ENCODINGS:
            raise ValueError("a page has an encoding that is not read here")
    return max(total, unpacked) + (allowed - rows) * _CELL_BYTES


def _value_bytes(column: pl.Series) -> int:
    """Return the bytes of all texts and binary values of a column, each counted where it stands."""
    dtype = column.dtype
    if isinstance(dtype, pl.List | pl.Array):
        return _value_bytes(column.explode())
    if isinstance(dtype, pl.Struct):
        return sum(map(_value_bytes, column.struct.unnest().get_columns()))
    if dtype == pl.String:
        return int(column.str.len_bytes().cast(pl.Int64).sum())
    return int(column.bin.size().cast(pl.Int64).sum()) if dtype == pl.Binary else 0


def _size(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**48:
        raise ValueError(f"it states a size of {value!r}"[:80])
    return value


def allowed_bytes(n_bytes: int) -> int:
    """Return how much a file of unknown origin and so many bytes may unpack to."""
    return FREE_BYTES + MAX_RATIO * n_bytes


def _allow(total: int, n_bytes: int) -> None:
    allowed = allowed_bytes(n_bytes)
    if total > allowed:
        raise ValueError(
            f"its {n_bytes:,} bytes would become {total:,} in memory, more than the {allowed:,} "
            "that a table of this size takes"
        )

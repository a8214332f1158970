"""Parquet tables of unknown origin, checked before anything large is allocated.

Whoever reads a table allocates what the headers of its pages state, and a cell for each row of each
column. Both are added up here, without unpacking anything, and must fit the size of the file and
the number of rows that something else vouches for. `table_bytes` asks the same of what it writes,
so that whatever is published can be read.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from featstore.errors import CorruptStoreError, ManifestError

#: Tables may unpack to this much, ...
FREE_BYTES = 64 * 2**20

#: ... to so many times the size of their file, which LZ4 cannot exceed, ...
MAX_RATIO = 256

#: ... and to so much for each row that is vouched for: regular ids and equal values compress to
#: nothing, so the size of the file says nothing of the number of rows.
ROW_BYTES = 4096

#: Encodings of values that cannot grow beyond their page: plain, dictionary, run lengths
#: (one value a row, bounded by the number of rows) and the two deltas without prefixes.
_ENCODINGS = frozenset({0, 2, 3, 4, 5, 6, 8, 9})

#: Bytes that a row costs at least in each column, once read.
_CELL_BYTES = 16

#: Values that a footer may state, beside one for so many bytes of the file: each costs memory here.
_MOST_VALUES, _VALUE_BYTES = 2**20, 64

#: Bytes of the types of values that are skipped: booleans, bytes, floats; texts state theirs.
_TEXT = 8
_SKIPPED = {1: 0, 2: 0, 3: 1, 7: 8, _TEXT: 0}

#: The type of texts and bytes.
_BYTES = 6

_MAGIC = b"PAR1"

#: Bytes of a table whose columns are unpacked one by one.
_LARGE = 2**20

#: The number of a row, beside the columns of a table.
_ROW = "\0row"


def _structure(data: Any, position: int, n_bytes: int) -> tuple[dict[int, Any], int]:
    """Return a structure of Thrift's compact protocol, field number -> value, and where it ends.

    Whole numbers, texts, lists and structures have a value. ValueError, IndexError or
    RecursionError where the bytes are no structure.
    """
    reader = _Thrift(data, position, _MOST_VALUES + n_bytes // _VALUE_BYTES)
    return reader.structure(), reader.position


class _Thrift:
    """Reads values of Thrift's compact protocol, so many at most.

    No closures: those that call one another would hold a file of gigabytes until the next
    collection of garbage.
    """

    def __init__(self, data: Any, position: int, left: int) -> None:
        self.data, self.position, self.left = data, position, left

    def varint(self) -> int:
        found = shift = 0
        while shift < 70:
            byte: int = self.data[self.position]
            self.position += 1
            if byte < 0x80:
                return found | byte << shift
            found |= (byte & 0x7F) << shift
            shift += 7
        raise ValueError("its metadata has an integer of more than 64 bits")

    def value(self, kind: int) -> Any:
        self.left -= 1
        if self.left < 0:
            raise ValueError("its metadata states more values than a file of its size has")
        if kind in (4, 5, 6):
            number = self.varint()
            return (number >> 1) ^ -(number & 1)
        if kind == 12:
            return self.structure()
        if kind in (9, 10):
            head = self.data[self.position]
            self.position += 1
            size = head >> 4 if head >> 4 < 15 else self.varint()
            return [self.value(head & 0x0F) for _ in range(size)]
        if kind not in _SKIPPED:
            raise ValueError(f"its metadata has a value of unknown type {kind}")
        size = self.varint() if kind == _TEXT else _SKIPPED[kind]
        self.position += size
        if kind == _TEXT:
            return bytes(self.data[self.position - size : self.position])
        return None

    def structure(self) -> dict[int, Any]:
        fields: dict[int, Any] = {}
        number = 0
        while head := self.data[self.position]:
            self.position += 1
            number = number + (head >> 4) if head >> 4 else self.value(4)
            fields[number] = self.value(head & 0x0F)
        self.position += 1
        return fields


@functools.lru_cache(8)
def _footer(data: bytes, n_bytes: int) -> dict[int, Any]:
    """Return what the footer of a file of so many bytes states; asked for twice a reading."""
    return _structure(data, 0, n_bytes)[0]


def table_bytes(
    table: pl.DataFrame, *, row_group_size: int | None = None, statistics: bool = False
) -> bytes:
    """Return a table as the bytes of a Parquet file that `unpack` takes for so many rows.

    The same rows give the same bytes.

    Raises
    ------
    ManifestError
        If nobody could read it: texts of kilobytes that are nearly equal.
    """
    buffer = io.BytesIO()
    table.rechunk().write_parquet(
        buffer,
        compression="zstd",
        compression_level=3,
        statistics=statistics,
        row_group_size=row_group_size,
    )
    data = buffer.getvalue()
    try:
        _allow(int(table.estimated_size()), len(data), table.height)
    except ValueError as err:
        raise ManifestError(
            f"A table of {table.height:,} rows and {table.width:,} columns could not be read "
            f"again: {err}. Leave columns out, or split it."
        ) from err
    return data


@dataclass(frozen=True)
class Chunk:
    """The values of a column in a group of rows, as the footer of a file states them.

    Attributes
    ----------
    name : str
        Of the column.
    place : slice
        Its bytes, up to the next chunk.
    rows : range
        The rows of the group.
    bounds : tuple of bytes, optional
        The lowest and the highest text; None of other values, and where the footer has none.
    """

    name: str
    place: slice
    rows: range
    bounds: tuple[bytes, bytes] | None

    def may_hold(self, texts: Sequence[str]) -> bool:
        """Return whether one of these texts may be among the values."""
        if self.bounds is None:
            return True
        low, high = self.bounds
        return any(low <= text.encode("utf-8", "surrogatepass") <= high for text in texts)


@dataclass(frozen=True)
class Chosen:
    """What is read of a file; the other chunks may be anything.

    Attributes
    ----------
    data : bytearray
        The whole file; zeros in place of what was not asked for.
    rows : int
        Its rows, which something else vouches for.
    places : collection of int
        Where the chunks begin that are read.
    groups : sequence of range
        The groups of rows that these are of.
    """

    data: bytearray
    rows: int
    places: Collection[int]
    groups: Sequence[range]


def read_chosen(
    files: Sequence[Chosen], columns: Sequence[str] | None, texts: Sequence[str] | None
) -> pl.DataFrame:
    """Return the rows of some files, whose sizes were checked, one behind the other.

    Parameters
    ----------
    columns : sequence of str, optional
        None for all.
    texts : sequence of str, optional
        The one column is read as booleans: whether it is one of these. Rows of groups that are not
        chosen are none.

    Raises
    ------
    ValueError
        As `unpack`.
    """
    with _readable():
        sources: Any = [io.BytesIO(one.data) for one in files]
        scan = pl.scan_parquet(sources, use_statistics=False, row_index_name=_ROW)
        if texts is None or columns is None:
            return _collected(scan, columns, sum(len(one.data) for one in files))
        (name,), starts = columns, [0, *itertools.accumulate(one.rows for one in files)]
        found, parts = np.zeros(starts[-1], dtype=bool), [scan]
        placed = zip(files, starts, strict=False)
        groups = [(start + rows.start, len(rows)) for one, start in placed for rows in one.groups]
        if sum(n for _, n in groups) < starts[-1]:
            parts = [scan.slice(*group) for group in groups]
        if scan.collect_schema()[name].base_type() in (pl.String, pl.Categorical, pl.Enum):
            # Decoding and comparing in one is five times as fast. A number is no text.
            for part in parts:
                hits = part.filter(pl.col(name).cast(pl.String).is_in(texts))
                found[hits.select(_ROW).collect()[_ROW].to_numpy()] = True
        return pl.DataFrame({name: found})


def _collected(scan: pl.LazyFrame, columns: Sequence[str] | None, n_bytes: int) -> pl.DataFrame:
    """Return the columns of a scan of so many bytes; all but that of the row if None.

    Those of a large table are unpacked one by one, and one of equal values is held as that value.
    Seven of a usual manifest are: a row takes 120 bytes of memory in place of 262.
    """
    names = [
        name for name in (scan.collect_schema() if columns is None else columns) if name != _ROW
    ]
    if n_bytes < _LARGE or not names:
        return scan.select(names).collect()
    tables = []
    for name in names:
        table = scan.select(name).collect()
        same = table.select(pl.all().eq_missing(pl.all().first()).all()).item()
        tables.append(table.with_columns(pl.all().first()) if same else table)
    return pl.concat(tables, how="horizontal")


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    """Raise ValueError where polars finds that a file is none of its own."""
    try:
        yield
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as err:
        raise ValueError((str(err).splitlines() or [type(err).__name__])[0][:200]) from err


def read_table(
    data: bytes | memoryview, *, where: str, schema: Mapping[str, Any], rows: int = 0
) -> pl.DataFrame:
    """Return the table in `data`, the bytes of a Parquet file.

    Parameters
    ----------
    data : bytes
        The whole file.
    where : str
        Its name, for messages.
    schema : mapping
        See `checked_table`.
    rows : int
        Number of rows that something else vouches for, such as the commit of the set.

    Raises
    ------
    CorruptStoreError
        If it is not Parquet, would unpack to far more than it is, or lacks a column.
    """
    return checked_table(lambda: unpack(data, rows=rows), schema, where, (len(data), rows))


def checked_table(
    read: Callable[[], pl.DataFrame], schema: Mapping[str, Any], where: str, size: tuple[int, int]
) -> pl.DataFrame:
    """Return the table that `read` returns.

    Parameters
    ----------
    schema : mapping
        Columns that must be there, without nulls, and their polars types: texts or bytes.
    size : (int, int)
        Bytes of its files, and rows that something else vouches for.

    Raises
    ------
    CorruptStoreError
        See `read_table`.
    """
    try:
        table = read()
        for column in schema.keys() & set(table.columns):
            # Rows of one entry of a dictionary share its bytes, but these columns are copied.
            _allow(int(table[column].cast(pl.Binary).bin.size().sum()), *size)
    except (ValueError, pl.exceptions.PolarsError) as err:
        raise CorruptStoreError(f"{where} is not a table that a store holds: {err}.") from err
    for column, dtype in schema.items():
        if table.schema.get(column) != dtype or table[column].null_count():
            raise CorruptStoreError(
                f"{where} has no column {column!r} of {dtype} values in every row."
            )
    return table


def unpack(
    data: bytes | memoryview, *, rows: int = 0, columns: Sequence[str] | None = None
) -> pl.DataFrame:
    """Return the table in `data`, the bytes of a Parquet file; `rows` as `read_table`.

    Parameters
    ----------
    columns : sequence of str, optional
        Return these alone; all are looked at.

    Raises
    ------
    ValueError
        If it is not Parquet, or would unpack to far more than it is; the message is the reason.
    """
    check_sizes(data, rows=rows)
    with _readable():
        return _collected(
            pl.scan_parquet(io.BytesIO(data), use_statistics=False), columns, len(data)
        )


def check_sizes(
    data: Any,
    *,
    rows: int | None = 0,
    pages: bool = True,
    places: Collection[int] | None = None,
) -> None:
    """Raise ValueError if what the file claims cannot be true of its size and number of rows.

    Only the footer and, with `pages`, the headers of pages are looked at, so a file is read
    in parts.

    Parameters
    ----------
    data : bytes
        The whole file, or what has its length, indices and slices.
    rows : int or None
        Number of rows that something else vouches for; None takes the footer's word, for whoever
        reads a few rows at a time.
    pages : bool
        False takes the footer's word for what its pages unpack to.
    places : collection of int, optional
        Take the footer's word for all chunks but those that begin here.
    """
    if len(data) < 12 or data[:4] != _MAGIC or data[-4:] != _MAGIC:
        raise ValueError("it does not begin and end as Parquet does")
    start = footer_start(len(data), data[-8:])
    if start < 4:
        raise ValueError(f"its footer of {len(data) - 8 - start:,} bytes is longer than the file")
    try:
        footer = _footer(bytes(data[start:-8]), len(data))
        rows = _size(footer[3]) if rows is None else rows
        _allow(_unpacked_bytes(data, footer, pages=pages, places=places), len(data), rows)
    except (LookupError, TypeError, AttributeError, RecursionError) as err:
        # A field of another type than the footer's: found by fuzzing.
        raise ValueError(f"its footer lacks {err}") from err


def column_chunks(footer: bytes, start: int) -> list[Chunk]:
    """Return the columns' chunks of a Parquet file, in order.

    Parameters
    ----------
    footer : bytes
        The file from `start` on.

    Raises
    ------
    ValueError
        If they do not lie one behind the other, from the fifth byte to the footer.
    """
    try:
        groups = _footer(footer[:-8], start + len(footer))[4]
        ends = [*itertools.accumulate(_size(group[3]) for group in groups)]
        of_group = [range(end - group[3], end) for group, end in zip(groups, ends, strict=True)]
        chunks = [(rows, chunk[3]) for rows, group in zip(of_group, groups, strict=True)
                  for chunk in group[1]]  # fmt: skip
        places = [_place(chunk) for _, chunk in chunks]
        starts = [place.start for place in places] + [start]
        found = [
            Chunk(chunk[3][0].decode(), slice(*span), rows, _bounds(chunk))
            for (rows, chunk), span in zip(chunks, itertools.pairwise(starts), strict=True)
        ]
    except (LookupError, TypeError, AttributeError, RecursionError) as err:
        raise ValueError(f"its footer lacks {err}") from err
    behind = all(place.stop <= after for place, after in zip(places, starts[1:], strict=True))
    if starts[0] != min(start, len(_MAGIC)) or not behind:
        raise ValueError("its columns do not lie one behind the other")
    return found


def _bounds(chunk: Mapping[int, Any]) -> tuple[bytes, bytes] | None:
    """Return the lowest and the highest text of a chunk, if its footer states them."""
    stated = chunk.get(12, {})
    low, high = stated.get(6), stated.get(5)
    texts = chunk[1] == _BYTES and isinstance(low, bytes) and isinstance(high, bytes)
    return (low, high) if texts else None


def footer_start(size: int, end: bytes) -> int:
    """Return where the footer begins of a Parquet file of this size and these last eight bytes."""
    return size - 8 - int.from_bytes(end[:4], "little")


def _place(chunk: Mapping[int, Any]) -> slice:
    start = min(_size(chunk[9]), _size(chunk.get(11, chunk[9])))
    return slice(start, start + _size(chunk[7]))


def _unpacked_bytes(
    data: Any, footer: dict[int, Any], *, pages: bool, places: Collection[int] | None
) -> int:
    """Return the memory that a reader of all columns allocates."""
    # Values of a fixed length are copied out of a dictionary, row by row.
    widths = [max(_CELL_BYTES, _size(leaf.get(2, 0))) for leaf in footer[2] if 5 not in leaf]
    groups = [(_size(group[3]), [chunk[3] for chunk in group[1]]) for group in footer[4]]
    total = max(_size(footer[3]), sum(rows for rows, _ in groups)) * sum(widths, start=_CELL_BYTES)
    packed = 0
    for rows, chunks in groups:
        for chunk in chunks:
            packed += _size(chunk[7])
            if packed > len(data):
                raise ValueError("its columns are larger than the file")
            # A column of lists has more values than rows; each costs memory like a row.
            looked_at = pages and (places is None or _place(chunk).start in places)
            unpacked, values = _page_sizes(data, chunk) if looked_at else (0, 0)
            more = max(values, _size(chunk[5])) - rows
            total += max(unpacked, _size(chunk[6])) + max(0, more) * _CELL_BYTES
    return total


def _page_sizes(data: Any, chunk: Mapping[int, Any]) -> tuple[int, int]:
    """Return the bytes and values that the pages of a column unpack to, header by header."""
    place, unpacked, values = _place(chunk), 0, 0
    position = place.start
    while position < place.stop:
        page, position = _structure(data, position, len(data))
        unpacked += _size(page[2])
        position += _size(page[3])
        # Pages of the first version and of the second; a page that says both counts as both.
        for head, encoding in ((page.get(5, {}), 2), (page.get(8, {}), 4)):
            values += _size(head.get(1, 0))
            if head.get(encoding, 0) not in _ENCODINGS:
                raise ValueError("a page has an encoding that is not read here")
    return unpacked, values


def _size(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**48:
        raise ValueError(f"it states a size of {value!r}"[:80])
    return value


def allowed_bytes(n_bytes: int, rows: int = 0) -> int:
    """Return how much a file of unknown origin, so many bytes and known rows may unpack to.

    At most half the memory of this machine, or of the container.
    """
    allowed = FREE_BYTES + MAX_RATIO * n_bytes + ROW_BYTES * rows
    return min(allowed, max(FREE_BYTES, _memory_bytes() // 2))


@functools.cache
def _memory_bytes() -> int:
    """Return the memory of this machine, or of the container; endless where it is not told."""
    found = [2**63]
    with contextlib.suppress(OSError, ValueError, AttributeError):
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with contextlib.suppress(OSError, ValueError):
        found.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(found)


def _allow(total: int, n_bytes: int, rows: int) -> None:
    allowed = allowed_bytes(n_bytes, rows)
    if total > allowed:
        raise ValueError(
            f"its {n_bytes:,} bytes would become {total:,} in memory, more than the {allowed:,} "
            "that a table of this size takes"
        )

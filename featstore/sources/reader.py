"""Read the bytes of items, from files, archives, and the cells of Parquet."""

from __future__ import annotations

import re
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from featstore.address import Address
from featstore.errors import (
    CorruptStoreError,
    FeatstoreError,
    ItemReadError,
    ManifestError,
    needs_extra,
)
from featstore.identity import sha256_hex
from featstore.manifest_files import (
    SHOWN,
    check_size,
    item_hashes,
    parse_locator,
)
from featstore.sources import (
    BLOCK,
    KEPT,
    Folder,
    OpenFile,
    Remote,
    Root,
)

if TYPE_CHECKING:
    from featstore.manifest import Manifest


def arrow() -> Any:
    """Return the module pyarrow.

    Raises
    ------
    MissingPackageError
        If it is not installed.
    """
    with needs_extra("A Parquet file with images"):
        import pyarrow.parquet
    return pyarrow


@contextmanager
def _reading(where: str, error: type[FeatstoreError] = ManifestError) -> Iterator[None]:
    """Turn whatever a library raises on a damaged table into an error that names it."""
    try:
        yield
    except FeatstoreError:
        raise
    except Exception as err:
        said = getattr(err, "strerror", None) or (str(err).splitlines() or [type(err).__name__])[0]
        raise error(
            f"{where} is truncated, damaged or no table that is read here: {said[:200]}."
        ) from err


def only_field(value: Any) -> Any:
    """Return a cell, or where it is a struct of which one field is read, that field."""
    return next(iter(value.values()), None) if isinstance(value, dict) else value


#: Rows that are unpacked at once: few, because a dictionary can make each of them large, ...
BATCH_ROWS = 8

#: ... but of paths and texts.
PATH_ROWS = 256

#: Files behind an address whose pages are all looked at, since they are held whole anyway.
_CHECKED_BYTES = KEPT * BLOCK

#: Cells of one Parquet file that are kept after they were passed.
WINDOW_BYTES = 32 * 2**20


class ParquetCells:
    """The cells of a Parquet file, unpacked page by page.

    Reading forwards unpacks everything once; going back begins the row group again. Sizes are
    checked before: of a large file behind an address those of the footer alone, since the headers
    of its pages lie all over it; a page states 2 GiB at most, which a file of 8 MiB may unpack to.

    Parameters
    ----------
    file : OpenFile
        Closed with the cells.

    Raises
    ------
    ManifestError
        If the file is truncated, is no Parquet, or claims far more than it can hold.
    """

    def __init__(self, file: OpenFile) -> None:
        # Decoding processes of plain files run without polars and its threads.
        from featstore.store.parquet_guard import check_sizes

        pyarrow = arrow()
        self._source, self.where = file, file.where
        try:
            with _reading(self.where):
                near = not self._source.is_far or self._source.size <= _CHECKED_BYTES
                check_sizes(self._source, rows=None, pages=near)
                self._file = pyarrow.parquet.ParquetFile(
                    self._source.for_arrow(), pre_buffer=False, buffer_size=2**20
                )
        except BaseException:
            self._source.close()
            raise
        self.schema = self._file.schema_arrow
        metadata = self._file.metadata
        sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        self._starts = [0, *accumulate(sizes)][: len(sizes)]
        self._rows = metadata.num_rows
        self._lock = threading.Lock()
        # Cells of a column from row `_first` on, and what yields those behind them.
        self._column, self._first, self._held = "", 0, 0
        self._cells: deque[bytes] = deque()
        self._batches: Iterator[Any] = iter(())

    def rows(self, names: Sequence[str], *, at_once: int = BATCH_ROWS) -> Iterator[dict[str, Any]]:
        """Yield the values of each row, so many unpacked at once; of ``a.b`` a struct a of b."""
        with _reading(self.where):
            for batch in self._file.iter_batches(at_once, columns=[*names], use_threads=False):
                yield from batch.to_pylist()

    def get(self, column: str, row: int) -> bytes:
        """Return the bytes in one row of a column, such as ``image.bytes``.

        Raises
        ------
        ItemReadError
            If there is no such row or column, or it cannot be unpacked.
        """
        if row >= self._rows:
            raise ItemReadError(f"{self.where} has {self._rows:,} rows and no row {row:,}.")
        with self._lock:
            # Reading on is the shortest way to a later row of this row group.
            later = self._group(row) > self._group(self._first + len(self._cells))
            if column != self._column or row < self._first or later:
                self._restart(column, row)
            try:
                with _reading(self.where, ItemReadError):
                    while row >= self._first + len(self._cells):
                        self._advance()
            except FeatstoreError:
                self._column = ""
                raise
            return self._cells[row - self._first]

    def close(self) -> None:
        """Close the file."""
        self._batches = iter(())
        self._cells.clear()
        self._file.close()
        self._source.close()

    def _group(self, row: int) -> int:
        return bisect_right(self._starts, row) - 1

    def _restart(self, column: str, row: int) -> None:
        group = self._group(row)
        self._column, self._first, self._held = column, self._starts[group], 0
        self._batches = self._file.iter_batches(
            batch_size=BATCH_ROWS,
            row_groups=range(group, len(self._starts)),
            columns=[column],
            use_threads=False,
        )
        self._cells.clear()

    def _advance(self) -> None:
        try:
            batch = next(self._batches)
        except StopIteration as err:
            raise ValueError("it has fewer rows than it says") from err
        cells = map(only_field, batch.column(0).to_pylist())
        new = [cell if isinstance(cell, bytes) else b"" for cell in cells]
        self._cells.extend(new)
        self._held += sum(map(len, new))
        while self._held > WINDOW_BYTES and len(self._cells) > batch.num_rows:
            self._held -= len(self._cells.popleft())
            self._first += 1


#: An image file of more bytes than this is not read.
MAX_ITEM_BYTES = 256 * 2**20

_CELL = re.compile(r"(.+)#(0|[1-9][0-9]{0,14})")

#: Tables that stay open between reads.
OPEN_TABLES = 4


class ByteReader:
    """Read the bytes of items; several threads may.

    Memory is bounded by the items in flight, plus for Parquet a window of 32 MiB a file of
    which at most four stay open, plus for a file behind an address 16 MiB. Nothing is ever
    returned that has not the item's content_sha256.

    Parameters
    ----------
    root : Path
        Folder or address that uris are relative to.
    max_bytes : int
        Larger items are refused.
    """

    def __init__(self, root: Path | Address, *, max_bytes: int = MAX_ITEM_BYTES) -> None:
        self._root: Root = Folder(root) if isinstance(root, Path) else Remote(root)
        self._max_bytes = max_bytes
        # What falls out of them is closed when the last thread has let it go.
        self._tars = lru_cache(self._root.keep_open)(self._root.open)
        self._tables = lru_cache(OPEN_TABLES)(lambda file: ParquetCells(self._root.open(file)))
        self._opening = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        if isinstance(self._root.place, Address):
            raise TypeError("What is fetched from an address is shared by threads of one process.")
        return partial(ByteReader, max_bytes=self._max_bytes), (self._root.place,)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files that stayed open; reading again opens them again."""
        self._tars.cache_clear()
        self._tables.cache_clear()

    def read(self, item: Mapping[str, Any]) -> bytes:
        """Return the bytes of an item.

        Parameters
        ----------
        item : mapping
            Its row: ``uri`` and ``content_sha256``, for a member of a tar also ``byte_offset``
            and ``byte_size``.

        Raises
        ------
        ItemReadError
            If they cannot be read, or their sha256 is not the item's. Also an OSError.
        """
        uri = item.get("uri")
        if not isinstance(uri, str):
            raise ItemReadError(f"The item {item.get('item_id')!r} has no uri.")
        locator = parse_locator(uri)
        digest = item.get("content_sha256")
        far = isinstance(self._root.place, Address)
        if (locator is not None or far) and not digest:
            what = "lies on a server" if locator is None else "is a part of a file"
            raise ItemReadError(f"{uri!r} {what} but has no content_sha256; it is not read.")
        try:
            if locator is None:
                data = self._root.read(uri, limit=self._max_bytes)
            elif locator[0].endswith(".tar"):
                data = self._read_member(*locator, item)
            else:
                data = self._read_cell(*locator)
        except ItemReadError:
            raise
        except (ManifestError, CorruptStoreError) as err:
            raise ItemReadError(str(err)) from err
        except OSError as err:
            raise ItemReadError(f"Cannot read {uri!r}: {err.strerror or err}.") from err
        if digest and sha256_hex(data) != digest:
            raise ItemReadError(
                "the file differs from the manifest (its content hash changed); build it again"
            )
        return data

    def _read_member(self, file: str, part: str, item: Mapping[str, Any]) -> bytes:
        offset, size = item.get("byte_offset"), item.get("byte_size")
        if type(offset) is not int or type(size) is not int or offset < 0 or size < 0:
            raise ItemReadError(f"{part!r} of {file!r} has no byte_offset and byte_size.")
        check_size(part, size, self._max_bytes)
        with self._opening:
            tar = self._tars(file)
        data = tar.read_at(offset, size)
        if len(data) < size:
            raise ItemReadError(f"{file!r} ends inside {part!r}; it is truncated.")
        return data

    def _read_cell(self, file: str, part: str) -> bytes:
        cell = _CELL.fullmatch(part)
        if cell is None:
            raise ItemReadError(f"{part!r} of {file!r} is not column#row.")
        with self._opening:
            table = self._tables(file)
        data = table.get(cell[1], int(cell[2]))
        check_size(part, len(data), self._max_bytes)
        return data


def open_reader(manifest: Manifest) -> ByteReader:
    """Return the reader of a manifest's items."""
    return ByteReader(manifest.root)


def check_bytes(manifest: Manifest) -> None:
    """Read every item of a manifest and compare its content hash.

    Raises
    ------
    ManifestError
        If one differs or cannot be read.
    """
    import polars as pl

    for kind, table in manifest.tables.items():
        hashed = table.filter(pl.col("content_sha256").is_not_null())
        texts = hashed.filter(pl.col("uri").is_null())
        changed = item_hashes(manifest.root, texts) != texts["content_sha256"]
        lost = [f"{item!r}: its text has changed" for item in texts.filter(changed)["item_id"]]
        with open_reader(manifest) as reader:
            for row in hashed.filter(pl.col("uri").is_not_null()).iter_rows(named=True):
                try:
                    reader.read(row)
                except ItemReadError as err:
                    lost.append(f"{row['item_id']!r}: {err}")
        if lost:
            raise ManifestError(
                f"{len(lost):,} {kind} items cannot be read: {'; '.join(lost[:SHOWN])}"
            )

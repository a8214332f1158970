"""Read the bytes of items, from files, archives and tables."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self

from featstore.address import Address
from featstore.errors import CorruptStoreError, ItemReadError, ManifestError
from featstore.identity import sha256_hex
from featstore.manifest_files import SHOWN, Locator, is_url, item_hashes, parse_locator, uri_fault
from featstore.sources.roots import Folder, Remote, Root, UrlReader, check_size

if TYPE_CHECKING:
    from featstore.manifest import Manifest
    from featstore.sources.arrow import ArrowCells, ParquetCells

#: An image file of more bytes than this is not read.
MAX_ITEM_BYTES = 256 * 2**20

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
        self._tables = lru_cache(OPEN_TABLES)(partial(_open_table, self._root))
        self._opening = threading.Lock()
        self._urls = UrlReader()

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
        if not isinstance(uri, str) or (fault := uri_fault(uri)) is not None:
            what = "has no uri" if not isinstance(uri, str) else f"has the uri {uri!r}: {fault}"
            _fail(f"The item {item.get('item_id')!r} {what}.")
        locator = parse_locator(uri)
        digest = item.get("content_sha256")
        far = is_url(uri) or isinstance(self._root.place, Address)
        if (locator is not None or far) and not digest:
            what = "lies on a server" if locator is None else "is a part of a file"
            _fail(f"{uri!r} {what} but has no content_sha256; it is not read.")
        try:
            if locator is None:
                source = self._urls if is_url(uri) else self._root
                data = source.read(uri, limit=self._max_bytes)
            elif locator.file.endswith(".tar"):
                data = self._read_member(locator, item)
            else:
                data = self._read_cell(locator)
        except ItemReadError:
            raise
        except (ManifestError, CorruptStoreError) as err:
            raise ItemReadError(str(err)) from err
        except OSError as err:
            raise ItemReadError(f"Cannot read {uri!r}: {err.strerror or err}.") from err
        if digest and sha256_hex(data) != digest:
            _fail("the file differs from the manifest (its content hash changed); build it again")
        return data

    def _read_member(self, locator: Locator, item: Mapping[str, Any]) -> bytes:
        offset, size = item.get("byte_offset"), item.get("byte_size")
        if type(offset) is not int or type(size) is not int or offset < 0 or size < 0:
            _fail(f"{locator.part!r} of {locator.file!r} has no byte_offset and byte_size.")
        check_size(locator.part, size, self._max_bytes)
        with self._opening:
            tar = self._tars(locator.file)
        data = tar.read_at(offset, size)
        if len(data) < size:
            _fail(f"{locator.file!r} ends inside {locator.part!r}; it is truncated.")
        return data

    def _read_cell(self, locator: Locator) -> bytes:
        cell = locator.cell()
        if cell is None:
            _fail(f"{locator.part!r} of {locator.file!r} is not column#row.")
        with self._opening:
            table = self._tables(locator.file)
        data = table.get(*cell)
        check_size(locator.part, len(data), self._max_bytes)
        return data


def _open_table(root: Root, file: str) -> ParquetCells | ArrowCells:
    from featstore.sources.arrow import ArrowCells, ParquetCells

    if not file.endswith(".arrow"):
        return ParquetCells(root.open(file))
    if isinstance(root.place, Address):
        _fail(f"{file!r} of {root.place} is not read: Arrow files must lie here.")
    return ArrowCells(root.place / file)


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


def _fail(msg: str) -> NoReturn:
    raise ItemReadError(msg)

"""Tables beside the rows: items, failures and thumbnails."""

from __future__ import annotations

import contextlib
import difflib
import functools
import io
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from featstore.durable import open_regular, read_regular, write_file
from featstore.errors import CorruptStoreError, FeatstoreError
from featstore.identity import SHORT, sha256_hex
from featstore.store.lock import folder_lock
from featstore.store.log import list_thumbnails, present_commit, read_log
from featstore.store.parquet_guard import (
    Chosen,
    Chunk,
    allowed_bytes,
    check_sizes,
    checked_table,
    column_chunks,
    footer_start,
    read_chosen,
    read_table,
    table_bytes,
)
from featstore.store.records import Commit, key_of

#: An item table is refused above this size.
MAX_ITEM_BYTES = 8 * 2**30

#: Rows of a row group, whose columns have statistics and hashes of their own.
GROUP_ROWS = 65_536

#: Footers are refused above this size.
MAX_FOOTER_BYTES = 2**26


_EMPTY = pl.DataFrame()


class ItemFile:
    """An item table and its file: hashed, and serialised, once, when first asked for.

    Every set and every part of a job shares one, so that to begin a part costs nothing that grows
    with the number of items.

    Attributes
    ----------
    table : DataFrame
    """

    def __init__(self, table: pl.DataFrame) -> None:
        self.table = table
        self._parts: dict[tuple[int, int], ItemFile] = {}

    @functools.cached_property
    def data(self) -> bytes:
        """The bytes of the file."""
        return item_bytes(self.table)

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        """Bytes, sha256 and those of the chunks, as a commit states them."""
        start = footer_start(len(self.data), self.data[-8:])
        chunks = column_chunks(self.data[start:], start)
        places = [*(chunk.place for chunk in chunks), slice(start, None)]
        hashes = [sha256_hex(self.data[place]) for place in places]
        return {"bytes": len(self.data), "sha256": sha256_hex(self.data), "chunks": hashes}

    @property
    def name(self) -> str:
        """Name of the file."""
        return f"items-{self.facts['sha256'][:SHORT]}.parquet"

    def part(self, start: int, n: int) -> ItemFile:
        """Return the file of n items from `start` on: the same one, however often it is asked."""
        if (start, n) == (0, self.table.height):
            return self
        return self._parts.setdefault((start, n), ItemFile(self.table.slice(start, n)))


def item_bytes(table: pl.DataFrame) -> bytes:
    """Return an item table as the bytes of its file, of which single columns can be read."""
    return table_bytes(table, row_group_size=GROUP_ROWS, statistics=True)


#: Reads columns of an item table, all for None; or, of one, where it is one of some texts.
ReadItems = Callable[[Sequence[str] | None, Sequence[str] | None], pl.DataFrame]


class ItemTable:
    """The item table of a selection, read when it is first looked at: column by column, or whole.

    Rows can be read without knowing their items, so nothing is read until then.

    Parameters
    ----------
    read : callable or None
        See `ReadItems`; None of a table that is known.
    known : DataFrame
        Columns that need not be read.
    """

    def __init__(self, read: ReadItems | None, known: pl.DataFrame = _EMPTY) -> None:
        self._read = read
        self._known = known
        self._lock = threading.Lock()

    @property
    def table(self) -> pl.DataFrame:
        """The items."""
        with self._lock:
            if self._read is not None:
                self._known = self._read(None, None)
                self._read = None  # and with it whatever it was read from
            return self._known

    def columns(self, names: Sequence[str]) -> pl.DataFrame:
        """Return some columns; a polars error if there is one of no such name."""
        with self._lock:
            lacks = [name for name in names if name not in self._known.columns]
            if lacks and self._read is not None:
                self._known = pl.DataFrame([*self._known, *self._read(lacks, None)])
            return self._known.select(names)

    def where(self, name: str, value: Any) -> pl.Series:
        """Return where a column is `value`, or one of several; of unread texts nothing is kept."""
        wanted = values_in(value)
        with self._lock:
            if (
                self._read is not None
                and name not in self._known.columns
                and all(isinstance(one, str) for one in wanted)
            ):
                return self._read([name], wanted)[name]
        return where_equal(self.columns([name])[name], value)

    def take(self, rows: np.ndarray) -> ItemTable:
        """Return the table of these rows, in this order; still unread if this one is."""

        def read(names: Sequence[str] | None, texts: Sequence[str] | None) -> pl.DataFrame:
            if names is not None and texts is not None:
                return pl.DataFrame({names[0]: self.where(names[0], texts)[rows]})
            return (self.table if names is None else self.columns(names))[rows]

        return ItemTable(read)


#: Ids on either side of an unknown one that it is compared with.
_NEAR = 500


def closest(name: str, ids: pl.Series) -> str:
    """Return the id that is most like a name.

    Of many ids those beside it in the alphabet are looked at: comparing each takes seconds.
    """
    at = int((ids < name).sum())
    near = ids.sort()[max(0, at - _NEAR) : at + _NEAR]
    return max(near, key=lambda own: difflib.SequenceMatcher(None, name, own).ratio(), default="")


def values_in(value: Any) -> list[Any]:
    """Return the values that a condition names: those of a collection, or the one."""
    collection = isinstance(value, Collection) and not isinstance(value, str | bytes)
    return list(value) if collection else [value]


def where_equal(column: pl.Series, value: Any) -> pl.Series:
    """Return where a column equals `value`, or any of the values in a collection."""
    wanted = values_in(value)
    # A store keeps whole numbers as texts.
    present = [
        str(one) if column.dtype == pl.String and isinstance(one, int | np.integer) else one
        for one in wanted if one is not None
    ]  # fmt: skip
    try:
        here = column.is_in(present) if present else pl.zeros(len(column), pl.Boolean, eager=True)
    except pl.exceptions.PolarsError:
        # Values of another type than the column's equal nothing in it.
        here = pl.zeros(len(column), pl.Boolean, eager=True)
    here = here.fill_null(value=False)
    return here | column.is_null() if len(present) < len(wanted) else here


def join_ids(x: pl.Series | np.ndarray, y: pl.Series | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the places of all equal ids in x and in y, in the order of x, then of y.

    A null has no equal.
    """
    a = pl.DataFrame({"id": x, "x": np.arange(len(x))}).drop_nulls("id")
    b = pl.DataFrame({"id": y, "y": np.arange(len(y))}).drop_nulls("id")
    joined = a.join(b, on="id", how="inner").sort("x", "y")
    return joined["x"].to_numpy(), joined["y"].to_numpy()


def check_items_file(path: Path, facts: Mapping[str, Any]) -> None:
    """Raise CorruptStoreError unless the item table is there and as large as its commit says."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        size = -1
    if size != facts["bytes"] or size > MAX_ITEM_BYTES:
        raise _unlike_commit(path, size)


def read_listed(path: Path, facts: Mapping[str, Any]) -> bytes:
    """Return a file of a set, not of rows, which must be as its commit says."""
    try:
        data = read_regular(path, limit=min(facts["bytes"], MAX_ITEM_BYTES))
    except FileNotFoundError as err:
        raise _unlike_commit(path, -1) from err
    if len(data) != facts["bytes"] or sha256_hex(data) != facts["sha256"]:
        raise _unlike_commit(path, len(data))
    return data


def _unlike_commit(path: Path, size: int) -> CorruptStoreError:
    what = "is missing" if size < 0 else f"differs from its commit record ({size:,} bytes)"
    return CorruptStoreError(f"{path} {what}. The set cannot be read; extract or fetch it again.")


def read_items(
    files: Sequence[tuple[Path, Mapping[str, Any]]],
    *,
    columns: Sequence[str] | None = None,
    texts: Sequence[str] | None = None,
) -> pl.DataFrame:
    """Read item tables, or some columns of them, and check what is read against the commit.

    Parameters
    ----------
    files : sequence of (path, facts)
        What the commit states of each, with its rows ``n``.
    columns : sequence of str, optional
        All by default.
    texts : sequence of str, optional
        Return booleans, whether the one column is one of these. Groups of rows that hold none, by
        their statistics, are not read.

    Raises
    ------
    CorruptStoreError
        If a file is missing, differs from the commit, or has another number of rows.
    polars.exceptions.ColumnNotFoundError
        If they have no such column.
    """
    chosen = []
    for path, facts in files:
        check_items_file(path, facts)
        try:
            with open_regular(path) as file:
                found = _chosen_chunks(file, facts, columns, texts)
            if found is not None:
                check_sizes(found.data, rows=facts["n"], places=found.places)
        except (ValueError, MemoryError) as err:
            raise CorruptStoreError(
                f"{path} is not a table that a store holds: {str(err) or 'it is too large'}."
            ) from err
        if found is None:
            raise _unlike_commit(path, facts["bytes"])
        if found.rows != facts["n"]:
            raise CorruptStoreError(
                f"{path} has {found.rows:,} items; its commit says {facts['n']:,}."
            )
        chosen.append(found)
    with_ids = texts is None and (columns is None or "item_id" in columns)
    schema = {"item_id": pl.String} if with_ids else {}
    size = sum(facts["bytes"] for _, facts in files), sum(one.rows for one in chosen)
    where = ", ".join(str(path) for path, _ in files[:3])
    return checked_table(lambda: read_chosen(chosen, columns, texts), schema, where, size)


def read_parts(
    folder: Path,
    commit: Commit,
    *,
    columns: Sequence[str] | None = None,
    texts: Sequence[str] | None = None,
) -> pl.DataFrame:
    """Read the items of all parts of a set from the folder of its kind; see `read_items`."""
    files = [(folder / one["file"], one) for one in commit.tables]
    return read_items(files, columns=columns, texts=texts).head(commit.n)


def _chosen_chunks(
    file: io.BufferedReader,
    facts: Mapping[str, Any],
    columns: Sequence[str] | None,
    texts: Sequence[str] | None,
) -> Chosen | None:
    """Return what was asked for of a file; None if it differs from the commit."""
    size, hashes = facts["bytes"], facts["chunks"]
    file.seek(max(0, size - 8))
    start = footer_start(size, file.read(8))
    if not start >= 4 or size - start > MAX_FOOTER_BYTES:
        return None
    file.seek(start)
    footer = file.read(size - start)
    if sha256_hex(footer) != hashes[-1]:
        return None
    chunks = column_chunks(footer, start)
    data = bytearray(size)  # what is not asked for stays 0
    view = memoryview(data)
    view[start:] = footer
    file.seek(0)
    file.readinto(view[:4])
    asked = _asked(chunks, columns, texts)
    places = {chunk.place.start for chunk in asked}
    for chunk, digest in zip(chunks, hashes, strict=False):
        if chunk.place.start in places:
            file.seek(chunk.place.start)
            file.readinto(view[chunk.place])
            if sha256_hex(view[chunk.place]) != digest:
                return None
    groups = sorted({chunk.rows for chunk in asked}, key=lambda rows: rows.start)
    return Chosen(data, chunks[-1].rows.stop if chunks else 0, places, groups)


def _asked(
    chunks: Sequence[Chunk], columns: Sequence[str] | None, texts: Sequence[str] | None
) -> list[Chunk]:
    """Return the chunks that must be read; a polars error if there is no such column."""
    unknown = {*(columns or ())} - {chunk.name for chunk in chunks}
    if unknown:
        raise pl.exceptions.ColumnNotFoundError(", ".join(sorted(unknown)))
    asked = [chunk for chunk in chunks if columns is None or chunk.name in columns]
    return asked if texts is None else [chunk for chunk in asked if chunk.may_hold(texts)]


#: The table of failed items of a first revision, of which none was withdrawn.
FAILURES = "failures.parquet"


def failures_file(metadata: Mapping[str, Any]) -> str | None:
    """Return the name of a set's table of failed items from its commit's metadata, if any.

    The first revision calls it `FAILURES`; a later one whose failures differ adds digits of its
    sha256, so that both stay.
    """
    return next((name for name in metadata if name.startswith("failures")), None)


def read_failures(path: Path, facts: Mapping[str, Any] | None, *, n: int) -> pl.DataFrame:
    """Read those of n items that have no embedding, with the reason; empty if `facts` is None.

    Raises
    ------
    CorruptStoreError
        If the file is missing, or differs from the commit.
    """
    schema = {"item_id": pl.String, "reason": pl.String}
    if facts is None:
        return pl.DataFrame(schema=schema)
    data = read_listed(path, facts)
    return read_table(data, where=str(path), schema=schema, rows=n).select("item_id", "reason")


MAX_THUMBNAILS_BYTES = 2 * 2**30


#: Why an item has no embedding that it once had: whoever asked to be taken out stays out.
WITHDRAWN = "withdrawn"


def _withdrawn(directory: Path) -> set[str]:
    """Return the ids of the items that were withdrawn from a set of the kind in a folder."""
    root, found = directory.parents[1], set[str]()
    for folder in (root / key for key in read_log(root).sets):
        commit = None
        with contextlib.suppress(FeatstoreError, OSError):  # nothing is known of a damaged set
            if folder.parent == directory:
                commit = present_commit(root, key_of(folder))
            if commit is not None:
                name = failures_file(commit.metadata) or ""
                table = read_failures(folder / name, commit.metadata.get(name), n=commit.n)
                found.update(table.filter(reason=WITHDRAWN)["item_id"])
    return found


def write_thumbnails(directory: Path, thumbnails: Mapping[str, bytes]) -> None:
    """Write item_id -> WebP bytes below a dataset's kind; the name carries the hash.

    Thumbnails already there are kept for items that `thumbnails` lacks; items that were withdrawn
    have none. Untouched if nothing changed, but listed in the log as they are.
    """
    with folder_lock(directory):
        old = sorted(directory.glob("thumbnails-*.parquet"))
        if not (thumbnails or old):
            return
        every, gone = {**_read_all(old), **thumbnails}, _withdrawn(directory)
        data = _thumbnail_bytes({name: every[name] for name in every.keys() - gone})
        path = directory / f"thumbnails-{sha256_hex(data)[:SHORT]}.parquet"
        if path not in old:
            write_file(path, [data])
        list_thumbnails(directory.parents[1], directory, [path])
        # A kill before this leaves several files, which readers join and the next write unites.
        for other in {*old} - {path}:
            other.unlink()


def _thumbnail_bytes(thumbnails: Mapping[str, bytes]) -> bytes:
    names = sorted(thumbnails)
    table = pl.DataFrame(
        {"item_id": names, "webp": [thumbnails[name] for name in names]},
        schema={"item_id": pl.String, "webp": pl.Binary},
    )
    buffer = io.BytesIO()
    table.write_parquet(buffer, compression="uncompressed", statistics=False)
    return buffer.getvalue()


def read_thumbnails(directory: Path) -> dict[str, bytes]:
    """Return item_id -> WebP bytes; empty if none were stored.

    Raises
    ------
    CorruptStoreError
        If the file's hash is not the one in its name.
    """
    while True:
        with contextlib.suppress(FileNotFoundError):  # a writer united the files meanwhile
            return _read_all(sorted(directory.glob("thumbnails-*.parquet")))


def _read_all(paths: list[Path]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    left = allowed_bytes(sum(path.lstat().st_size for path in paths))
    for path in paths:
        part = read_thumbnail_file(path)
        left -= sum(map(len, part.values()))
        if left < 0:
            raise CorruptStoreError(
                f"The {len(paths):,} files of thumbnails in {path.parent} unpack to far more than "
                "they are. Delete them and extract with `thumbnails=` again."
            )
        found.update(part)
    return found


def read_thumbnail_file(path: Path) -> dict[str, bytes]:
    """Return item_id -> WebP bytes of one file; raises as `read_thumbnails`."""
    data = read_regular(path, limit=MAX_THUMBNAILS_BYTES)
    if sha256_hex(data)[:SHORT] != path.stem.removeprefix("thumbnails-"):
        raise CorruptStoreError(
            f"{path} was changed after it was written. Delete it and extract with "
            "`thumbnails=` again."
        )
    table = read_table(data, where=str(path), schema={"item_id": pl.String, "webp": pl.Binary})
    return dict(zip(table["item_id"].to_list(), table["webp"].to_list(), strict=True))

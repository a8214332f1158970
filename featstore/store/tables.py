"""Tables beside the rows: items, failures and thumbnails."""

from __future__ import annotations

import difflib
import functools
import io
import threading
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from featstore.errors import CorruptStoreError
from featstore.identity import SHORT, sha256_hex
from featstore.store.files import read_regular, write_file
from featstore.store.lock import folder_lock
from featstore.store.log import has_log, list_thumbnails
from featstore.store.parquet_guard import allowed_bytes, read_table, table_bytes

#: An item table is refused above this size.
MAX_ITEM_BYTES = 8 * 2**30


class ItemFile:
    """An item table and its file: serialised and hashed once, when first asked for.

    Every set and every part of a job shares one, so that to begin a part costs nothing that grows
    with the number of items.

    Attributes
    ----------
    table : DataFrame
    """

    def __init__(self, table: pl.DataFrame) -> None:
        self.table = table

    @functools.cached_property
    def data(self) -> bytes:
        """The bytes of the file."""
        return table_bytes(self.table)

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        """Bytes and sha256, as a commit states them."""
        return {"bytes": len(self.data), "sha256": sha256_hex(self.data)}

    @property
    def sha256(self) -> str:
        """What a set's commit and the plan of its journal know the items by."""
        return str(self.facts["sha256"])

    @property
    def name(self) -> str:
        """Name of the file."""
        return f"items-{self.sha256[:SHORT]}.parquet"


class ItemTable:
    """The item table of a selection, read when it is first looked at.

    Rows can be read without knowing their items, so nothing is read until then.
    """

    def __init__(self, read: Callable[[], pl.DataFrame]) -> None:
        self._read: Callable[[], pl.DataFrame] | None = read
        self._table: pl.DataFrame | None = None
        self._lock = threading.Lock()

    @property
    def table(self) -> pl.DataFrame:
        """The items."""
        with self._lock:
            if self._table is None:
                assert self._read is not None
                self._table = self._read()
                self._read = None  # and with it whatever it was read from
            return self._table

    def take(self, rows: np.ndarray) -> ItemTable:
        """Return the table of these rows, in this order; still unread if this one is."""
        return ItemTable(lambda: self.table[rows])


#: Ids on either side of an unknown one that it is compared with.
_NEAR = 500


def closest(name: str, ids: pl.Series) -> str:
    """Return the id that is most like a name.

    Of many ids those beside it in the alphabet are looked at: comparing each takes seconds.
    """
    at = int((ids < name).sum())
    near = ids.sort()[max(0, at - _NEAR) : at + _NEAR]
    return max(near, key=lambda own: difflib.SequenceMatcher(None, name, own).ratio(), default="")


def where_equal(column: pl.Series, value: Any) -> pl.Series:
    """Return where a column equals `value`, or any of the values in a collection."""
    collection = isinstance(value, Collection) and not isinstance(value, str | bytes)
    wanted = list(value) if collection else [value]
    present = [one for one in wanted if one is not None]
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


def values_of(column: pl.Series) -> str:
    """Return the first few values of a column, for an error message."""
    values = column.drop_nulls().unique().sort().to_list()
    shown = ", ".join(repr(value) for value in values[:8]) or "no value"
    return shown + (f" and {len(values) - 8:,} more" if len(values) > 8 else "")


def check_items_file(path: Path, facts: Mapping[str, Any]) -> None:
    """Raise CorruptStoreError unless the item table is there and as large as its commit says."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        size = -1
    if size != facts["bytes"] or size > MAX_ITEM_BYTES:
        raise _unlike_commit(path, size)


def _read_listed(path: Path, facts: Mapping[str, Any]) -> bytes:
    """Return a table's file, which must be as its commit says."""
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


def read_items(path: Path, facts: Mapping[str, Any], *, n: int) -> pl.DataFrame:
    """Read an item table and check it against its commit.

    Raises
    ------
    CorruptStoreError
        If the file is missing, differs from the commit, or has another number of rows.
    """
    data = _read_listed(path, facts)
    table = read_table(data, where=str(path), schema={"item_id": pl.String}, rows=n)
    if table.height != n:
        raise CorruptStoreError(f"{path} has {table.height:,} items; its commit says {n:,}.")
    return table


def failures_file(metadata: Mapping[str, Any]) -> str | None:
    """Return the name of a set's table of failed items from its commit's metadata, if any.

    The first revision calls it ``failures.parquet``; a later one whose failures differ adds
    digits of its sha256, so that both stay.
    """
    return next((name for name in metadata if name.startswith("failures")), None)


def read_failures(path: Path, facts: dict[str, Any] | None, *, n: int) -> pl.DataFrame:
    """Read those of n items that have no embedding, with the reason; empty if `facts` is None.

    Raises
    ------
    CorruptStoreError
        If the file is missing, or differs from the commit.
    """
    schema = {"item_id": pl.String, "reason": pl.String}
    if facts is None:
        return pl.DataFrame(schema=schema)
    data = _read_listed(path, facts)
    table = read_table(data, where=str(path), schema=schema, rows=n)
    return table.select("item_id", "reason")


MAX_THUMBNAILS_BYTES = 2 * 2**30


def write_thumbnails(directory: Path, thumbnails: Mapping[str, bytes]) -> None:
    """Write item_id -> WebP bytes below a dataset's kind; the name carries the hash.

    Thumbnails already there are kept for items that `thumbnails` lacks. Untouched if
    nothing changed, but listed in the log as they are.
    """
    with folder_lock(directory) as locked:
        if locked:
            # Under the lock nobody else is writing: these are what a kill left.
            for staged in directory.glob(".thumbnails-*.staged"):
                staged.unlink(missing_ok=True)
        old = sorted(directory.glob("thumbnails-*.parquet"))
        if thumbnails or len(old) > 1:
            data = _thumbnail_bytes({**_read_all(old), **thumbnails})
            path = directory / f"thumbnails-{sha256_hex(data)[:SHORT]}.parquet"
            if path not in old:
                write_file(path, [data])
            # A kill before this leaves two files, which readers join and the next write unites; one
            # after it a file that is not listed yet.
            for other in old:
                if other != path:
                    other.unlink()
        root = directory.parent.parent
        if has_log(root):
            list_thumbnails(root, directory)


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
    for _ in range(3):
        try:
            return _read_all(sorted(directory.glob("thumbnails-*.parquet")))
        except FileNotFoundError:
            continue  # a writer united the files meanwhile
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
                "they are. Delete them and extract with --thumbnails again."
            )
        found.update(part)
    return found


def read_thumbnail_file(path: Path) -> dict[str, bytes]:
    """Return item_id -> WebP bytes of one file; raises as `read_thumbnails`."""
    data = read_regular(path, limit=MAX_THUMBNAILS_BYTES)
    if sha256_hex(data)[:SHORT] != path.stem.removeprefix("thumbnails-"):
        raise CorruptStoreError(
            f"{path} was changed after it was written. Delete it and extract with "
            "--thumbnails again."
        )
    schema = {"item_id": pl.String, "webp": pl.Binary}
    table = read_table(data, where=str(path), schema=schema)
    return dict(zip(table["item_id"].to_list(), table["webp"].to_list(), strict=True))

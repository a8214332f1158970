"""Item tables as files: Parquet with the same bytes for the same rows."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from featstore.errors import CorruptStoreError
from featstore.keys import SHORT, sha256_hex
from featstore.store.files import read_regular
from featstore.store.parquet import read_table

#: An item table is refused above this size.
MAX_ITEM_BYTES = 8 * 2**30


def items_bytes(table: pl.DataFrame) -> bytes:
    """Return `table` as Parquet: one thread-independent layout, zstd, no statistics of time."""
    buffer = io.BytesIO()
    table.rechunk().write_parquet(buffer, compression="zstd", compression_level=3, statistics=False)
    return buffer.getvalue()


def items_file_name(data: bytes) -> str:
    """Return the file name of an item table from its bytes."""
    return f"items-{sha256_hex(data)[:SHORT]}.parquet"


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


def check_items_file(path: Path, facts: dict[str, Any]) -> None:
    """Raise CorruptStoreError unless the item table is there and as large as its commit says."""
    try:
        size = path.stat().st_size
    except FileNotFoundError as err:
        msg = f"{path} is missing. The set cannot be read; extract or fetch it again."
        raise CorruptStoreError(msg) from err
    if size != facts["bytes"] or size > MAX_ITEM_BYTES:
        msg = (
            f"{path} differs from its commit record ({size:,} bytes, expected {facts['bytes']:,}). "
            "Extract or fetch the set again."
        )
        raise CorruptStoreError(msg)


def read_items(path: Path, facts: dict[str, Any], *, n: int) -> pl.DataFrame:
    """Read an item table and check it against its commit.

    Raises
    ------
    CorruptStoreError
        If the file is missing, differs from the commit, or has another number of rows.
    """
    try:
        data = read_regular(path, limit=min(facts["bytes"], MAX_ITEM_BYTES))
    except FileNotFoundError as err:
        msg = f"{path} is missing. The set cannot be read; extract or fetch it again."
        raise CorruptStoreError(msg) from err
    if len(data) != facts["bytes"] or sha256_hex(data) != facts["sha256"]:
        msg = (
            f"{path} differs from its commit record ({len(data):,} bytes, expected "
            f"{facts['bytes']:,}). Extract or fetch the set again."
        )
        raise CorruptStoreError(msg)
    table = read_table(data, where=str(path), schema={"item_id": pl.String})
    if table.height != n:
        msg = f"{path} has {table.height:,} items; its commit says {n:,}."
        raise CorruptStoreError(msg)
    return table


def failures_file(metadata: Mapping[str, Any]) -> str | None:
    """Return the name of a set's table of failed items from its commit's metadata, if any.

    The first revision calls it ``failures.parquet``; a later one whose failures differ adds
    digits of its sha256, so that both stay.
    """
    return next((name for name in metadata if name.startswith("failures")), None)


def read_failures(path: Path, facts: dict[str, Any] | None) -> pl.DataFrame:
    """Read the items that have no embedding, with the reason; empty if `facts` is None.

    Raises
    ------
    CorruptStoreError
        If the file is missing, or differs from the commit.
    """
    schema = {"item_id": pl.String, "reason": pl.String}
    if facts is None:
        return pl.DataFrame(schema=schema)
    try:
        data = read_regular(path, limit=min(facts["bytes"], MAX_ITEM_BYTES))
    except FileNotFoundError as err:
        msg = f"{path} is missing. Extract or fetch the set again."
        raise CorruptStoreError(msg) from err
    if len(data) != facts["bytes"] or sha256_hex(data) != facts["sha256"]:
        msg = f"{path} differs from its commit record. Extract or fetch the set again."
        raise CorruptStoreError(msg)
    table = read_table(data, where=str(path), schema=schema)
    return table.select("item_id", "reason")

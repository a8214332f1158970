"""Item tables as files: Parquet with the same bytes for the same rows."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import polars as pl

from featstore.errors import CorruptStoreError
from featstore.keys import SHORT, sha256_hex

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


def read_items(path: Path, facts: dict[str, Any], *, n: int) -> pl.DataFrame:
    """Read an item table and check it against its commit.

    Raises
    ------
    CorruptStoreError
        If the file is missing, differs from the commit, or has another number of rows.
    """
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= MAX_ITEM_BYTES else b""
    except FileNotFoundError as err:
        msg = f"{path} is missing. The set cannot be read; extract or fetch it again."
        raise CorruptStoreError(msg) from err
    if size != facts["bytes"] or sha256_hex(data) != facts["sha256"]:
        msg = (
            f"{path} differs from its commit record ({size:,} bytes, expected {facts['bytes']:,}). "
            "Extract or fetch the set again."
        )
        raise CorruptStoreError(msg)
    table = pl.read_parquet(io.BytesIO(data))
    if table.height != n or "item_id" not in table.columns:
        msg = f"{path} has {table.height:,} items; its commit says {n:,}."
        raise CorruptStoreError(msg)
    return table

"""Thumbnails of a dataset's images: one Parquet file, the only pictures a store holds."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from featstore.errors import CorruptStoreError
from featstore.keys import SHORT, sha256_hex
from featstore.store.catalog import write_catalog
from featstore.store.files import read_regular, write_file
from featstore.store.locks import folder_lock
from featstore.store.parquet import read_table

MAX_THUMBNAILS_BYTES = 2 * 2**30


def write_thumbnails(directory: Path, thumbnails: Mapping[str, bytes]) -> None:
    """Write item_id -> WebP bytes below a dataset's kind; the name carries the hash.

    Thumbnails already there are kept for items that `thumbnails` lacks. Untouched if
    nothing changed.
    """
    with folder_lock(directory) as locked:
        if locked:
            # Under the lock nobody else is writing: these are what a kill left.
            for staged in directory.glob(".thumbnails-*.staged"):
                staged.unlink(missing_ok=True)
        old = sorted(directory.glob("thumbnails-*.parquet"))
        merged = {**_read_all(old), **thumbnails}
        table = pl.DataFrame(
            {"item_id": sorted(merged), "webp": [merged[item] for item in sorted(merged)]},
            schema={"item_id": pl.String, "webp": pl.Binary},
        )
        buffer = io.BytesIO()
        table.write_parquet(buffer, compression="uncompressed", statistics=False)
        data = buffer.getvalue()
        path = directory / f"thumbnails-{sha256_hex(data)[:SHORT]}.parquet"
        if path not in old:
            write_file(path, [data])
        # A kill before this leaves two files, which readers join and the next write unites; one
        # after it a file that is not listed yet.
        for other in old:
            if other != path:
                other.unlink()
        root = directory.parent.parent
        if (root / "zarr.json").exists():
            write_catalog(root, thumbnails=directory)


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
    for path in paths:
        found.update(read_thumbnail_file(path))
    return found


def read_thumbnail_file(path: Path) -> dict[str, bytes]:
    """Return item_id -> WebP bytes of one file; raises as `read_thumbnails`."""
    data = read_regular(path, limit=MAX_THUMBNAILS_BYTES)
    if sha256_hex(data)[:SHORT] != path.stem.removeprefix("thumbnails-"):
        msg = (
            f"{path} was changed after it was written. Delete it and extract with "
            "--thumbnails again."
        )
        raise CorruptStoreError(msg)
    schema = {"item_id": pl.String, "webp": pl.Binary}
    table = read_table(data, where=str(path), schema=schema)
    return dict(zip(table["item_id"].to_list(), table["webp"].to_list(), strict=True))

"""Content hashes of items: sha256 of a file's bytes, or of a text in UTF-8."""

from __future__ import annotations

import hashlib
from pathlib import Path

import polars as pl

from featstore.errors import ManifestError
from featstore.keys import sha256_hex
from featstore.manifest.paths import SHOWN


def text_sha256(text: str) -> str:
    """Return the content hash of a text item."""
    return sha256_hex(text.encode("utf-8"))


def file_sha256(path: Path) -> str:
    """Return the content hash of a file item.

    Raises
    ------
    ManifestError
        If the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as err:
        msg = f"Cannot read {path}: {err.strerror or err}."
        raise ManifestError(msg) from err


def item_hashes(root: Path, table: pl.DataFrame) -> pl.Series:
    """Return the content hash of every item, computed anew.

    An item with neither uri nor text (a head weight) is hashed by its class_id, or its item_id.
    """
    rows = table.select("uri", "text", "class_id", "item_id").iter_rows()
    hashes = [
        file_sha256(root / uri) if uri is not None else text_sha256(text or class_id or item_id)
        for uri, text, class_id, item_id in rows
    ]
    return pl.Series("content_sha256", hashes, dtype=pl.String)


def check_hashes(root: Path, table: pl.DataFrame, kind: str) -> None:
    """Raise ManifestError if an item's content is not what its hash says; null is unchecked."""
    hashed = table.filter(pl.col("content_sha256").is_not_null())
    changed = hashed.filter(item_hashes(root, hashed) != hashed["content_sha256"])["item_id"]
    if len(changed):
        named = ", ".join(map(repr, changed.head(SHOWN)))
        msg = (
            f"The content of {len(changed):,} {kind} items differs from its recorded sha256 "
            f"(first: {named}). Build the dataset again, or restore the files."
        )
        raise ManifestError(msg)

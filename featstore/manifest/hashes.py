"""Content hashes of items: sha256 of a file's bytes, or of a text in UTF-8."""

from __future__ import annotations

import hashlib
from pathlib import Path

import polars as pl

from featstore.errors import ManifestError
from featstore.keys import sha256_hex
from featstore.manifest.locator import LOCATOR, parse_locator
from featstore.manifest.paths import SHOWN

_SHA256 = "[0-9a-f]{64}"


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
    A part of a file (see `featstore.manifest.locator`) keeps the hash that it has, which whoever
    cut the file into parts took from the very bytes.
    """
    rows = table.select("uri", "text", "class_id", "item_id", "content_sha256").iter_rows()
    hashes = []
    for uri, text, class_id, item_id, given in rows:
        if uri is None:
            hashes.append(text_sha256(text or class_id or item_id))
        elif parse_locator(uri) is not None:
            hashes.append(given)
        else:
            hashes.append(file_sha256(root / uri))
    return pl.Series("content_sha256", hashes, dtype=pl.String)


def check_hashes(root: Path, table: pl.DataFrame, kind: str) -> None:
    """Raise ManifestError if an item's content is not what its hash says; null is unchecked.

    Parts of files are refused: only `featstore.sources.check_bytes` can read them.
    """
    if table["uri"].str.contains(LOCATOR).any():
        msg = (
            f"Some {kind} items are parts of files, which are not read here. Check them with "
            "`featstore manifests show --hashes`."
        )
        raise ManifestError(msg)
    hashed = table.filter(pl.col("content_sha256").is_not_null())
    changed = hashed.filter(item_hashes(root, hashed) != hashed["content_sha256"])["item_id"]
    if len(changed):
        named = ", ".join(map(repr, changed.head(SHOWN)))
        msg = (
            f"The content of {len(changed):,} {kind} items differs from its recorded sha256 "
            f"(first: {named}). Build the dataset again, or restore the files."
        )
        raise ManifestError(msg)


def require_hashes(table: pl.DataFrame, kind: str, *, every: bool) -> None:
    """Raise ManifestError if a part of a file has no content hash; with `every`, any uri.

    The hash is what binds such an item to bytes that its author knew: nothing else is ever
    returned for it, so a manifest cannot make anybody's private files be read.
    """
    bound = pl.col("uri").is_not_null() if every else pl.col("uri").str.contains(LOCATOR)
    hashed = pl.col("content_sha256").str.contains(f"^(?:{_SHA256})$").fill_null(value=False)
    lost = table.filter(bound & ~hashed)["item_id"]
    if len(lost):
        where = "lie outside the manifest's folder" if every else "are parts of files"
        msg = (
            f"{len(lost):,} {kind} items {where} but have no content_sha256 of 64 hexadecimal "
            f"digits (first: {lost[0]!r}). Make the manifest with `featstore manifests make`."
        )
        raise ManifestError(msg)

"""Commit records: what a finished set consists of, and the hash of every part.

A commit is the only thing that makes rows readable. It names the number of rows, the hash
of each block's valid rows, the items, the failed rows, and the digest of the metadata; its
own sha256 is the revision_id.
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from featstore.errors import CorruptStoreError
from featstore.keys import SHORT, canonical_json, sha256_hex
from featstore.store.files import MAX_METADATA_BYTES, json_bytes, read_json
from featstore.store.layout import FORMAT, ArrayLayout, SetKey
from featstore.store.records import MAX_ROWS, check_format, parse_pointer, valid_commit

POINTER = "zarr.json"
REVISIONS = "revisions"


@dataclass(frozen=True)
class Commit:
    """One revision of a set.

    Attributes
    ----------
    n, dim, dtype : int, int, str
        Shape and stored dtype. Readers take n from here, never from the array's shape.
    block_rows : int
        Rows of a block.
    blocks : tuple of str
        sha256 of each block's rows, as stored.
    items : dict
        ``{"file", "bytes", "sha256"}`` of the item table.
    metadata : dict
        Relative path of each metadata or small file of the set -> its bytes and sha256.
    space_id, set_id : str
        Identity; see docs/architecture.md.
    attributes : str
        sha256 of the canonical JSON of the set's attributes, without the pointer itself.
    failed : str
        Base64 of the packed bits of rows that have no embedding; empty if there is none.
    """

    n: int
    dim: int
    dtype: str
    block_rows: int
    blocks: tuple[str, ...]
    items: dict[str, Any]
    metadata: dict[str, dict[str, Any]]
    space_id: str
    set_id: str
    attributes: str
    failed: str = ""
    format: int = field(default=FORMAT)

    @functools.cached_property
    def revision_id(self) -> str:
        """Sha256 of the record's canonical JSON."""
        return sha256_hex(canonical_json(asdict(self)))

    @property
    def n_failed(self) -> int:
        """Number of rows that have no embedding."""
        return sum(byte.bit_count() for byte in base64.b64decode(self.failed))

    def failed_rows(self) -> np.ndarray:
        """Return a boolean array of shape (n,): True where a row has no embedding."""
        if not self.failed:
            return np.zeros(self.n, dtype=bool)
        bits = np.frombuffer(base64.b64decode(self.failed), dtype=np.uint8)
        return np.unpackbits(bits, count=self.n).astype(bool)


def attributes_digest(attributes: Mapping[str, Any]) -> str:
    """Return the hash of a set's attributes, leaving out the revisions they point to."""
    kept = {k: v for k, v in attributes.items() if k not in ("revision", "history")}
    return sha256_hex(canonical_json(kept))


def pack_failed(failed: np.ndarray) -> str:
    """Return the base64 bitmap of a boolean array, or an empty string if none is True."""
    if not failed.any():
        return ""
    return base64.b64encode(np.packbits(failed).tobytes()).decode("ascii")


def commit_bytes(commit: Commit) -> bytes:
    """Return the record as it is written."""
    return json_bytes(asdict(commit))


def read_commit(directory: Path, revision: str) -> Commit:
    """Read a revision and check that it is the one its name says.

    Raises
    ------
    CorruptStoreError
        If the record is missing, malformed, or hashes to another revision_id.
    FormatVersionError
        If it was written by a newer format.
    """
    if len(revision) != 64 or not set(revision) <= set("0123456789abcdef"):
        msg = f"{directory} points to revision {revision[:80]!r}, which is not a sha256."
        raise CorruptStoreError(msg)
    path = directory / REVISIONS / f"{revision}.json"
    try:
        document = read_json(path)
    except (FileNotFoundError, NotADirectoryError) as err:
        msg = f"{path} is missing, though the set points to it. Extract the set again."
        raise CorruptStoreError(msg) from err
    commit = parse_commit(document, where=str(path))
    if commit.revision_id != revision:
        msg = (
            f"{path} was changed after it was written: its content has another hash than its name."
        )
        raise CorruptStoreError(msg)
    return commit


def parse_commit(document: Any, *, where: str) -> Commit:
    """Return the commit that a JSON document states.

    Raises
    ------
    CorruptStoreError
        If it is not a record that a writer makes; nothing of its sizes was believed.
    FormatVersionError
        If it was written by a newer format.
    """
    check_format(document.get("format") if isinstance(document, dict) else None, where=where)
    names = {entry.name for entry in fields(Commit)}
    reason = valid_commit(document, names=names)
    if reason:
        msg = f"{where} is not a commit record that featstore writes: {reason}."
        raise CorruptStoreError(msg)
    return Commit(**{**document, "blocks": tuple(document["blocks"])})


def belongs(key: SetKey, attributes: Mapping[str, Any], commit: Commit) -> bool:
    """Return whether a set's folder, attributes and commit speak of the same set.

    The attributes are those of the current revision: an earlier commit need only agree in what
    identifies the set.
    """
    try:
        same = attributes_digest(attributes) == commit.attributes
    except (ValueError, RecursionError):
        same = False
    return (
        (same or commit.revision_id in attributes.get("history", ()))
        and key.encoder.endswith(f"-{commit.set_id[:SHORT]}")
        and (attributes["dataset"], attributes["kind"]) == (key.dataset, key.kind)
        and (attributes["space_id"], attributes["set_id"]) == (commit.space_id, commit.set_id)
    )


def check_layout(layout: ArrayLayout, commit: Commit, *, where: Path) -> None:
    """Raise CorruptStoreError unless the array's metadata has the shape that the commit says."""
    if (layout.n, layout.dim, layout.dtype) != (commit.n, commit.dim, commit.dtype):
        msg = (
            f"{where} has shape ({layout.n:,}, {layout.dim:,}) {layout.dtype}; its commit says "
            f"({commit.n:,}, {commit.dim:,}) {commit.dtype}."
        )
        raise CorruptStoreError(msg)
    # A shard that is no whole number of blocks would put rows and blocks at odds.
    if layout.shard_rows % layout.block_rows or layout.shard_rows > MAX_ROWS:
        msg = f"{where} has shards of {layout.shard_rows:,} rows, not whole blocks. It is not ours."
        raise CorruptStoreError(msg)


def read_pointer(directory: Path) -> dict[str, Any] | None:
    """Return the attributes of a set's group, or None if the set is not finished."""
    path = directory / POINTER
    try:
        document = read_json(path, limit=MAX_METADATA_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return parse_pointer(document, where=str(path))


def staging_of(directory: Path) -> Path:
    """Return where a set's unfinished blocks lie."""
    return directory / ".staging"


def key_of(directory: Path) -> SetKey:
    """Return the key that a set's directory stands for."""
    return SetKey(directory.parent.parent.name, directory.parent.name, directory.name)

"""Commit records: what a finished set consists of, and the hash of every part.

A commit is the only thing that makes rows readable. It names the number of rows, the hash
of each block's valid rows, the items, the failed rows, and the digest of the metadata; its
own sha256 is the revision_id.
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from featstore.errors import CorruptStoreError, FormatVersionError
from featstore.keys import canonical_json, sha256_hex
from featstore.store.files import json_bytes, read_json, write_file
from featstore.store.layout import FORMAT, LayoutError, SetKey, check_component

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

    def failed_rows(self) -> np.ndarray:
        """Return a boolean array of shape (n,): True where a row has no embedding."""
        if not self.failed:
            return np.zeros(self.n, dtype=bool)
        bits = np.frombuffer(base64.b64decode(self.failed), dtype=np.uint8)
        return np.unpackbits(bits, count=self.n).astype(bool)


def attributes_digest(attributes: Mapping[str, Any]) -> str:
    """Return the hash of a set's attributes, leaving out the revision they point to."""
    return sha256_hex(canonical_json({k: v for k, v in attributes.items() if k != "revision"}))


def pack_failed(failed: np.ndarray) -> str:
    """Return the base64 bitmap of a boolean array, or an empty string if none is True."""
    if not failed.any():
        return ""
    return base64.b64encode(np.packbits(failed).tobytes()).decode("ascii")


def write_commit(directory: Path, commit: Commit) -> str:
    """Write the record below `directory` and return its revision_id."""
    revision = commit.revision_id
    write_file(directory / REVISIONS / f"{revision}.json", [json_bytes(asdict(commit))])
    return revision


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
    except FileNotFoundError as err:
        msg = f"{path} is missing, though the set points to it. Extract the set again."
        raise CorruptStoreError(msg) from err
    check_format(document.get("format") if isinstance(document, dict) else None, where=str(path))
    try:
        commit = Commit(**{**document, "blocks": tuple(document["blocks"])})
        valid = (
            commit.revision_id == revision
            and commit.n > 0
            and len(commit.blocks) == -(-commit.n // commit.block_rows)
        )
        check_component(str(commit.items["file"]), what="items file")
    except (TypeError, KeyError, ValueError, LayoutError) as err:
        msg = f"{path} is not a commit record that featstore writes: {err}."
        raise CorruptStoreError(msg) from err
    if not valid:
        msg = (
            f"{path} was changed after it was written: its content has another hash than its name."
        )
        raise CorruptStoreError(msg)
    return commit


def check_format(found: Any, *, where: str) -> None:
    """Raise if a document's format is missing or newer than this version reads."""
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        msg = f"{where} states no store format. It is not a featstore store, or is damaged."
        raise CorruptStoreError(msg)
    if found > FORMAT:
        msg = (
            f"{where} has store format {found}; this headstock reads up to format {FORMAT}. "
            "Upgrade headstock."
        )
        raise FormatVersionError(msg)


def read_pointer(directory: Path) -> dict[str, Any] | None:
    """Return the attributes of a set's group, or None if the set is not finished."""
    path = directory / POINTER
    try:
        document = read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        attributes = document["attributes"]["featstore"]
        check_format(attributes["format"], where=str(path))
        if not isinstance(attributes["revision"], str):
            raise TypeError
    except (KeyError, TypeError) as err:
        msg = f"{path} is not the metadata of a set: it lacks {err}."
        raise CorruptStoreError(msg) from err
    result: dict[str, Any] = attributes
    return result


def staging_of(directory: Path) -> Path:
    """Return where a set's unfinished blocks lie."""
    return directory / ".staging"


def key_of(directory: Path) -> SetKey:
    """Return the key that a set's directory stands for."""
    return SetKey(directory.parent.parent.name, directory.parent.name, directory.name)

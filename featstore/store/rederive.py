"""Commits, pointers and item tables that follow from the rest of a store, proven by their hash.

A commit record states nothing that the other files of its set do not hold: it is put together
from them, and is right if it hashes to the revision_id that pointer, catalog or its own name
state. A pointer's attributes are right if they hash to what the commit says; an item table, if it
has the commit's sha256.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from featstore.errors import CorruptStoreError, FeatstoreError
from featstore.keys import SHORT, sha256_hex
from featstore.store.blocks import blanked_hash, read_block
from featstore.store.commit import (
    POINTER,
    REVISIONS,
    Commit,
    attributes_digest,
    pack_failed,
    read_commit,
)
from featstore.store.files import (
    MAX_METADATA_BYTES,
    file_facts,
    json_bytes,
    read_json,
    read_regular,
)
from featstore.store.items import MAX_ITEM_BYTES, items_bytes, read_failures
from featstore.store.layout import (
    BLOCK_ROWS,
    ArrayLayout,
    array_metadata,
    group_metadata,
    parse_array_metadata,
)
from featstore.store.parquet import read_table
from featstore.store.records import MAX_BLOCK_ROWS, MAX_DIM, MAX_ROWS


def derive_commit(directory: Path, revision: str, attributes: Mapping[str, Any]) -> Commit | None:
    """Return the commit of this revision, put together from the files of its set.

    Parameters
    ----------
    attributes : mapping
        Of the set, from its pointer.

    Returns
    -------
    Commit or None
        None if the files are not those of the commit: one of them is damaged, too.
    """
    stored = stored_layout(directory / "embedding")
    if stored is None:
        return None
    hashes: dict[tuple[int, int, bytes], str] = {}
    for items_path, item_ids in _item_tables(directory.parent):
        n = item_ids.len()
        if n > stored.n:
            continue
        for name, failed in _failures(directory, item_ids):
            try:
                blocks = _block_hashes(directory / "embedding", stored, n, failed, hashes)
            except (FeatstoreError, OSError, ValueError):
                return None
            for layout in _layouts(stored, n):
                commit = Commit(
                    n=n,
                    dim=layout.dim,
                    dtype=layout.dtype,
                    block_rows=layout.block_rows,
                    blocks=blocks,
                    items={"file": items_path.name, **file_facts(items_path)},
                    metadata=_metadata(directory, layout, name),
                    space_id=attributes["space_id"],
                    set_id=attributes["set_id"],
                    attributes=attributes_digest(attributes),
                    failed=pack_failed(failed),
                )
                if commit.revision_id == revision:
                    return commit
    return None


def derive_pointer(
    directory: Path, current: Commit, *, attributes: Mapping[str, Any] | None = None
) -> bytes | None:
    """Return the ``zarr.json`` of a set whose commits are whole, if its attributes are known.

    Parameters
    ----------
    current : Commit
        The revision that the set stands for.
    attributes : mapping, optional
        What the attributes may be; by default those of the damaged file.

    Returns
    -------
    bytes or None
        None if the attributes do not hash to what the commit says, or the order of several
        earlier revisions does not follow from their sizes.
    """
    found = _attributes_in(directory / POINTER)
    kept = dict(found if attributes is None else attributes)
    try:
        if attributes_digest(kept) != current.attributes:
            return None
    except (ValueError, RecursionError):
        return None
    commits = _all_commits(directory)
    commits.pop(current.revision_id, None)
    history = found.get("history", [])
    if not isinstance(history, list) or not history or not set(map(str, history)) <= set(commits):
        ordered = sorted(commits.values(), key=lambda commit: commit.n)
        sizes = [commit.n for commit in ordered]
        if len(set(sizes)) < len(sizes) or any(n > current.n for n in sizes):
            return None
        history = [commit.revision_id for commit in ordered]
    kept = {name: value for name, value in kept.items() if name not in ("revision", "history")}
    pointer = {**kept, "revision": current.revision_id}
    if history:
        pointer["history"] = history
    return json_bytes(group_metadata(pointer))


def derive_items(directory: Path, commit: Commit) -> bytes | None:
    """Return the item table of a commit from a longer one of a later revision beside it."""
    for path, _ in _item_tables(directory.parent):
        table = read_table(
            read_regular(path, limit=MAX_ITEM_BYTES), where=str(path), schema={"item_id": pl.String}
        )
        if table.height < commit.n:
            continue
        data = items_bytes(table.head(commit.n))
        if sha256_hex(data) == commit.items["sha256"]:
            return data
    return None


def attributes_of(directory: Path) -> dict[str, Any]:
    """Return the attributes that a set's pointer states, right or wrong; empty if it has none."""
    return _attributes_in(directory / POINTER)


def named_revisions(directory: Path) -> list[str]:
    """Return the revisions that files of a set are named after."""
    return sorted(path.stem for path in (directory / REVISIONS).glob("*.json"))


def _attributes_in(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path, limit=MAX_METADATA_BYTES)["attributes"]["featstore"]
    except (FeatstoreError, OSError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _all_commits(directory: Path) -> dict[str, Commit]:
    found = {}
    for name in named_revisions(directory):
        try:
            found[name] = read_commit(directory, name)
        except FeatstoreError:
            continue
    return found


def stored_layout(array: Path) -> ArrayLayout | None:
    """Return the layout that an array's metadata states; None if no writer writes such."""
    try:
        document = read_json(array / "zarr.json", limit=MAX_METADATA_BYTES)
        codec = document["codecs"][0]
        block_rows = BLOCK_ROWS
        if codec["name"] == "sharding_indexed":
            block_rows = int(codec["configuration"]["chunk_shape"][0])
        layout = parse_array_metadata(document, where=str(array), block_rows=block_rows)
        sane = layout.n <= MAX_ROWS and layout.dim <= MAX_DIM and block_rows <= MAX_BLOCK_ROWS
        return layout if sane and layout.shard_rows % block_rows == 0 else None
    except (FeatstoreError, OSError, KeyError, TypeError, ValueError, LookupError, ArithmeticError):
        return None


def _layouts(stored: ArrayLayout, n: int) -> Iterator[ArrayLayout]:
    """Yield how an earlier revision with n rows may have been cut."""
    yield replace(stored, n=n)
    if stored.shard_rows and n < stored.n:
        yield replace(stored, n=n, shard_rows=0)


def _item_tables(folder: Path) -> Iterator[tuple[Path, pl.Series]]:
    """Yield the item tables of a kind that have the hash that their name says."""
    for path in sorted(folder.glob("items-*.parquet")):
        try:
            data = read_regular(path, limit=MAX_ITEM_BYTES)
            if sha256_hex(data)[:SHORT] != path.stem.split("-")[1]:
                continue
            table = read_table(data, where=str(path), schema={"item_id": pl.String})
        except (FeatstoreError, OSError):
            continue
        yield path, table["item_id"]


def _failures(directory: Path, item_ids: pl.Series) -> Iterator[tuple[str | None, np.ndarray]]:
    """Yield the failed rows that a revision may have had: none, or as one of the tables says."""
    yield None, np.zeros(item_ids.len(), dtype=bool)
    for path in sorted(directory.glob("failures*.parquet")):
        try:
            failed = read_failures(path, file_facts(path))["item_id"]
        except (FeatstoreError, OSError):
            continue
        yield path.name, item_ids.is_in(failed.implode()).to_numpy()


def _metadata(directory: Path, layout: ArrayLayout, failures: str | None) -> dict[str, Any]:
    array = json_bytes(array_metadata(layout))
    found = {"embedding/zarr.json": {"bytes": len(array), "sha256": sha256_hex(array)}}
    for name in ("bias/zarr.json", "bias/c/0", "golden.json", failures):
        if name is not None and (directory / name).is_file():
            found[name] = file_facts(directory / name)
    return dict(sorted(found.items()))


def _block_hashes(
    array: Path,
    layout: ArrayLayout,
    n: int,
    failed: np.ndarray,
    known: dict[tuple[int, int, bytes], str],
) -> tuple[str, ...]:
    """Return the hashes of the first n rows of an array, by blocks."""
    found = []
    for block, start in enumerate(range(0, n, layout.block_rows)):
        rows = min(layout.block_rows, n - start)
        blank = np.flatnonzero(failed[start : start + rows])
        key = (block, rows, blank.tobytes())
        if key not in known:
            path = array / layout.file_name(block // layout.blocks_per_file)
            data = read_block(path, layout, block)[: rows * layout.row_bytes]
            if len(data) != rows * layout.row_bytes:
                msg = f"{path} ends early."
                raise CorruptStoreError(msg)
            known[key] = blanked_hash(data, layout, blank)
        found.append(known[key])
    return tuple(found)

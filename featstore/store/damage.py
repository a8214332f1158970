"""Damage of one set: bad files and blocks, and records derived again from what is left.

A commit record states nothing that the other files of its set do not hold: it is put together
from them, and is right if it hashes to the revision_id that pointer, catalog or its own name
state. A pointer's attributes are right if they hash to what the commit says; an item table, if it
has the commit's sha256.

Array metadata has one form for its shape, which says how large every data file is and how a shard
ends; JSON is written in one way; a table whose name carries digits of its hash has that hash. What
the rows were, only a commit says.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from featstore.errors import CorruptStoreError, FeatstoreError
from featstore.identity import SHORT, sha256_hex
from featstore.store.blocks import (
    blanked_hash,
    check_file,
    check_size,
    check_tail,
    layout_of,
    may_have_grown,
    read_block,
)
from featstore.store.files import (
    MAX_JSON_BYTES,
    MAX_METADATA_BYTES,
    check_no_links,
    file_facts,
    json_bytes,
    read_json,
    read_regular,
    same_file,
)
from featstore.store.layout import (
    BLOCK_ROWS,
    ArrayLayout,
    SetKey,
    array_metadata,
    group_metadata,
    parse_array_metadata,
    vector_metadata,
)
from featstore.store.parquet_guard import read_table
from featstore.store.records import (
    MAX_BLOCK_ROWS,
    MAX_DIM,
    MAX_ROWS,
    POINTER,
    REVISIONS,
    Commit,
    attributes_digest,
    pack_failed,
    read_commit,
    read_pointer,
)
from featstore.store.tables import MAX_ITEM_BYTES, items_bytes, read_failures, read_items


@dataclass
class Damage:
    """The files of a set that must be made again.

    Attributes
    ----------
    commits : list of Commit
        Every published revision that can be read, the current one last.
    layout : ArrayLayout
        Of the current revision.
    files : dict
        Number of a damaged data file -> its blocks that are not those of the commit; none if only
        what lies behind the rows is wrong.
    items : dict
        Path of a damaged item table -> a commit that names it.
    small : dict
        Name of a damaged small file, relative to the set -> a commit that names it.
    """

    root: Path
    key: SetKey
    commits: list[Commit]
    layout: ArrayLayout
    files: dict[int, list[int]] = field(default_factory=dict)
    items: dict[Path, Commit] = field(default_factory=dict)
    small: dict[str, Commit] = field(default_factory=dict)

    @property
    def directory(self) -> Path:
        """Folder of the set."""
        return self.key.directory(self.root)

    @property
    def commit(self) -> Commit:
        """The current revision."""
        return self.commits[-1]

    @property
    def blocks(self) -> list[int]:
        """Every block whose rows must be had from elsewhere."""
        return [block for blocks in self.files.values() for block in blocks]

    def facts(self, name: str) -> dict[str, Any]:
        """Return size and sha256 of a damaged small file."""
        return self.small[name].metadata[name]


def find_damage(
    root: Path, key: SetKey, commits: list[Commit] | None = None, *, quick: bool = False
) -> Damage:
    """Compare every file of a set with its commits.

    Parameters
    ----------
    commits : list of Commit, optional
        The published revisions, the current one last; by default as the set says.
    quick : bool
        Leave the data files out.

    Raises
    ------
    CorruptStoreError
        If no commit says what the set should be.
    """
    directory = key.directory(root)
    check_no_links(root, [directory / "embedding", directory / "bias", directory / "revisions"])
    commits = published_commits(directory) if commits is None else commits
    layout = layout_of(commits[-1]) if commits else None
    if layout is None:
        msg = f"{key} has no commit record that says what its files should be."
        raise CorruptStoreError(msg)
    found = Damage(root, key, commits, layout)
    for commit in commits:
        path = directory.parent / commit.items["file"]
        if not same_file(path, {name: commit.items[name] for name in ("bytes", "sha256")}):
            found.items[path] = commit
        for name, facts in commit.metadata.items():
            # The array's metadata is that of the current revision.
            if name == "embedding/zarr.json" and commit is not commits[-1]:
                continue
            if not same_file(directory / name, facts):
                found.small[name] = commit
    for file in () if quick else range(layout.n_files):
        path = directory / "embedding" / layout.file_name(file)
        check_no_links(root, [path])
        try:
            grown = (directory / ".staging").exists() and may_have_grown(path, layout, file)
            check = check_file(path, layout, file, found.commit.blocks, grown=grown)
        except FileNotFoundError:
            found.files[file] = list(layout.file_blocks(file))
            continue
        if check.reasons:
            found.files[file] = check.bad_blocks
    return found


def published_commits(directory: Path) -> list[Commit]:
    """Return the revisions of a set that can be read, the oldest first.

    Empty if the current one, or the pointer, cannot.
    """
    try:
        attributes = read_pointer(directory)
        if attributes is None:
            return []
        current = read_commit(directory, attributes["revision"])
    except FeatstoreError:
        return []
    older = []
    for revision in attributes.get("history", []):
        try:
            older.append(read_commit(directory, revision))
        except FeatstoreError:
            continue
    return [*older, current]


def stored_items(damage: Damage) -> Any:
    """Return the item table of the current revision, or None if it is damaged."""
    path = damage.directory.parent / damage.commit.items["file"]
    if path in damage.items:
        return None
    return read_items(path, damage.commit.items, n=damage.commit.n)


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


_DATA = re.compile(r"embedding/c/\d+/0")
_FAILURES = re.compile(r"failures(?:-([0-9a-f]{8}))?\.parquet")


def judge_alone(directory: Path, files: Collection[str]) -> dict[str, str]:
    """Return what is wrong with files of a set that has no commit; missing ones, too.

    Parameters
    ----------
    files : collection of str
        The regular files of the set, relative to it.
    """
    wrong: dict[str, str] = {}
    array = directory / "embedding"
    layout = stored_layout(array)
    if "embedding/zarr.json" not in files:
        wrong["embedding/zarr.json"] = "is missing"
    elif layout is None or not _is(array / "zarr.json", json_bytes(array_metadata(layout))):
        wrong["embedding/zarr.json"] = "is not the metadata of an array that a writer writes"
    elif layout is not None:
        wrong |= _judge_data(directory, files, layout)
        if "bias/c/0" in files or "bias/zarr.json" in files:
            wrong |= _judge_bias(directory, files, layout.n)
    if "golden.json" in files and not _is_canonical(directory / "golden.json"):
        wrong["golden.json"] = "is not written as a writer writes it"
    for name in files:
        match = _FAILURES.fullmatch(name)
        if match and not _is_table(directory / name, match[1]):
            wrong[name] = "is not the table of failed items that a writer writes"
    return wrong


def _judge_data(directory: Path, files: Collection[str], layout: ArrayLayout) -> dict[str, str]:
    there = sum(bool(_DATA.fullmatch(name)) for name in files)
    if layout.n_files > 2 * there + 100:
        # Not asked for one by one: a stranger may state any number.
        what = f"states {layout.n_files:,} data files; there are {there:,}"
        return {"embedding/zarr.json": what}
    wrong = {}
    expected = set()
    for file in range(layout.n_files):
        name = f"embedding/{layout.file_name(file)}"
        expected.add(name)
        if name not in files:
            wrong[name] = "is missing"
            continue
        reasons = [check_size(directory / name, layout, file)]
        if not reasons[0]:
            reasons.append(check_tail(directory / name, layout, file))
        if any(reasons):
            wrong[name] = "; ".join(filter(None, reasons))
    for name in files:
        if _DATA.fullmatch(name) and name not in expected:
            wrong[name] = "is no data file of an array of this shape"
    return wrong


def _judge_bias(directory: Path, files: Collection[str], n: int) -> dict[str, str]:
    wrong = {}
    if not _is(directory / "bias" / "zarr.json", json_bytes(vector_metadata(n, "float32"))):
        wrong["bias/zarr.json"] = "is not the metadata of a bias of this set"
    if "bias/c/0" not in files:
        wrong["bias/c/0"] = "is missing"
        return wrong
    try:
        data = read_regular(directory / "bias" / "c" / "0", limit=4 * n)
    except FeatstoreError:
        data = b""
    if len(data) != 4 * n or not np.isfinite(np.frombuffer(data, "<f4")).all():
        wrong["bias/c/0"] = f"is not {n:,} finite numbers"
    return wrong


def _is(path: Path, data: bytes) -> bool:
    try:
        return read_regular(path, limit=len(data)) == data
    except (FeatstoreError, OSError):
        return False


def _is_canonical(path: Path) -> bool:
    try:
        return _is(path, json_bytes(read_json(path, limit=MAX_JSON_BYTES)))
    except (FeatstoreError, OSError, ValueError):
        return False


def _is_table(path: Path, digits: str | None) -> bool:
    try:
        facts = file_facts(path)
        read_failures(path, facts)
    except (FeatstoreError, OSError):
        return False
    return digits is None or facts["sha256"][:SHORT] == digits

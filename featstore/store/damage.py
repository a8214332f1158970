"""Damage of one set: what its files are compared with, and records that follow from others.

The attributes of a pointer are right if they hash to what the commit says; an item table, if it
has the commit's sha256.

Array metadata has one form for its shape, which says how large every data file is and how a shard
ends; JSON is written in one way; a table whose name carries digits of its hash has that hash. What
the rows were, only a commit says.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from featstore.errors import CorruptStoreError, FeatstoreError
from featstore.identity import SHORT, sha256_hex
from featstore.store import BLOCK_ROWS
from featstore.store.blocks import check_file, check_size, check_tail, layout_of, may_have_grown
from featstore.store.catalog import NAME as CATALOG
from featstore.store.catalog import parse_catalog
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
    ArrayLayout,
    SetKey,
    array_metadata,
    parse_array_metadata,
    vector_metadata,
)
from featstore.store.parquet_guard import read_table, table_bytes
from featstore.store.records import (
    MAX_BLOCK_ROWS,
    MAX_DIM,
    MAX_ROWS,
    POINTER,
    REVISIONS,
    Commit,
    attributes_digest,
    belongs,
    is_pointer,
    is_sha256,
    pointer_bytes,
    read_commit,
    read_pointer,
)
from featstore.store.tables import MAX_ITEM_BYTES, read_failures


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
    pointer : dict or None
        The attributes of the set; None if the pointer is damaged.
    """

    root: Path
    key: SetKey
    commits: list[Commit]
    layout: ArrayLayout
    files: dict[int, list[int]] = field(default_factory=dict)
    items: dict[Path, Commit] = field(default_factory=dict)
    small: dict[str, Commit] = field(default_factory=dict)
    pointer: dict[str, Any] | None = None

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

    def describe(self, block: int) -> dict[str, Any]:
        """Return file, number and rows (first and last) of a block, for a report."""
        rows = self.layout.block_slice(block)
        name = self.layout.file_name(block // self.layout.blocks_per_file)
        file = f"{self.key}/embedding/{name}"
        return {"file": file, "block": block, "rows": [rows.start, rows.stop - 1]}

    @property
    def lost(self) -> list[str]:
        """Small files of the current revision that are damaged, and the pointer, if it is."""
        small = [name for name in self.small if name in self.commit.metadata]
        return small if self.pointer is not None else [*small, POINTER]

    def attributes(self) -> dict[str, Any]:
        """Return the attributes of the set, or only its history if the pointer is damaged."""
        older = [commit.revision_id for commit in self.commits[:-1]]
        return {**(self.pointer or {}), "revision": self.commit.revision_id, "history": older}


def find_damage(root: Path, key: SetKey, commits: list[Commit] | None = None) -> Damage:
    """Compare every file of a set with its commits.

    Parameters
    ----------
    commits : list of Commit, optional
        The published revisions, the current one last; by default as the set says.

    Raises
    ------
    CorruptStoreError
        If no commit says what the set should be.
    """
    directory = key.directory(root)
    check_no_links(root, [directory / "embedding", directory / "bias", directory / "revisions"])
    commits = published_commits(root, key) if commits is None else commits
    layout = layout_of(commits[-1]) if commits else None
    if layout is None:
        raise CorruptStoreError(
            f"{key} has no commit record that says what its files should be. Take it from another "
            "copy (`featstore repair --from`), or remove the set and extract it anew."
        )
    found = Damage(root, key, commits, layout, pointer=_whole_pointer(directory, key, commits[-1]))
    for commit in commits:
        path = directory.parent / commit.items["file"]
        if not same_file(path, commit.items_facts):
            found.items[path] = commit
        for name, facts in commit.metadata.items():
            # The array's metadata is that of the current revision.
            if name == "embedding/zarr.json" and commit is not commits[-1]:
                continue
            if not same_file(directory / name, facts):
                found.small[name] = commit
    for file in range(layout.n_files):
        path = directory / "embedding" / layout.file_name(file)
        check_no_links(root, [path])
        try:
            grown = (directory / ".staging").exists() and may_have_grown(path, layout, file)
            check = check_file(path, layout, file, found.commit, grown=grown)
        except FileNotFoundError:
            found.files[file] = list(layout.file_blocks(file))
            continue
        if check.reasons:
            found.files[file] = check.bad_blocks
    return found


def _whole_pointer(directory: Path, key: SetKey, commit: Commit) -> dict[str, Any] | None:
    """Return the attributes of a set if its pointer is what a writer wrote, else None."""
    try:
        attributes = read_pointer(directory)
        data = read_regular(directory / POINTER, limit=MAX_METADATA_BYTES)
    except (FeatstoreError, OSError):
        return None
    if attributes is None:
        return None
    whole = belongs(key, attributes, commit) and attributes["revision"] == commit.revision_id
    return attributes if whole and is_pointer(data, attributes, commit) else None


def published_commits(
    root: Path, key: SetKey, fetch: Callable[[str], Commit | None] = lambda _: None
) -> list[Commit]:
    """Return the revisions of a set that can be read, the current one last.

    As `featstore verify` decides, the current one is the pointer's, or else the catalog's, or the
    only one. Empty if there is none of them.

    Parameters
    ----------
    fetch : callable
        Asked for the revisions whose record is damaged or missing.
    """
    directory = key.directory(root)
    attributes = attributes_of(directory)
    history = attributes.get("history", [])
    named = [attributes.get("revision"), *(history if isinstance(history, list) else [])]
    listed = _listed(root, key)
    there = sorted(path.stem for path in (directory / REVISIONS).glob("*.json"))
    found: dict[str, Commit] = {}
    for revision in {*filter(is_sha256, [*named, *there, listed])}:
        commit: Commit | None = None
        with contextlib.suppress(FeatstoreError):
            commit = read_commit(directory, revision)
        commit = commit or fetch(revision)
        if commit is not None:
            found[revision] = commit
    current = found.get(str(named[0])) or found.get(listed)
    if current is None and len(found) == 1:
        current = next(iter(found.values()))
    if current is None:
        return []
    older = [found[revision] for revision in named[1:] if revision in found]
    return [*(commit for commit in older if commit is not current), current]


def _listed(root: Path, key: SetKey) -> str:
    """Return the revision that the catalog names, or an empty string."""
    with contextlib.suppress(FeatstoreError, OSError):
        catalog = parse_catalog(read_json(root / CATALOG))
        return str(catalog["sets"].get(str(key), "")) if catalog else ""
    return ""


def derive_pointer(
    directory: Path, current: Commit, *, attributes: Mapping[str, Any] | None = None
) -> bytes | None:
    """Return the ``zarr.json`` of a set whose commits are whole, if its attributes are known.

    Parameters
    ----------
    current : Commit
        The revision that the set stands for.
    attributes : mapping, optional
        Of a copy of the set; by default those that the damaged file states.

    Returns
    -------
    bytes or None
        None if the attributes do not hash to what the commit says, or the order of several
        earlier revisions does not follow from their sizes.
    """
    kept = dict(attributes_of(directory) if attributes is None else attributes)
    try:
        if attributes_digest(kept) != current.attributes:
            return None
    except (ValueError, RecursionError):
        return None
    commits = _all_commits(directory)
    commits.pop(current.revision_id, None)
    history = kept.get("history", [])
    if isinstance(history, list) and current.revision_id in history:
        history = history[: history.index(current.revision_id)]
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
    return pointer_bytes(pointer, current)


def derive_items(directory: Path, commit: Commit, *tables: pl.DataFrame) -> bytes | None:
    """Return the item table of a commit: the beginning of one of `tables`, or of one beside it."""
    for table in (*tables, *_item_tables(directory.parent)):
        if table.height >= commit.n:
            data = table_bytes(table.head(commit.n))
            if sha256_hex(data) == commit.items["sha256"]:
                return data
    return None


def attributes_of(directory: Path) -> dict[str, Any]:
    """Return the attributes that a set's pointer states, right or wrong; empty if it has none."""
    try:
        found = read_json(directory / POINTER, limit=MAX_METADATA_BYTES)["attributes"]["featstore"]
    except (FeatstoreError, OSError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _all_commits(directory: Path) -> dict[str, Commit]:
    found = {}
    for path in (directory / REVISIONS).glob("*.json"):
        with contextlib.suppress(FeatstoreError):
            found[path.stem] = read_commit(directory, path.stem)
    return found


def _item_tables(folder: Path) -> Iterator[pl.DataFrame]:
    """Yield the item tables of a kind that have the hash that their name says."""
    commits = [commit for path in folder.iterdir() for commit in _all_commits(path).values()]
    rows = max((commit.n for commit in commits), default=0)
    for path in sorted(folder.glob("items-*.parquet")):
        with contextlib.suppress(FeatstoreError, OSError):
            data = read_regular(path, limit=MAX_ITEM_BYTES)
            if sha256_hex(data)[:SHORT] == path.stem.split("-")[1]:
                yield read_table(data, where=str(path), schema={"item_id": pl.String}, rows=rows)


def item_ids(folder: Path) -> set[str]:
    """Return the ids in all item tables of a kind that are whole."""
    return {item for table in _item_tables(folder) for item in table["item_id"].to_list()}


def _stored_layout(array: Path) -> ArrayLayout | None:
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
    layout = _stored_layout(array)
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
        if match and not _is_table(directory / name, match[1], n=layout.n if layout else 0):
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


def _is_table(path: Path, digits: str | None, *, n: int) -> bool:
    try:
        facts = file_facts(path)
        read_failures(path, facts, n=n)
    except (FeatstoreError, OSError):
        return False
    return digits is None or facts["sha256"][:SHORT] == digits

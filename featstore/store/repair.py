"""Repair what a store can rebuild from itself, and say what is left.

Group metadata, array metadata, a shard's padding and index, and the catalog follow from the
commits. A commit follows from the files it names, a pointer from its attributes, an item table
from that of a later revision, and a block of rows from the same content in another set: these are
written only if they have the hash that a whole file states. The rest is left as it is, see
`featstore.extraction.mending`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featstore.errors import FeatstoreError
from featstore.store.blocks import check_file, check_tail, read_block
from featstore.store.catalog import NAME as CATALOG
from featstore.store.catalog import parse_catalog, write_catalog
from featstore.store.commit import (
    POINTER,
    REVISIONS,
    Commit,
    commit_bytes,
    read_commit,
    read_pointer,
)
from featstore.store.damage import Damage, find_damage, stored_items
from featstore.store.donors import Donors
from featstore.store.files import check_no_links, json_bytes, read_json, same_file, write_file
from featstore.store.layout import (
    FORMAT,
    ArrayLayout,
    SetKey,
    array_metadata,
    group_metadata,
    vector_metadata,
)
from featstore.store.mender import SetMender, bytes_facts
from featstore.store.records import is_sha256
from featstore.store.rederive import (
    attributes_of,
    derive_commit,
    derive_items,
    derive_pointer,
    named_revisions,
)
from featstore.store.shards import shard_tail
from featstore.store.verify import Problem, verify_store


@dataclass
class Repair:
    """What was rebuilt, and what is still wrong.

    Attributes
    ----------
    rebuilt : list of str
        Paths relative to the store; in a dry run those that would be.
    left : list of Problem
        In a dry run those that would be left.
    """

    rebuilt: list[str] = field(default_factory=list)
    left: list[Problem] = field(default_factory=list)


def repair_set(root: Path, key: str, *, dry_run: bool = False) -> Repair:
    """Rebuild what follows from the rest of the store, and report what does not.

    Raises
    ------
    UnknownSetError
        If there is no such set.
    StoreWriteError
        If another process is writing the set, or the file system refuses.
    """
    before = verify_store(root, [key]).problems
    if not before:
        return Repair()
    with SetMender(root, SetKey(*key.split("/")), dry_run=dry_run) as mender:
        _rebuild(mender, {problem.path for problem in before})
    if dry_run:
        would = {*mender.written, CATALOG}
        return Repair(
            [problem.path for problem in before if problem.path in would],
            [problem for problem in before if problem.path not in would],
        )
    relist(root, key)
    return compare(before, verify_store(root, [key]).problems)


def relist(root: Path, key: str) -> None:
    """Write the catalog, unless that would drop this set: its pointer is still damaged."""
    with contextlib.suppress(FeatstoreError):
        if read_pointer(SetKey(*key.split("/")).directory(root)) is not None:
            write_catalog(root)


def compare(before: list[Problem], after: list[Problem]) -> Repair:
    """Return what was rebuilt between two verifications, and what is left."""
    left = {problem.path for problem in after}
    return Repair([problem.path for problem in before if problem.path not in left], after)


def _rebuild(mender: SetMender, wrong: set[str]) -> None:
    """Write again what has only one right form."""
    root, key = mender.root, mender.key
    groups: dict[str, dict[str, Any]] = {
        "zarr.json": {"format": FORMAT},
        f"{key.dataset}/zarr.json": {"dataset": key.dataset},
        f"{key.dataset}/{key.kind}/zarr.json": {"dataset": key.dataset, "kind": key.kind},
    }
    for name in sorted(wrong & set(groups)):
        mender.write(root / name, [json_bytes(group_metadata(groups[name]))])
    commits = rebuild_commits(mender)
    if not commits:
        return
    pointer = derive_pointer(mender.directory, commits[-1])
    if f"{key}/{POINTER}" in wrong and pointer is not None:
        mender.write(mender.directory / POINTER, [pointer])
    damage = find_damage(root, key, commits)
    for path, commit in damage.items.items():
        data = derive_items(mender.directory, commit)
        if data is not None:
            mender.write_proven(path, data, commit.items)
    for name in damage.small:
        known = {
            "embedding/zarr.json": array_metadata(damage.layout),
            "bias/zarr.json": vector_metadata(damage.commit.n, "float32"),
        }
        if name in known:
            facts = damage.facts(name)
            mender.write_proven(mender.directory / name, json_bytes(known[name]), facts)
    _rebuild_data(mender, damage)


def rebuild_commits(mender: SetMender) -> list[Commit]:
    """Return the published commits, the current one last, damaged ones rebuilt if possible.

    Empty if it cannot be told which revision the set stands for.
    """
    directory = mender.directory
    attributes = attributes_of(directory)
    history = attributes.get("history", [])
    named = [attributes.get("revision"), *(history if isinstance(history, list) else [])]
    found: dict[str, Commit] = {}
    for revision in {*filter(is_sha256, named), *filter(is_sha256, named_revisions(directory))}:
        try:
            found[revision] = read_commit(directory, revision)
            data = commit_bytes(found[revision])
            if not same_file(_path(directory, revision), bytes_facts(data)):
                mender.write(_path(directory, revision), [data])
        except FeatstoreError:
            with contextlib.suppress(KeyError, TypeError, ValueError):
                commit = derive_commit(directory, revision, attributes)
                if commit is not None:
                    found[revision] = commit
                    mender.write(_path(directory, revision), [commit_bytes(commit)])
    # As `featstore verify` decides: the pointer's, or else the catalog's, or the only one.
    current = found.get(str(named[0])) or found.get(_listed(mender.root, mender.key))
    if current is None and len(found) == 1:
        current = next(iter(found.values()))
    if current is None:
        return []
    older = [found[revision] for revision in named[1:] if revision in found]
    return [*(commit for commit in older if commit is not current), current]


def _rebuild_data(mender: SetMender, damage: Damage) -> None:
    """Write data files whose rows are whole, or found in another set."""
    items = stored_items(damage) if damage.blocks else None
    precision = attributes_of(damage.directory).get("precision", "")
    donors = Donors(damage, items, precision=precision) if items is not None else None
    for file, bad in damage.files.items():
        source = donors.block if donors is not None else _nowhere
        mender.write_data(damage.layout, file, damage.commit, bad=bad, source=source)


def _nowhere(_: int) -> bytes | None:
    return None


def _listed(root: Path, key: SetKey) -> str:
    """Return the revision that the catalog names, or an empty string."""
    with contextlib.suppress(FeatstoreError, OSError):
        catalog = parse_catalog(read_json(root / CATALOG))
        return str(catalog["sets"].get(str(key), "")) if catalog else ""
    return ""


def _path(directory: Path, revision: str) -> Path:
    return directory / REVISIONS / f"{revision}.json"


def restore_array(
    root: Path, key: SetKey, commit: Commit, layout: ArrayLayout, *, wrong: set[str]
) -> None:
    """Write the files named in `wrong` again, as far as they follow from commit and rows."""
    if f"{key}/embedding/zarr.json" in wrong:
        path = key.directory(root) / "embedding" / "zarr.json"
        write_file(path, [json_bytes(array_metadata(layout))])
    for file in range(layout.n_files):
        path = key.directory(root) / "embedding" / layout.file_name(file)
        if f"{key}/embedding/{layout.file_name(file)}" not in wrong or not path.is_file():
            continue
        check_no_links(root, [path])
        if not check_file(path, layout, file, commit.blocks).bad_blocks:
            # Every row is right; what lies behind them follows from the layout.
            write_file(path, _data_file(path, layout, file))


def wrong_files(root: Path, key: SetKey, commit: Commit, layout: ArrayLayout) -> set[str]:
    """Return the array's files whose size, tail or metadata is not the commit's, by name."""
    array = key.directory(root) / "embedding"
    names = {
        layout.file_name(file)
        for file in range(layout.n_files)
        if check_tail(array / layout.file_name(file), layout, file)
    }
    if not same_file(array / "zarr.json", commit.metadata["embedding/zarr.json"]):
        names.add("zarr.json")
    return {f"{key}/embedding/{name}" for name in names}


def _data_file(path: Path, layout: ArrayLayout, file: int) -> Iterator[bytes]:
    """Yield the bytes of a data file from its own blocks, with the right tail."""
    for block in layout.file_blocks(file):
        yield read_block(path, layout, block)
    yield shard_tail(layout, file)

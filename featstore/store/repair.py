"""Repair a store: rebuild what follows from the commits, and copy blocks that other sets hold.

Nothing is mended in place. A file is made anew beside the damaged one and renamed over it once
every part of it is the one that the commit names; until then the damaged file stays as it is.

Two datasets may hold the same picture or text under one encoder. Whether their rows agree to the
last bit is not assumed: a block that is put together from them must have the commit's hash.

Group metadata, array metadata, a shard's padding and index, and the catalog follow from the
commits. A commit follows from the files it names, a pointer from its attributes, an item table
from that of a later revision, and a block of rows from the same content in another set: these are
written only if they have the hash that a whole file states. The rest is left as it is, see
`featstore.extraction.repair`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl

from featstore.errors import FeatstoreError
from featstore.identity import sha256_hex
from featstore.store.blocks import check_file, check_tail, layout_of, read_block
from featstore.store.casting import blank_value
from featstore.store.catalog import NAME as CATALOG
from featstore.store.catalog import parse_catalog, write_catalog
from featstore.store.damage import (
    Damage,
    attributes_of,
    derive_commit,
    derive_items,
    derive_pointer,
    find_damage,
    named_revisions,
    stored_items,
)
from featstore.store.files import check_no_links, json_bytes, read_json, same_file, write_file
from featstore.store.layout import (
    DTYPES,
    FORMAT,
    ArrayLayout,
    SetKey,
    array_metadata,
    group_metadata,
    shard_tail,
    vector_metadata,
)
from featstore.store.lock import Claim, claim_folders, claim_set
from featstore.store.records import (
    POINTER,
    REVISIONS,
    Commit,
    commit_bytes,
    is_sha256,
    read_commit,
    read_pointer,
    staging_of,
)
from featstore.store.rows import RowSource, open_rows
from featstore.store.store import FeatureStore, SetInfo
from featstore.store.tables import read_items
from featstore.store.verify import Problem, verify_store

#: Makes the rows of a block as they are stored, or returns None if it cannot.
BlockSource = Callable[[int], bytes | None]


class BlockMissingError(Exception):
    """A block could not be had, so its file stays as it is."""


class SetMender:
    """The right to write files of one set again, as a context manager.

    In a dry run nothing is claimed or written, and `written` is what would be.

    Attributes
    ----------
    written : list of str
        Paths relative to the store, in the order in which they were written.
    """

    def __init__(self, root: Path, key: SetKey, *, dry_run: bool = False) -> None:
        self.root = root
        self.key = key
        self.directory = key.directory(root)
        self.written: list[str] = []
        self._dry_run = dry_run
        self._claim: Claim | None = None
        self._fresh = True

    def __enter__(self) -> Self:
        names = ("embedding", "bias", "revisions", ".staging")
        check_no_links(self.root, [self.directory / name for name in names])
        if not self._dry_run:
            self._fresh = not staging_of(self.directory).exists()
            self._claim = claim_set(self.directory, self.key)
        return self

    def __exit__(self, *_: object) -> None:
        if self._claim is not None:
            # What another writer left staged, or began meanwhile, stays for it.
            alone = self._fresh and len(claim_folders(self.directory)) == 1
            (self._claim.finish if alone else self._claim.release)()

    def write(self, path: Path, parts: Iterable[bytes | memoryview]) -> None:
        """Write a file whose bytes have only one right form."""
        check_no_links(self.root, [path.parent])
        if self._claim is not None:
            self._claim.write_file(path, parts)
        self.written.append(path.relative_to(self.root).as_posix())

    def write_proven(self, path: Path, data: bytes, facts: Mapping[str, Any]) -> bool:
        """Write a file if `data` is what the commit states; return whether it is."""
        if bytes_facts(data) != {name: facts[name] for name in ("bytes", "sha256")}:
            return False
        self.write(path, [data])
        return True

    def write_data(
        self,
        layout: ArrayLayout,
        file: int,
        commit: Commit,
        *,
        bad: Collection[int],
        source: BlockSource,
    ) -> bool:
        """Write a data file: good blocks from itself, the `bad` ones from `source`.

        Returns
        -------
        bool
            False if a block could not be had, or is not the one that the commit names. The
            file is then left as it is.
        """
        path = self.directory / "embedding" / layout.file_name(file)

        def parts() -> Iterator[bytes]:
            for block in layout.file_blocks(file):
                data = source(block) if block in bad else read_block(path, layout, block)
                if data is None or sha256_hex(data) != commit.blocks[block]:
                    raise BlockMissingError
                yield data
            yield shard_tail(layout, file)

        try:
            if self._claim is None:
                for _ in parts():
                    pass
            self.write(path, parts())
        except BlockMissingError:
            return False
        return True


def bytes_facts(data: bytes) -> dict[str, Any]:
    """Return size and sha256 of bytes, as a commit states them of a file."""
    return {"bytes": len(data), "sha256": sha256_hex(data)}


class Donors:
    """The rows of other sets that have the content of a damaged set's blocks.

    Parameters
    ----------
    damage : Damage
    items : DataFrame
        Items of the damaged set; without content_sha256 nothing is found.
    precision : str
        Compute precision of the damaged set.
    """

    def __init__(self, damage: Damage, items: pl.DataFrame, *, precision: str) -> None:
        self._damage = damage
        self._hashes = items.get_column("content_sha256", default=None)
        self._places: dict[str, tuple[RowSource, int]] = {}
        if self._hashes is None:
            return
        wanted: set[str] = set()
        for block in damage.blocks:
            rows = damage.layout.block_slice(block)
            wanted |= set(self._hashes[rows.start : rows.stop].drop_nulls())
        commit = damage.commit
        for info in _readable(FeatureStore(damage.root)):
            same = (info.commit.space_id, info.commit.dtype, info.attributes["precision"])
            if info.key != damage.key and same == (commit.space_id, commit.dtype, precision):
                self._look(info, wanted)

    def _look(self, info: SetInfo, wanted: set[str]) -> None:
        """Note where another set has the wanted content."""
        directory = info.key.directory(self._damage.root)
        layout = layout_of(info.commit)
        if layout is None or not wanted - set(self._places):
            return
        try:
            path = directory.parent / info.commit.items["file"]
            table = read_items(path, info.commit.items, n=info.commit.n)
            source = open_rows(directory / "embedding", layout, "pread")
        except (FeatstoreError, OSError):
            return
        if "content_sha256" not in table.columns:
            return
        failed = info.commit.failed_rows()
        for row, digest in enumerate(table["content_sha256"].to_list()):
            if digest in wanted and not failed[row]:
                self._places.setdefault(digest, (source, row))

    def rows(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of a block as other sets store them, and which were found.

        Returns
        -------
        rows : ndarray of shape (rows of the block, d), as stored
            Blank where an item failed, or was not found.
        found : boolean ndarray of shape (rows of the block,)
            True for failed rows, too.
        """
        commit = self._damage.commit
        where = self._damage.layout.block_slice(block)
        found = commit.failed_rows()[where].copy()
        data = np.full((found.size, commit.dim), blank_value(commit.dtype), DTYPES[commit.dtype])
        if self._hashes is None:
            return data, found
        for row, digest in enumerate(self._hashes[where.start : where.stop].to_list()):
            if found[row] or digest not in self._places:
                continue
            source, other = self._places[digest]
            data[row] = source.read(np.array([other]))[0]
            found[row] = True
        return data, found

    def block(self, block: int) -> bytes | None:
        """Return the rows of a block as other sets store them, or None if one is nowhere."""
        data, found = self.rows(block)
        return data.tobytes() if found.all() else None


def _readable(store: FeatureStore) -> Iterable[SetInfo]:
    return [info for _, info in store.listing() if isinstance(info, SetInfo)]


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

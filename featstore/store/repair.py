"""Repair a set from what is whole: the rest of its store, and another copy of it.

A file is made anew beside the damaged one and renamed over it once every part of it is the one
that the commit names; until then the damaged file stays as it is.

Zarr's metadata, a shard's padding and index, and a lost log follow from the commits; item tables
from a manifest or the items of a copy. Another store that has the same revision has the rest, block
by block. Each is written only if it has the hash that a commit of this set states. What is left is
extracted again, into a new revision: see `featstore.extraction.repair`.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from featstore.errors import CorruptStoreError, FeatstoreError
from featstore.store.blocks import read_block
from featstore.store.convention import root_metadata
from featstore.store.files import (
    check_no_links,
    facts_of,
    read_regular,
    same_file,
    write_file,
)
from featstore.store.layout import SetKey
from featstore.store.listing import Listed, find_damage, whole_commit
from featstore.store.lock import claim_set, folder_lock
from featstore.store.log import NAME as LOG
from featstore.store.log import Log, read_log, rebuilt_log
from featstore.store.records import Commit
from featstore.store.staging import end_claim
from featstore.store.store import FeatureStore, SetInfo
from featstore.store.tables import MAX_ITEM_BYTES, item_bytes
from featstore.store.verify import Problem, verify_store
from featstore.store.writer import settle_set


class SetCopy:
    """A set of another store, asked for what is damaged in this one.

    The caller compares what it gets with the commit of the damaged set.

    Parameters
    ----------
    store : FeatureStore
        A data file that is damaged there costs its own rows alone.
    key : SetKey

    Attributes
    ----------
    reasons : list of str
        What it could not give, and why.

    Raises
    ------
    UnknownSetError
        If the store has no such set.
    CorruptStoreError
        If the records of the set are damaged there, too.
    """

    def __init__(self, store: FeatureStore, key: SetKey) -> None:
        self.reasons: list[str] = []
        self._present = store.info(str(key)).commit
        self._store = store
        self._key = key
        self._block = store.place.blocks(key, self._present)

    def commit(self, digest: str) -> Commit | None:
        """Return the commit of this digest; None if the copy has another one."""
        return self._present if self._present.digest == digest else None

    def tables(self) -> list[pl.DataFrame]:
        """Return the items that the copy has."""
        try:
            return [self._store.item_table(SetInfo(self._key, self._present))]
        except (FeatstoreError, OSError) as err:
            self._note(err)
        return []

    def file(self, one: Listed) -> bytes:
        """Return a file that a commit lists, of rows no; empty if the copy does not have it."""
        try:
            self._store.place.fetch(self._key, one.commit, one.part)
            return read_regular(self._store.root / one.path, limit=MAX_ITEM_BYTES)
        except (FeatstoreError, OSError) as err:
            self._note(err)
        return b""

    def block(self, commit: Commit, block: int) -> bytes | None:
        """Return the rows of a block of a commit, wherever they lie in the copy; None without."""
        rows, theirs = commit.layout.block_slice(block), self._present.layout
        row_bytes, found = theirs.row_bytes, b""
        try:
            if commit.revision_id not in self._present.published:
                raise CorruptStoreError(
                    f"{self._key} has no revision {commit.revision_id[:12]} in "
                    f"{self._store.address}."
                )
            first, last = theirs.blocks_of(np.array([rows.start, rows.stop - 1])).tolist()
            for number in range(first, last + 1):
                own = theirs.block_slice(number)
                skip = max(0, rows.start - own.start)
                found += self._block(number)[skip * row_bytes : (rows.stop - own.start) * row_bytes]
            if commit.block_hash(found) == commit.blocks[block]:
                return found
            raise CorruptStoreError(
                f"Rows {rows.start:,}-{rows.stop - 1:,} of {self._key} are damaged in "
                f"{self._store.address}, too."
            )
        except (FeatstoreError, OSError) as err:
            self._note(err)
        return None

    def _note(self, err: Exception) -> None:
        self.reasons += [str(err)] if str(err) not in self.reasons else []


@dataclass
class Repair:
    """What became of a damaged set.

    Attributes
    ----------
    key : str
        Full name of the set.
    rebuilt : list of str
        Files that are whole again, relative to the store; in a dry run those that would be,
        without the manifest.
    fetched : list of dict
        Blocks that were taken from the other copy: ``file``, ``block``, ``rows`` (first and last).
    left : list of Problem
        What is still wrong.
    bad : list of dict
        Blocks that are still wrong, as in `fetched`.
    reasons : list of str
        Why something could not be repaired.
    commands : list of str
        What to type next.
    """

    key: str
    rebuilt: list[str] = field(default_factory=list)
    fetched: list[dict[str, Any]] = field(default_factory=list)
    left: list[Problem] = field(default_factory=list)
    bad: list[dict[str, Any]] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return what ``headstock store repair --json`` prints."""
        return asdict(self)


def rebuild_set(
    root: Path,
    key: str,
    *,
    copy: FeatureStore | None = None,
    items: pl.DataFrame | None = None,
    dry_run: bool = False,
) -> Repair:
    """Rebuild what follows from the rest of the store or is in a copy; report what is left.

    Parameters
    ----------
    copy : FeatureStore, optional
        Another store that has the same revision of the set.
    items : DataFrame, optional
        What the item table may be, or the beginning of it: that of a manifest.

    Raises
    ------
    UnknownSetError
        If there is no such set, here or in `copy`.
    StoreWriteError
        If another process is writing the set, or the file system refuses.
    """
    before, set_key = verify_store(root, [key]).problems, SetKey(*key.split("/"))
    log = repair_log(root, dry_run=dry_run)
    if not before:
        if not dry_run:
            settle_set(root, set_key)  # a repair that was killed before it could tidy up
        return Repair(key)
    source = None if copy is None else SetCopy(copy, set_key)
    directory, written = set_key.directory(root), list[str]()
    names = ("embedding", "bias", "revisions", ".staging")
    check_no_links(root, [directory / name for name in names])
    claim = None if dry_run else claim_set(directory, set_key)

    def write(path: Path, parts: Sequence[bytes]) -> None:
        """Write a file whose bytes have only one right form; in a dry run only note it."""
        check_no_links(root, [path.parent])
        if claim is not None:
            claim.write_file(path, parts)
            claim.sync()
        written.append(path.relative_to(root).as_posix())

    try:
        fetched = _rebuild(write, root, set_key, log, source, items)
    finally:
        if claim is not None:
            end_claim(claim)
    if dry_run:
        would = {*written, LOG}
        left = [problem for problem in before if problem.path not in would]
    else:
        left = verify_store(root, [key]).problems
    paths = {problem.path for problem in left}
    files = [problem.path for problem in before if problem.path not in paths]
    reasons = source.reasons if source and left else []
    return Repair(key, files, fetched, left=left, reasons=reasons)


def repair_log(root: Path, *, dry_run: bool = False) -> Log:
    """Return the log of a store, made again from its commits if it is damaged or lost.

    Raises
    ------
    FormatVersionError
        If another version wrote the store.
    StoreWriteError
        If the file system refuses.
    """
    with contextlib.suppress(CorruptStoreError):
        return read_log(root)
    with folder_lock(root):
        log = rebuilt_log(root)
        if not dry_run:
            write_file(root / LOG, [log.data()])
    return log


#: Writes a file of a set.
Write = Callable[[Path, Sequence[bytes]], None]


def _rebuild(
    write: Write, root: Path, key: SetKey, log: Log, copy: SetCopy | None,
    items: pl.DataFrame | None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Write again what has only one right form; return the blocks that came from the copy."""
    metadata = root_metadata(log.hash)
    if not same_file(root / "zarr.json", facts_of(metadata)):
        write(root / "zarr.json", [metadata])
    commit = whole_commit(root, key, log=log, fetch=copy.commit if copy else lambda _: None)
    if commit is None:
        return []
    damage, fetched = find_damage(root, key, commit), list[dict[str, Any]]()
    tables = [] if items is None else [items]
    if copy is not None and damage.items:
        tables += copy.tables()
    for one in damage.wrong:
        data = derive_items(one, tables) if one.part == "items" else one.content
        if data is None and copy is not None:
            data = copy.file(one)
        if data is not None and facts_of(data) == dict(one.facts):
            write(root / one.path, [data])
    for one, bad in damage.data:
        parts = _whole_parts(root, one, bad, copy)
        # Blocks that are right are of no use without the others of their file.
        if parts is not None:
            write(root / one.path, parts)
            fetched += map(damage.describe, bad)
    return fetched


def _whole_parts(
    root: Path, one: Listed, bad: Collection[int], copy: SetCopy | None
) -> list[bytes] | None:
    """Return a damaged data file: good blocks from itself, the others from the copy.

    None if a block cannot be had, or is not the one that the commit names.
    """
    file, path = one.data, root / one.path
    assert file is not None
    parts = [bytes(file.part.padding)]
    for block in file.blocks:
        if block in bad:
            data = None if copy is None else copy.block(one.commit, block)
        else:
            data = read_block(path, file, block)
        if data is None or one.commit.block_hash(data) != one.commit.blocks[block]:
            return None
        parts.append(data)
    return [*parts, file.tail()]


def derive_items(one: Listed, tables: Iterable[pl.DataFrame]) -> bytes | None:
    """Return an item table of a commit, if as many rows of one of these make it."""
    start = 0
    for items in one.commit.tables:
        for table, at in itertools.product(tables, {0, start}):
            data = item_bytes(table[at : at + items["n"]])
            if facts_of(data) == one.facts:
                return data
        start += items["n"]
    return None

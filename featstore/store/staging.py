"""Unfinished sets: their staged blocks, the journal of those that are safely on disk, and threads.

A data file grows in the claim's folder as ``data-<file>.bin``. Blocks may come in any order; when
all are there, the file gets its index and is renamed to its place. Nothing is copied.

A set is extended by parts. The next revision keeps every row of this one, at its place, and the
parts that hold them; only a part with rows that have no embedding, or are damaged, may be written
again, under another name.

The journal is JSON lines, appended and fsynced after the bytes they speak of. A torn last line is
what a kill leaves and is ignored; a journal of another plan is discarded with its files.

NumPy's conversions, ``hashlib`` and ``os.write`` all release the interpreter lock. The threads
are kept: one that is started anew for every block shares its parent's core until the system
moves it, and a block is done by then.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import polars as pl
from msgspec import Meta

from featstore.durable import (
    IrregularFileError,
    begin_writeback,
    delete,
    fsync_path,
    open_descriptor,
    read_regular,
    seal,
    write_at,
    write_durably,
)
from featstore.errors import AlreadyFinishedError, CorruptStoreError, StoreWriteError, listed
from featstore.identity import HASHES, SHA256, canonical_json, hash_hex, sha256_hex
from featstore.store.layout import (
    DTYPES,
    LIMITS,
    ArrayLayout,
    LayoutLimits,
    SetKey,
    SetLayout,
    plan_array,
)
from featstore.store.listing import Damage, check_sizes, find_damage, read_block
from featstore.store.lock import Claim, claim_folders
from featstore.store.log import present_commit
from featstore.store.records import FIRST, MAX_ROWS, Commit, Table, key_of, one_of
from featstore.store.tables import (
    FAILURES,
    WITHDRAWN,
    failures_file,
    join_ids,
    read_failures,
    read_parts,
    where_equal,
)

logger = logging.getLogger(__name__)

JOURNAL = "journal.jsonl"

#: A journal is refused above this size.
MAX_BYTES = 2**30


@dataclass(frozen=True)
class BlockRecord:
    """A row of the journal: a block that is written.

    Attributes
    ----------
    block : int
        Its number.
    digest, hash : str
        The hash of its rows, and which one of `featstore.identity.HASHES` that is.
    failures : dict
        item_id -> reason, of its items without an embedding.
    """

    block: Annotated[int, Meta(ge=0, le=MAX_ROWS)]
    digest: str
    failures: dict[str, str]
    hash: Annotated[str, Meta(pattern=one_of(*HASHES))] = SHA256

    def line(self) -> bytes:
        """Return the row as it is written."""
        return canonical_json(vars(self)) + b"\n"

    def fits(self, data: bytes) -> bool:
        """Return whether these are the rows of the block."""
        return hash_hex(self.hash, data) == self.digest


class Journal:
    """Blocks by number.

    What is added is durable after `sync`; `begun` says whether anything is. Blocks of an earlier
    revision that stay as they are stand in `blocks`, too, without a row of the journal.
    """

    def __init__(self, handle: int, blocks: dict[int, BlockRecord]) -> None:
        self._handle = handle
        self._end = os.fstat(handle).st_size
        self._unsynced: list[int] = []
        self.begun = bool(blocks)
        self.blocks = blocks

    @classmethod
    def open(
        cls, staging: Path, *, plan: Mapping[str, Any], read_block: Callable[[int], bytes]
    ) -> Journal:
        """Open the journal in `staging`, taking over what an interrupted run left.

        Parameters
        ----------
        staging : Path
            Folder of the claim.
        plan : mapping
            If it differs from the plan in the journal, everything staged is dropped: its rows
            may differ in bits. Its ``base`` is the revision that is being extended, if any;
            its ``settings`` are recorded, so that who resumes can ask for the same.
        read_block : callable
            Returns the staged bytes of a block, which are checked against its hash.
        """
        path = staging / JOURNAL
        head, blocks = read_journal(staging)
        fresh = {
            "plan": plan_digest(plan),
            "base": plan.get("base", ""),
            "settings": plan.get("settings", {}),
        }
        if head.get("plan") != fresh["plan"]:
            if head:
                logger.warning("%s was begun with another plan; starting over.", staging.parent)
            # Without a journal nobody knows what the files are: a kill may have come between.
            for one in staging.iterdir():
                if one.name != "claim":
                    delete(one)
            head, blocks = fresh, {}
        # A torn line would swallow the next one: rewrite the file without it. A head alone is
        # made durable by the first `sync`: without rows there is nothing to lose.
        rows = [record.line() for record in blocks.values()]
        write_durably(path, [canonical_json(head) + b"\n", *rows], synced=bool(rows))
        whole = {block: one for block, one in blocks.items() if one.fits(read_block(block))}
        return cls(open_descriptor(path, os.O_WRONLY), whole)

    @property
    def failures(self) -> dict[str, str]:
        """item_id -> reason of every failed item, in the order of the blocks."""
        merged: dict[str, str] = {}
        for block in sorted(self.blocks):
            merged.update(self.blocks[block].failures)
        return merged

    def add_block(self, record: BlockRecord) -> None:
        """Record a block."""
        self.blocks[record.block] = record
        self._unsynced.append(record.block)

    def sync(self) -> None:
        """Make what was added durable."""
        if not self._unsynced:
            return
        data = b"".join(self.blocks[block].line() for block in self._unsynced)
        # From where the last good row ended: a write that failed half-way is written over.
        write_at(self._handle, data, self._end)
        os.fsync(self._handle)
        self._end += len(data)
        self.begun = True
        self._unsynced.clear()

    def drop_unsynced(self) -> None:
        """Take back what was added since `sync`: nobody knows whether its bytes are durable.

        After a failed fsync the next one may succeed without having written them.
        """
        for block in self._unsynced:
            self.blocks.pop(block, None)
        self._unsynced.clear()

    def close(self) -> None:
        """Close the file; what was synced stays."""
        os.close(self._handle)


def plan_digest(plan: Mapping[str, Any]) -> str:
    """Return what a journal states of its plan."""
    return sha256_hex(canonical_json(dict(plan)))


def read_journal(staging: Path) -> tuple[dict[str, Any], dict[int, BlockRecord]]:
    """Return what a staged attempt states of itself, and the blocks that it has durably done.

    Its ``plan`` is a digest, ``base`` the revision that it extends ("" if none), ``settings`` what
    it was begun with. Both are empty without a journal.
    """
    head: dict[str, Any] = {}
    blocks: dict[int, BlockRecord] = {}
    with contextlib.suppress(FileNotFoundError, IrregularFileError, ValueError, RecursionError):
        first, *lines = read_regular(staging / JOURNAL, limit=MAX_BYTES).split(b"\n")[:-1]
        found = json.loads(first)
        head = found if isinstance(found, dict) else {}
        for line in lines if head else ():  # up to one that is torn
            row = msgspec.json.decode(line, type=BlockRecord)
            blocks[row.block] = row
    return head, blocks


def end_claim(claim: Claim) -> None:
    """Give a claim back under which nothing was staged; what others have staged stays for them."""
    alone = claim_folders(claim.folder.parents[1]) == [claim.folder]
    (claim.finish if alone and not read_journal(claim.folder)[1] else claim.release)()


def settings_of(staging: Path) -> dict[str, Any]:
    """Return the settings that a staged attempt with finished blocks was begun with."""
    head, blocks = read_journal(staging)
    found = head.get("settings") if blocks else None
    return found if isinstance(found, dict) else {}


class StagedFiles:
    """The staged data files of a set.

    Parameters
    ----------
    staging : Path
        Folder of the files; it exists.
    layout : SetLayout
        Which block lies where.
    placed : sequence of Path
        Where each data file lies if it is not staged any more.
    """

    def __init__(self, staging: Path, layout: SetLayout, placed: Sequence[Path] = ()) -> None:
        self._staging = staging
        self._layout = layout
        self._placed = placed
        self._dirty: set[int] = set()
        self._unnamed = True

    def path(self, file: int) -> Path:
        """Return where a data file is staged."""
        return self._staging / f"data-{file:06d}.bin"

    def path_of(self, block: int) -> Path:
        """Return where the file of a block is staged."""
        return self.path(int(self._layout.file_of[block]))

    def write(self, block: int, data: memoryview) -> None:
        """Write a block's rows at their final offset; durable only after `sync`.

        The disk begins with them at once, so that `sync` finds little to do.
        """
        file = int(self._layout.file_of[block])
        self._write(file, self._layout.files[file].place_of(block)[0], data)

    def _write(self, file: int, offset: int, data: memoryview) -> None:
        path = self.path(file)
        # Never truncated: it may hold the blocks of an interrupted run. A writer that was killed
        # right before the rename has made it read-only.
        if fresh := not path.exists():
            self._unnamed = True
        else:
            seal(path, like=self._staging, writable=True)
        self._dirty.add(file)
        handle = open_descriptor(path, os.O_RDWR | os.O_CREAT)
        try:
            if fresh:
                seal(path, like=self._staging, writable=True)
            write_at(handle, data, offset)
            begin_writeback(handle, offset, len(data))
        finally:
            os.close(handle)

    def sync(self, *, names: bool = True) -> None:
        """Make every block that was written durable; with `names`, so that they can be resumed."""
        for file in sorted(self._dirty):
            fsync_path(self.path(file))
        self._dirty.clear()
        if self._unnamed and names:
            # The first time also the journal's name.
            fsync_path(self._staging)
            self._unnamed = False

    def read(self, block: int) -> bytes:
        """Return the bytes of a block, staged or in place; fewer if its file ends before."""
        file, path = int(self._layout.file_of[block]), self.path_of(block)
        if self._placed and not path.exists():
            path = self._placed[file]
        try:
            return read_block(path, self._layout.files[file], block)
        except (FileNotFoundError, NotADirectoryError):
            return b""

    def complete(self, file: int) -> None:
        """Add padding and index to a file; it is whole, and durable after `sync`."""
        tail = self._layout.files[file].tail()
        self._write(file, self._layout.files[file].size - len(tail), memoryview(tail))


@functools.cache
def workers() -> ThreadPoolExecutor:
    """Return this process's threads for work beside the first; they are started when needed."""
    return ThreadPoolExecutor(thread_name_prefix="featstore")


# A forked child has none of its parent's threads.
os.register_at_fork(after_in_child=workers.cache_clear)


#: Kinds whose items are one list: another one is no addition to it.
LISTS = ("class_name", "head_weight")

#: Path of a part whose name follows from its rows, which are not all known yet.
UNNAMED = "unnamed"


@dataclass(frozen=True)
class Base:
    """A finished revision, as its successor sees it.

    Attributes
    ----------
    commit : Commit
        Of the revision.
    failures, reasons : dict
        item_id -> reason, of the items without an embedding; and of those that had none once, too.
    items, table : DataFrame
        Of this revision, and of the next one.
    kept : ndarray of shape (n,)
        True for the rows that stay. The others are failed rows that are tried again, rows that are
        withdrawn, and those of `bad` blocks.
    damage : Damage, optional
        In a repair: what is not as the commit says, and made again.
    """

    directory: Path
    commit: Commit
    failures: dict[str, str]
    reasons: dict[str, str]
    items: pl.DataFrame
    table: pl.DataFrame
    kept: np.ndarray
    damage: Damage | None = None

    @property
    def damaged(self) -> bool:
        """Whether the new revision is a repair of this one."""
        return self.damage is not None and bool(self.damage.blocks or self.damage.lost)

    @property
    def lost(self) -> list[str]:
        """Names of small files that a repair makes again."""
        return self.damage.lost if self.damage else []

    def keeps_file(self, name: str) -> bool:
        """Return whether a small file stays as it is; a repair adds none that was not there."""
        return name not in self.lost and (self.damaged or name in self.commit.metadata)

    def keeps(self, rows: slice) -> np.ndarray:
        """Return a boolean for each of `rows`: whether it is already there, and stays."""
        here = self.kept[rows.start : rows.stop]
        return np.pad(here, (0, rows.stop - rows.start - here.size))

    def read(self, block: int) -> np.ndarray:
        """Return the rows of a block as stored.

        Raises
        ------
        CorruptStoreError
            If they are not those of the commit.
        """
        layout = self.commit.layout
        file = layout.files[layout.file_of[block]]
        data = read_block(self.directory / file.path, file, block)
        if self.commit.block_hash(data) != self.commit.blocks[block]:
            raise CorruptStoreError(
                f"{self.directory / file.path}: block {block:,} differs from its commit record. "
                "The data was changed or damaged; extract or fetch the set again."
            )
        return np.frombuffer(data, DTYPES[layout.dtype]).reshape(-1, layout.dim)

    def record(self, block: int) -> BlockRecord:
        """Return the journal row of a block that stays whole."""
        rows = self.commit.layout.block_slice(block)
        return BlockRecord(block, self.commit.blocks[block], self.failed(rows), self.commit.hash)

    def failed(self, rows: slice) -> dict[str, str]:
        """Return the failures among `rows` that stay: also those of damaged rows, if withdrawn."""
        if not self.failures:
            return {}
        ids = self.items["item_id"][rows.start : rows.stop]
        kept = self.kept[rows.start : rows.stop].tolist()
        return {
            item: self.failures[item]
            for item, stays in zip(ids, kept, strict=True)
            if item in self.failures and (stays or self.failures[item] == WITHDRAWN)
        }

    def finished(self, *, retry: bool) -> AlreadyFinishedError | None:
        """Return the error to raise if the next revision would be this one, else None."""
        if self.damaged or not self.kept.all() or not self.items.equals(self.table):
            return None
        what = "no item of it failed" if retry else "it has these items"
        msg = (
            f"{key_of(self.directory)} is finished: {what}. Remove it with `headstock store rm` to "
            "extract it anew."
        )
        return AlreadyFinishedError(msg)

    def followed_by(self, commit: Commit) -> Commit:
        """Return a commit as the one after this one; or this one, if it says the same."""
        older = self.commit
        if replace(commit, sequence=older.sequence, history=older.history) == older:
            return older  # trying failed items again, or a repair, has changed nothing
        again = np.flatnonzero(older.failed_rows() & ~commit.failed_rows()[: older.n])
        readable, tables = older.n, list[Table]()
        if self.damaged:
            # Rows that came out otherwise are in no earlier revision any more.
            other = (
                rows[0] for rows, block in commit.by_rows.items() if older.by_rows[rows] != block
            )
            readable = min(other, default=older.n)
        if any(own.items != new.items for own, new in zip(older.parts, commit.parts, strict=False)):
            tables = older.tables
        history = tuple(
            one._replace(
                recovered=tuple(sorted({*one.recovered, *again[again < one.n].tolist()})),
                tables=one.tables or tuple(tables),
            )
            for one in older.revisions
            if one.n <= readable
        )
        return replace(commit, sequence=older.sequence + 1, history=history)

    def next_layout(self, limits: LayoutLimits = LIMITS) -> SetLayout:
        """Return the parts of the next revision: those that are written have no name yet."""
        parts = [
            part if self.kept[part.start : part.start + part.n].all()
            else replace(part, path=UNNAMED)
            for part in self.commit.layout.parts
        ]  # fmt: skip
        more = self.table.height - self.commit.n
        if more:
            limits = replace(limits, block_rows=self.commit.block_rows)
            new = plan_array(more, self.commit.dim, self.commit.dtype, limits, start=self.commit.n)
            parts.append(replace(new, path=UNNAMED))
        return SetLayout(tuple(parts))


def written(part: ArrayLayout, base: Base | None) -> bool:
    """Return whether a part of the next revision is written, and not the base's."""
    return base is None or part.path == UNNAMED


def named(layout: SetLayout, blocks: Mapping[int, BlockRecord], base: Base | None) -> SetLayout:
    """Return a layout with the names of the parts whose blocks are all known.

    A part is named by its rows and where they begin. So who writes the same rows again writes the
    same files, and no name ever stands for other bytes.
    """
    parts, first = [], 0
    for number, part in enumerate(layout.parts):
        own = range(first, first + part.n_blocks)
        first = own.stop
        if part.path == UNNAMED and all(block in blocks for block in own):
            hashes = [blocks[block].digest for block in own]
            old = base.commit.parts[number : number + 1] if base else ()
            same = [one.path for one in old if [*one.blocks] == hashes]
            part = replace(part, path=(same or [part_path(part, hashes)])[0])
        parts.append(part)
    return SetLayout(tuple(parts))


def part_path(part: ArrayLayout, hashes: Sequence[str]) -> str:
    """Return the path of a part whose rows have, or are made of blocks that have, these hashes."""
    stated = [part.start, part.n, part.shard_rows, *hashes]
    return f"{FIRST}/{sha256_hex(canonical_json(stated))[:16]}"


def read_base(
    directory: Path,
    key: SetKey,
    items: pl.DataFrame,
    *,
    retry_failed: bool = False,
    repair: bool = False,
    withdraw: Collection[str] = (),
) -> Base | None:
    """Return the revision that `items` extend, or None if the set has none yet.

    Parameters
    ----------
    retry_failed : bool
        Failed rows are not kept, but of items that were withdrawn.
    repair : bool
        Every file is compared with the commit, and what is damaged is not kept.
    withdraw : collection of str
        Ids of items whose rows are not kept.

    Raises
    ------
    StoreWriteError
        If an item is in the revision with another content.
    CorruptStoreError
        If files of the revision disagree with its commit.
    """
    commit = present_commit(directory.parents[2], key)
    if commit is None:
        return None
    damage = find_damage(directory.parents[2], key, commit) if repair else None
    old = read_parts(directory.parent, commit)
    table = extended(key, old, items)
    if repair:
        table = old  # nothing is appended
    layout = commit.layout
    if not repair:
        check_sizes(directory, layout)
    bad, lost = (damage.blocks, damage.lost) if damage else ([], [])
    reasons: dict[str, str] = {}
    name = failures_file(commit.metadata)
    if name is not None and name not in lost:
        reasons = dict(
            read_failures(directory / name, commit.metadata[name], n=commit.n).iter_rows()
        )
    elif name not in (None, FAILURES):  # nobody knows any more which were withdrawn
        reasons = dict.fromkeys(old["item_id"].filter(commit.failed_rows()), WITHDRAWN)
    # Rows and bias of a head are of one piece.
    kept = np.full(commit.n, key.kind != "head_weight" or not (bad or lost))
    for block in bad:
        kept[layout.block_slice(block)] = False
    failed = set(old["item_id"].filter(commit.failed_rows())) if reasons else set()
    failures = {item: reason for item, reason in reasons.items() if item in failed}
    if retry_failed or name in lost:
        out = {item for item, reason in failures.items() if reason == WITHDRAWN}
        kept &= ~commit.failed_rows() | where_equal(old["item_id"], out).to_numpy()
    kept &= ~where_equal(old["item_id"], withdraw).to_numpy()
    return Base(directory, commit, failures, reasons, old, table, kept, damage)


def extended(key: SetKey, old: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    """Return the items of the next revision: those of this one, then those of `items` that are new.

    Of items of both, what makes them the items they are must be equal. Where `items` begin with
    those that are there, in their order, the other columns are taken from them.
    """
    begins = items["item_id"].head(old.height).equals(old["item_id"])
    own, was = items.head(old.height), old
    if not begins:
        again, rows = join_ids(items["item_id"], old["item_id"])
        own, was = items[again], old[rows]
    columns = ["content_sha256"]
    hashes = [table.get_column("content_sha256", default=None) for table in (own, was)]
    if any(found is None or found.null_count() for found in hashes):
        columns += ["uri", "text"]
    for column in columns:
        if column not in own.columns or column not in was.columns:
            continue
        same = own[column].eq_missing(was[column])
        if not same.all():
            others = own["item_id"].filter(~same)
            raise StoreWriteError(
                f"{key} has {len(others):,} of these {items.height:,} items with another content: "
                f"{listed(others)}. A set is only ever appended to: give them other ids, or the "
                "dataset another name (rows of the same content are then copied, not computed "
                "again), or remove the set with `headstock store rm`."
            )
    if begins:
        return items
    if key.kind in LISTS:
        raise StoreWriteError(
            f"{key} cannot be extended to these {items.height:,} items: they do not begin with the "
            f"{old.height:,} that it has, and names and heads are lists, whose order means "
            "something. Give the label set another name, or remove the set with `headstock store "
            "rm`."
        )
    if own.height == items.height:
        return old
    fresh = items.filter(~items["item_id"].is_in(old["item_id"].implode()))
    return pl.concat([old, fresh], how="diagonal_relaxed")


def resume_journal(
    claim: Claim,
    *,
    plan: Mapping[str, Any],
    layout: SetLayout,
    staged: StagedFiles,
    base: Base | None,
    others: Sequence[Path] | None,
) -> Journal:
    """Open the journal in the claim's folder; every block that need not be made again is in it.

    Parameters
    ----------
    plan : mapping
        See `Journal.open`.
    base : Base, optional
        Its blocks are taken over: those of parts that stay as they are; those that stay in a part
        that is written again as staged copies.
    others : sequence of Path, optional
        Folders of ranks; the blocks that they have done are copied. None if this is a rank
        itself: nothing is copied then.
    """
    journal = Journal.open(claim.folder, plan=plan, read_block=staged.read)
    try:
        for block in range(0 if base is None else len(base.commit.blocks)):
            assert base is not None
            kept = base.kept[layout.block_slice(block)].all()
            if block in journal.blocks or not kept:
                continue
            again = layout.files[layout.file_of[block]].part.path == UNNAMED
            if again and others is not None:
                staged.write(block, base.read(block).reshape(-1).view(np.uint8).data)
                journal.add_block(base.record(block))
            else:
                journal.blocks[block] = base.record(block)
        for other in others or ():
            head, done = read_journal(other)
            if head.get("plan") == plan_digest(plan):
                _gather(journal, staged, StagedFiles(other, layout), done)
    except BaseException:
        journal.close()
        raise
    return journal


def _gather(
    journal: Journal, staged: StagedFiles, part: StagedFiles, done: Mapping[int, BlockRecord]
) -> None:
    """Copy the blocks of a rank, as far as they are what its journal says."""
    for block, record in sorted(done.items()):
        if block in journal.blocks or not part.path_of(block).exists():
            continue
        data = part.read(block)
        if record.fits(data):
            staged.write(block, memoryview(data))
            journal.add_block(record)

"""What a new revision of a set starts from: its published rows, or those of a stopped writer.

A set is extended by appending. The next revision keeps every row of this one, at its place, bit
for bit; only rows that have no embedding may be tried again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from featstore.errors import AlreadyFinishedError, StoreWriteError
from featstore.store.blocks import check_tail
from featstore.store.files import opened_as_it_is
from featstore.store.layout import (
    LIMITS,
    ArrayLayout,
    LayoutLimits,
    SetKey,
    blank_value,
    plan_array,
)
from featstore.store.listing import find_damage, read_records
from featstore.store.lock import Claim
from featstore.store.log import read_log
from featstore.store.records import Commit, key_of, read_commit
from featstore.store.rows import CheckedRows, RowSource, open_rows
from featstore.store.staging import BlockRecord, Journal, StagedFiles, plan_digest, read_journal
from featstore.store.tables import failures_file, read_failures, read_items


@dataclass(frozen=True)
class Base:
    """A finished revision, as its successor sees it.

    Attributes
    ----------
    commit : Commit
        Of the revision.
    layout : ArrayLayout
        Of its array; the last file on disk may already hold more.
    failures : dict
        item_id -> reason, of the items without an embedding.
    item_ids : Series
    kept : ndarray of shape (n,)
        True for the rows that stay. The others are failed rows that are tried again, and those
        of `bad` blocks.
    bad, lost : frozenset
        In a repair: blocks that are not those of the commit, and names of small files that are not.
        They are made again.
    """

    directory: Path
    commit: Commit
    layout: ArrayLayout
    failures: dict[str, str]
    item_ids: pl.Series
    kept: np.ndarray
    source: RowSource
    rows: CheckedRows
    bad: frozenset[int] = frozenset()
    lost: frozenset[str] = frozenset()

    @property
    def damaged(self) -> bool:
        """Whether the new revision is a repair of this one."""
        return bool(self.bad or self.lost)

    def keeps_file(self, name: str) -> bool:
        """Return whether a small file stays as it is; a repair adds none that was not there."""
        return name not in self.lost and (self.damaged or name in self.commit.metadata)

    def keeps(self, rows: slice) -> np.ndarray:
        """Return a boolean for each of `rows`: whether it is already there, and stays."""
        here = self.kept[rows.start : rows.stop]
        return np.pad(here, (0, rows.stop - rows.start - here.size))

    def read(self, rows: slice) -> np.ndarray:
        """Return those of `rows` that this revision has, as stored, their blocks checked."""
        numbers = np.arange(rows.start, min(rows.stop, self.commit.n))
        found = np.array(self.rows.read(numbers))
        # A second try that was given up may have left an embedding there.
        found[self.commit.failed_rows()[numbers]] = blank_value(self.commit.dtype)
        return found

    def overlay(self, rows: slice, data: np.ndarray) -> np.ndarray:
        """Return a copy of `data`, the new `rows`, with those that stay as they were."""
        merged = np.array(data)
        stored = self.read(rows)
        stays = self.keeps(rows)[: len(stored)]
        merged[: len(stored)][stays] = stored[stays]
        return merged

    def record(self, block: int) -> BlockRecord:
        """Return the journal row of a block that stays whole."""
        rows = self.layout.block_slice(block)
        return BlockRecord(self.commit.blocks[block], self.failed(rows), self.commit.hash)

    def failed(self, rows: slice) -> dict[str, str]:
        """Return the failures among `rows` that stay."""
        if not self.failures:
            return {}
        ids = self.item_ids[rows.start : min(rows.stop, self.commit.n)]
        kept = self.kept[rows.start : rows.stop].tolist()
        return {
            item: self.failures[item]
            for item, stays in zip(ids, kept, strict=True)
            if stays and item in self.failures
        }

    def finished(self, items: str, *, retry: bool) -> AlreadyFinishedError | None:
        """Return the error to raise if the items of this sha256 need nothing more, else None."""
        pending = self.damaged or not self.kept.all()
        if self.commit.items["sha256"] != items or pending:
            return None
        what = "no item of it failed" if retry else "it has these items"
        msg = (
            f"{key_of(self.directory)} is finished: {what}. Remove it with `headstock store rm` to "
            "extract it anew."
        )
        return AlreadyFinishedError(msg)

    def next_layout(self, n: int, limits: LayoutLimits = LIMITS) -> ArrayLayout:
        """Return how the array of the next revision is cut: in shards as large as these."""
        layout = self.layout
        if n == layout.n:
            return layout
        if layout.shard_rows:
            return ArrayLayout(n, layout.dim, layout.dtype, layout.block_rows, layout.shard_rows)
        limits = replace(limits, block_rows=layout.block_rows)
        return plan_array(n, layout.dim, layout.dtype, limits)

    def in_place(self, layout: ArrayLayout, file: int) -> bool:
        """Return whether a data file of the next revision is this one's, untouched."""
        path = self.directory / "embedding" / layout.file_name(file)
        return (
            layout.shard_rows == self.layout.shard_rows
            and file < self.layout.n_files
            and layout.file_rows(file) == self.layout.file_rows(file)
            and bool(self.kept[self.layout.file_rows(file)].all())
            # An extension that was given up may have left more than this, ...
            and not check_tail(path, layout, file)
            and self._blank_in(self.layout.file_rows(file))
        )

    def _blank_in(self, rows: slice) -> bool:
        """Return whether the failed rows are blank on disk, ... and a second try, other rows."""
        failed = rows.start + np.flatnonzero(self.commit.failed_rows()[rows])
        found = self.source.read(failed)
        blank = np.full_like(found, blank_value(self.commit.dtype))
        return found.tobytes() == blank.tobytes()


def read_base(
    directory: Path,
    key: SetKey,
    items: pl.DataFrame,
    *,
    retry_failed: bool = False,
    repair: bool = False,
) -> Base | None:
    """Return the revision that `items` extend, or None if the set has none yet.

    Parameters
    ----------
    repair : bool
        Every file is compared with the commit, and what is damaged is not kept.

    Raises
    ------
    StoreWriteError
        If the items do not begin with those of the revision, in their order and unchanged.
    CorruptStoreError
        If files of the revision disagree with its commit.
    """
    revision = read_log(directory.parents[2]).sets.get(str(key))
    if revision is None:
        return None
    damage = find_damage(read_records(directory.parents[2], key)) if repair else None
    commit = damage.commit if damage else read_commit(directory, revision)
    old = read_items(directory.parent / commit.items["file"], commit.items, n=commit.n)
    reason = _differs(old, items)
    if reason:
        raise StoreWriteError(
            f"{key} cannot be extended to these {items.height:,} items: {reason}. A set is only "
            "ever appended to; reordering, changing or removing items makes another version of "
            "the dataset. Give the manifest another name: rows of the same content are then "
            "copied, not computed again. Or remove the set with `headstock store rm`."
        )
    layout = commit.layout
    bad = frozenset(damage.blocks) if damage else frozenset()
    lost = frozenset(damage.lost) if damage else frozenset()
    failures: dict[str, str] = {}
    name = failures_file(commit.metadata)
    if name is not None and name not in lost:
        failures = dict(
            read_failures(directory / name, commit.metadata[name], n=commit.n).iter_rows()
        )
    kept = np.ones(commit.n, dtype=bool)
    for block in bad:
        kept[layout.block_slice(block)] = False
    if key.kind == "head_weight" and (bad or lost):
        kept[:] = False  # rows and bias of a head are of one piece
    if retry_failed or name in lost:
        kept &= ~commit.failed_rows()
    array = directory / "embedding"
    # A truncated file still holds the blocks before its end.
    source = open_rows(array, layout, "pread", opened_as_it_is if repair else None)
    rows = CheckedRows(
        source,
        directory=array,
        layout=layout,
        commit=commit,
    )
    return Base(
        directory, commit, layout, failures, old["item_id"], kept, source, rows,
        bad=bad, lost=lost,
    )  # fmt: skip


def _differs(old: pl.DataFrame, new: pl.DataFrame) -> str:
    """Return why `new` does not begin with `old`, or an empty string."""
    if new.height < old.height:
        return f"the set has {old.height:,}"
    begin = new.head(old.height)
    # What makes an item the item it is; other columns may change from revision to revision.
    columns = ["item_id", "content_sha256"]
    hashes = [table.get_column("content_sha256", default=None) for table in (old, begin)]
    if any(found is None or found.null_count() for found in hashes):
        columns += ["uri", "text"]
    for column in columns:
        if column not in old.columns or column not in new.columns:
            continue
        same = old[column].eq_missing(begin[column])
        if not same.all():
            row = int((~same).arg_max() or 0)
            what = "has another content" if column != "item_id" else f"is {begin[column][row]!r}"
            return f"item {row:,}, {old['item_id'][row]!r}, {what}"
    return ""


def resume_journal(
    claim: Claim,
    *,
    plan: Mapping[str, Any],
    array: Path,
    layout: ArrayLayout,
    staged: StagedFiles,
    base: Base | None,
    others: Sequence[Path] | None,
) -> Journal:
    """Open the journal in the claim's folder; every block that need not be made again is in it.

    Parameters
    ----------
    plan : mapping
        See `Journal.open`.
    array : Path
        Directory of the array.
    base : Base, optional
        Blocks that it has whole are taken over: where their file stays, as they are; where a
        larger file will replace it, as staged copies.
    others : sequence of Path, optional
        Folders of parts; the blocks that they have done are copied. None if this is a part
        itself: nothing is copied then.
    """

    def read_block(block: int) -> bytes:
        file = block // layout.blocks_per_file
        if staged.path(file).exists():
            return staged.read(block)
        path = array / layout.file_name(file)
        if path.exists() and path.stat().st_size == layout.file_bytes(file):
            return staged.read(block, path)
        return b""

    journal = Journal.open(claim.folder, plan=plan, read_block=read_block)
    try:
        _take_over(journal, claim, array, layout, staged, base)
        if base is not None:
            _carry(journal, staged if others is not None else None, base, layout)
        for other in others or ():
            head, done = read_journal(other)
            if head.get("plan") == plan_digest(plan):
                _gather(journal, staged, StagedFiles(other, layout), done)
    except BaseException:
        journal.close()
        raise
    return journal


def _take_over(
    journal: Journal,
    claim: Claim,
    array: Path,
    layout: ArrayLayout,
    staged: StagedFiles,
    base: Base | None,
) -> None:
    """Find the data files that are in place already, and stage what a larger one will hold."""
    for file in range(layout.n_files):
        blocks = layout.file_blocks(file)
        if base is not None and base.in_place(layout, file):
            journal.files.add(file)
            for block in blocks:
                journal.blocks[block] = base.record(block)
        elif not staged.path(file).exists() and all(block in journal.blocks for block in blocks):
            # The blocks were read in place.
            claim.rely_on(array / layout.file_name(file))
            journal.files.add(file)


def _carry(journal: Journal, staged: StagedFiles | None, base: Base, layout: ArrayLayout) -> None:
    """Stage the whole blocks of the base whose file a larger one will replace."""
    for block in range(layout.n_blocks):
        rows = layout.block_slice(block)
        if block in journal.blocks or not base.keeps(rows).all():
            continue
        if staged is None:
            journal.blocks[block] = base.record(block)
            continue
        staged.write(block, base.read(rows).reshape(-1).view(np.uint8).data)
        journal.add_block(block, base.record(block))


def _gather(
    journal: Journal, staged: StagedFiles, part: StagedFiles, done: Mapping[int, BlockRecord]
) -> None:
    """Copy the blocks of a part, as far as they are what its journal says."""
    for block, record in sorted(done.items()):
        if block in journal.blocks or not part.path_of(block).exists():
            continue
        data = part.read(block)
        if record.fits(data):
            staged.write(block, memoryview(data))
            journal.add_block(block, record)

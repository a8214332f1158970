"""Write a set: stage its blocks, publish a commit, and finish an interrupted publication.

The order is what makes a kill at any point harmless: a block is a file that was fsynced
and renamed before its journal row was written; a shard is assembled from journalled blocks;
the commit record names every hash; then the log names the commit, and a set that it does not
list does not exist for readers. Zarr's metadata follow, and the end of the claim.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import polars as pl

from featstore.durable import facts_of, json_bytes, same_file, walk_store, write_error
from featstore.errors import (
    ClaimLostError,
    CorruptStoreError,
    NonFiniteEmbeddingError,
    StoreWriteError,
)
from featstore.identity import SHA256, SHORT, hash_hex, sha256_hex
from featstore.store.layout import (
    LIMITS,
    ArrayLayout,
    DataFile,
    LayoutLimits,
    SetKey,
    SetLayout,
    SetSpec,
    convert_rows,
    plan_array,
)
from featstore.store.listing import Listed, set_files, unlisted, whole_commit
from featstore.store.lock import (
    PART_NAME,
    Claim,
    claim_folders,
    claim_set,
    folder_lock,
    is_claimed,
)
from featstore.store.log import NAME, Log, check_new, has_log, read_log, set_folders, update_log
from featstore.store.parquet_guard import table_bytes
from featstore.store.records import (
    BIAS,
    FIRST,
    REVISIONS,
    Commit,
    Items,
    Part,
    commit_bytes,
    pack_failed,
    root_metadata,
    staging_of,
)
from featstore.store.rows import CheckedRows, open_rows
from featstore.store.staging import (
    Base,
    BlockRecord,
    Journal,
    StagedFiles,
    named,
    part_path,
    plan_digest,
    read_base,
    read_journal,
    resume_journal,
    workers,
    written,
)
from featstore.store.tables import FAILURES, ItemFile, read_parts, where_equal


def write_file_once(claim: Claim, path: Path, data: bytes) -> None:
    """Write a file of the store, unless it is there with these bytes."""
    if same_file(path, facts_of(data)):
        claim.rely_on(path)
    else:
        claim.write_file(path, [data])


def tidy_set(root: Path, key: SetKey) -> None:
    """Complete a published set whose writer was killed before it could tidy up.

    A published set with a staging folder lacks something that follows the log, unless a writer is
    extending it, or was interrupted in that. Readers need nothing of what it lacks, so a process
    without the right to write leaves the set as it is.

    Raises
    ------
    StoreWriteError
        If the file system refuses.
    """
    directory = key.directory(root)
    staging = staging_of(directory)
    is_untidy = staging.exists() and str(key) in read_log(root).sets
    folders = (staging, directory, *directory.parents[:3])  # up to the store
    if not is_untidy or not all(os.access(folder, os.W_OK | os.X_OK) for folder in folders):
        return
    if is_claimed(directory):
        return
    try:
        claim = claim_set(directory, key)
    except StoreWriteError:
        return  # another process claimed it meanwhile, and leaves it tidy
    with claim:
        tidy_claimed(root, key, claim)


def tidy_claimed(root: Path, key: SetKey, claim: Claim) -> None:
    """Do what `tidy_set` does for a set whose claim this process holds.

    Blocks that are staged for the next revision, or the first one, are left alone.
    """
    digest = read_log(root).sets.get(str(key), "")
    if any(
        blocks and head.get("base") == digest
        for head, blocks in map(read_journal, claim_folders(key.directory(root)))
    ):
        return
    if digest:
        end_publication(root, key, claim)
    else:
        claim.finish()


def end_publication(root: Path, key: SetKey, claim: Claim) -> None:
    """Join small parts, write Zarr's metadata, remove what is left over, end the claim.

    All that follows the log, in this order; again after a kill.
    """
    with contextlib.suppress(ClaimLostError):  # who took over does all this
        claim.rely_on(root / NAME)
        claim.sync()
        log = read_log(root)
        commit = whole_commit(root, key, log=log)
        if commit is not None and commit.layout.small < len(commit.parts) - 1:
            with contextlib.suppress(CorruptStoreError):  # is left for a repair
                commit = join_parts(root, key, claim, commit, commit.layout.small)
        files = {} if commit is None else set_files(key, commit)
        derived = {one.path: one.content for one in files.values() if one.part == "zarr"}
        for path, data in {"zarr.json": root_metadata(log.hash), **derived}.items():
            if data is not None and not same_file(root / path, facts_of(data)):
                claim.write_file(root / path, [data])
        _remove_old(root, key, claim, files)
        claim.finish()


def _remove_old(root: Path, key: SetKey, claim: Claim, files: Mapping[str, Listed]) -> None:
    """Remove what commits before have listed, and folders of rows without a file."""
    directory = key.directory(root)
    rows = directory / FIRST
    # Commits go first, so that no log is made again from one whose rows are gone.
    for path in sorted(unlisted(root, key, files), key=lambda path: REVISIONS not in path.parts):
        if path.relative_to(directory).as_posix().startswith((FIRST, REVISIONS, "failures")):
            claim.discard(path)
    there, folders, _ = walk_store(rows) if files else ((), (), ())
    empty = [name for name in folders if not any(one.startswith(f"{name}/") for one in there)]
    if empty:
        claim.sync()
    for name in sorted(empty, reverse=True):
        (rows / name).rmdir()
        claim.unsynced.add(rows)


def join_parts(root: Path, key: SetKey, claim: Claim, commit: Commit, first: int) -> Commit:
    """Write the parts from number `first` on as one, and publish: the same revisions, elsewhere.

    Raises
    ------
    CorruptStoreError
        If a row or an item is not the one that the commit states.
    StoreWriteError
        If the claim was lost, or the disk refuses.
    """
    directory, layout = key.directory(root), commit.layout
    old = commit.parts[first:]
    start, n = layout.parts[first].start, sum(part.n for part in old)
    limits = replace(LIMITS, block_rows=commit.block_rows)
    plan = plan_array(n, commit.dim, commit.dtype, limits, start=start)
    path = part_path(plan, [block for part in old for block in part.blocks])
    new = SetLayout((replace(plan, path=path),))
    source = CheckedRows(open_rows(directory, layout), directory=directory, commit=commit)
    hashes: list[str] = []

    def pieces(file: DataFile) -> Iterator[bytes | memoryview]:
        yield bytes(plan.padding)
        for block in file.blocks:
            rows = new.block_slice(block)
            data = np.ascontiguousarray(source.read(np.arange(rows.start, rows.stop))).data
            hashes.append(commit.block_hash(data.cast("B")))
            yield data.cast("B")
        yield file.tail()

    for file in new.files:
        claim.write_file(directory / file.path, pieces(file))
    table = read_parts(directory.parent, replace(commit, parts=old, history=(), past=None))
    with folder_lock(directory.parent):  # beside who takes out tables
        items = write_items(claim, directory, ItemFile(table))
    joined = replace(
        commit,
        parts=(*commit.parts[:first], Part(path, n, plan.shard_rows, tuple(hashes), items)),
        sequence=commit.sequence + 1,
        history=commit.revisions,
    )
    enter_commit(root, key, claim, joined, after=commit.digest)
    return joined


def refuse_unfinished(
    root: Path, key: SetKey, then: str, *, plan: Mapping[str, Any] | None = None
) -> None:
    """Raise StoreWriteError if blocks of a set are staged, not by this plan, that would be lost."""
    own = None if plan is None else plan_digest(plan)
    staged = map(read_journal, claim_folders(key.directory(root)))
    if any(blocks and head.get("plan") != own for head, blocks in staged):
        raise StoreWriteError(
            f"An extraction of {key} into {root} is unfinished. Finish it, or remove what it has "
            f"staged with `headstock store gc {root}`, and {then} then."
        )


def write_items(claim: Claim, directory: Path, file: ItemFile) -> Items:
    """Write an item table of the set in a folder, and return what a commit states of it."""
    write_file_once(claim, directory.parent / file.name, file.data)
    return cast("Items", {"file": file.name, **file.facts})


def enter_commit(root: Path, key: SetKey, claim: Claim, commit: Commit, *, after: str) -> None:
    """Write the record of a commit, all other files of which are there, and let the log name it.

    Parameters
    ----------
    after : str
        Digest of the commit that it was made from, or "".

    Raises
    ------
    StoreWriteError
        If the claim was lost, another commit was published meanwhile, or the disk refuses.
    """
    path = key.directory(root) / REVISIONS / f"{commit.digest}.json"
    write_file_once(claim, path, commit_bytes(commit))
    claim.sync()

    def enter(log: Log) -> Log:
        claim.check()
        if log.sets.get(str(key), "") not in (after, commit.digest):
            raise claim.lost()
        return log.with_sets({str(key): commit.digest})

    update_log(root, enter, claim=claim)


def publish_commit(root: Path, key: SetKey, claim: Claim, commit: Commit, *, after: str) -> None:
    """Publish a commit, and end the claim; arguments and errors as of `enter_commit`."""
    enter_commit(root, key, claim, commit, after=after)
    end_publication(root, key, claim)


logger = logging.getLogger(__name__)

#: A block is durable at most this long after it was written: what a kill can cost.
SYNC_SECONDS = 2.0


@dataclass(frozen=True)
class WriteOptions:
    """What a writer does of a set, and how long it waits for another.

    Attributes
    ----------
    retry_failed : bool
        Make a revision in which the failed rows of the finished one are pending again.
    repair : bool
        Make a revision in which the damaged blocks of the finished one are pending again. If all
        comes out as it was, that is the same revision, and the same bytes.
    withdraw : frozenset of str
        Make a revision in which the rows of these items are pending, to be written as failed.
    part : (rank, world size), optional
        Write only every world-size-th block, beside the other ranks. A part publishes nothing:
        a writer without `part` finds the blocks of all of them, and finishes the set.
    wait : float
        Seconds to wait for another writer of this set to end.

    Examples
    --------
    >>> WriteOptions(wait=60.0).wait
    60.0
    """

    retry_failed: bool = False
    repair: bool = False
    withdraw: frozenset[str] = frozenset()
    part: tuple[int, int] | None = None
    wait: float = 0.0


_WHOLE = WriteOptions()


class SetWriter:
    """The one writer of a set, new or to be extended.

    Use as a context manager: entering claims the set and reads the journal of an interrupted
    attempt; leaving gives the claim back and keeps what is staged.

    A finished set is extended by the items that it does not have: its parts stay as they are, and
    the new rows are a part of their own.

    Blocks may be written in any order; with ``options.part``, by several processes at once. This is
    the door for engines of one's own: docs/ref/encoders.md.

    Parameters
    ----------
    root : Path
        The store, made if missing.
    spec : SetSpec
        What the set is.
    items : DataFrame or ItemFile
        Item table; writers of the same items share an `ItemFile`. Row i of a new set is item i.
    dim : int
        Embedding dimension.
    facts : mapping
        Recorded in the set's attributes, not keyed (label set, encoder name …).
    plan : mapping
        What else must be equal for staged blocks to be taken over (batch size, threads).
    options : WriteOptions
        Whether failed rows are tried again, which part is written, how long to wait.
    limits : LayoutLimits
        Sizes of blocks and files; smaller in tests. A finished set keeps its own.

    Raises
    ------
    StoreWriteError
        If the store cannot be written, another process is writing this set, or the set is
        finished with these items, or has one of them with another content.

    Examples
    --------
    >>> spec = SetSpec("birds", "image", "timm:toy", {"name": "toy"}, "float32")
    >>> with SetWriter(Path("store"), spec, item_table(["a", "b"]), dim=3) as writer:
    ...     writer.write_block(0, np.eye(2, 3))
    ...     revision = writer.finish()
    >>> open_store("store").view("birds/image/timm:toy").shape
    (2, 3)
    """

    def __init__(
        self,
        root: Path,
        spec: SetSpec,
        items: pl.DataFrame | ItemFile,
        dim: int,
        *,
        facts: Mapping[str, Any] | None = None,
        plan: Mapping[str, Any] | None = None,
        options: WriteOptions = _WHOLE,
        limits: LayoutLimits = LIMITS,
    ) -> None:
        self.root = root
        self.spec = spec
        self.key = spec.key
        self.directory = spec.directory(root)
        self._items = items if isinstance(items, ItemFile) else ItemFile(items)
        self.layout = SetLayout((plan_array(self.items.height, dim, spec.dtype, limits),))
        self._facts = dict(facts or {})
        self._limits = limits
        self._plan = dict(plan or {})
        self._options = options
        self._hash = SHA256
        self._claim: Claim | None = None
        self._base: Base | None = None
        self._journal: Journal | None = None
        self._staged: StagedFiles | None = None
        self._last_sync = time.monotonic()

    @property
    def staging(self) -> Path:
        """Where unfinished blocks lie."""
        return staging_of(self.directory)

    @property
    def items(self) -> pl.DataFrame:
        """The items, row by row: those of the revision that is extended come first."""
        return self._items.table

    @property
    def base(self) -> Base | None:
        """The revision that is being extended, or None."""
        return self._base

    def __enter__(self) -> Self:
        try:
            with self._disk_errors():
                self._begin()
        except BaseException:
            self._release()
            raise
        return self

    def _begin(self) -> None:
        """Claim the set, look at what is there, and take over what an interrupted attempt left."""
        self._hash = read_log(self.root).hash
        if not has_log(self.root) and not set_folders(self.root):
            check_new(self.root)
        name = PART_NAME.format(*self._options.part) if self._options.part else ""
        self._claim = claim_set(self.directory, self.key, part=name, wait=self._options.wait)
        self._base = read_base(
            self.directory,
            self.key,
            self._items.table,
            retry_failed=self._options.retry_failed,
            repair=self._options.repair,
            withdraw=self._options.withdraw,
        )
        if self._base is not None:
            if done := self._base.finished(retry=self._options.retry_failed):
                raise done
            self.layout = self._base.next_layout(self._limits)
            if self._base.table is not self.items:
                self._items = ItemFile(self._base.table)
            # Blocks that stay keep their hashes.
            self._hash = self._base.commit.hash
        if self._options.withdraw:
            refuse_unfinished(self.root, self.key, "withdraw items", plan=self._full_plan())
        names = named(self.layout, read_journal(self._claim.folder)[1], self._base)
        places = [self.directory / file.path for file in names.files]
        self._staged = StagedFiles(self._claim.folder, self.layout, places)
        self._journal = resume_journal(
            self._claim,
            plan=self._full_plan(),
            layout=self.layout,
            staged=self._staged,
            base=self._base,
            others=None if self._options.part else claim_folders(self.directory)[1:],
        )
        if not has_log(self.root):
            update_log(self.root, lambda log: log, claim=self._claim)

    def __exit__(self, kind: type[BaseException] | None = None, *_: object) -> None:
        try:
            if self._journal is not None and self._staged is not None:
                # What ended the block matters more than what ends its last blocks.
                with contextlib.suppress(StoreWriteError) if kind else contextlib.nullcontext():
                    self.sync()
        finally:
            self._release()

    def _release(self) -> None:
        # Closing reports nothing that `sync` did not; the claim must go whatever happens.
        with contextlib.suppress(OSError):
            if self._journal is not None:
                self._journal.close()
        claim, first = self._claim, self._journal is not None and self._base is None
        self._staged = self._journal = self._claim = None
        if claim is None:
            return
        # Where nothing was done the set is as it was, or as its killed writer should have left it.
        # Rows that a first one had placed stay those of an unfinished set, which `gc` collects.
        with contextlib.suppress(OSError, CorruptStoreError, StoreWriteError):
            claim.check()  # gone, if the set was published
            if self._options.part and not read_journal(claim.folder)[1]:
                claim.finish()
            elif not (self._options.part or (first and (self.directory / FIRST).exists())):
                tidy_claimed(self.root, self.key, claim)
            self.directory.rmdir()
        claim.release()

    def _full_plan(self) -> dict[str, Any]:
        old = self._base.commit.n if self._base else 0
        new = self.layout.n - old
        return {
            "set_id": self.spec.set_id,
            "items": self._items.part(old, new).facts["sha256"] if new else "",
            "layout": repr(self.layout),
            "base": self._base.commit.digest if self._base else "",
            "retry_failed": self._options.retry_failed,
            "withdraw": sorted(self._options.withdraw),
            # Named where it is another than it always was: what was staged before stays of use.
            **({"hash": self._hash} if self._hash != SHA256 else {}),
            **self._plan,
        }

    def pending(self) -> list[int]:
        """Return the blocks that are not yet written, in order; of a part, its own."""
        if self._options.part:
            rank, world_size = self._options.part
            return [block for block in self.left() if block % world_size == rank]
        done = self._opened()[0].blocks
        return [block for block in range(self.layout.n_blocks) if block not in done]

    def left(self) -> list[int]:
        """Return the blocks that no writer of this set has durably done, of whatever part."""
        journal, _, claim = self._opened()
        others = [one for one in claim_folders(self.directory) if one != claim.folder]
        plan = plan_digest(self._full_plan()) if others else ""
        staged = map(read_journal, others)
        same = (blocks for head, blocks in staged if head.get("plan") == plan)
        done = set(journal.blocks).union(*same)
        return [block for block in range(self.layout.n_blocks) if block not in done]

    def kept(self, block: int) -> np.ndarray:
        """Return a boolean for each row of a block: True if the base has it, and it stays.

        Whatever `write_block` gets for those rows is ignored.
        """
        rows = self.layout.block_slice(block)
        if self._base is None:
            return np.zeros(rows.stop - rows.start, dtype=bool)
        return self._base.keeps(rows)

    @property
    def failures(self) -> dict[str, str]:
        """item_id -> reason of the items that have failed so far."""
        return dict(self._opened()[0].failures)

    def write_block(
        self, block: int, rows: np.ndarray, failures: Mapping[str, str] | None = None
    ) -> None:
        """Stage the rows of one block; `sync` follows within `SYNC_SECONDS` of writing.

        Parameters
        ----------
        block : int
            Number of the block.
        rows : ndarray of shape (rows of the block, d)
            Raw encoder output. Whatever stands in the rows of failed items is not kept.
        failures : mapping
            item_id -> reason, for the items of this block that have no embedding.

        Raises
        ------
        NonFiniteEmbeddingError
            If a row of an item that did not fail is not finite, or has values that the stored
            dtype cannot hold. Nothing is written then.
        ClaimLostError
            If another writer took over because this one had lost its lock.
        """
        _, staged, claim = self._opened()
        where = self.layout.block_slice(block)
        ids = self.items["item_id"][where.start : where.stop]
        reasons = {**(failures or {}), **(self._base.failed(where) if self._base else {})}
        kept = self.kept(block)
        data, check = convert_rows(
            rows,
            ids,
            failed=reasons.keys() | set(ids.filter(kept)) if kept.any() else reasons.keys(),
            layout=self.layout,
            where=(
                f"encoder {self.spec.encoder}, "
                f"rows {where.start:,}-{where.stop - 1:,} of {self.key}"
            ),
        )
        if self._base is not None and kept.any():
            data = np.where(kept[:, None], self._base.read(block), data)
        view = data.data.cast("B")

        def stage() -> None:
            check()
            claim.check()
            staged.write(block, view)

        with self._disk_errors():
            beside = workers().submit(stage)
            found = hash_hex(self._hash, view)  # takes longest: nothing has to wake up for it
            beside.result()
        self._add_block(BlockRecord(block, found, reasons, self._hash))

    def records(self) -> dict[int, BlockRecord]:
        """Return what the journal says of the blocks that are done, but those of the base."""
        blocks = self._opened()[0].blocks
        return {block: blocks[block] for block in blocks if not self.kept(block).all()}

    def done_block(self, block: int) -> tuple[BlockRecord, bytes]:
        """Return a block that is done: its record and its rows; any thread may call this."""
        journal, staged, _ = self._opened()
        return journal.blocks[block], staged.read(block)

    def take_block(self, block: int, record: BlockRecord, data: bytes) -> None:
        """Stage a block as another writer of the same plan has made it, for one of this writer.

        Raises
        ------
        CorruptStoreError
            If these are not the rows that the record is of.
        """
        _, staged, claim = self._opened()
        whole = len(data) == self.layout.block_bytes(block)
        if not (whole and record.block == block and record.fits(data)):
            raise CorruptStoreError(f"Block {block:,} of {self.key} is not what its record says.")
        claim.check()
        with self._disk_errors():
            staged.write(block, memoryview(data))
        self._add_block(record)

    def _add_block(self, record: BlockRecord) -> None:
        """Journal a block whose rows are written."""
        self._opened()[0].add_block(record)
        if time.monotonic() - self._last_sync > SYNC_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Make all that was written durable: first bytes and names, then the journal's rows."""
        self._sync(journaled=True)

    def _sync(self, *, journaled: bool) -> None:
        journal, staged, claim = self._opened()
        with self._disk_errors():
            try:
                staged.sync(names=journaled)
                if journaled:
                    claim.sync(staged=True)
            except OSError:
                journal.drop_unsynced()
                raise
            if journaled:
                journal.sync()
        self._last_sync = time.monotonic()

    def finish(
        self,
        *,
        bias: np.ndarray | None = None,
        golden: Mapping[str, Any] | None = None,
        run: Mapping[str, Any] | None = None,
    ) -> str:
        """Publish the set and return its revision_id.

        Order: data files, item tables, bias and failures, commit record, log, Zarr's metadata. Only
        now are data files renamed to their places: what they are called follows from their rows.
        """
        claim = self._opened()[2]
        pending = self.pending()
        if pending or self._options.part:
            raise StoreWriteError(
                f"{self.key} lacks {len(pending):,} of {self.layout.n_blocks:,} blocks; it cannot "
                "be published."
            )
        layout = self._place_files()
        claim.check()
        with self._disk_errors():
            small = self._small_files(bias, golden)
            revision = self._publish_commit(claim, layout, small, run)
        self._release()
        return revision

    def _publish_commit(
        self,
        claim: Claim,
        layout: SetLayout,
        small: Mapping[str, bytes],
        run: Mapping[str, Any] | None,
    ) -> str:
        """Publish a commit whose data files are in place, and return the id of the revision.

        Everything is renamed out of the claim's folder, so that a writer who lost the claim changes
        nothing, and a killed one leaves nothing elsewhere.
        """
        root, key, base = self.root, self.key, self._base
        directory, journal = self.directory, self._opened()[0]
        parts, first = [], 0
        with folder_lock(directory.parent):  # beside who takes out tables
            for number, one in enumerate(layout.parts):
                items = self._items_of(claim, number, one)
                own = range(first, first + one.n_blocks)
                hashes = tuple(journal.blocks[block].digest for block in own)
                parts.append(Part(one.path, one.n, one.shard_rows, hashes, items))
                first = own.stop
        for name, data in small.items():
            write_file_once(claim, directory / name, data)
        metadata = {name: facts_of(data) for name, data in small.items()}
        golden_facts = None if base is None else base.commit.metadata.get("golden.json")
        if base is not None and golden_facts and base.keeps_file("golden.json"):
            # What the first rows were computed with stays the measure for all that follow.
            metadata["golden.json"] = golden_facts
        commit = Commit(
            dim=layout.dim,
            dtype=layout.dtype,
            block_rows=layout.block_rows,
            parts=tuple(parts),
            metadata=dict(sorted(metadata.items())),
            # A repair changes none that are known.
            attributes=self.spec.attributes(self._facts)
            if base is None or not base.damaged
            else base.commit.attributes,
            failed=pack_failed(
                where_equal(self.items["item_id"], set(journal.failures)).to_numpy()
            ),
            hash=self._hash,
        )
        if base is not None:
            commit = base.followed_by(commit)
        identity = commit.revision_id
        if run:
            # Before the log: what is published has a record of its run, wherever a kill comes.
            stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
            name = f"{stamp}-{identity[:8]}-{os.getpid()}.json"
            claim.write_file(directory / "runs" / name, [json_bytes(dict(run))])
        publish_commit(root, key, claim, commit, after=base.commit.digest if base else "")
        return identity

    def _small_files(
        self, bias: np.ndarray | None, golden: Mapping[str, Any] | None
    ) -> dict[str, bytes]:
        """Return bias, golden vectors and failures: path below the set -> bytes.

        Raises
        ------
        NonFiniteEmbeddingError
            If the bias is not n finite numbers.
        """
        base, n = self._base, self.layout.n
        failures = {**(base.reasons if base else {}), **self.failures}
        small: dict[str, bytes] = {}
        if base is not None and base.commit.n != n and BIAS in base.commit.metadata:
            raise StoreWriteError(f"{self.key} is a head: it is written whole, and never extended.")
        if bias is not None:
            data = np.ascontiguousarray(bias, dtype="<f4")
            if data.shape != (n,) or not np.isfinite(data).all():
                raise NonFiniteEmbeddingError(
                    f"The bias of {self.key} must be {n:,} finite numbers; got shape {data.shape}."
                )
            small[BIAS] = data.tobytes()
        if golden is not None and (base is None or not base.keeps_file("golden.json")):
            small["golden.json"] = json_bytes(dict(golden))
        if failures:
            rows = sorted(failures.items())
            table = table_bytes(pl.DataFrame(rows, schema=["item_id", "reason"], orient="row"))
            name = FAILURES
            if base is not None and base.commit.metadata.get(name) != facts_of(table):
                # Who reads the present commit needs the one that it names.
                name = f"failures-{sha256_hex(table)[:SHORT]}.parquet"
            small[name] = table
        return small

    def _opened(self) -> tuple[Journal, StagedFiles, Claim]:
        if self._journal is None or self._staged is None or self._claim is None:
            raise StoreWriteError("A SetWriter writes only inside its `with` block.")
        return self._journal, self._staged, self._claim

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        """Turn a full or failing disk into one sentence."""
        try:
            yield
        except StoreWriteError:
            raise
        except OSError as err:
            if self._claim is not None:
                self._claim.check()
            raise write_error(err.filename or self.directory, err) from err

    def _place_files(self) -> SetLayout:
        """Bring the data files to their places, and return how the rows lie now."""
        journal, staged, claim = self._opened()
        layout = named(self.layout, journal.blocks, self._base)
        new = [n for n, one in enumerate(self.layout.files) if written(one.part, self._base)]
        with self._disk_errors():
            here = {number: staged.path(number).exists() for number in new}
            for number in new:
                if here[number]:
                    staged.complete(number)
        self._sync(journaled=journal.begun)  # else all is younger than `SYNC_SECONDS`
        with self._disk_errors():
            for number in new:
                path = self.directory / layout.files[number].path
                if here[number]:
                    claim.place(staged.path(number), path)
                else:
                    claim.rely_on(path)  # a writer that was killed brought it there
        return layout

    def _items_of(self, claim: Claim, number: int, part: ArrayLayout) -> Items:
        """Return what a commit states of the items of a part, whose table is there then."""
        rows = (part.start, part.n)
        for own in () if self._base is None else self._base.commit.parts[number : number + 1]:
            if self._base and self._base.items.slice(*rows).equals(self.items.slice(*rows)):
                return own.items
        return write_items(claim, self.directory, self._items.part(*rows))

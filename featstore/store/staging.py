"""Unfinished sets: their staged blocks, the journal of those that are safely on disk, and threads.

A data file grows in the claim's folder as ``data-<file>.bin``. Blocks may come in any order; when
all are there, the file gets its index and is renamed to its place. Nothing is copied.

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
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from featstore.durable import begin_writeback, fsync_directory, seal, write_at, write_durably
from featstore.errors import CorruptStoreError
from featstore.identity import HASHES, SHA256, canonical_json, hash_hex, sha256_hex
from featstore.store.blocks import read_block
from featstore.store.files import IrregularFileError, delete, open_descriptor, read_regular
from featstore.store.layout import SetLayout
from featstore.store.lock import Claim, claim_folders
from featstore.store.records import MAX_ROWS, is_size

logger = logging.getLogger(__name__)

JOURNAL = "journal.jsonl"

#: A journal is refused above this size.
MAX_BYTES = 2**30


@dataclass(frozen=True)
class BlockRecord:
    """A block that is written: the hash of its rows, and its failed items with their reasons.

    `hash` says which hash it is; a row of the journal names the digest by it.
    """

    digest: str
    failures: dict[str, str]
    hash: str = SHA256

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> BlockRecord:
        """Return what a row of the journal states."""
        name = next(name for name in HASHES if name in row)
        return cls(row[name], row["failures"], name)

    @classmethod
    def parse(cls, line: bytes, block: int) -> BlockRecord:
        """Return what `line` made of a block; CorruptStoreError if it is not of this block."""
        with contextlib.suppress(ValueError, RecursionError):
            row = json.loads(line)
            if _is_row(row) and row["block"] == block:
                return cls.of(row)
        raise CorruptStoreError(f"{line[:200]!r} is not what a journal says of block {block:,}.")

    def line(self, block: int) -> bytes:
        """Return the row of the journal for the block of this number."""
        row = {"block": block, self.hash: self.digest, "failures": self.failures}
        return canonical_json(row) + b"\n"

    def fits(self, data: bytes) -> bool:
        """Return whether these are the rows of the block."""
        return hash_hex(self.hash, data) == self.digest


class Journal:
    """Blocks by number.

    What is added is durable after `sync`. Blocks of an earlier revision that stay as they are stand
    in `blocks`, too, without a row of the journal.
    """

    def __init__(self, handle: int, blocks: dict[int, BlockRecord]) -> None:
        self._handle = handle
        self._end = os.fstat(handle).st_size
        self._unsynced: list[int] = []
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
            _clear(staging)
            head, blocks = fresh, {}
        # A torn line would swallow the next one: rewrite the file without it. A head alone is
        # made durable by the first `sync`: without rows there is nothing to lose.
        rows = [record.line(block) for block, record in blocks.items()]
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

    def add_block(self, block: int, record: BlockRecord) -> None:
        """Record a block."""
        self.blocks[block] = record
        self._unsynced.append(block)

    def sync(self) -> None:
        """Make what was added durable."""
        if not self._unsynced:
            return
        data = b"".join(self.blocks[block].line(block) for block in self._unsynced)
        # From where the last good row ended: a write that failed half-way is written over.
        write_at(self._handle, data, self._end)
        os.fsync(self._handle)
        self._end += len(data)
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
        for row in map(json.loads, lines if head else ()):
            if not _is_row(row):
                break  # torn
            blocks[row["block"]] = BlockRecord.of(row)
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


def _is_row(row: Any) -> bool:
    """Return whether a line is what a journal says of a block."""
    return (
        isinstance(row, dict)
        and any(isinstance(row.get(name), str) for name in HASHES)
        and isinstance(row.get("failures"), dict)
        and is_size(row.get("block"), low=0, high=MAX_ROWS)
    )


def _clear(staging: Path) -> None:
    """Remove everything staged but the claim."""
    for path in staging.iterdir():
        if path.name != "claim":
            delete(path)


#: Files that stay open over a `sync`: the one that is written, and those of blocks out of order.
_KEPT_OPEN = 4


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
        self._open: dict[int, int] = {}
        self._dirty: set[int] = set()
        self._whole: set[int] = set()
        self._unnamed = True
        self._written: tuple[int, int, int] | None = None

    def path(self, file: int) -> Path:
        """Return where a data file is staged."""
        return self._staging / f"data-{file:06d}.bin"

    def path_of(self, block: int) -> Path:
        """Return where the file of a block is staged."""
        return self.path(int(self._layout.file_of[block]))

    def write(self, block: int, data: memoryview) -> None:
        """Write a block's rows at their final offset; durable only after `sync`."""
        file = int(self._layout.file_of[block])
        offset = self._layout.files[file].place_of(block)[0]
        handle = self._handle(file)
        self._dirty.add(file)
        write_at(handle, data, offset)
        self._written = (handle, offset, len(data))

    def take_written(self) -> Callable[[], None]:
        """Return a function for any thread that lets the disk begin with the block written last.

        The disk then works while the next block is made, so that `sync` finds little left to do.
        """
        written, self._written = self._written, None

        def begin() -> None:
            if written is not None:
                begin_writeback(*written)

        return begin

    def sync(self) -> None:
        """Make every block that was written durable."""
        self._written = None  # its file may be closed
        for file in sorted(self._dirty):
            os.fsync(self._open[file])
        self._dirty.clear()
        while self._whole:
            self._close(self._whole.pop())
        # Files that are held until the end may be more than a process may have open.
        for file in list(self._open)[:-_KEPT_OPEN]:
            self._close(file)
        if self._unnamed:
            # The first time also the journal's name.
            fsync_directory(self._staging)
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

    def complete(self, file: int) -> Path:
        """Add padding and index to a file; it is whole, and durable after `sync`. Return its path.

        It is closed by `sync`.
        """
        tail = self._layout.files[file].tail()
        # Opened also if its blocks were written by an earlier process.
        handle = self._handle(file)
        self._dirty.add(file)
        self._whole.add(file)
        write_at(handle, memoryview(tail), self._layout.files[file].size - len(tail))
        return self.path(file)

    def close(self) -> None:
        """Close the files; what was written stays."""
        for file in list(self._open):
            self._close(file)

    def _close(self, file: int) -> None:
        os.close(self._open.pop(file))
        self._dirty.discard(file)

    def _handle(self, file: int) -> int:
        if file not in self._open:
            # Never truncated: it may hold the blocks of an interrupted run.
            fresh = not self.path(file).exists()
            if not fresh:
                # A writer that was killed right before the rename has made it read-only.
                seal(self.path(file), like=self._staging, writable=True)
            self._open[file] = open_descriptor(self.path(file), os.O_RDWR | os.O_CREAT)
            if fresh:
                self._unnamed = True
                seal(self.path(file), like=self._staging, writable=True)
        return self._open[file]


S = TypeVar("S")
T = TypeVar("T")

N_THREADS = os.cpu_count() or 1


@functools.cache
def workers() -> ThreadPoolExecutor:
    """Return this process's threads, one for each core; they are started when first needed."""
    return ThreadPoolExecutor(N_THREADS, thread_name_prefix="featstore")


def run_beside(
    work: Callable[[], S], longest: Callable[[], T], *, before: Callable[[], object]
) -> tuple[S, T]:
    """Return what both return: `longest` runs here, `before` and then `work` in another thread.

    Both have ended on return, whatever they raise; an error of `work` is raised here. The part
    that takes longest belongs here, where nothing has to wake up for it to begin or end.
    """

    def there() -> S:
        before()
        return work()

    beside = workers().submit(there)
    try:
        found = longest()
    finally:
        wait([beside])
    return beside.result(), found


# A forked child has none of its parent's threads.
os.register_at_fork(after_in_child=workers.cache_clear)

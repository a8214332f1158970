"""The journal of a set under extraction: which blocks are safely on disk.

JSON lines, appended and fsynced after the bytes they speak of. A torn last line is what a kill
leaves and is ignored; a journal of another plan is discarded with its files.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featstore.durable import write_all, write_durably
from featstore.errors import CorruptStoreError
from featstore.identity import HASHES, SHA256, canonical_json, hash_hex, sha256_hex
from featstore.store.files import IrregularFileError, delete, open_descriptor, read_regular
from featstore.store.lock import Claim, claim_folders
from featstore.store.records import MAX_ROWS, is_size

logger = logging.getLogger(__name__)

NAME = "journal.jsonl"

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
    """Blocks by number, and the numbers of the data files that are in place.

    What is added is durable after `sync`. Blocks of an earlier revision that stay as they are stand
    in `blocks`, too, without a row of the journal.
    """

    def __init__(self, handle: int, blocks: dict[int, BlockRecord]) -> None:
        self._handle = handle
        self._end = os.fstat(handle).st_size
        self._unsynced: list[int] = []
        self.blocks = blocks
        self.files: set[int] = set()

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
        path = staging / NAME
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
        os.lseek(self._handle, self._end, os.SEEK_SET)
        write_all(self._handle, data)
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
        first, *lines = read_regular(staging / NAME, limit=MAX_BYTES).split(b"\n")[:-1]
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

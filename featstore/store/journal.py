"""The journal of a set under extraction: which blocks and data files are safely on disk.

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
            if _is_row(row, first=False) and row.get("block") == block:
                return cls.of(row)
        raise CorruptStoreError(f"{line[:200]!r} is not what a journal says of block {block:,}.")

    def line(self, block: int) -> bytes:
        """Return the row of the journal for the block of this number."""
        return _line({"block": block, self.hash: self.digest, "failures": self.failures})

    def fits(self, data: bytes) -> bool:
        """Return whether these are the rows of the block."""
        return hash_hex(self.hash, data) == self.digest


class Journal:
    """Blocks by number, and the data files that are in place with the blocks they hold.

    What is added is durable after `sync`. Blocks and files of an earlier revision that stay as they
    are stand in `blocks` and `files`, too, without a row of the journal.
    """

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self._end = os.fstat(handle).st_size
        self._unsynced: list[bytes] = []
        self._unsynced_blocks: list[int] = []
        self.blocks: dict[int, BlockRecord] = {}
        self.files: dict[int, range] = {}

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
        digest = sha256_hex(canonical_json(dict(plan)))
        rows = _read_rows(path)
        if rows and rows[0].get("plan") != digest:
            logger.warning("%s was begun with another plan; starting over.", staging.parent)
            rows = []
        if not rows:
            # Without a journal nobody knows what the files are: a kill may have come between.
            _clear(staging)
        head = {"plan": digest, "base": plan.get("base", ""), "settings": plan.get("settings", {})}
        rows = rows or [head]
        # A torn line would swallow the next one: rewrite the file without it. A head alone is
        # made durable by the first `sync`: without rows there is nothing to lose.
        write_durably(path, [_line(row) for row in rows], synced=len(rows) > 1)
        journal = cls(open_descriptor(path, os.O_WRONLY))
        journal._replay(rows[1:], read_block)
        return journal

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
        self._unsynced.append(record.line(block))
        self._unsynced_blocks.append(block)

    def add_file(self, file: int, *, blocks: range) -> None:
        """Record that a data file is in its place."""
        self.files[file] = blocks
        self._unsynced.append(_line({"file": file, "first": blocks.start, "stop": blocks.stop}))

    def forget_file(self, file: int) -> None:
        """Take a data file that is not whole for unwritten, and its blocks with it."""
        for block in self.files.pop(file):
            self.blocks.pop(block, None)

    def sync(self) -> None:
        """Make what was added durable."""
        if not self._unsynced:
            return
        data = b"".join(self._unsynced)
        # From where the last good row ended: a write that failed half-way is written over.
        os.lseek(self._handle, self._end, os.SEEK_SET)
        write_all(self._handle, data)
        os.fsync(self._handle)
        self._end += len(data)
        self._unsynced.clear()
        self._unsynced_blocks.clear()

    def drop_unsynced(self) -> None:
        """Take back what was added since `sync`: nobody knows whether its bytes are durable.

        After a failed fsync the next one may succeed without having written them.
        """
        for block in self._unsynced_blocks:
            self.blocks.pop(block, None)
        self._unsynced.clear()
        self._unsynced_blocks.clear()

    def close(self) -> None:
        """Close the file; what was synced stays."""
        os.close(self._handle)

    def _replay(self, rows: list[dict[str, Any]], read_block: Callable[[int], bytes]) -> None:
        self.files = {r["file"]: range(r["first"], r["stop"]) for r in rows if "file" in r}
        in_place = {block for blocks in self.files.values() for block in blocks}
        for row in rows:
            if "block" not in row:
                continue
            block, record = int(row["block"]), BlockRecord.of(row)
            if block in in_place or record.fits(read_block(block)):
                self.blocks[block] = record


def finished_blocks(staging: Path, *, plan: Mapping[str, Any]) -> dict[int, BlockRecord]:
    """Return the blocks that a staged attempt of this very plan has durably done."""
    rows = _read_rows(staging / NAME)
    if not rows or rows[0].get("plan") != sha256_hex(canonical_json(dict(plan))):
        return {}
    return {int(row["block"]): BlockRecord.of(row) for row in rows if "block" in row}


def has_blocks(staging: Path) -> bool:
    """Return whether a staged attempt has got any block done."""
    return len(_read_rows(staging / NAME)) > 1


def end_claim(claim: Claim) -> None:
    """Give a claim back under which nothing was staged; what others have staged stays for them."""
    alone = claim_folders(claim.folder.parents[1]) == [claim.folder]
    (claim.finish if alone and not has_blocks(claim.folder) else claim.release)()


def begun_blocks(staging: Path) -> set[int]:
    """Return the blocks that a staged attempt, of whatever plan, has durably done."""
    return {int(row["block"]) for row in _read_rows(staging / NAME) if "block" in row}


def settings_of(staging: Path) -> dict[str, Any]:
    """Return the settings that a staged attempt with finished blocks was begun with."""
    rows = _read_rows(staging / NAME)
    found = rows[0].get("settings") if len(rows) > 1 else None
    return found if isinstance(found, dict) else {}


def base_of(staging: Path) -> str | None:
    """Return the revision that a staged attempt extends ("" if none), or None if unknown."""
    rows = _read_rows(staging / NAME)
    base = rows[0].get("base") if rows else None
    return base if isinstance(base, str) else None


def _line(row: Mapping[str, Any]) -> bytes:
    return canonical_json(dict(row)) + b"\n"


def _read_rows(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    with contextlib.suppress(FileNotFoundError, IrregularFileError, ValueError, RecursionError):
        for line in read_regular(path, limit=MAX_BYTES).split(b"\n")[:-1]:
            row = json.loads(line)
            if not _is_row(row, first=not rows):
                break
            rows.append(row)
    return rows


def _is_row(row: Any, *, first: bool) -> bool:
    """Return whether a line is one that a journal holds; a torn one ends it."""
    if not isinstance(row, dict) or first:
        return isinstance(row, dict)
    if "block" in row:
        known = any(isinstance(row.get(name), str) for name in HASHES)
        known = known and isinstance(row.get("failures"), dict)
        return known and is_size(row["block"], low=0, high=MAX_ROWS)
    return all(is_size(row.get(name), low=0, high=MAX_ROWS) for name in ("file", "first", "stop"))


def _clear(staging: Path) -> None:
    """Remove everything staged but the claim."""
    for path in staging.iterdir():
        if path.name != "claim":
            delete(path)

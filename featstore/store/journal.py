"""The journal of a set under extraction: which blocks and data files are safely on disk.

JSON lines, appended and fsynced after the file they speak of was renamed. A torn last line
is what a kill leaves and is ignored; a journal of another plan is discarded with its files.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from featstore.durable import fsync_directory
from featstore.keys import canonical_json, sha256_hex

logger = logging.getLogger(__name__)

NAME = "journal.jsonl"


class Journal:
    """Blocks (number -> sha256), data files, and failed items (item_id -> reason)."""

    def __init__(self, path: Path, handle: IO[bytes]) -> None:
        self._path = path
        self._handle = handle
        self.blocks: dict[int, str] = {}
        self.files: dict[int, range] = {}
        self.failures: dict[str, str] = {}

    @classmethod
    def open(cls, staging: Path, *, plan: Mapping[str, Any]) -> Journal:
        """Open the journal in `staging`, taking over what an interrupted run left.

        Staged blocks are checked against their hashes. If `plan` differs from the one in
        the journal, everything staged is dropped: its rows may differ in bits.
        """
        path = staging / NAME
        digest = sha256_hex(canonical_json(dict(plan)))
        rows = _read_rows(path)
        if rows and rows[0].get("plan") != digest:
            logger.warning("%s was begun with another plan; starting over.", staging.parent)
            _clear(staging)
            rows = []
        fresh = not rows
        # A torn line would swallow the next one: rewrite the file without it.
        body = b"".join(_line(row) for row in (rows or [{"plan": digest}]))
        staged = staging / f".{NAME}.staged"
        with staged.open("wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        staged.replace(path)
        fsync_directory(staging)
        journal = cls(path, path.open("ab"))
        if not fresh:
            journal._replay(rows[1:], staging)
        return journal

    def close(self) -> None:
        """Close the file; what is written stays."""
        self._handle.close()

    def add_block(self, block: int, *, sha256: str, failures: Mapping[str, str]) -> None:
        """Record that a block's file is on disk."""
        self._append({"block": block, "sha256": sha256, "failures": dict(failures)})
        self.blocks[block] = sha256
        self.failures.update(failures)

    def add_file(self, file: int, *, blocks: range) -> None:
        """Record that a data file is on disk, so that its blocks may go."""
        self._append({"file": file, "first": blocks.start, "stop": blocks.stop})
        self.files[file] = blocks

    def forget_file(self, file: int) -> None:
        """Take a data file that is not whole for unwritten, and its blocks with it."""
        for block in self.files.pop(file):
            self.blocks.pop(block, None)

    def _append(self, row: dict[str, Any]) -> None:
        self._handle.write(_line(row))
        self._handle.flush()
        os.fsync(self._handle.fileno())

    def _replay(self, rows: list[dict[str, Any]], staging: Path) -> None:
        self.files = {r["file"]: range(r["first"], r["stop"]) for r in rows if "file" in r}
        assembled = {block for blocks in self.files.values() for block in blocks}
        for row in rows:
            if "block" not in row:
                continue
            block = int(row["block"])
            path = staging / f"block-{block:08d}.bin"
            # The blocks of an assembled file are gone on purpose.
            staged = path.exists() and sha256_hex(path.read_bytes()) == row["sha256"]
            if staged or block in assembled:
                self.blocks[block] = str(row["sha256"])
                self.failures.update(row["failures"])


def _line(row: Mapping[str, Any]) -> bytes:
    return canonical_json(dict(row)) + b"\n"


def _read_rows(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    rows: list[dict[str, Any]] = []
    for line in path.read_bytes().split(b"\n")[:-1]:
        try:
            row = json.loads(line)
        except ValueError:
            break
        if not isinstance(row, dict):
            break
        rows.append(row)
    return rows


def _clear(staging: Path) -> None:
    """Remove everything staged but the lock."""
    for path in staging.iterdir():
        if path.name != "writer.lock":
            shutil.rmtree(path) if path.is_dir() else path.unlink()

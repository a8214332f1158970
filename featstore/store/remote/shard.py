"""One data file of an array in the cache, whole or in part, shared by many processes.

A file in part has its final size and, behind it, one byte a block: a mark if the block's rows are
in place. Blocks lie at their final offsets, so the file can be mapped before it is whole, and what
follows the rows of a shard (padding, index) is known without fetching it. When all blocks are
there, that tail is written, all is made durable, and the marks are cut off: a file of exactly its
size is whole. All state lies in the file itself, so that no lock is needed: whoever else writes
writes the same, and a file that is removed takes its marks along.

A mark is made after its block is written, but either may reach the disk first. So a mark names the
start of the machine that it was made in; after another start the block is hashed before it counts.
"""

from __future__ import annotations

import contextlib
import os
import stat
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from featstore.errors import CorruptStoreError
from featstore.keys import canonical_json, sha256_hex
from featstore.store.claim import boot_id
from featstore.store.layout import ArrayLayout
from featstore.store.shards import shard_tail

_FLAGS = (
    os.O_RDWR
    | os.O_CREAT
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_BINARY", 0)
)


class ShardReplacedError(Exception):
    """The file was removed from the cache after it was opened; there may be a new one."""


def shard_name(layout: ArrayLayout, file: int, hashes: Sequence[str]) -> str:
    """Return the name of a data file in the cache: the sha256 of all that decides its bytes."""
    blocks, rows = layout.file_blocks(file), layout.file_rows(file)
    facts = {
        "rows": rows.stop - rows.start,
        "row_bytes": layout.row_bytes,
        "block_rows": layout.block_rows,
        "shard_rows": layout.shard_rows,
        "blocks": list(hashes[blocks.start : blocks.stop]),
    }
    return sha256_hex(canonical_json(facts))


class CachedShard:
    """Data file `file` of an array at `path`."""

    def __init__(self, path: Path, layout: ArrayLayout, file: int) -> None:
        self.path = path
        self.blocks = layout.file_blocks(file)
        self._layout = layout
        self._file = file
        self._whole = layout.file_bytes(file)
        self._identity: tuple[int, int] | None = None
        self._mark = 1 + zlib.crc32(boot_id().encode()) % 255

    @contextmanager
    def opened(self) -> Iterator[int]:
        """Open the file, always the same one, and make it if it is missing.

        Raises
        ------
        ShardReplacedError
            If the file that was opened first is gone.
        CorruptStoreError
            If it is a link or no regular file.
        """
        try:
            descriptor = os.open(self.path, _FLAGS, 0o600)
        except FileNotFoundError:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self.path, _FLAGS, 0o600)
        try:
            facts = os.fstat(descriptor)
            if not stat.S_ISREG(facts.st_mode):
                msg = f"{self.path} is no regular file. Remove it from the cache."
                raise CorruptStoreError(msg)
            identity = (facts.st_dev, facts.st_ino)
            if self._identity not in (None, identity):
                raise ShardReplacedError(str(self.path))
            self._identity = identity
            if facts.st_size not in (self._whole, self._whole + len(self.blocks)):
                # New, or cut by another process at the moment that a third one marked a block.
                os.ftruncate(descriptor, self._whole + len(self.blocks))
            yield descriptor
        finally:
            os.close(descriptor)

    def place_of(self, block: int) -> tuple[int, int]:
        """Return where a block begins in the file, and the bytes of its rows."""
        rows = self._layout.block_slice(block)
        start = (block - self.blocks.start) * self._layout.block_rows * self._layout.row_bytes
        return start, (rows.stop - rows.start) * self._layout.row_bytes

    def present(self, descriptor: int) -> np.ndarray:
        """Return a boolean array: True where a block is in place."""
        if os.fstat(descriptor).st_size == self._whole:
            return np.ones(len(self.blocks), dtype=bool)
        marked: np.ndarray = self._marks(descriptor) == self._mark
        return marked

    def settle(self, descriptor: int, hashes: Sequence[str]) -> np.ndarray:
        """Return `present` after judging the marks of earlier starts; finish a whole file.

        Parameters
        ----------
        hashes : sequence of str
            sha256 of each block of the array.
        """
        with contextlib.suppress(OSError):
            os.utime(descriptor)  # used now
        have = self.present(descriptor)
        if have.all() and os.fstat(descriptor).st_size == self._whole:
            return have
        marks = self._marks(descriptor)
        for index in np.flatnonzero((marks != 0) & ~have).tolist():
            start, size = self.place_of(self.blocks[index])
            if sha256_hex(os.pread(descriptor, size, start)) == hashes[self.blocks[index]]:
                self._set_mark(descriptor, index)
                have[index] = True
        if have.all():
            self._finish(descriptor)
        return have

    def write(self, descriptor: int, block: int, data: memoryview) -> None:
        """Put a block's rows, which were verified, to their place, and mark it."""
        start, _ = self.place_of(block)
        _write_at(descriptor, data, start)
        self._set_mark(descriptor, block - self.blocks.start)

    def _finish(self, descriptor: int) -> None:
        start, size = self.place_of(self.blocks[-1])
        _write_at(descriptor, memoryview(shard_tail(self._layout, self._file)), start + size)
        os.fsync(descriptor)
        os.ftruncate(descriptor, self._whole)
        os.fsync(descriptor)

    def _marks(self, descriptor: int) -> np.ndarray:
        found = os.pread(descriptor, len(self.blocks), self._whole)
        return np.frombuffer(found.ljust(len(self.blocks), b"\0"), dtype=np.uint8)

    def _set_mark(self, descriptor: int, index: int) -> None:
        if os.fstat(descriptor).st_size != self._whole:  # it is whole if another was faster
            os.pwrite(descriptor, bytes([self._mark]), self._whole + index)


def _write_at(descriptor: int, data: memoryview, offset: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(descriptor, data[done:], offset + done)

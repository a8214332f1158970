"""Staged blocks of a set in progress, and the threads that write them.

A data file grows in the claim's folder as ``data-<file>.bin``. Blocks may come in any order; when
all are there, the file gets its index and is renamed to its place. Nothing is copied.

NumPy's conversions, ``hashlib`` and ``os.write`` all release the interpreter lock. The threads
are kept: one that is started anew for every block shares its parent's core until the system
moves it, and a block is done by then.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import TypeVar

from featstore.durable import begin_writeback, fsync_directory, seal, write_all
from featstore.store.blocks import read_block
from featstore.store.files import open_descriptor
from featstore.store.layout import ArrayLayout, shard_tail

#: Files that stay open over a `sync`: the one that is written, and those of blocks out of order.
_KEPT_OPEN = 4


class StagedFiles:
    """The staged data files of one array.

    Parameters
    ----------
    staging : Path
        Folder of the files; it exists.
    layout : ArrayLayout
        Which block lies where.
    """

    def __init__(self, staging: Path, layout: ArrayLayout) -> None:
        self._staging = staging
        self._layout = layout
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
        return self.path(block // self._layout.blocks_per_file)

    def write(self, block: int, data: memoryview) -> None:
        """Write a block's rows at their final offset; durable only after `sync`."""
        file, offset = self._place(block)
        handle = self._handle(file)
        self._dirty.add(file)
        _write_at(handle, data, offset)
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

    def read(self, block: int, path: Path | None = None) -> bytes:
        """Return the bytes of a block, staged or in `path`; fewer if the file ends before."""
        return read_block(path or self.path_of(block), self._layout, block)

    def complete(self, file: int) -> Path:
        """Add padding and index to a file; it is whole, and durable after `sync`. Return its path.

        It is closed by `sync`.
        """
        tail = shard_tail(self._layout, file)
        # Opened also if its blocks were written by an earlier process.
        handle = self._handle(file)
        self._dirty.add(file)
        self._whole.add(file)
        _write_at(handle, memoryview(tail), self._layout.file_bytes(file) - len(tail))
        return self.path(file)

    def close(self) -> None:
        """Close the files; what was written stays."""
        for file in list(self._open):
            self._close(file)

    def _close(self, file: int) -> None:
        os.close(self._open.pop(file))
        self._dirty.discard(file)

    def _place(self, block: int) -> tuple[int, int]:
        """Return the data file of a block and its offset there."""
        file, position = divmod(block, self._layout.blocks_per_file)
        return file, position * self._layout.block_rows * self._layout.row_bytes

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


def _write_at(handle: int, data: memoryview, offset: int) -> None:
    """Write all of `data`, whatever share a single call takes."""
    os.lseek(handle, offset, os.SEEK_SET)
    write_all(handle, data)


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
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=workers.cache_clear)

"""Rows of a remote set: spans of shards fetched, verified and cached.

A file in part has its final size and, behind it, 16 bytes a block: a mark if the block's rows are
in place. Blocks lie at their final offsets, so the file can be mapped before it is whole, and what
follows the rows of a shard (padding, index) is known without fetching it. When all blocks are
there, that tail is written, all is made durable, and the marks are cut off: a file of exactly its
size is whole. All state lies in the file itself, so that no lock is needed: whoever else writes
writes the same, and a file that is removed takes its marks along.

A mark is made after its block is written, but either may reach the disk first. So a mark is a
digest of the start of the machine that it was made in, and of the block; after another start the
block is hashed before it counts.

The cache's files are mapped as those of a local store are, also while they are still in part; this
reader only sees to it that the blocks of a read are in place before it. Once all are, a new view
gets the local reader itself.

Where it is known which rows will follow, the next files are fetched while the present one is read:
over a link of 100 MB/s and 50 ms, a pause of two round trips between files of 64 MiB takes a
seventh of the time.
"""

from __future__ import annotations

import bisect
import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from featstore.errors import (
    CorruptStoreError,
    FeatstoreError,
    RemoteStoreError,
    UnreachableError,
)
from featstore.identity import canonical_json, sha256_hex
from featstore.remote.cache import Cache, kept_below
from featstore.remote.objects import Objects
from featstore.store.blocks import proven
from featstore.store.files import open_descriptor
from featstore.store.layout import ArrayLayout, shard_tail
from featstore.store.lock import boot_id
from featstore.store.records import Commit
from featstore.store.rows import Mode, RowSource, check_bounds, is_run, open_rows

#: Bytes of a mark.
_MARK = 16


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
        start = boot_id()
        digests = (sha256_hex(f"{start} {block}".encode()) for block in self.blocks)
        right = bytes.fromhex("".join(digest[: 2 * _MARK] for digest in digests))
        self._right = np.frombuffer(right, dtype=np.uint8).reshape(-1, _MARK)

    @contextmanager
    def opened(self) -> Iterator[int]:
        """Open the file, always the same one, and make it if it is missing.

        Raises
        ------
        ShardReplacedError
            If the file that was opened first is gone.
        CorruptStoreError
            If it is a link or no regular file.
        CacheFullError
            If the disk of the cache refuses, now or while the file is open.
        """
        with kept_below(self.path.parents[2]):
            try:
                descriptor = open_descriptor(self.path, os.O_RDWR | os.O_CREAT, 0o600)
            except FileNotFoundError:
                self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                descriptor = open_descriptor(self.path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                self._check(descriptor)
                yield descriptor
            finally:
                os.close(descriptor)

    def _check(self, descriptor: int) -> None:
        """Raise unless the open file is the one that was opened first; give it its size."""
        facts = os.fstat(descriptor)
        identity = (facts.st_dev, facts.st_ino)
        if self._identity not in (None, identity):
            raise ShardReplacedError(str(self.path))
        self._identity = identity
        if facts.st_size not in (self._whole, self._whole + self._right.size):
            # New, or cut by another process at the moment that a third one marked a block.
            os.ftruncate(descriptor, self._whole + self._right.size)

    def place_of(self, block: int) -> tuple[int, int]:
        """Return where a block begins in the file, and the bytes of its rows."""
        rows = self._layout.block_slice(block)
        start = (block - self.blocks.start) * self._layout.block_rows * self._layout.row_bytes
        return start, (rows.stop - rows.start) * self._layout.row_bytes

    def present(self, descriptor: int) -> np.ndarray:
        """Return a boolean array: True where a block is in place."""
        if os.fstat(descriptor).st_size == self._whole:
            return np.ones(len(self.blocks), dtype=bool)
        marked: np.ndarray = (self._marks(descriptor) == self._right).all(axis=1)
        return marked

    def settle(self, descriptor: int, commit: Commit) -> np.ndarray:
        """Return `present` after judging the marks of earlier starts; finish a whole file.

        Parameters
        ----------
        commit : Commit
            Says the hash of each block of the array.
        """
        with contextlib.suppress(OSError):
            os.utime(descriptor)  # used now
        have = self.present(descriptor)
        if have.all() and os.fstat(descriptor).st_size == self._whole:
            return have
        marks = self._marks(descriptor)
        for index in np.flatnonzero(marks.any(axis=1) & ~have).tolist():
            start, size = self.place_of(self.blocks[index])
            found = commit.block_hash(os.pread(descriptor, size, start))
            if found == commit.blocks[self.blocks[index]]:
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
        found = os.pread(descriptor, self._right.size, self._whole)
        marks = np.frombuffer(found.ljust(self._right.size, b"\0"), dtype=np.uint8)
        return marks.reshape(-1, _MARK)

    def _set_mark(self, descriptor: int, index: int) -> None:
        if os.fstat(descriptor).st_size != self._whole:  # it is whole if another was faster
            os.pwrite(descriptor, self._right[index].tobytes(), self._whole + _MARK * index)


def _write_at(descriptor: int, data: memoryview, offset: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(descriptor, data[done:], offset + done)


#: Blocks nearer than this are asked for together, with what lies between them.
GAP_BYTES = 2**20


@dataclass(frozen=True)
class Span:
    """Consecutive blocks of one data file, the last one included."""

    file: int
    first: int
    last: int


def plan_spans(
    wanted: np.ndarray,
    have: np.ndarray,
    layout: ArrayLayout,
    *,
    onwards: bool = False,
    whole: bool = False,
) -> Iterator[Span]:
    """Yield the spans to fetch, in ascending order.

    Parameters
    ----------
    wanted : ndarray of int
        Missing blocks, ascending.
    have : ndarray of shape (n_blocks,), bool
        Blocks that are there.
    onwards : bool
        Reading goes on behind the last of them: take the rest of its file along.
    whole : bool
        Ask for whole files, since the server knows no ranges.
    """
    block_bytes = layout.block_rows * layout.row_bytes
    reach = 1 + GAP_BYTES // block_bytes
    files = wanted // layout.blocks_per_file
    for file in np.unique(files).tolist():
        blocks = wanted[files == file]
        inside = layout.file_blocks(file)
        if whole:
            yield Span(file, inside.start, inside.stop - 1)
            continue
        breaks = np.flatnonzero(np.diff(blocks) > reach)
        firsts = [int(blocks[0]), *blocks[breaks + 1].tolist()]
        lasts = [*blocks[breaks].tolist(), int(blocks[-1])]
        if onwards and file == files[-1]:
            missing = inside.start + np.flatnonzero(~have[inside.start : inside.stop])
            lasts[-1] = max(lasts[-1], int(missing[-1]))
        for first, last in zip(firsts, lasts, strict=True):
            yield Span(file, first, last)


#: Requests under way at once.
REQUESTS = 8

#: Blocks of one request that are being hashed and written while the next arrive.
_WAITING = 4

#: Fetched bytes after which the cache is held against its limit.
_TRIM_BYTES = 256 * 2**20

_REOPENED = 3

#: Files that are fetched before the one that is read is done with.
_AHEAD = 2


@dataclass(frozen=True)
class _State:
    """What was opened together: files, what is in place in them, and what reads them.

    A reader that goes on with an earlier state reads its files, and never rows that the files of a
    later state lack.

    Attributes
    ----------
    shards : list of CachedShard
    have : ndarray of shape (n_blocks,), bool
        True where a block is in place.
    source : RowSource
        Right only for these blocks.
    """

    shards: list[CachedShard]
    have: np.ndarray
    source: RowSource


class RemoteRows:
    """A reader that fetches the blocks of a read first.

    Parameters
    ----------
    objects : Objects
        The files of the store.
    array : str
        Name of the array below the store: ``dataset/kind/encoder/embedding``.
    layout : ArrayLayout
    commit : Commit
        Says the hash of each block; its failed rows may have been filled by a later revision.
    cache : Cache
    mode : str
        How the cache's files are read; see `featstore.store.rows`.
    """

    def __init__(
        self,
        objects: Objects,
        array: str,
        layout: ArrayLayout,
        *,
        commit: Commit,
        cache: Cache,
        mode: Mode = "auto",
    ) -> None:
        self._objects = objects
        self._array = array
        self._layout = layout
        self._commit = commit
        self._failed = commit.failed_rows()
        self._cache = cache
        self._mode: Mode = mode
        self._names = [shard_name(layout, file, commit.blocks) for file in range(layout.n_files)]
        self._lock = threading.Lock()
        self._next = -1
        self._foreseen = np.zeros(layout.n_blocks, dtype=bool)
        self._untrimmed = 0
        # The files of rows that will be read, in order; the one that is read now; those that are
        # fetched meanwhile.
        self._files: list[int] = []
        self._reading = -1
        self._under_way: dict[int, tuple[threading.Thread, np.ndarray]] = {}
        self._broken: dict[int, UnreachableError] = {}
        self._ahead = threading.Lock()
        self._open()

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (n, d)."""
        return self._layout.n, self._layout.dim

    @property
    def dtype(self) -> str:
        """Stored dtype."""
        return self._layout.dtype

    @property
    def source(self) -> RowSource:
        """The local reader; right only for blocks that are in place."""
        return self._state.source

    @property
    def complete(self) -> bool:
        """Whether every block is in place."""
        return bool(self._state.have.all())

    def read(self, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Return the rows of these numbers, fetched if need be; see `RowSource.read`.

        Raises
        ------
        CorruptStoreError
            If the server sends other bytes than the commit states.
        RemoteStoreError
            If it cannot be reached, and a block is not in the cache.
        CacheFullError
            If the rows read so far and these are more than the cache may hold.
        """
        check_bounds(rows, self._layout.n)
        touched = np.zeros(self._layout.n_blocks, dtype=bool)
        touched[rows // self._layout.block_rows] = True
        onwards = is_run(rows) and int(rows[0]) == self._next
        self._next = int(rows[-1]) + 1 if rows.size else -1
        self._go_ahead(touched)
        return self._with(touched, lambda source: source.read(rows, out), onwards=onwards)

    def prefetch(self, rows: np.ndarray) -> None:
        """Ask for these rows of a file with the first of them, and for the next files ahead."""
        check_bounds(rows, self._layout.n)
        foreseen = np.zeros(self._layout.n_blocks, dtype=bool)
        foreseen[rows // self._layout.block_rows] = True
        self._foreseen = foreseen
        files = np.flatnonzero(foreseen) // self._layout.blocks_per_file
        self._files, self._reading = np.unique(files).tolist(), -1

    def fetch_all(self, progress: Callable[[int], object] | None = None) -> None:
        """Fetch every block that is missing; `progress` is called with bytes that arrived."""
        everything = np.ones(self._layout.n_blocks, dtype=bool)
        self._with(everything, lambda _: np.empty(0), progress=progress)

    def fetch_file(self, file: int, progress: Callable[[int], object] | None = None) -> Path:
        """Return the path of a data file in the cache, whole."""
        touched = np.zeros(self._layout.n_blocks, dtype=bool)
        inside = self._layout.file_blocks(file)
        touched[inside.start : inside.stop] = True
        self._with(touched, lambda _: np.empty(0), progress=progress)
        shard = self._state.shards[file]
        with shard.opened() as descriptor:
            shard.settle(descriptor, self._commit)
        return shard.path

    def _with(
        self,
        touched: np.ndarray,
        read: Callable[[RowSource], np.ndarray],
        *,
        onwards: bool = False,
        progress: Callable[[int], object] | None = None,
    ) -> np.ndarray:
        for _ in range(_REOPENED):
            try:
                state = self._state
                if (touched & ~state.have).any():
                    with self._lock:
                        self._await(touched)
                        self._fetch(touched, onwards=onwards, progress=progress)
                        state = self._state
                return read(state.source)
            except ShardReplacedError:
                with self._lock:
                    self._open()
        raise RemoteStoreError(
            f"The cache {self._cache.root} is emptied again and again while it is read."
        )

    def _open(self) -> None:
        """Open the cache's files; those that are missing are made, without content."""
        paths = [self._cache.shard(name) for name in self._names]
        shards = [CachedShard(path, self._layout, i) for i, path in enumerate(paths)]
        have = np.zeros(self._layout.n_blocks, dtype=bool)
        for shard in shards:
            with shard.opened() as descriptor:
                have[shard.blocks.start : shard.blocks.stop] = shard.settle(
                    descriptor, self._commit
                )

        @contextmanager
        def open_file(directory: Path, layout: ArrayLayout, file: int) -> Iterator[int]:
            del directory, layout
            shard = shards[file]
            with shard.opened() as descriptor:
                # A new file may have the number of the removed one, which is what `opened` sees.
                if (have[list(shard.blocks)] & ~shard.present(descriptor)).any():
                    raise ShardReplacedError(str(shard.path))
                yield descriptor

        source = open_rows(self._cache.root, self._layout, self._mode, open_file)
        # In one step: whoever still fetches into files that are gone marks the blocks of those.
        self._state = _State(shards, have, source)

    def _fetch(
        self,
        touched: np.ndarray,
        *,
        onwards: bool,
        progress: Callable[[int], object] | None,
    ) -> None:
        state = self._state
        self._look_again(touched, state)
        wanted = np.flatnonzero(touched & ~state.have)
        files = np.arange(self._layout.n_blocks) // self._layout.blocks_per_file
        soon = self._foreseen & np.isin(files, wanted // self._layout.blocks_per_file)
        wanted = np.flatnonzero((touched | soon) & ~state.have)
        spans = list(
            plan_spans(
                wanted, state.have, self._layout, onwards=onwards,
                whole=not self._objects.has_ranges,
            )
        )  # fmt: skip
        block_bytes = self._layout.block_rows * self._layout.row_bytes
        n_new = sum(span.last - span.first + 1 for span in spans)
        held = int(state.have.sum()) + n_new
        self._cache.check_room(held * block_bytes, what=f"{self._objects.address}/{self._array}")
        if len(spans) == 1:
            self._fetch_span(spans[0], state, progress)
        elif spans:
            with ThreadPoolExecutor(min(REQUESTS, len(spans)), "fetch") as pool:
                waiting = [pool.submit(self._fetch_span, span, state, progress) for span in spans]
                for done in waiting:
                    done.result()
        self._trim(n_new * block_bytes)

    def _trim(self, n_bytes: int) -> None:
        """Hold the cache against its limit, if enough has come since the last time."""
        with self._ahead:
            self._untrimmed += n_bytes
            if self._untrimmed < min(_TRIM_BYTES, self._cache.limit // 16):
                return
            self._untrimmed = 0
        self._cache.trim(keep=set(self._names))

    def _go_ahead(self, touched: np.ndarray | None = None) -> None:
        """Begin to fetch the next file that will be read, unless enough of them are under way.

        Parameters
        ----------
        touched : ndarray of shape (n_blocks,), bool, optional
            Blocks of the read that begins.
        """
        if not self._files or (touched is not None and not touched.any()):
            return
        layout, state = self._layout, self._state
        have = state.have
        with self._ahead:
            if touched is not None:
                now = int(touched.nonzero()[0][-1]) // layout.blocks_per_file
                first, self._reading = self._reading != now, now
                # The first file is fetched by whoever reads it, and asks for the next half-way.
                if not first or (touched & ~have).any():
                    return
            # What is there, and what is on its way, that of the reader included.
            held = have.copy()
            held[list(layout.file_blocks(max(self._reading, 0)))] = True
            for _, coming in self._under_way.values():
                held[coming] = True
            at = bisect.bisect_right(self._files, self._reading)
            for file in self._files[at : at + _AHEAD]:
                blocks = np.array(layout.file_blocks(file))
                wanted = blocks[self._foreseen[blocks] & ~held[blocks]]
                if not wanted.size or file in self._under_way:
                    continue
                ranges = self._objects.has_ranges
                spans = list(plan_spans(wanted, have, layout, whole=not ranges))
                coming = np.concatenate([np.arange(s.first, s.last + 1) for s in spans])
                held[coming] = True
                if int(held.sum()) * layout.block_rows * layout.row_bytes > self._cache.limit:
                    return
                arguments = (file, spans, state)
                thread = threading.Thread(target=self._fetch_ahead, args=arguments, daemon=True)
                with contextlib.suppress(RuntimeError):  # no more threads: then nothing is ahead
                    thread.start()
                    self._under_way[file] = thread, coming
                return

    def _fetch_ahead(self, file: int, spans: Sequence[Span], state: _State) -> None:
        """Fetch spans of a file; whoever reads its blocks asks again, and says what was wrong."""
        try:
            for span in spans:
                self._fetch_span(span, state, None)
            n_blocks = sum(span.last - span.first + 1 for span in spans)
            self._trim(n_blocks * self._layout.block_rows * self._layout.row_bytes)
        except UnreachableError as err:
            self._broken[file] = err
        except (FeatstoreError, ShardReplacedError, OSError, RuntimeError):
            # Whoever reads these blocks fetches them and gets the error. A RuntimeError says that
            # the interpreter is ending and starts no more threads.
            pass
        finally:
            with self._ahead:
                del self._under_way[file]

    def _await(self, touched: np.ndarray) -> None:
        """Wait until no file of these blocks is under way.

        Raises
        ------
        UnreachableError
            If one of them could not be had: no need to wait for the same silence again.
        """
        files = np.unique(np.flatnonzero(touched) // self._layout.blocks_per_file).tolist()
        with self._ahead:
            for file in files:
                self._broken.pop(file, None)  # of an earlier time
            under_way = {file: self._under_way.get(file) for file in files}
        for file, found in under_way.items():
            if found is not None:
                found[0].join()
                if file in self._broken:
                    raise self._broken.pop(file)

    def _look_again(self, touched: np.ndarray, state: _State) -> None:
        """Take notice of blocks that other processes fetched meanwhile."""
        missing = np.flatnonzero(touched & ~state.have)
        for file in np.unique(missing // self._layout.blocks_per_file):
            shard = state.shards[file]
            with shard.opened() as descriptor:
                here = slice(shard.blocks.start, shard.blocks.stop)
                state.have[here] |= shard.present(descriptor)

    def _fetch_span(
        self, span: Span, state: _State, progress: Callable[[int], object] | None
    ) -> None:
        shard = state.shards[span.file]
        name = f"{self._array}/{self._layout.file_name(span.file)}"
        start = shard.place_of(span.first)[0]
        stop = sum(shard.place_of(span.last))
        with shard.opened() as descriptor, ThreadPoolExecutor(2, "verify") as pool:
            waiting: deque[Future[None]] = deque()
            try:
                whole = len(shard.blocks) == span.last - span.first + 1
                size = self._layout.file_bytes(span.file) if whole else None
                pieces = self._objects.stream(name, start, stop, size=size)
                for block, data in self._cut(shard, span, pieces):
                    if block == (span.first + span.last) // 2:
                        self._go_ahead()
                    arguments = (shard, state.have, descriptor, name, block, data)
                    waiting.append(pool.submit(self._place, *arguments))
                    if len(waiting) > _WAITING:
                        waiting.popleft().result()
                    if progress is not None:
                        progress(len(data))
                while waiting:
                    waiting.popleft().result()
            except FileNotFoundError as err:
                raise CorruptStoreError(
                    f"{self._objects.address}/{name} is missing. Fetch the set from elsewhere."
                ) from err

    def _cut(
        self, shard: CachedShard, span: Span, pieces: Iterator[memoryview]
    ) -> Iterator[tuple[int, bytearray]]:
        """Yield each block of the span with its bytes, as they arrive."""
        piece = memoryview(b"")
        for block in range(span.first, span.last + 1):
            data = bytearray(shard.place_of(block)[1])
            filled = 0
            while filled < len(data):
                if not piece:
                    piece = next(pieces)
                    continue
                taken = min(len(piece), len(data) - filled)
                data[filled : filled + taken] = piece[:taken]
                filled, piece = filled + taken, piece[taken:]
            yield block, data

    def _place(
        self, shard: CachedShard, have: np.ndarray, descriptor: int, name: str, block: int,
        data: bytearray,
    ) -> None:  # fmt: skip
        """Verify a block and put it to its place; one that is wrong is asked for once more."""
        right = proven(self._commit, block, data, self._failed)
        if right is None:
            start, size = shard.place_of(block)
            again = b"".join(self._objects.stream(name, start, start + size))
            right = proven(self._commit, block, again, self._failed)
        if right is None:
            rows = self._layout.block_slice(block)
            raise CorruptStoreError(
                f"{self._objects.address}/{name}: block {block:,} (rows {rows.start:,} to "
                f"{rows.stop - 1:,}) is not what the commit record states. The server's copy is "
                "damaged, or the server lies. Nothing of it was used."
            )
        shard.write(descriptor, block, right)
        have[block] = True

"""The local cache of remote stores, and the rows that are read through it.

    shards/<2>/<sha256>      data files, named by the hashes of the blocks that they hold
    stores/<16>/…            the small files of one address, in the layout of a store

Shards are removed, the least recently used first, when they take more than the limit. A removed
shard that a process still reads stays on the disk until that process ends.

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

import contextlib
import functools
import os
import re
import shutil
import threading
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from data_manifests import cache_folder
from featstore.durable import open_descriptor, write_at
from featstore.errors import (
    CacheFullError,
    CorruptStoreError,
    FeatstoreError,
    RemoteStoreError,
)
from featstore.identity import sha256_hex
from featstore.parallel import in_background
from featstore.store.layout import DataFile, SetKey, SetLayout
from featstore.store.listing import shard_name
from featstore.store.lock import boot_id
from featstore.store.records import Commit
from featstore.store.rows import Mode, Rows, open_rows

if TYPE_CHECKING:
    from featstore.remote import Objects

T = TypeVar("T")

#: Bytes of shards that are kept unless $HEADSTOCK_CACHE_SIZE says otherwise.
LIMIT = 64 * 2**30


@contextlib.contextmanager
def kept_below(root: Path) -> Iterator[None]:
    """Within the block files of a cache are written; CacheFullError if its disk refuses."""
    try:
        yield
    except OSError as err:
        if isinstance(err, FeatstoreError | FileNotFoundError):
            raise
        raise CacheFullError(
            f"The cache {root} cannot be written: {err.strerror or err}. Free space on its disk "
            "(`headstock cache --max-size 0` empties it), set HEADSTOCK_CACHE_SIZE lower, or "
            "HEADSTOCK_CACHE to another folder. Then run the same command again."
        ) from err


@dataclass(frozen=True)
class CacheEntry:
    """A shard: disk space that it takes, and when it was last used, seconds since the epoch."""

    path: Path
    bytes: int
    used: float


@dataclass(frozen=True)
class Cache:
    """A cache in a folder of this user; any number of processes may use it at once."""

    root: Path
    limit: int

    def shard(self, name: str) -> Path:
        """Return where the shard of this name lies, or would lie."""
        return self.root / "shards" / name[:2] / name

    def store(self, address: str) -> Path:
        """Return the folder of the small files of an address; it is made."""
        folder = self.root / "stores" / sha256_hex(address.encode())[:16]
        with kept_below(self.root):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder

    def shards(self) -> list[CacheEntry]:
        """Return the shards, the last used first."""
        found = []
        for path in self.root.glob("shards/*/*"):
            with contextlib.suppress(FileNotFoundError):
                facts = path.lstat()
                found.append(CacheEntry(path, facts.st_blocks * 512, facts.st_mtime))
        return sorted(found, key=lambda entry: -entry.used)

    def trim(self, *, limit: int | None = None, keep: Collection[str] = ()) -> list[CacheEntry]:
        """Remove the least recently used shards until the rest takes at most `limit` bytes.

        Parameters
        ----------
        limit : int, optional
            The cache's own by default.
        keep : collection of str
            Names of shards that stay, since this process reads them.
        """
        room = self.limit if limit is None else limit
        removed = []
        entries = self.shards()
        room -= sum(entry.bytes for entry in entries if entry.path.name in keep)
        for entry in entries:
            if entry.path.name in keep:
                continue
            room -= entry.bytes
            if room < 0:
                entry.path.unlink(missing_ok=True)
                removed.append(entry)
        return removed

    def forget(self) -> list[CacheEntry]:
        """Remove everything, and return the shards."""
        shards = self.trim(limit=-1)
        shutil.rmtree(self.root / "stores", ignore_errors=True)
        return shards


def user_cache() -> Cache:
    """Return the cache of remote stores, a folder of the user's cache.

    Raises
    ------
    CacheFullError
        If $HEADSTOCK_CACHE_SIZE is no size.
    """
    stated = os.environ.get("HEADSTOCK_CACHE_SIZE")
    try:
        return Cache(cache_folder("remote"), size_of(stated) if stated else LIMIT)
    except ValueError as err:
        raise CacheFullError(f"HEADSTOCK_CACHE_SIZE: {err}") from err


_SIZES = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20,
          "GIB": 2**30, "TIB": 2**40}  # fmt: skip


def size_of(text: str) -> int:
    """Return the bytes of a size.

    Raises
    ------
    ValueError
        If it is none.

    Examples
    --------
    >>> size_of("500MB"), size_of("64 GiB"), size_of("12")
    (500000000, 68719476736, 12)
    """
    match = re.fullmatch(r"(\d{1,15}) ?([KMGT]?i?B|)", text.strip(), re.IGNORECASE)
    if match is None or match[2].upper() not in _SIZES:
        raise ValueError(f"{text!r} is not a size such as 500MB or 64GiB; a bare number is bytes.")
    return int(match[1]) * _SIZES[match[2].upper()]


#: Bytes of a mark.
_MARK = 16


class ShardReplacedError(Exception):
    """The file was removed from the cache after it was opened; there may be a new one."""


class CachedShard:
    """A data file of a set, at `path`."""

    def __init__(self, path: Path, file: DataFile) -> None:
        self.path = path
        self.blocks = file.blocks
        self.place_of = file.place_of
        self._file = file
        self._identity: tuple[int, int] | None = None
        start = boot_id()
        numbers = range(len(self.blocks))  # another set may have the file as another part
        digests = (sha256_hex(f"{start} {number}".encode()) for number in numbers)
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
        if facts.st_size not in (self._file.size, self._file.size + self._right.size):
            # New, or cut by another process at the moment that a third one marked a block.
            os.ftruncate(descriptor, self._file.size + self._right.size)

    def present(self, descriptor: int) -> np.ndarray:
        """Return a boolean array: True where a block is in place."""
        if os.fstat(descriptor).st_size == self._file.size:
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
        if have.all() and os.fstat(descriptor).st_size == self._file.size:
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
        write_at(descriptor, data, start)
        self._set_mark(descriptor, block - self.blocks.start)

    def _finish(self, descriptor: int) -> None:
        start, size = self.place_of(self.blocks[-1])
        write_at(descriptor, memoryview(self._file.tail()), start + size)
        os.fsync(descriptor)
        os.ftruncate(descriptor, self._file.size)
        os.fsync(descriptor)

    def _marks(self, descriptor: int) -> np.ndarray:
        found = os.pread(descriptor, self._right.size, self._file.size)
        marks = np.frombuffer(found.ljust(self._right.size, b"\0"), dtype=np.uint8)
        return marks.reshape(-1, _MARK)

    def _set_mark(self, descriptor: int, index: int) -> None:
        if os.fstat(descriptor).st_size != self._file.size:  # it is whole if another was faster
            os.pwrite(descriptor, self._right[index].tobytes(), self._file.size + _MARK * index)


#: Blocks nearer than this are asked for together, with what lies between them.
GAP_BYTES = 2**20


@dataclass(frozen=True)
class Span:
    """Consecutive blocks of one data file, the last one included."""

    file: int
    first: int
    last: int


def plan_spans(wanted: np.ndarray, layout: SetLayout, *, whole: bool) -> Iterator[Span]:
    """Yield the spans to fetch, in ascending order.

    Parameters
    ----------
    wanted : ndarray of int
        Missing blocks, ascending.
    whole : bool
        Ask for whole files, since the server knows no ranges.
    """
    block_bytes = layout.block_rows * layout.row_bytes
    reach = layout.n_blocks if whole else 1 + GAP_BYTES // block_bytes
    files = layout.file_of[wanted]
    for file in np.unique(files).tolist():
        blocks = np.array(layout.files[file].blocks) if whole else wanted[files == file]
        for run in np.split(blocks, np.flatnonzero(np.diff(blocks) > reach) + 1):
            yield Span(file, int(run[0]), int(run[-1]))


#: Requests under way at once.
REQUESTS = 8

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
    source : Rows
        Right only for these blocks.
    """

    shards: list[CachedShard]
    have: np.ndarray
    source: Rows


class RemoteRows(Rows):
    """A reader that fetches the blocks of a read first.

    Parameters
    ----------
    objects : Objects
        The files of the store.
    key : SetKey
    commit : Commit
        Says how the rows lie, and the hash of each block.
    cache : Cache
    mode : str
        How the cache's files are read; see `featstore.store.rows`.
    """

    def __init__(
        self,
        objects: Objects,
        key: SetKey,
        *,
        commit: Commit,
        cache: Cache,
        mode: Mode = "auto",
    ) -> None:
        self._objects = objects
        self._key = key
        super().__init__(commit.layout)
        self._commit = commit
        self._cache = cache
        self._mode: Mode = mode
        self._names = [shard_name(file, commit.blocks) for file in self._layout.files]
        self._lock = threading.Lock()
        # The blocks that will be read; the file that is read now; those that are fetched meanwhile.
        self._foreseen = np.zeros(self._layout.n_blocks, dtype=bool)
        self._reading = -1
        self._coming: dict[int, Future[None]] = {}
        self._ahead = threading.Lock()
        self._open()

    @property
    def source(self) -> Rows:
        """The local reader; right only for blocks that are in place."""
        return self._state.source

    @property
    def complete(self) -> bool:
        """Whether every block is in place."""
        return bool(self._state.have.all())

    def read(self, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Return the rows of these numbers, fetched if need be; see `Rows.read`.

        Raises
        ------
        CorruptStoreError
            If the server sends other bytes than the commit states.
        RemoteStoreError
            If it cannot be reached, and a block is not in the cache.
        CacheFullError
            If the rows read so far and these are more than the cache may hold.
        """
        return self._with(self._touched(rows), lambda source: source.read(rows, out))

    def prefetch(self, rows: np.ndarray) -> None:
        """Ask for these rows of a file with the first of them, and for the next files ahead."""
        self._foreseen = self._touched(rows)

    def fetch_all(self, progress: Callable[[int], object] | None = None) -> None:
        """Fetch every block that is missing; `progress` is called with bytes that arrived."""
        self._with(np.ones(self._layout.n_blocks, dtype=bool), lambda _: np.empty(0), progress)

    def fetch_file(self, file: int) -> Path:
        """Return the path of a data file in the cache, whole."""
        self._with(self._layout.file_of == file, lambda _: np.empty(0))
        shard = self._state.shards[file]
        with shard.opened() as descriptor:
            shard.settle(descriptor, self._commit)
        return shard.path

    def _with(
        self,
        touched: np.ndarray,
        read: Callable[[Rows], np.ndarray],
        progress: Callable[[int], object] | None = None,
    ) -> np.ndarray:
        last = self._layout.file_of[touched.nonzero()[0][-1:]]
        for _ in range(_REOPENED):
            try:
                state, self._reading = self._state, int(last.sum())
                if (touched & ~state.have).any():
                    with self._lock:
                        files = np.unique(self._layout.file_of[touched]).tolist()
                        wait([self._coming.pop(file) for file in files if file in self._coming])
                        self._fetch(touched, progress)
                        state = self._state
                self._go_ahead(state)
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
        pairs = zip(paths, self._layout.files, strict=True)
        shards = [CachedShard(path, file) for path, file in pairs]
        by_file = dict(zip(self._layout.files, shards, strict=True))
        have = np.zeros(self._layout.n_blocks, dtype=bool)
        for shard in shards:
            with shard.opened() as descriptor:
                have[shard.blocks.start : shard.blocks.stop] = shard.settle(
                    descriptor, self._commit
                )

        @contextmanager
        def open_file(directory: Path, file: DataFile) -> Iterator[int]:
            del directory
            shard = by_file[file]
            with shard.opened() as descriptor:
                # A new file may have the number of the removed one, which is what `opened` sees.
                if (have[list(shard.blocks)] & ~shard.present(descriptor)).any():
                    raise ShardReplacedError(str(shard.path))
                yield descriptor

        # What is mapped before it is there may not be copied: such a set is read by position.
        whole = bool(have.all())
        mode: Mode = self._mode if whole or self._mode == "pread" else "auto"
        source = open_rows(self._cache.root, self._layout, mode, open_file, whole=whole)
        # In one step: whoever still fetches into files that are gone marks the blocks of those.
        self._state = _State(shards, have, source)

    def _fetch(self, touched: np.ndarray, progress: Callable[[int], object] | None = None) -> None:
        state = self._state
        self._look_again(touched, state)
        wanted = np.flatnonzero(touched & ~state.have)
        files = self._layout.file_of
        soon = self._foreseen & np.isin(files, files[wanted])
        wanted = np.flatnonzero((touched | soon) & ~state.have)
        spans = list(plan_spans(wanted, self._layout, whole=not self._objects.has_ranges))
        block_bytes = self._layout.block_rows * self._layout.row_bytes
        n_new = sum(span.last - span.first + 1 for span in spans)
        needed = (int(state.have.sum()) + n_new) * block_bytes
        if needed > self._cache.limit:
            raise CacheFullError(
                f"{self._objects.address}/{self._key} needs {needed:,} bytes of the cache "
                f"{self._cache.root}, which may hold {self._cache.limit:,}. Set "
                "HEADSTOCK_CACHE_SIZE higher, or read fewer rows at once."
            )
        with ThreadPoolExecutor(REQUESTS, "fetch") as pool:
            list(pool.map(lambda span: self._fetch_span(span, state, progress), spans))
        self._cache.trim(keep=set(self._names))

    def _go_ahead(self, state: _State) -> None:
        """Begin to fetch the next file that will be read, unless enough of them are under way.

        Whoever reads its blocks asks again, and says what was wrong.
        """
        with self._ahead:
            file_of = self._layout.file_of
            files = np.unique(file_of[self._foreseen & (file_of > self._reading)])
            for file in files[:_AHEAD].tolist():
                wanted = self._foreseen & (file_of == file)
                if file not in self._coming and not state.have[wanted].all():
                    self._coming[file] = in_background(functools.partial(self._fetch, wanted))
                    return

    def _look_again(self, touched: np.ndarray, state: _State) -> None:
        """Take notice of blocks that other processes fetched meanwhile."""
        for file in np.unique(self._layout.file_of[np.flatnonzero(touched & ~state.have)]):
            shard = state.shards[file]
            with shard.opened() as descriptor:
                here = slice(shard.blocks.start, shard.blocks.stop)
                state.have[here] |= shard.present(descriptor)

    def _fetch_span(
        self, span: Span, state: _State, progress: Callable[[int], object] | None
    ) -> None:
        shard = state.shards[span.file]
        name = f"{self._key}/{self._layout.files[span.file].path}"
        start = shard.place_of(span.first)[0]
        stop = sum(shard.place_of(span.last))
        with shard.opened() as descriptor:
            try:
                whole = len(shard.blocks) == span.last - span.first + 1
                size = self._layout.files[span.file].size if whole else None
                with contextlib.closing(
                    self._objects.stream(name, start, stop, size=size)
                ) as pieces:
                    for block, data in self._cut(shard, span, pieces):
                        self._prove(name, block, data)
                        shard.write(descriptor, block, memoryview(data))
                        state.have[block] = True
                        if block == (span.first + span.last) // 2:
                            self._go_ahead(state)
                        if progress is not None:
                            progress(len(data))
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
            data, size = bytearray(), shard.place_of(block)[1]
            while len(data) < size:
                piece = piece or next(pieces)
                taken = size - len(data)
                data += piece[:taken]
                piece = piece[taken:]
            yield block, data

    def _prove(self, name: str, block: int, data: bytearray) -> None:
        """Raise CorruptStoreError unless a block is what the commit states."""
        if self._commit.block_hash(memoryview(data)) != self._commit.blocks[block]:
            rows = self._layout.block_slice(block)
            raise CorruptStoreError(
                f"{self._objects.address}/{name}: block {block:,} (rows {rows.start:,} to "
                f"{rows.stop - 1:,}) is not what the commit record states. The server's copy is "
                "damaged, or the server lies. Nothing of it was used. If it was the way here, the "
                "same command reads it again."
            )

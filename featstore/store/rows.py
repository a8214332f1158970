"""Read rows of a set, mapped or from its files, each with its checksums, wherever they lie.

``map``
    One address range over all files: memory speed. The default for local stores.
    Mapping each file by itself reads at memory speed but gathers at half of it, because every row
    has to be looked up in its file first. Here a range of addresses is reserved for the whole set,
    and the whole pages of the rows of each file are mapped over their place in it (``MAP_FIXED``);
    shards begin with a padding that makes a page of the file one of the range: see
    docs/ref/store-format.md. What two files share a page of is copied, and so are small parts:
    never of a file that is still being filled, since a copy would not follow it.
``pread``
    Ranges of files, opened for each read: where one address range is impossible, and for network
    file systems, where a file that shrinks under a mapping kills the process and each page fault is
    a round trip.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import mmap
import os
import reprlib
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from featstore.address import Address, open_address
from featstore.durable import check_no_links, read_exactly
from featstore.errors import CorruptStoreError, FeatstoreError
from featstore.store.layout import DTYPES, HUGE_BYTES, ArrayLayout, SetKey, SetLayout
from featstore.store.listing import OpenFile, check_sizes, opened
from featstore.store.log import Log, read_log, set_folders
from featstore.store.records import Commit, key_of, staging_of


class Rows(ABC):
    """Rows that can be read by number."""

    def __init__(self, layout: SetLayout) -> None:
        self._layout = layout

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (n, d)."""
        return self._layout.n, self._layout.dim

    @property
    def dtype(self) -> str:
        """Stored dtype, a name of `featstore.store.layout.DTYPES`."""
        return self._layout.dtype

    @abstractmethod
    def read(self, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Return the rows of these numbers, in this order, as they are stored.

        bfloat16 comes as its bits, uint16. Where it costs no copy the result is a read-only
        view, even if `out` is given; otherwise it is `out`, or a new array.
        """

    def prefetch(self, rows: np.ndarray) -> None:  # noqa: B027
        """Take notice that all these rows will be read soon, some at a time."""

    def _touched(self, rows: np.ndarray) -> np.ndarray:
        """Return a boolean for each block: whether it has one of these rows, which are checked."""
        check_bounds(rows, self._layout.n)
        touched = np.zeros(self._layout.n_blocks, dtype=bool)
        touched[self._layout.blocks_of(rows)] = True
        return touched

    def _new(self, rows: np.ndarray, out: np.ndarray | None) -> np.ndarray:
        if out is not None:
            return out
        return np.empty((rows.size, self._layout.dim), dtype=DTYPES[self._layout.dtype])


class MemoryRows(Rows):
    """Rows that are already in memory, such as class texts; bfloat16 as its bits, with its name."""

    def __init__(self, rows: np.ndarray, dtype: str | None = None) -> None:
        n, dim = rows.shape
        super().__init__(SetLayout((ArrayLayout(n, dim, dtype or str(rows.dtype), n, 0),)))
        self._rows = rows

    def read(self, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Return the rows of these numbers, in this order."""
        check_bounds(rows, self.shape[0])
        return gather(self._rows, rows, out)


class LastingRows(Rows):
    """Rows of files that may be written anew meanwhile: `read` finds them wherever they lie."""

    def __init__(
        self, layout: SetLayout, read: Callable[[np.ndarray, np.ndarray | None], np.ndarray]
    ) -> None:
        super().__init__(layout)
        self._read = read

    def read(self, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Return the rows of these numbers, in this order."""
        return self._read(rows, out)


def is_run(rows: np.ndarray) -> bool:
    """Tell whether `rows` are consecutive and ascending; no rows are not."""
    if not rows.size or rows.item(-1) - rows.item(0) != rows.size - 1:
        return False
    # Ascending, and no longer from end to end than there are rows. Counting is the fastest `all`.
    return int(np.count_nonzero(rows[1:] > rows[:-1])) == rows.size - 1


def check_bounds(rows: np.ndarray, n: int) -> None:
    """Raise IndexError if a row is not in 0 to n - 1."""
    if rows.size and (int(rows.min()) < 0 or int(rows.max()) >= n):
        raise IndexError(
            f"Rows {int(rows.min()):,} to {int(rows.max()):,} are outside 0 to {n - 1:,}."
        )


def row_numbers(index: Any, n: int, find: Callable[[list[str]], np.ndarray]) -> int | np.ndarray:
    """Return the row, or the rows, of n that an index in brackets means.

    Parameters
    ----------
    index : int, slice, list or array
        As NumPy takes it along one axis; or a list or array of ids.
    n : int
        Number of rows.
    find : callable
        Returns the rows of ids.

    Raises
    ------
    IndexError
        If there is no such row, or the index is something else.
    """
    if isinstance(index, slice):
        return np.arange(*index.indices(n))
    given = np.asarray([] if isinstance(index, tuple) else index)
    if given.dtype.kind in "OUT" and given.ndim == 1 and all(isinstance(i, str) for i in index):
        return find([str(one) for one in index])
    if given.dtype == bool and given.shape == (n,):
        return np.flatnonzero(given)
    if isinstance(index, tuple) or given.ndim > 1 or (given.size and given.dtype.kind not in "iu"):
        raise IndexError(
            f"Rows are chosen by a number, an id, a slice, numbers, ids or a mask of {n:,} "
            f"booleans; got {reprlib.repr(index)}."
        )
    numbers = given.astype(np.int64)
    if numbers.size and not -n <= numbers.min() <= numbers.max() < n:
        raise IndexError(f"Rows {numbers.min():,} to {numbers.max():,} are not all among {n:,}.")
    numbers = np.where(numbers < 0, numbers + n, numbers)
    return numbers if numbers.ndim else int(numbers)


def gather(array: np.ndarray, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Return ``array[rows]`` for rows that were checked, in `out` if given.

    ``np.take`` with ``mode="clip"`` skips NumPy's own check and is 1.6 times as fast; for a
    row out of bounds it would return another one.
    """
    if out is None:
        out = np.empty((rows.size, array.shape[1]), dtype=array.dtype)
    return np.take(array, rows, axis=0, out=out, mode="clip")


Mode = Literal["auto", "map", "pread"]
MODES: tuple[str, ...] = get_args(Mode)


# How scattered rows are read; none of it changes what they are.

#: Fewer rows than this are read as they come, cold or not.
COLD_ROWS = 256

#: A row that takes longer than this was not in memory (one in memory takes a few µs).
COLD_SECONDS = 30e-6

#: Ranges of rows nearer than this are read as one, ...
GAP_BYTES = 16 * 2**10

#: ... of at most so many bytes.
READ_BYTES = 8 * 2**20


def open_rows(
    directory: Path,
    layout: SetLayout,
    mode: Mode = "auto",
    open_file: OpenFile | None = None,
    *,
    whole: bool = True,
) -> Rows:
    """Open the set in `directory` for reading.

    Parameters
    ----------
    directory : Path
        Folder of the set.
    layout : SetLayout
        From the commit.
    mode : str
        ``"auto"`` is ``"map"``, or ``"pread"`` where that is impossible.
    open_file : callable, optional
        Opens data files that lie elsewhere than in `directory`.
    whole : bool
        False while the files are being filled.

    Raises
    ------
    CorruptStoreError
        If a data file is missing or has another size than the layout gives it.
    MappingUnavailableError
        If ``"map"`` was asked for and is impossible; the message says why.
    """
    if mode != "pread":
        try:
            return map_rows(directory, layout, open_file, whole=whole)
        except MappingUnavailableError:
            if mode == "map":
                raise
    if open_file is None:
        check_sizes(directory, layout)
    return PreadRows(layout, directory, open_file or opened)


class MappedRows(Rows):
    """Rows of one mapped address range; see `featstore.store.rows`."""

    def __init__(self, layout: SetLayout, held: mmap.mmap, start: int) -> None:
        super().__init__(layout)
        self._held, self._start = held, start
        count, memory = layout.n * layout.dim, memoryview(held).toreadonly()
        flat = np.frombuffer(memory, DTYPES[layout.dtype], count, start)
        self.array = flat.reshape(layout.n, layout.dim)

    def read(self, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Return the rows; consecutive ones as a read-only view without a copy."""
        if is_run(rows):
            first, last = int(rows[0]), int(rows[-1])
            if first < 0 or last >= self._layout.n:
                check_bounds(rows, self._layout.n)
            return self.array[first : last + 1]
        check_bounds(rows, self._layout.n)
        if rows.size >= COLD_ROWS and self._is_cold(rows):
            return self._gather_cold(rows, self._new(rows, out))
        return gather(self.array, rows, out)

    def _is_cold(self, rows: np.ndarray) -> bool:
        """Tell whether rows lie on the disk: of four that are timed, two or more are slow.

        One may be where the process had to wait for a processor.
        """
        seconds = map(self._seconds, rows[:: rows.size // 4][:4, None])
        return sum(one > COLD_SECONDS for one in seconds) > 1

    def _seconds(self, rows: np.ndarray) -> float:
        started = time.perf_counter()
        gather(self.array, rows)
        return time.perf_counter() - started

    def _gather_cold(self, rows: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Gather in the order of the disk, after asking for all ranges at once."""
        order = np.argsort(rows, kind="stable")
        ordered = rows[order]
        row_bytes = self._layout.row_bytes
        for part in _ranges(ordered, row_bytes):
            start = self._start + int(ordered[part.start]) * row_bytes
            stop = self._start + (int(ordered[part.stop - 1]) + 1) * row_bytes
            start -= start % mmap.PAGESIZE
            with contextlib.suppress(OSError):  # only advice: it changes no result
                self._held.madvise(mmap.MADV_WILLNEED, start, stop - start)
        step = COLD_ROWS
        for start in range(0, rows.size, step):
            window = slice(start, start + step)
            out[order[window]] = gather(self.array, ordered[window])
        return out


class PreadRows(Rows):
    """Rows read from their files, near ones together, in the order of the files."""

    def __init__(self, layout: SetLayout, directory: Path, open_file: OpenFile) -> None:
        super().__init__(layout)
        self._directory = directory
        self._open_file = open_file

    def read(self, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Return the rows in `out` or a new array."""
        check_bounds(rows, self._layout.n)
        out = self._new(rows, out)
        order = np.argsort(rows, kind="stable")
        ordered, row_bytes = rows[order], self._layout.row_bytes
        files = self._layout.file_of[self._layout.blocks_of(ordered)]
        for number in np.unique(files).tolist():
            first, last = np.searchsorted(files, [number, number + 1])
            file = self._layout.files[number]
            with self._open_file(self._directory, file) as descriptor:
                for part in _ranges(ordered[first:last], row_bytes):
                    wanted = ordered[first:last][part]
                    found = np.empty((int(wanted[-1] - wanted[0]) + 1, out.shape[1]), out.dtype)
                    target = found.reshape(-1).view(np.uint8).data
                    at = int(wanted[0] - file.rows.start) * row_bytes
                    read_exactly(descriptor, file.part.padding + at, target)
                    out[order[first:last][part]] = gather(found, wanted - wanted[0])
        return out


def _ranges(ordered: np.ndarray, row_bytes: int) -> Iterator[slice]:
    """Yield slices of ascending rows that lie near each other: each is one read."""
    gap = max(1, GAP_BYTES // row_bytes)
    most = max(1, READ_BYTES // row_bytes)
    breaks = np.flatnonzero(np.diff(ordered) > gap) + 1
    for start, stop in zip([0, *breaks], [*breaks, ordered.size], strict=True):
        while start < stop:
            end = int(np.searchsorted(ordered[start:stop], ordered[start] + most)) + start
            yield slice(int(start), end)
            start = end


Verify = Literal["never", "first-touch"]
VERIFY: tuple[str, ...] = get_args(Verify)


class CheckedRows(Rows):
    """A reader that hashes each block once, before any of its rows is served.

    Parameters
    ----------
    source : Rows
        The reader of the array.
    directory : Path
        Of the set, for messages.
    commit : Commit
        Says the hash of each block.
    """

    def __init__(
        self,
        source: Rows,
        *,
        directory: Path,
        commit: Commit,
    ) -> None:
        super().__init__(commit.layout)
        self._source = source
        self._directory = directory
        self._commit = commit
        self._unchecked = np.ones(commit.layout.n_blocks, dtype=bool)
        self._lock = threading.Lock()

    def read(self, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Return the rows of these numbers once their blocks are checked.

        Raises
        ------
        CorruptStoreError
            If a block differs from the commit; the message names the file and the block.
        """
        blocks = np.flatnonzero(self._touched(rows) & self._unchecked).tolist()
        with self._lock:
            for block in blocks:
                if self._unchecked[block]:
                    self._check_block(block)
                    self._unchecked[block] = False
        return self._source.read(rows, out)

    def _check_block(self, block: int) -> None:
        rows = self._layout.block_slice(block)
        data = self._source.read(np.arange(rows.start, rows.stop))
        found = self._commit.block_hash(data.reshape(-1).view(np.uint8).data)
        if found == self._commit.blocks[block]:
            return
        path = self._directory / self._layout.files[self._layout.file_of[block]].path
        raise CorruptStoreError(
            f"{path}: block {block:,} (rows {rows.start:,} to {rows.stop - 1:,}) differs from its "
            "commit record. The data was changed or damaged; extract or fetch the set again."
        )


_MAP_FIXED = 0x10  # the same on Linux and macOS; Python has no name for it
_FAILED = ctypes.c_void_p(-1).value
#: Bytes of a set that may be copied where they cannot be mapped.
COPIED_BYTES = 2**26


class MappingUnavailableError(FeatstoreError):
    """One address range is impossible here; the array can be read in another way."""


def map_rows(
    directory: Path, layout: SetLayout, open_file: OpenFile | None = None, *, whole: bool = True
) -> MappedRows:
    """Map every data file of the set in `directory` into one range of addresses.

    The addresses are given back when the last view of the rows is gone.

    Parameters
    ----------
    open_file : callable, optional
        Opens data files that lie elsewhere than in `directory`, and checks their sizes.
    whole : bool
        False while the files are being filled: nothing of them is copied then.

    Raises
    ------
    CorruptStoreError
        If a data file is missing or has another size than the layout gives it.
    MappingUnavailableError
        If this system or this layout does not allow it.
    """
    size = layout.n * layout.row_bytes
    # As the kernel does for large files: an aligned range can use huge pages.
    spare = HUGE_BYTES if size >= HUGE_BYTES else 0
    try:
        held = mmap.mmap(-1, size + spare, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError) as err:  # a commit may claim more than there are addresses
        raise _unavailable(size, getattr(err, "errno", errno.ENOMEM)) from err
    place = np.frombuffer(held, np.uint8)
    start = -place.ctypes.data % HUGE_BYTES if spare else 0
    place, left = place[start : start + size], COPIED_BYTES if whole else 0
    for file in layout.files:
        with (open_file or opened)(directory, file) as descriptor:
            at = file.rows.start * layout.row_bytes
            part = slice(at, at + file.n_rows * layout.row_bytes)
            left = _bring(place, part, descriptor, file.part.padding, left)
    return MappedRows(layout, held, start)


def _bring(place: np.ndarray, part: slice, descriptor: int, offset: int, left: int) -> int:
    """Map the pages of a file from `offset` on over part of the range, and copy the rest.

    At most `left` bytes are copied; what is left of these then is returned.
    """
    page = mmap.PAGESIZE
    first = -(-part.start // page) * page
    last = part.stop if part.stop == place.size else part.stop // page * page
    if (part.start - offset) % page or first >= last:
        first = last = part.stop
    left -= first - part.start + part.stop - last
    if left < 0:
        raise MappingUnavailableError(
            "Too many rows share a page of memory with those of another file. Open the store with "
            "mode='auto'."
        )
    if last > first and _mmap()(
        place[first:].ctypes.data, last - first, mmap.PROT_READ, mmap.MAP_SHARED | _MAP_FIXED,
        descriptor, offset + first - part.start,
    ) == _FAILED:  # fmt: skip
        raise _unavailable(last - first, ctypes.get_errno())
    for start, stop in ((part.start, first), (last, part.stop)):
        read_exactly(descriptor, offset + start - part.start, place[start:stop].data)
    return left


def _unavailable(size: int, code: int | None) -> MappingUnavailableError:
    reason = os.strerror(code or 0)
    return MappingUnavailableError(f"{size:,} bytes could not be mapped: {reason}.")


@functools.cache
def _mmap() -> Any:
    """Return the C library's function: Python's own maps to no address of the caller's."""
    call = ctypes.CDLL(None, use_errno=True).mmap
    number, size, pointer = ctypes.c_int, ctypes.c_size_t, ctypes.c_void_p
    call.argtypes = [pointer, size, number, number, number, ctypes.c_int64]
    call.restype = pointer
    return call


Progress = Callable[[int], object]


class Place:
    """Finds the sets of a store and brings their files to `root`.

    Of a folder of this machine nothing is fetched; `featstore.remote.place.RemotePlace` fetches
    what is read into the user's cache, and compares it with the commit records.

    Parameters
    ----------
    root : Path
        Folder that small files are read from: the store itself, or its mirror in the cache.
    address : str
        Where the store lies, if not there: a URL.

    Attributes
    ----------
    is_remote : bool
        Whether reading may fetch.
    made_by : str
        The command that makes a store there.
    """

    is_remote: ClassVar[bool] = False
    made_by: ClassVar[str] = "extract … --store"

    def __init__(self, root: Path, address: str = "") -> None:
        self.root = root
        self.address = address or str(root)

    def log(self) -> Log:
        """Return the log of the store, as it is now; of a remote one, as it was at opening."""
        return read_log(self.root)

    def available(self, digests: Mapping[str, str]) -> list[str]:
        """Return the keys of those of these sets, key -> digest, that can be read, sorted."""
        return sorted(digests)

    def rows(self, key: SetKey, commit: Commit, mode: Mode) -> Rows:
        """Return the reader of a set's rows; a link among its files is refused."""
        directory, layout = key.directory(self.root), commit.layout
        check_no_links(self.root, (directory / file.path for file in layout.files))
        return open_rows(directory, layout, mode)

    def unfinished(self) -> list[SetKey]:
        """Return the keys of sets whose extraction has not ended; remote ones are not seen."""
        begun = [key_of(one) for one in set_folders(self.root) if staging_of(one).exists()]
        return [key for key in begun if str(key) not in read_log(self.root).sets]

    def refresh(self) -> None:
        """Fetch the log again."""

    def fetch_tag(self, name: str, digest: str) -> None:
        """Fetch the file of a tag."""

    def fetch_record(self, key: SetKey, digest: str) -> None:
        """Fetch the commit of a set."""

    def fetch(self, key: SetKey, commit: Commit, *parts: str) -> None:
        """Fetch the small files of a revision: all, or these `featstore.store.listing.PARTS`."""

    def fetch_thumbnails(self, folder: str) -> None:
        """Fetch the thumbnails of ``dataset/kind``."""

    def fetch_rows(self, key: SetKey, commit: Commit, progress: Progress | None) -> None:
        """Fetch all rows of a set; `progress` is called with numbers of bytes, from threads."""


def open_place(address: Address | Path) -> Place:
    """Return where the store at an address is read from.

    Raises
    ------
    RemoteStoreError
        See `featstore.remote.place.RemotePlace`.
    """
    if isinstance(address, Path):
        return Place(address)
    found: Place = open_address(address).reader()
    return found

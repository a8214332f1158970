"""All parts of a set in one address range, as one read-only ndarray.

Mapping each file by itself reads at memory speed but gathers at half of it, because every row
has to be looked up in its file first. Here a range of addresses is reserved for the whole set,
and the whole pages of the rows of each file are mapped over their place in it (``MAP_FIXED``);
shards begin with a padding that makes a page of the file one of the range: see
docs/ref/store-format.md. What two files share a page of is copied, and so are small parts: never of
a file that is still being filled, since a copy would not follow it.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np

from featstore.errors import FeatstoreError
from featstore.store.files import OpenFile, opened, read_exactly
from featstore.store.layout import DTYPES, HUGE_BYTES, SetLayout

_MAP_FIXED = 0x10  # the same on Linux and macOS; Python has no name for it
_WILLNEED = 3  # likewise
_FAILED = ctypes.c_void_p(-1).value
#: Bytes of a set that may be copied where they cannot be mapped.
COPIED_BYTES = 2**26


class MappingUnavailableError(FeatstoreError):
    """One address range is impossible here; the array can be read in another way."""


class _Range:
    """Addresses that are given back when nothing refers to them any more.

    An ndarray made from it keeps it as its base, and so does every view of that ndarray.
    """

    def __init__(self, size: int, *, may_copy: int) -> None:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        # As the kernel does for large files: an aligned range can use huge pages.
        whole = size + (HUGE_BYTES if size >= HUGE_BYTES else 0)
        start = _mmap(None, whole, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1)
        self.address = start if whole == size else -(-start // HUGE_BYTES) * HUGE_BYTES
        self.size = size
        self._may_copy = may_copy
        self.release = weakref.finalize(self, _libc().munmap, start, whole)
        # Views may live until the very end of the process: the kernel frees the range then.
        self.release.atexit = False

    def place(self, descriptor: int, offset: int, at: int, size: int) -> None:
        """Bring `size` bytes of a file from `offset` on to place `at` of the range."""
        page = mmap.PAGESIZE
        first, last = -(-at // page) * page, (at + size) // page * page
        if at + size == self.size:
            last = self.size
        if (at - offset) % page or first >= last:
            first = last = at + size
        self._may_copy -= size - (last - first)
        if self._may_copy < 0:
            raise MappingUnavailableError(
                "Too many rows share a page of memory with those of another file. Open the store "
                "with mode='auto'."
            )
        if last > first:
            flags = mmap.MAP_SHARED | _MAP_FIXED
            where = self.address + first
            _mmap(where, last - first, mmap.PROT_READ, flags, descriptor, offset + first - at)
        for start, stop in ((at, first), (last, at + size)):
            if stop > start:
                target = (ctypes.c_ubyte * (stop - start)).from_address(self.address + start)
                read_exactly(descriptor, offset + start - at, memoryview(target))

    def array(self, layout: SetLayout) -> np.ndarray:
        """Return the range as an array of a set's shape and dtype."""
        self.__array_interface__ = {
            "version": 3,
            "data": (self.address, True),
            "shape": (layout.n, layout.dim),
            "typestr": DTYPES[layout.dtype].str,
        }
        return np.asarray(self)


def map_array(
    directory: Path, layout: SetLayout, open_file: OpenFile | None = None, *, whole: bool = True
) -> np.ndarray:
    """Map every data file of the set in `directory` and return its (n, d) rows, read-only.

    The addresses are given back when the last view of the array is gone.

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
    check_mappable()
    reserved = _Range(layout.n * layout.row_bytes, may_copy=COPIED_BYTES if whole else 0)
    open_file = open_file or opened
    try:
        for file in layout.files:
            size, at = file.n_rows * layout.row_bytes, file.rows.start * layout.row_bytes
            with open_file(directory, file) as descriptor:
                reserved.place(descriptor, file.part.padding, at, size)
    except BaseException:
        reserved.release()
        raise
    return reserved.array(layout)


def check_mappable() -> None:
    """Raise MappingUnavailableError unless files can lie side by side in memory here."""
    if not sys.platform.startswith(("linux", "darwin")) or sys.maxsize < 2**32:
        raise MappingUnavailableError(
            f"Memory cannot be mapped at chosen addresses on {sys.platform}."
        )


def advise_soon(address: int, size: int) -> None:
    """Tell the system that these bytes of a mapped array will be read soon."""
    start = address - address % mmap.PAGESIZE
    # Only advice: whether it was taken changes no result.
    _libc().madvise(start, address + size - start, _WILLNEED)


def _mmap(
    address: int | None, size: int, protection: int, flags: int, descriptor: int, offset: int = 0
) -> int:
    found = _libc().mmap(address, size, protection, flags, descriptor, offset)
    if found == _FAILED:
        code = ctypes.get_errno()
        raise MappingUnavailableError(
            code, f"{size:,} bytes could not be mapped: {os.strerror(code)}."
        )
    return int(found)


@functools.cache
def _libc() -> Any:
    libc = ctypes.CDLL(None, use_errno=True)
    number, size, pointer = ctypes.c_int, ctypes.c_size_t, ctypes.c_void_p
    libc.mmap.argtypes = [pointer, size, number, number, number, ctypes.c_int64]
    libc.mmap.restype = pointer
    libc.munmap.argtypes = [pointer, size]
    libc.madvise.argtypes = [pointer, size, number]
    return libc

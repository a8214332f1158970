"""All shards of an array in one address range, as one read-only ndarray.

Mapping each file by itself reads at memory speed but gathers at half of it, because every row
has to be looked up in its file first. Here a range of addresses is reserved for the whole
array, and the data part of each file is mapped over its place in it (``MAP_FIXED``). That
needs every data part but the last to be a whole number of pages, which the layout of shards
sees to (docs/store-format.md).
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

from featstore.store.files import OpenFile, opened
from featstore.store.layout import DTYPES, ArrayLayout

_MAP_FIXED = 0x10  # the same on Linux and macOS; Python has no name for it
_PROT_NONE = 0
_WILLNEED = 3  # likewise
_FAILED = ctypes.c_void_p(-1).value
_HUGE = 2**21


class MappingUnavailableError(OSError):
    """One address range is impossible here; the array can be read in another way."""


class _Range:
    """Addresses that are given back when nothing refers to them any more.

    An ndarray made from it keeps it as its base, and so does every view of that ndarray.
    """

    def __init__(self, size: int) -> None:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        # As the kernel does for large files: an aligned range can use huge pages.
        whole = size + (_HUGE if size >= _HUGE else 0)
        start = _mmap(None, whole, _PROT_NONE, flags, -1)
        self.address = start if whole == size else -(-start // _HUGE) * _HUGE
        self.release = weakref.finalize(self, _libc().munmap, start, whole)
        # Views may live until the very end of the process: the kernel frees the range then.
        self.release.atexit = False

    def place(self, descriptor: int, offset: int, size: int) -> None:
        """Map the first `size` bytes of a file at `offset` of the range."""
        flags = mmap.MAP_SHARED | _MAP_FIXED
        _mmap(self.address + offset, size, mmap.PROT_READ, flags, descriptor)

    def array(self, layout: ArrayLayout) -> np.ndarray:
        """Return the range as an array of the layout's shape and dtype."""
        self.__array_interface__ = {
            "version": 3,
            "data": (self.address, True),
            "shape": (layout.n, layout.dim),
            "typestr": DTYPES[layout.dtype].str,
        }
        return np.asarray(self)


def map_array(
    directory: Path, layout: ArrayLayout, open_file: OpenFile | None = None
) -> np.ndarray:
    """Map every data file of an array and return its (n, d) rows, read-only.

    The addresses are given back when the last view of the array is gone.

    Parameters
    ----------
    open_file : callable, optional
        Opens data files that lie elsewhere than in `directory`, and checks their sizes.

    Raises
    ------
    CorruptStoreError
        If a data file is missing or has another size than the layout gives it.
    MappingUnavailableError
        If this system or this layout does not allow it.
    """
    check_mappable(layout)
    reserved = _Range(layout.n * layout.row_bytes)
    open_file = open_file or opened
    try:
        for file in range(layout.n_files):
            rows = layout.file_rows(file)
            with open_file(directory, layout, file) as descriptor:
                size = (rows.stop - rows.start) * layout.row_bytes
                reserved.place(descriptor, rows.start * layout.row_bytes, size)
    except BaseException:
        reserved.release()
        raise
    return reserved.array(layout)


def check_mappable(layout: ArrayLayout) -> None:
    """Raise MappingUnavailableError unless the array's files can lie side by side in memory."""
    if not sys.platform.startswith(("linux", "darwin")) or sys.maxsize < 2**32:
        raise MappingUnavailableError(
            f"Memory cannot be mapped at chosen addresses on {sys.platform}."
        )
    shard_bytes = layout.shard_rows * layout.row_bytes
    if layout.n_files > 1 and shard_bytes % mmap.PAGESIZE:
        raise MappingUnavailableError(
            f"A shard's {shard_bytes:,} bytes are no whole number of pages of {mmap.PAGESIZE:,} "
            "bytes, so the next shard cannot follow it in memory."
        )


def advise_soon(address: int, size: int) -> None:
    """Tell the system that these bytes of a mapped array will be read soon."""
    start = address - address % mmap.PAGESIZE
    # Only advice: whether it was taken changes no result.
    _libc().madvise(start, address + size - start, _WILLNEED)


def is_resident(address: int) -> bool:
    """Tell whether this byte of a mapped array is in memory, without reading it.

    True also where the system will not say: for files that this user neither owns nor may write.
    """
    answer = ctypes.c_ubyte(1)
    _libc().mincore(address - address % mmap.PAGESIZE, 1, ctypes.byref(answer))
    return bool(answer.value & 1)


def _mmap(address: int | None, size: int, protection: int, flags: int, descriptor: int) -> int:
    found = _libc().mmap(address, size, protection, flags, descriptor, 0)
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
    libc.mincore.argtypes = [pointer, size, pointer]
    return libc

"""Durable writes: a name appears with its whole content, or not at all."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_SYNC_FILE_RANGE_WRITE = 2


def fsync_directory(directory: Path) -> None:
    """Make the names in `directory` durable (a no-op where directories cannot be opened)."""
    if os.name == "nt":
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def begin_writeback(descriptor: int, offset: int, size: int) -> None:
    """Ask the system to start writing these bytes of a file to its disk; nothing is waited for.

    Only advice: the bytes are durable after an ``fsync``, which also reports what failed. A
    no-op where there is no ``sync_file_range`` (anywhere but Linux).
    """
    call = _sync_file_range()
    if call is not None:
        call(descriptor, offset, size, _SYNC_FILE_RANGE_WRITE)


@functools.cache
def _sync_file_range() -> Any:
    """Return the C library's function, or None."""
    call = getattr(ctypes.CDLL(None), "sync_file_range", None) if sys.platform == "linux" else None
    if call is not None:
        call.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    return call


def write_durably(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Write `parts` to `path`: staged beside it, fsynced, renamed, directory fsynced.

    Raises
    ------
    OSError
        If the file system refuses: full, read-only, no permission. Nothing is left behind.
    """
    staged = path.with_name(f".{path.name}.{os.getpid()}.staged")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with staged.open("wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        staged.replace(path)
        fsync_directory(path.parent)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise

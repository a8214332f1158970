"""Files that survive a crash: written, synced and renamed; and what a full disk says.

What is made inside a group-writable folder can be used by the group, whatever the user's umask:
folders pass on their mode, files are readable to whom the folder is.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import secrets
import stat
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from featstore.errors import StoreWriteError

_SYNC_FILE_RANGE_WRITE = 2

#: What a group-writable folder hands down: permissions, and the group itself (setgid).
_HANDED_DOWN = 0o2777


def write_all(handle: int, data: bytes | memoryview) -> None:
    """Write all of `data` to an open file, whatever share a single call takes."""
    left = memoryview(data)
    while left:
        left = left[os.write(handle, left) :]


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


def make_folders(path: Path) -> None:
    """Make a folder and those above it, each with the mode of a group-writable one above."""
    for last_try in (False, False, True):
        missing = []
        folder = path
        while not folder.is_dir():
            missing.append(folder)
            folder = folder.parent
        try:
            for folder in reversed(missing):
                folder.mkdir(exist_ok=True)
                hand_down(folder)
                fsync_directory(folder.parent)
        except FileNotFoundError:
            if last_try:
                raise
            continue  # another process removed an empty folder above meanwhile
        break
    if not missing:
        hand_down(path)  # its maker may have been killed before this


def hand_down(folder: Path) -> None:
    """Give a folder of ours the mode of a group-writable one above it."""
    above, here = folder.parent.stat().st_mode, folder.stat()
    # Not out of /tmp and the like, which are everyone's but nobody's to share.
    if not above & stat.S_IWGRP or above & stat.S_ISVTX:
        return
    if here.st_mode & _HANDED_DOWN != above & _HANDED_DOWN:
        with contextlib.suppress(PermissionError):  # made by another user
            folder.chmod(above & _HANDED_DOWN)


def seal(file: Path, *, like: Path, writable: bool = False) -> None:
    """Set a file's mode: read-only, and in a group-writable folder readable as the folder is.

    Parameters
    ----------
    like : Path
        The folder that the file will lie in.
    writable : bool
        Leave or make it writable to its owner and, as the folder is, to the group.
    """
    folder = like.stat().st_mode
    mode = stat.S_IMODE(file.lstat().st_mode)
    if folder & stat.S_IWGRP and not folder & stat.S_ISVTX:
        mode = folder & 0o666
    mode = mode | stat.S_IWUSR if writable else mode & ~0o222
    if mode != stat.S_IMODE(file.lstat().st_mode):
        file.chmod(mode)


def write_durably(
    path: Path,
    parts: Iterable[bytes | memoryview],
    *,
    staged: Path | None = None,
    sealed: bool = False,
) -> None:
    """Write `parts` to `path`: staged, fsynced, renamed, directory fsynced.

    Parameters
    ----------
    staged : Path, optional
        Where it is staged, on the same file system; beside `path` by default.
    sealed : bool
        Leave the file read-only: it is replaced from now on, never written to.

    Raises
    ------
    OSError
        If the file system refuses: full, read-only, no permission. Nothing is left behind.
    """
    if staged is None:
        # A process id is no name: in a shared folder it may be that of another machine's.
        staged = path.with_name(f".{path.name}.{secrets.token_hex(4)}.staged")
        make_folders(path.parent)
    try:
        with staged.open("wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            seal(staged, like=path.parent, writable=not sealed)
            os.fsync(file.fileno())
        staged.replace(path)
        fsync_directory(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            staged.unlink(missing_ok=True)
        raise


_REMEDIES = {
    errno.ENOSPC: "Free space",
    errno.EDQUOT: "Free space or have the quota raised",
    errno.EFBIG: "Raise the limit on the size of files (`ulimit -f`)",
    errno.EIO: "Look after the disk (`dmesg` says more)",
    errno.EROFS: "Mount it writable",
    errno.EACCES: "Get the permission (in a team: `featstore init STORE --shared`)",
    errno.EPERM: "Get the permission (in a team: `featstore init STORE --shared`)",
}


def write_error(what: object, err: OSError) -> StoreWriteError:
    """Return the error to raise when `what` could not be written."""
    remedy = _REMEDIES.get(err.errno or 0, "Free space or permission")
    return StoreWriteError(
        f"Cannot write {what}: {err.strerror or err}. {remedy}, then run the same command again; "
        "finished blocks are kept."
    )

"""Locks that the kernel frees when their process ends, and the short one that decides claims."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

from featstore.durable import seal

#: Name of the short lock in a staging folder.
LOCK = "lock"


def try_lock(handle: int, *, shared: bool = False) -> bool:
    """Try to lock an open file; False if another process holds it, or nobody can know."""
    try:
        import fcntl
    except ImportError:  # Windows: a single writer is the user's affair
        return not shared
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as err:
        # A file system without locks: the heartbeat alone decides.
        return err.errno in {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP} and not shared
    return True


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[bool]:
    """Hold a folder's own lock, waiting for it; False where there are no locks.

    Only good for what may also go wrong, and is mended by whoever comes next.
    """
    handle, locked = -1, False
    with contextlib.suppress(ImportError, OSError):  # Windows, or a server without locks
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX)
        locked = True
    try:
        yield locked
    finally:
        if handle >= 0:
            os.close(handle)


@contextlib.contextmanager
def deciding(staging: Path, *, patience: float = 2.0) -> Iterator[bool]:
    """Hold the short lock under which claims begin and end; False if it could not be had."""
    path = staging / LOCK
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        handle = os.open(path, flags, 0o666)
    except FileNotFoundError:
        yield False  # the staging folder was removed just now
        return
    except PermissionError:
        # Another user was killed between making it and opening it to the group.
        path.unlink()
        yield False
        return
    try:
        until = time.monotonic() + patience
        while not (held := try_lock(handle)) and time.monotonic() < until:
            time.sleep(0.005)
        with contextlib.suppress(OSError, AttributeError):
            if os.fstat(handle).st_uid == os.getuid():
                seal(path, like=staging, writable=True)
        yield held and path.exists() and os.fstat(handle).st_ino == path.stat().st_ino
    finally:
        os.close(handle)

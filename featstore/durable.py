"""Durable writes: a name appears with its whole content, or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def fsync_directory(directory: Path) -> None:
    """Make the names in `directory` durable (a no-op where directories cannot be opened)."""
    if os.name == "nt":
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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

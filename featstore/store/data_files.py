"""The data files of an array, opened only if they are what the layout says.

A size is compared on the open file itself, so that what was checked is what is read. Symbolic
links are refused: a store's data lies in the store.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from featstore.errors import CorruptStoreError
from featstore.store.layout import ArrayLayout

_READ = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)


@contextmanager
def opened(directory: Path, layout: ArrayLayout, file: int) -> Iterator[int]:
    """Open a data file of the array in `directory` and give its descriptor.

    Raises
    ------
    CorruptStoreError
        If it is missing, not a regular file, or has another size than the layout gives it.
    """
    path = directory / layout.file_name(file)
    descriptor = _open(path)
    try:
        _check(path, os.fstat(descriptor), layout.file_bytes(file))
        yield descriptor
    finally:
        os.close(descriptor)


def check_sizes(directory: Path, layout: ArrayLayout) -> None:
    """Compare the size of every data file with the layout, opening none; raises as `opened`."""
    for file in range(layout.n_files):
        path = directory / layout.file_name(file)
        try:
            facts = path.lstat()
        except FileNotFoundError as err:
            raise _missing(path) from err
        _check(path, facts, layout.file_bytes(file))


def _open(path: Path) -> int:
    try:
        return os.open(path, _READ | _NO_LINK)
    except FileNotFoundError as err:
        raise _missing(path) from err
    except OSError as err:
        if path.is_symlink():
            raise _replaced(path, "is a symbolic link") from err
        raise


def _check(path: Path, facts: os.stat_result, expected: int) -> None:
    if not stat.S_ISREG(facts.st_mode):
        raise _replaced(path, "is not a regular file")
    if facts.st_size != expected:
        raise _replaced(path, f"has {facts.st_size:,} bytes, expected {expected:,}")


def _missing(path: Path) -> CorruptStoreError:
    return CorruptStoreError(
        f"{path} is missing. The set cannot be read; extract or fetch it again."
    )


def _replaced(path: Path, what: str) -> CorruptStoreError:
    return CorruptStoreError(
        f"{path} {what}: it was truncated or replaced. The set cannot be read; extract or fetch "
        "it again."
    )

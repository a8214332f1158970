"""The data files of an array, opened only if they are what the layout says.

A size is compared on the open file itself, so that what was checked is what is read. Symbolic
links are refused: a store's data lies in the store. The last file may be larger if a later
revision appended to it: its beginning stays what it was, and readers of the earlier one go on.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from featstore.errors import CorruptStoreError, FeatstoreError
from featstore.store.files import read_json
from featstore.store.layout import ArrayLayout, parse_array_metadata

_READ = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)

#: Opens data file `file` of an array: called as ``open_file(directory, layout, file)``.
OpenFile = Callable[[Path, ArrayLayout, int], AbstractContextManager[int]]


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
        _check(directory, layout, file, os.fstat(descriptor))
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
        _check(directory, layout, file, facts)


def _open(path: Path) -> int:
    try:
        return os.open(path, _READ | _NO_LINK)
    except FileNotFoundError as err:
        raise _missing(path) from err
    except OSError as err:
        if path.is_symlink():
            raise _replaced(path, "is a symbolic link") from err
        raise


def _check(directory: Path, layout: ArrayLayout, file: int, facts: os.stat_result) -> None:
    path = directory / layout.file_name(file)
    if not stat.S_ISREG(facts.st_mode):
        raise _replaced(path, "is not a regular file")
    expected = layout.file_bytes(file)
    if facts.st_size == expected:
        return
    if not (layout.may_grow_to(file, facts.st_size) and has_grown(directory, layout)):
        raise _replaced(path, f"has {facts.st_size:,} bytes, expected {expected:,}")


def has_grown(directory: Path, layout: ArrayLayout) -> bool:
    """Return whether a later revision has appended to this array, or is about to."""
    return (directory.parent / ".staging").is_dir() or has_grown_to(directory, layout)


def has_grown_to(directory: Path, layout: ArrayLayout) -> bool:
    """Return whether the metadata of this array is that of the same array with more rows."""
    try:
        now = parse_array_metadata(
            read_json(directory / "zarr.json"), where="", block_rows=layout.block_rows
        )
    except (FeatstoreError, OSError):
        return False
    return now.n > layout.n and (now.dim, now.dtype) == (layout.dim, layout.dtype)


def _missing(path: Path) -> CorruptStoreError:
    return CorruptStoreError(
        f"{path} is missing. The set cannot be read; extract or fetch it again."
    )


def _replaced(path: Path, what: str) -> CorruptStoreError:
    return CorruptStoreError(
        f"{path} {what}: it was truncated or replaced. The set cannot be read; extract or fetch "
        "it again."
    )

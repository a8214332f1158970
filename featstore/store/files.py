"""Files of a store: JSON, checksums, and where the data of a set are.

A size is compared on the open file itself, so that what was checked is what is read. Symbolic
links are refused: a store's data lies in the store.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Annotated, Any, TypedDict

import msgspec
from msgspec import Meta

from featstore.durable import write_durably, write_error
from featstore.errors import CorruptStoreError
from featstore.identity import canonical_json
from featstore.store.layout import DataFile, SetLayout

Sha256 = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]


class Facts(TypedDict):
    """What a commit states of a file, which has no more than 16 TiB."""

    bytes: Annotated[int, Meta(ge=0, le=2**44)]
    sha256: Sha256


#: JSON files of a store are refused above this size, ...
MAX_JSON_BYTES = 64 * 2**20

#: ... and the metadata of a group, set or array above this one.
MAX_METADATA_BYTES = 4 * 2**20

#: More brackets and commas than this are refused before they become objects in memory.
MAX_JSON_NODES = 4_000_000

#: Nothing that a store writes nests deeper.
MAX_JSON_DEPTH = 32

_PIECE = 2**20


def write_file(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Write `parts` to `path` durably and read-only; see `featstore.durable.write_durably`.

    Raises
    ------
    StoreWriteError
        If the file system refuses: full, read-only, no permission. Nothing is left behind.
    """
    try:
        write_durably(path, parts, sealed=True)
    except OSError as err:
        raise write_error(path, err) from err


def json_bytes(document: Any) -> bytes:
    """Return `document` as readable, deterministic JSON: keys, all texts, sorted; two spaces."""
    return msgspec.json.format(canonical_json(document), indent=2) + b"\n"


def read_json(path: Path, *, limit: int = MAX_JSON_BYTES) -> Any:
    """Return the JSON document at `path`.

    Raises
    ------
    CorruptStoreError
        If the file is no regular file, has more than `limit` bytes, is not JSON, or is JSON
        that no writer of ours makes: too deep, not finite, not UTF-8.
    FileNotFoundError
        If there is no such file.
    """
    return parse_json(read_regular(path, limit=limit), where=str(path))


def parse_json(data: bytes, *, where: str) -> Any:
    """Return the JSON document that `data` is; raises as `read_json` does."""
    try:
        brackets = data.count(b"[") + data.count(b"{")
        nodes = brackets + data.count(b",")
        if nodes > MAX_JSON_NODES:
            raise ValueError(f"{nodes:,} values")
        document = msgspec.json.decode(data)
        if brackets > MAX_JSON_DEPTH:  # fewer cannot nest too deep
            _check_depth([document], MAX_JSON_DEPTH + 1)
    except (ValueError, RecursionError, MemoryError) as err:
        raise CorruptStoreError(
            f"{where} is not JSON that a store holds: {str(err)[:200] or 'too large'}."
        ) from err
    return document


def _check_depth(value: dict[str, Any] | list[Any], depth: int) -> None:
    """Raise ValueError for what nests too deep."""
    if depth == 0:
        raise ValueError(f"nested more than {MAX_JSON_DEPTH} deep")
    for child in value.values() if isinstance(value, dict) else value:
        if isinstance(child, dict | list):
            _check_depth(child, depth - 1)


class IrregularFileError(CorruptStoreError):
    """A link, folder, pipe, socket or device lies where a store has a file."""


#: A pipe is not waited for, and a link is not followed.
_CAREFUL = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def open_descriptor(path: Path | str, flags: int, mode: int = 0o666) -> int:
    """Open a regular file of a store, or make it (``O_CREAT``), and return its descriptor.

    Every file of a store is opened here, for reading, writing and locking: nothing but a regular
    file is ever opened.

    Raises
    ------
    IrregularFileError
        If there is something else at `path`.
    OSError
        As `os.open` does.
    """
    handle = -1
    try:
        # Looked at before it is opened: a device may act on being opened.
        if not flags & os.O_CREAT or os.path.lexists(path):
            _check_regular(path, os.lstat(path))
        handle = os.open(path, flags | _CAREFUL, mode)
        _check_regular(path, os.fstat(handle))
    except BaseException:
        if handle >= 0:
            os.close(handle)
        raise
    return handle


def _check_regular(path: Path | str, facts: os.stat_result) -> None:
    if not stat.S_ISREG(facts.st_mode):
        raise IrregularFileError(
            f"{path} is a link, folder, pipe or device; a store holds regular files. It was not "
            "opened. Remove it."
        )


def open_regular(path: Path | str) -> IO[bytes]:
    """Open a regular file for reading; a link, pipe or device is refused, not waited for.

    Raises
    ------
    CorruptStoreError
        If `path` is something else, or has a name that no file can have.
    FileNotFoundError
        If there is nothing at `path`.
    """
    try:
        return os.fdopen(open_descriptor(path, os.O_RDONLY), "rb")
    except (FileNotFoundError, NotADirectoryError):
        raise
    except (OSError, ValueError) as err:
        raise CorruptStoreError(
            f"{path} cannot be read: {getattr(err, 'strerror', None) or err}."
        ) from err


def read_regular(path: Path | str, *, limit: int) -> bytes:
    """Return the bytes of a regular file of at most `limit` bytes.

    Raises
    ------
    CorruptStoreError
        If it is no regular file, or larger; nothing is read then.
    FileNotFoundError
        If there is no such file.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise CorruptStoreError(
                f"{path} has {size:,} bytes; at most {limit:,} are expected. It was not read."
            )
        try:
            return file.read(size)
        except MemoryError as err:
            raise CorruptStoreError(
                f"{path} has {size:,} bytes, more than this process has memory for. Free memory, "
                "or fetch or extract the set again if it should be smaller."
            ) from err


def delete(path: Path) -> int:
    """Delete a file, or a folder with all that is in it, and return the bytes it held."""
    if path.is_dir() and not path.is_symlink():
        size = sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir())
        shutil.rmtree(path)
        return size
    size = path.lstat().st_size
    path.unlink()
    return size


def check_no_links(root: Path, paths: Iterable[Path]) -> None:
    """Raise CorruptStoreError if a path below `root` leads through a symbolic link."""
    seen: set[Path] = set()
    for path in paths:
        for part in itertools.chain([path], path.parents):
            if part == root or part in seen:
                break
            seen.add(part)
            try:
                linked = part.is_symlink()
            except OSError as err:
                raise CorruptStoreError(f"{part} cannot be read: {err.strerror}.") from err
            if linked:
                raise CorruptStoreError(
                    f"{part} is a symbolic link; a store holds regular files. It was not read."
                )


def facts_of(data: bytes) -> Facts:
    """Return ``{"bytes": …, "sha256": …}`` of the content of a file."""
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def walk_store(root: Path) -> tuple[set[str], set[str], dict[str, str]]:
    """Return files, folders, and what is neither, below `root`; no link is followed."""
    files: set[str] = set()
    folders: set[str] = set()
    odd: dict[str, str] = {}
    left = [(os.fspath(root), "")]
    while left:
        folder, above = left.pop()
        entries: list[os.DirEntry[str]] = []
        with contextlib.suppress(FileNotFoundError), os.scandir(folder) as found:
            entries = list(found)  # none if a writer has removed it meanwhile
        for entry in entries:
            name = above + entry.name
            if entry.is_dir(follow_symlinks=False):
                folders.add(name)
                left.append((entry.path, f"{name}/"))
            elif entry.is_file(follow_symlinks=False):
                files.add(name)
            else:
                odd[name] = "symbolic link" if entry.is_symlink() else "device or pipe"
    return files, folders, odd


def file_facts(path: Path) -> Facts:
    """Return ``{"bytes": …, "sha256": …}`` of a file, read in pieces."""
    with open_regular(path) as file:
        return _facts(file, os.fstat(file.fileno()).st_size)


def _facts(file: IO[bytes], n_bytes: int) -> Facts:
    size, digest = 0, hashlib.sha256()
    for piece in pieces(file, n_bytes):
        size += len(piece)
        digest.update(piece)
    return {"bytes": size, "sha256": digest.hexdigest()}


def same_file(path: Path | str, facts: Mapping[str, Any]) -> bool:
    """Return whether a file has the bytes that `facts` states; the size is looked at first."""
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            return size == facts["bytes"] and _facts(file, size) == dict(facts)
    except (FileNotFoundError, NotADirectoryError, IrregularFileError):
        return False


def pieces(file: IO[bytes], n_bytes: int | None = None) -> Iterator[bytes]:
    """Yield the next `n_bytes` of a file, or all, in pieces of at most 1 MiB."""
    left = n_bytes
    while left is None or left > 0:
        piece = file.read(_PIECE if left is None else min(_PIECE, left))
        if not piece:
            return
        left = None if left is None else left - len(piece)
        yield piece


def read_exactly(descriptor: int, offset: int, target: memoryview) -> None:
    """Fill `target` from `offset` of a file; a short file is an error, never a short result."""
    # `os.preadv` is not everywhere.
    with open(descriptor, "rb", buffering=0, closefd=False) as file:
        file.seek(offset)
        while target:
            count = file.readinto(target)
            if not count:
                raise CorruptStoreError(
                    "A data file ended early: it was truncated while it was read."
                )
            target = target[count:]


#: Opens a data file of the set in a folder: called as ``open_file(directory, file)``.
OpenFile = Callable[[Path, DataFile], AbstractContextManager[int]]


@contextmanager
def opened(directory: Path, file: DataFile) -> Iterator[int]:
    """Open a data file of the set in `directory` and give its descriptor.

    Raises
    ------
    CorruptStoreError
        If it is missing, not a regular file, or has another size than the layout gives it.
    """
    path = directory / file.path
    try:
        descriptor = open_descriptor(path, os.O_RDONLY)
    except FileNotFoundError as err:
        raise _unreadable(path, "is missing") from err
    except IrregularFileError as err:
        raise _unreadable(path, "is no regular file: it was replaced") from err
    try:
        _check(path, file, os.fstat(descriptor))
        yield descriptor
    finally:
        os.close(descriptor)


def check_sizes(directory: Path, layout: SetLayout) -> None:
    """Compare the size of every data file with the layout, opening none; raises as `opened`."""
    for file in layout.files:
        path = directory / file.path
        try:
            facts = path.lstat()
        except FileNotFoundError as err:
            raise _unreadable(path, "is missing") from err
        _check(path, file, facts)


def _check(path: Path, file: DataFile, facts: os.stat_result) -> None:
    if not stat.S_ISREG(facts.st_mode):
        raise _unreadable(path, "is not a regular file: it was replaced")
    if facts.st_size != file.size:
        what = f"has {facts.st_size:,} bytes, expected {file.size:,}: it was truncated or replaced"
        raise _unreadable(path, what)


def _unreadable(path: Path, what: str) -> CorruptStoreError:
    return CorruptStoreError(f"{path} {what}. The set cannot be read; extract or fetch it again.")

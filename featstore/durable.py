"""Files that survive a crash, and files that are read with care: JSON, checksums, regular files.

A size is compared on the open file itself, so that what was checked is what is read. Symbolic
links are refused where a store's data are read: they lie in the store.

What is made inside a group-writable folder can be used by the group, whatever the user's umask:
folders pass on their mode, files are readable to whom the folder is.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import io
import itertools
import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Annotated, Any, TypedDict
from urllib.parse import unquote, urlsplit

import msgspec
from msgspec import Meta

from featstore.errors import AddressError, CorruptStoreError, StoreWriteError
from featstore.identity import canonical_json

_SYNC_FILE_RANGE_WRITE = 2

#: What a group-writable folder hands down: permissions, and the group itself (setgid).
_HANDED_DOWN = 0o2777

STAGED = ".staged"
"""How the name of a file or folder ends that takes its place once it is whole."""


def write_at(handle: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of `data` to a place of an open file, whatever share a single call takes."""
    left = memoryview(data)
    while left:
        done = os.pwrite(handle, left, offset)
        left, offset = left[done:], offset + done


def fsync_path(path: Path, later: set[Path] | None = None) -> None:
    """Make the bytes of a file durable, or the names in a folder.

    Parameters
    ----------
    later : set of Path, optional
        It is added to these instead, for who makes several durable at once: the first
        fsync writes the changes of all, the others find little to do.
    """
    if later is not None:
        later.add(path)
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_tree(path: Path) -> None:
    """Remove a folder and all in it, or what else lies there; what cannot be removed stays."""
    with contextlib.suppress(OSError):
        # Of a pipe, `rmtree` would wait for a writer.
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def begin_writeback(descriptor: int, offset: int, size: int) -> None:
    """Ask the system to start writing these bytes of a file to its disk; nothing is waited for.

    Only advice: the bytes are durable after an ``fsync``, which also reports what failed. A
    no-op where there is no ``sync_file_range`` (anywhere but Linux).
    """
    call = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if call is not None:
        call(descriptor, ctypes.c_int64(offset), ctypes.c_int64(size), _SYNC_FILE_RANGE_WRITE)


#: Schemes of addresses, and of paths that are written as one.
_SCHEMES = frozenset({"s3", "gs", "az", "hf", "http", "https", "file"})


def local_folder(place: str | Path) -> Path:
    """Return the path that `place` is, for who writes there.

    Raises
    ------
    AddressError
        If it is an address, or a path that was made of one, such as ``s3:/team``.
    """
    before, found, rest = str(place).partition(":/")
    scheme = before.rpartition("/")[2].lower()
    # Of any scheme, but in a `Path`, which has one slash of the two.
    if not found or (scheme not in _SCHEMES and not rest.startswith("/")):
        return Path(place)
    parts = urlsplit(str(place))
    if scheme == before == "file" and parts.netloc in ("", "localhost"):
        return Path("/", unquote(parts.path.lstrip("/")))
    raise AddressError(
        f"{scheme}://{rest.lstrip('/')} is an address, but this is written to a folder of this "
        "machine. Name a folder, and copy from there: a store with `headstock store push FOLDER "
        "ADDRESS`."
    )


def make_folders(path: Path, later: set[Path] | None = None) -> None:
    """Make a folder and those above it, each with the mode of a group-writable one above.

    Parameters
    ----------
    later : set of Path, optional
        See `fsync_path`.

    Raises
    ------
    AddressError
        If the path was made of an address: see `local_folder`.
    """
    local_folder(path)
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
                fsync_path(folder.parent, later)
            if not missing:
                hand_down(path)  # its maker may have been killed before this
        except FileNotFoundError:
            if last_try:
                raise
            continue  # another process removed an empty folder, this or one above, meanwhile
        break


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


def try_lock(handle: int, *, shared: bool = False) -> bool:
    """Try to lock an open file; False if another process holds it, or nobody can know."""
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as err:
        # A file system without locks: files can be claimed, and no claim is known to be free.
        return err.errno in {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP} and not shared
    return True


def _open_staged(names: Iterable[Path]) -> IO[bytes]:
    """Make a file under construction, locked for as long as this process has it open.

    A staged file that was left behind is removed under its lock. That may come between
    the making and the locking: then the file is made again, by the next of these names.
    """
    for name in names:
        with contextlib.suppress(FileExistsError):
            file = name.open("xb")
            if try_lock(file.fileno()) and os.fstat(file.fileno()).st_nlink:
                return file
            file.close()
    raise FileExistsError(errno.EEXIST, "Another process is writing it")


def _names_beside(path: Path) -> Iterator[Path]:
    """Yield where a file may be staged beside its place.

    First the same name every time: so the next writer of the file takes away what a killed one
    left, also in folders that nothing else tidies up.
    """
    usual = path.with_name(f".{path.name}.{'0' * 8}.staged")
    if is_free(usual):
        yield usual
    while True:
        # A process id is no name: in a shared folder it may be that of another machine's.
        yield path.with_name(f".{path.name}.{secrets.token_hex(4)}.staged")


def is_free(staged: Path) -> bool:
    """Return whether nobody who lives has this file under construction; what is left goes away."""
    try:
        handle = os.open(staged, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            # Shared first: that fails where there are no locks, and nobody can know.
            dead = try_lock(handle, shared=True) and try_lock(handle)
            if not dead or not os.path.samestat(os.fstat(handle), staged.lstat()):
                return False
            staged.unlink()
        finally:
            os.close(handle)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def write_durably(
    path: Path,
    parts: Iterable[bytes | memoryview],
    *,
    staged: Path | None = None,
    sealed: bool = False,
    synced: bool = True,
    new: bool = False,
    later: set[Path] | None = None,
) -> None:
    """Write `parts` to `path`: staged, fsynced, renamed, directory fsynced.

    Parameters
    ----------
    staged : Path, optional
        Where it is staged, on the same file system; beside `path` by default.
    sealed : bool
        Leave the file read-only: it is replaced from now on, never written to.
    synced : bool
        False leaves out both fsyncs: of a file that can be fetched again, and is compared then.
    new : bool
        Link it to its place, which, unlike a rename, replaces nothing.
    later : set of Path, optional
        Folders whose fsync is left to the caller: see `fsync_path`. The file itself is
        fsynced before its rename all the same.

    Raises
    ------
    FileExistsError
        If there is something at `path` that should be `new`.
    OSError
        If the file system refuses: full, read-only, no permission. Nothing is left behind.
    """
    if staged is None and synced:
        make_folders(path.parent, later)
    elif staged is None:
        path.parent.mkdir(parents=True, exist_ok=True)  # a cache: its user's alone
    else:
        is_free(staged)  # what a killed process left there goes away
    try:
        with _open_staged(_names_beside(path) if staged is None else [staged]) as file:
            staged = Path(file.name)
            for part in parts:
                file.write(part)
            file.flush()
            seal(staged, like=path.parent, writable=not sealed)
            if synced:
                os.fsync(file.fileno())
            if new:
                os.link(staged, path)
                staged.unlink()
            else:
                staged.replace(path)
        if synced:
            fsync_path(path.parent, later)
    except BaseException as err:
        with contextlib.suppress(OSError):
            if staged is not None:
                staged.unlink(missing_ok=True)
        if isinstance(err, OSError) and err.filename is None:
            err.filename = os.fspath(path)  # a write that fails does not say where
        raise


_REMEDIES = {
    errno.ENOSPC: "Free space",
    errno.EDQUOT: "Free space or have the quota raised",
    errno.EFBIG: "Raise the limit on the size of files (`ulimit -f`)",
    errno.EIO: "Check the disk (`dmesg` says more)",
    errno.EROFS: "Mount it writable",
    errno.EEXIST: "It is a file: name a folder",
    errno.ENOTDIR: "A part of its path is a file: name a folder",
    errno.EACCES: "Get the permission (in a team: a store made by `headstock store init --shared`)",
    errno.EPERM: "Get the permission (in a team: a store made by `headstock store init --shared`)",
}


def replace_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Write the folder `path` with these files, whole or not at all; one that is there goes away.

    Call `tidy_folder` first: a killed process may have left the last folder aside.
    """
    aside = _aside(path)
    make_folders(aside / "new")
    try:
        for name, data in files.items():
            write_durably(aside / "new" / name, [data])
        fsync_path(aside / "new")
        if path.exists():
            path.rename(aside / "old")
        (aside / "new").rename(path)
        fsync_path(path.parent)
    finally:
        tidy_folder(path)


def tidy_folder(path: Path) -> None:
    """Remove what a killed process left of a folder; what it had put aside comes back."""
    aside = _aside(path)
    with contextlib.suppress(OSError):
        if not path.exists():
            (aside / "old").rename(path)
    remove_tree(aside)


def _aside(path: Path) -> Path:
    """Return where the next folder is made, and the last one put aside."""
    return path.with_name(f".{path.name}{STAGED}")


def remedy(err: OSError, otherwise: str = "Free space or permission") -> str:
    """Return what to do about a write that failed."""
    return _REMEDIES.get(err.errno or 0, otherwise)


def write_error(what: object, err: OSError) -> StoreWriteError:
    """Return the error to raise when `what` could not be written."""
    return StoreWriteError(
        f"Cannot write {what}: {err.strerror or err}. {remedy(err)}, then run the same command "
        "again; finished blocks are kept."
    )


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


def write_output(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Write the file that a user named, but over no link, folder, pipe or device.

    Raises
    ------
    StoreWriteError
        If there is one, or as of `write_file`.
    """
    if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
        raise StoreWriteError(f"{path} is no regular file. Choose another name.")
    write_file(path, parts)


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


def open_regular(path: Path | str) -> io.BufferedReader:
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


def _facts(file: io.BufferedReader, size: int) -> Facts:
    return {"bytes": size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


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

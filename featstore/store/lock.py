"""The claim of a set by one writer: lock files and fencing.

Everything that a writer has not published lies in one folder of its own,
``.staging/<claim>/``, with a name that no other writer ever has. A writer that takes over renames
that folder. A writer that lost its lock meanwhile (a laptop's lid, a lost network) finds
nothing under its old name: it can neither write nor publish, because publishing is a rename out
of that folder. The folder's name is the fencing token.

A claim ends when it publishes the set, or when the lock on its file ``claim`` is free: its process
has ended, however it ended, or its machine was lost to the server. Who takes over from another
machine works on copies, since the old writer may still hold the files open.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import socket
import stat
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from featstore.durable import (
    STAGED,
    IrregularFileError,
    delete,
    fsync_path,
    make_folders,
    open_descriptor,
    open_regular,
    pieces,
    read_json,
    seal,
    try_lock,
    write_at,
    write_durably,
    write_error,
)
from featstore.errors import ClaimLostError, StoreWriteError
from featstore.store.layout import SetKey

#: Name of the short lock in a staging folder.
LOCK = "lock"


@contextmanager
def folder_lock(folder: Path) -> Iterator[bool]:
    """Hold a folder's own lock, waiting for it; False where folders have no locks, as on NFS."""
    handle, locked = -1, False
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        _wait_for(handle, folder)
        locked = True
    try:
        yield locked
    finally:
        if handle >= 0:
            os.close(handle)


def _wait_for(handle: int, path: Path) -> None:
    """Lock an open file or folder; who waits for longer than two seconds is told for whom."""
    for _ in range(400):
        with suppress(BlockingIOError):
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(0.005)
    sys.stderr.write(f"Waiting for the lock of {path}, which {_holder(handle)} holds\n")
    return fcntl.flock(handle, fcntl.LOCK_EX)


def _holder(handle: int) -> str:
    """Return who has locked an open file, as far as Linux tells."""
    lock = rf"FLOCK +ADVISORY +WRITE (\d+) \w+:\w+:{os.fstat(handle).st_ino} "
    with suppress(OSError):
        for pid in re.findall(lock, Path("/proc/locks").read_text()):
            command = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
            return f"process {pid} (`{' '.join(command).strip()[:200]}`)"
    return "another process"


@contextmanager
def deciding(staging: Path, *, patience: float = 2.0) -> Iterator[bool]:
    """Hold the short lock under which claims begin and end; False if it could not be had."""
    path = staging / LOCK
    try:
        handle = open_descriptor(path, os.O_RDWR | os.O_CREAT)
    except FileNotFoundError:
        # The staging folder was removed just now. Another process may have made it again since:
        # what lies at this path by now is its lock.
        yield False
        return
    except (PermissionError, IrregularFileError):
        # Another user was killed between making it and opening it to the group; or it is no
        # lock that a writer makes.
        path.unlink()
        yield False
        return
    try:
        until = time.monotonic() + patience
        while not (held := try_lock(handle)) and time.monotonic() < until:
            time.sleep(0.005)
        with suppress(OSError):
            if os.fstat(handle).st_uid == os.getuid():
                seal(path, like=staging, writable=True)
        yield held and _is_at(handle, path)
    finally:
        os.close(handle)


def _is_at(handle: int, path: Path) -> bool:
    """Return whether an open file is still the one at a path, which others may remove meanwhile."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


#: Seconds between two looks at another writer's claim.
_LOOK = 0.2

_CLAIM = "claim"

#: What the names of parts begin with, the names of parts, and those of writers' folders.
PART = "part-"
PART_NAME = PART + "{:05d}-of-{:05d}"
_PART = re.compile(rf"{PART}\d{{5}}-of-\d{{5}}")
_FOLDER = re.compile(r"w\d{6}-[0-9a-f]{8}")


class Claim:
    """The right to write one set, held until `release`, `finish`, the end of its block, or loss.

    What it writes, places and discards has a durable name only after `sync`. The bytes of a file
    are durable before it gets its name.

    Attributes
    ----------
    folder : Path
        Where everything unpublished lies. It may hold the blocks of an earlier writer.
    unsynced : set of Path
        Folders with names that may not be durable yet.
    """

    def __init__(self, folder: Path, handle: int, unsynced: set[Path]) -> None:
        self.folder = folder
        self.unsynced = unsynced
        self._handle = handle
        self._root = next(one for one in folder.parents if one.name == ".staging").parents[3]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def check(self) -> None:
        """Raise ClaimLostError if another writer has taken over."""
        if not (self.folder / _CLAIM).exists():
            raise self.lost()

    def place(self, staged: Path, target: Path) -> None:
        """Rename a file of `folder` to its place in the set, read-only.

        Raises
        ------
        ClaimLostError
            If another writer has taken over: the file is not there any more.
        OSError
            If the file system refuses.
        """
        make_folders(target.parent, self.unsynced)
        try:
            seal(staged, like=target.parent)
            staged.replace(target)
        except FileNotFoundError as err:
            raise self.lost() from err
        self.rely_on(target)

    def rely_on(self, path: Path) -> None:
        """Let `sync` make the name of a file of the store durable, and the folders above it.

        A writer that was killed may have made any of them and fsynced none.
        """
        self.unsynced.update(path.parents[: len(path.relative_to(self._root).parts)])

    def discard(self, path: Path) -> None:
        """Take a file out of the set; it goes when the claim is finished.

        Raises
        ------
        ClaimLostError
            If another writer has taken over; the file, which may be its, stays.
        """
        try:
            path.rename(self.folder / f"discarded.{secrets.token_hex(4)}.staged")
        except FileNotFoundError as err:
            raise self.lost() from err
        self.unsynced.add(path.parent)

    def sync(self, *, staged: bool = False) -> None:
        """Make the names of all that was written, placed and discarded durable.

        Parameters
        ----------
        staged : bool
            And the names of what is staged, for who resumes.

        Raises
        ------
        ClaimLostError
            If another writer has taken over.
        StoreWriteError
            If the file system refuses.
        """
        chosen = {one for one in self.unsynced if staged or ".staging" not in one.parts}
        for folder in sorted(chosen):
            try:
                fsync_path(folder)
            except FileNotFoundError as err:
                raise self.lost() from err
            except OSError as err:
                raise write_error(folder, err) from err
        self.unsynced -= chosen

    def write_file(self, target: Path, parts: Iterable[bytes | memoryview]) -> None:
        """Write a file of the set: staged in `folder`, fsynced, renamed to its place.

        Raises
        ------
        ClaimLostError
            If another writer has taken over.
        StoreWriteError
            If the file system refuses.
        """
        staged = self.folder / f"{target.name}.{secrets.token_hex(4)}.staged"
        try:
            make_folders(target.parent, self.unsynced)
            write_durably(target, parts, staged=staged, sealed=True, later=self.unsynced)
            self.rely_on(target)
        except FileNotFoundError as err:
            raise self.lost() from err
        except OSError as err:
            raise write_error(target, err) from err

    def release(self) -> None:
        """Give the claim back; what is staged stays for the next writer."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def finish(self) -> None:
        """Remove everything staged, and the claim with it."""
        if self._handle < 0:
            return
        staging = self.folder.parent
        try:
            with deciding(staging) as decided:
                # Only what is still ours: a successor's folder has another name.
                if decided and (self.folder / _CLAIM).exists():
                    self.sync()
                    _remove_staging(staging, self.folder)
        finally:
            self.release()
        if staging.name.startswith(PART):
            with suppress(OSError):
                staging.parent.rmdir()

    def lost(self) -> ClaimLostError:
        """Return the error of a writer whose lock was lost to another."""
        directory = str(self.folder).partition("/.staging/")[0]
        return ClaimLostError(
            f"The claim on {directory} was lost: another machine could not see its lock, and took "
            "over. Nothing of it was published. Run the same command again; it reuses the other's "
            "rows."
        )


def claim_set(directory: Path, key: SetKey, *, part: str = "", wait: float = 0.0) -> Claim:
    """Claim the set in `directory`, which is made if it is missing.

    Parameters
    ----------
    part : str
        Claim only the part of this name: one of several processes that share the blocks of
        a set. A part is never published by itself.
    wait : float
        Seconds to wait for another writer to end.

    Raises
    ------
    StoreWriteError
        If another process holds the claim; the message names it.
    OSError
        If the file system refuses.
    """
    staging = directory / ".staging" / part
    until = time.monotonic() + wait
    unsynced: set[Path] = set()
    while True:
        make_folders(staging, unsynced)
        claim, current, record = None, None, dict[str, Any]()
        with deciding(staging) as decided:
            current = _current(staging)
            record = {} if current is None else _record(current)
            if decided and (current is None or _is_dead(current)):
                copied = current is not None and _foreign(current, record)
                claim = _begin(staging, current, unsynced)
        if claim is not None:
            if current is not None or not part:  # of new parts, who finishes them sees to it
                claim.rely_on(claim.folder)
            try:
                if copied:
                    _copy_files(claim.folder)
            except BaseException:
                claim.release()
                raise
            return claim
        if time.monotonic() > until:
            holder = f"process {record.get('pid', '?')} on {record.get('host', 'another machine')}"
            raise StoreWriteError(
                f"{key} is being written by {holder}. Wait for it to end (`wait=SECONDS`); the "
                f"same command then reuses its rows. If it has ended, and the file system has no "
                f"locks that say so, remove {(current or staging) / _CLAIM}; its rows are kept."
            )
        time.sleep(_LOOK)


def is_claimed(directory: Path) -> bool:
    """Return whether a living writer may hold the set in `directory`, or a part of it."""
    try:
        return not all(map(_is_dead, claim_folders(directory)))
    except PermissionError:
        return True  # nobody can know


def claim_folders(directory: Path) -> list[Path]:
    """Return the folders of unpublished files of a set: the writer's own, then its parts'."""
    staging = directory / ".staging"
    folders = [staging, *(staging / name for name in sorted(_names(staging, _PART)))]
    found = [_current(folder) for folder in folders if _is_folder(folder)]
    return [folder for folder in found if folder is not None]


def _begin(staging: Path, old: Path | None, unsynced: set[Path]) -> Claim:
    """Make this process the writer, on top of what `old` left."""
    number = 1 if old is None else int(old.name[1:7]) + 1
    folder = staging / f"w{number:06d}-{secrets.token_hex(4)}"
    if old is None:
        make_folders(folder, unsynced)
    else:
        old.rename(folder)
        unsynced.add(staging)
    record = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "boot": boot_id(),
        "folder": folder.name,
    }
    fresh = folder / f".{_CLAIM}.{secrets.token_hex(4)}.staged"
    handle = open_descriptor(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        try_lock(handle)
        write_at(handle, json.dumps(record, sort_keys=True).encode() + b"\n", 0)
        # Others must be able to read who writes, and to try the lock.
        seal(fresh, like=folder, writable=True)
        fresh.replace(folder / _CLAIM)
    except BaseException:
        os.close(handle)
        with suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise
    return Claim(folder, handle, unsynced)


def _remove_staging(staging: Path, folder: Path) -> None:
    """Remove everything staged, so that nobody can begin before all of it is gone.

    The claim ends its folder and the lock ends the staging folder: others, who see the one or
    wait for the other, find either this writer's claim or nothing. What cannot be removed stays.
    """
    with suppress(OSError):
        for path in sorted(staging.iterdir()):
            if path.name != LOCK and path != folder:
                delete(path)
        for path in sorted(folder.iterdir()):
            if path.name != _CLAIM:
                delete(path)
        (folder / _CLAIM).unlink()
        folder.rmdir()
        (staging / LOCK).unlink()
        staging.rmdir()


def _copy_files(folder: Path) -> None:
    """Replace every staged file by a copy that no earlier writer has open, and that is ours."""
    for path in sorted(folder.iterdir()):
        facts = path.lstat()
        if path.name == _CLAIM or not stat.S_ISREG(facts.st_mode):
            continue
        if path.name.endswith(STAGED) or not facts.st_size:
            # Begun by a writer that ended: of another user it may not even be readable.
            delete(path)
            continue
        copy = path.with_name(f"{path.name}.{secrets.token_hex(4)}.staged")
        with open_regular(path) as source:
            write_durably(path, pieces(source), staged=copy)


def _current(staging: Path) -> Path | None:
    """Return the folder of the newest claim."""
    found = (staging / name for name in _names(staging, _FOLDER))
    return max(filter(_is_folder, found), default=None)


def _names(folder: Path, pattern: re.Pattern[str]) -> list[str]:
    """Return the names in a folder, which may vanish, that have a form; there may be thousands."""
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        return [entry.name for entry in entries if pattern.fullmatch(entry.name)]
    return []


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _record(folder: Path) -> dict[str, Any]:
    with suppress(Exception):
        found = read_json(folder / _CLAIM, limit=4096)
        if isinstance(found, dict):
            return found
    return {}


def _is_dead(folder: Path) -> bool:
    """Return whether the claim's process has ended, as far as its lock tells."""
    try:
        with open_regular(folder / _CLAIM) as claim:
            return try_lock(claim.fileno(), shared=True)
    except (FileNotFoundError, IrregularFileError):
        # Killed before it wrote its claim: the decision is made under a lock. Or nobody's.
        return True


def _foreign(folder: Path, record: Mapping[str, Any]) -> bool:
    """Return whether another machine may still write to files here, or another user alone seals."""
    own = os.getuid()
    strange = own != 0 and any(path.lstat().st_uid != own for path in folder.iterdir())
    return strange or record.get("boot", boot_id()) != boot_id()


def boot_id() -> str:
    """Return what tells this machine, since its last start, from all others."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return socket.gethostname()

"""Remove what dead writers left: staging, half-written files, tables that no commit names.

Nothing that a commit names is touched, nothing of a writer that lives, and nothing younger
than the grace period, since a writer on another machine may hold what looks forgotten.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from featstore.durable import fsync_directory
from featstore.errors import FeatstoreError, StoreWriteError
from featstore.store.catalog import NAME, parse_catalog
from featstore.store.commit import POINTER, REVISIONS, read_commit, staging_of
from featstore.store.files import read_json
from featstore.store.store import open_store
from featstore.store.verify import walk_store

#: Seconds that litter is left alone by default.
GRACE = 24 * 3600.0

_STAGED = re.compile(r"\..+\.staged")
_TABLE = re.compile(r"(items|thumbnails)-[0-9a-f]{8}\.parquet")


@dataclass(frozen=True)
class Litter:
    """A file or folder that is not needed; `path` is relative to the store."""

    path: str
    what: str
    bytes: int


def collect_garbage(root: Path, *, grace: float = GRACE, dry_run: bool = False) -> list[Litter]:
    """Remove litter older than `grace` seconds and return what was, or would be, removed.

    Raises
    ------
    UnknownSetError
        If `root` is no store.
    StoreWriteError
        If the file system refuses.
    """
    open_store(root)
    before = time.time() - grace
    found: list[Litter] = []
    try:
        for directory in sorted(path.parent for path in root.glob("*/*/*/.staging")):
            if not _linked(root, directory):
                found += _dead_staging(root, directory, before=before, dry_run=dry_run)
        for litter in _loose(root, before=before, gone=[litter.path for litter in found]):
            found.append(litter)
            if not dry_run:
                (root / litter.path).unlink(missing_ok=True)
                fsync_directory((root / litter.path).parent)
    except OSError as err:
        msg = f"Cannot clean {root}: {err.strerror or err}."
        raise StoreWriteError(msg) from err
    return found


def _dead_staging(root: Path, directory: Path, *, before: float, dry_run: bool) -> list[Litter]:
    """Remove the staging of a set whose writer is dead; an unfinished set goes with it."""
    with _held(staging_of(directory) / "writer.lock") as ours:
        finished = (directory / POINTER).exists()
        target = staging_of(directory) if finished else directory
        if not ours or _newest(target) > before:
            return []
        what = "staging of a finished set" if finished else "an extraction that was given up"
        litter = Litter(target.relative_to(root).as_posix(), what, _size(target))
        if not dry_run:
            shutil.rmtree(target)
            fsync_directory(target.parent)
        return [litter]


def _loose(root: Path, *, before: float, gone: list[str]) -> Iterator[Litter]:
    """Yield half-written files, and tables that no commit and no catalog names."""
    files, _, _ = walk_store(root)
    named = _named_tables(root, gone)
    for name in sorted(files):
        path = root / name
        if any(name.startswith(f"{other}/") for other in gone) or path.lstat().st_mtime > before:
            continue
        parts = name.split("/")
        folder = root / "/".join(parts[:3])
        if _STAGED.fullmatch(parts[-1]) and not staging_of(folder).exists():
            yield Litter(name, "a half-written file", path.lstat().st_size)
        elif len(parts) == 3 and _TABLE.fullmatch(parts[2]) and named.get(name) is False:
            yield Litter(name, "a table that no commit names", path.lstat().st_size)


def _named_tables(root: Path, gone: list[str]) -> dict[str, bool]:
    """Return each table of the store -> whether it is named; absent where nobody can say."""
    result: dict[str, bool] = {}
    for kind in {path.parent for path in root.glob("*/*/*.parquet")}:
        used: set[str] | None = set()
        for directory in (path for path in kind.iterdir() if path.is_dir()):
            if directory.relative_to(root).as_posix() in gone:
                continue
            used = _add_items(directory, used)
        for path in kind.glob("items-*.parquet"):
            if used is not None:
                result[path.relative_to(root).as_posix()] = path.name in used
    with contextlib.suppress(FeatstoreError, OSError):
        listed = (parse_catalog(read_json(root / NAME)) or {}).get("thumbnails")
        if listed is not None:
            for path in root.glob("*/*/thumbnails-*.parquet"):
                name = path.relative_to(root).as_posix()
                result[name] = name in listed
    return result


def _add_items(directory: Path, used: set[str] | None) -> set[str] | None:
    """Add the item tables of a set's commits; None if one cannot be read or is not yet there."""
    commits = list((directory / REVISIONS).glob("*.json"))
    if used is None or not commits or staging_of(directory).exists():
        return None
    try:
        return used | {str(read_commit(directory, path.stem).items["file"]) for path in commits}
    except FeatstoreError:
        return None


@contextlib.contextmanager
def _held(path: Path) -> Iterator[bool]:
    """Hold a writer's lock; False if a writer lives, or nobody can know."""
    try:
        import fcntl
    except ImportError:
        yield False
        return
    try:
        handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        yield True
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        yield False
        return
    try:
        yield True
    finally:
        os.close(handle)


def _linked(root: Path, path: Path) -> bool:
    """Return whether a link leads to `path`: what lies behind it is not this store's."""
    parts = [path / ".staging", *(part for part in [path, *path.parents] if part != root)]
    return any(part.is_symlink() for part in parts if part.is_relative_to(root))


def _newest(folder: Path) -> float:
    return max(path.lstat().st_mtime for path in [folder, *folder.rglob("*")])


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())

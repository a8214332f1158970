"""Remove sets, and the files that no set needs any more.

Nothing that a commit names is touched, nothing of a writer that lives, and nothing younger
than the grace period, since a writer on another machine may hold what looks forgotten.

In a group-writable store whatever is made later has the right modes by itself; see
`featstore.durable`.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from featstore.durable import fsync_directory, make_folders
from featstore.errors import FeatstoreError, StoreWriteError, UnknownSetError
from featstore.store.blocks import layout_of
from featstore.store.catalog import NAME, finished_sets, parse_catalog, staged_sets, write_catalog
from featstore.store.files import json_bytes, read_json, write_file
from featstore.store.layout import SetKey, group_metadata
from featstore.store.lock import claim_set, is_claimed
from featstore.store.records import (
    POINTER,
    REVISIONS,
    StoreFormat,
    key_of,
    read_commit,
    read_pointer,
    read_root,
    staging_of,
)
from featstore.store.repair import restore_array, wrong_files
from featstore.store.store import open_store
from featstore.store.verify import walk_store

#: Seconds that litter is left alone by default.
GRACE = 24 * 3600.0

_STAGED = re.compile(r"\..+\.staged")
_DATA = re.compile(r"embedding/c/(\d+)/0")
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
        for directory in staged_sets(root):
            if not _linked(root, directory):
                found += _dead_staging(root, directory, grace=grace, dry_run=dry_run)
        for folder in sorted(root.glob("*/*/.removed-*")):
            if not folder.is_symlink() and folder.is_dir() and _newest(folder) <= before:
                name = folder.relative_to(root).as_posix()
                found.append(Litter(name, "a set whose removal was interrupted", _size(folder)))
                if not dry_run:
                    shutil.rmtree(folder)
        for litter in _loose(root, before=before, gone=[litter.path for litter in found]):
            found.append(litter)
            if not dry_run:
                (root / litter.path).unlink(missing_ok=True)
                fsync_directory((root / litter.path).parent)
    except OSError as err:
        raise StoreWriteError(f"Cannot clean {root}: {err.strerror or err}.") from err
    return found


def _dead_staging(root: Path, directory: Path, *, grace: float, dry_run: bool) -> list[Litter]:
    """Remove the staging of a set whose writer is dead; an unfinished set goes with it."""
    finished = (directory / POINTER).exists()
    target = staging_of(directory) if finished else directory
    if is_claimed(directory, stale=grace) or _newest(target) > time.time() - grace:
        return []
    what = "staging of a finished set" if finished else "an extraction that was given up"
    litter = Litter(target.relative_to(root).as_posix(), what, _size(target))
    if not dry_run:
        key = key_of(directory)
        try:
            claim = claim_set(directory, key)
        except StoreWriteError:
            return []  # someone began just now
        try:
            if finished:
                # An extension that was given up may have published a part of itself.
                _roll_back(root, key)
            # A removal that was killed may have left a set in the catalog that has no pointer.
            write_catalog(root)
            if finished:
                claim.finish()
            else:
                shutil.rmtree(directory)
        finally:
            claim.release()
        fsync_directory(target.parent)
    return [litter]


def _roll_back(root: Path, key: SetKey) -> None:
    """Give the array of a finished set the form that its current commit says."""
    directory = key.directory(root)
    with contextlib.suppress(FeatstoreError):
        pointer = read_pointer(directory)
        commit = read_commit(directory, pointer["revision"]) if pointer else None
        layout = layout_of(commit) if commit else None
        if commit is not None and layout is not None:
            restore_array(root, key, commit, layout, wrong=wrong_files(root, key, commit, layout))


def _unnamed(root: Path, directory: Path) -> Iterator[tuple[str, str]]:
    """Yield the files of a finished set that no published revision names."""
    pointer = read_pointer(directory)
    if pointer is None or staging_of(directory).exists():
        return
    published = [pointer["revision"], *pointer.get("history", [])]
    commits = [read_commit(directory, revision) for revision in published]
    layout = layout_of(commits[0])
    named = {name for commit in commits for name in commit.metadata}
    for path in directory.rglob("*"):
        name = path.relative_to(directory).as_posix()
        if not path.is_file() or path.is_symlink():
            continue
        if name.startswith(f"{REVISIONS}/") and path.stem not in published:
            yield path.relative_to(root).as_posix(), "a revision that was never published"
        elif name.startswith("failures") and name not in named:
            yield path.relative_to(root).as_posix(), "failures of no published revision"
        elif layout is not None and _number(name) >= layout.n_files:
            yield path.relative_to(root).as_posix(), "a shard that no commit names"


def _number(name: str) -> int:
    """Return the number of a data file from its name, or -1."""
    match = _DATA.fullmatch(name)
    return int(match[1]) if match else -1


def _loose(root: Path, *, before: float, gone: list[str]) -> Iterator[Litter]:
    """Yield half-written files, and tables, shards and commits that nothing names."""
    files, _, _ = walk_store(root)
    unnamed: dict[str, str] = {}
    for directory in finished_sets(root):
        if not _linked(root, directory):
            with contextlib.suppress(FeatstoreError, OSError):
                unnamed.update(_unnamed(root, directory))
    named = _named_tables(root, {*gone, *unnamed})
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
        elif name in unnamed:
            yield Litter(name, unnamed[name], path.lstat().st_size)


def _named_tables(root: Path, gone: Collection[str]) -> dict[str, bool]:
    """Return each table of the store -> whether it is named; absent where nobody can say."""
    result: dict[str, bool] = {}
    for kind in {path.parent for path in root.glob("*/*/*.parquet")}:
        used: set[str] | None = set()
        for directory in (path for path in kind.iterdir() if path.is_dir()):
            if directory.relative_to(root).as_posix() in gone:
                continue
            used = _add_items(root, directory, used, gone)
        for path in kind.glob("items-*.parquet"):
            if used is not None:
                result[path.relative_to(root).as_posix()] = path.name in used
    with contextlib.suppress(FeatstoreError, OSError):
        listed = (parse_catalog(read_json(root / NAME)) or {}).get("thumbnails")
        if listed is not None:
            for path in root.glob("*/*/thumbnails-*.parquet"):
                name = path.relative_to(root).as_posix()
                # Where those that are listed are gone, a writer had replaced them by these.
                beside = f"{name.rsplit('/', 1)[0]}/"
                kept = [other for other in listed if other.startswith(beside)]
                result[name] = name in listed or not any((root / one).exists() for one in kept)
    return result


def _add_items(
    root: Path, directory: Path, used: set[str] | None, gone: Collection[str]
) -> set[str] | None:
    """Add the item tables of a set's commits; None if one cannot be read or is not yet there."""
    commits = [
        path
        for path in (directory / REVISIONS).glob("*.json")
        if path.relative_to(root).as_posix() not in gone
    ]
    if used is None or not commits or staging_of(directory).exists():
        return None
    try:
        return used | {str(read_commit(directory, path.stem).items["file"]) for path in commits}
    except FeatstoreError:
        return None


def _linked(root: Path, path: Path) -> bool:
    """Return whether a link leads to `path`: what lies behind it is not this store's."""
    parts = [path / ".staging", *(part for part in [path, *path.parents] if part != root)]
    return any(part.is_symlink() for part in parts if part.is_relative_to(root))


def _newest(folder: Path) -> float:
    return max(path.lstat().st_mtime for path in [folder, *folder.rglob("*")])


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def remove_set(root: Path, key: str) -> int:
    """Remove the set of this full key and return the bytes freed.

    A damaged set is removed like any other: nothing of it is read. The item tables and
    thumbnails of its kind go with the last set of the kind.

    Raises
    ------
    UnknownSetError
        If there is no such set, finished, begun or damaged.
    StoreWriteError
        If another process is writing it, or the file system refuses.
    """
    parts = SetKey.parse(key)
    directory = parts.directory(root) if parts else root
    if parts is None or not directory.is_dir() or directory.is_symlink():
        raise UnknownSetError(f"{root} holds no set {key!r}.")
    condemned = directory.with_name(f".removed-{directory.name}-{os.getpid()}")
    try:
        if is_claimed(directory):
            raise StoreWriteError(
                f"{key} is being written. Wait for its writers to end, or stop them."
            )
        claim = claim_set(directory, parts)
        try:
            (directory / POINTER).unlink(missing_ok=True)
            fsync_directory(directory)
            write_catalog(root)
            # One rename, so that a kill leaves either the folder or litter, never half a set.
            directory.rename(condemned)
            fsync_directory(directory.parent)
        finally:
            claim.release()
        freed = _delete(condemned)
        if not any(path.is_dir() for path in directory.parent.iterdir()):
            for pattern in ("items-*.parquet", "thumbnails-*.parquet"):
                freed += sum(_delete(path) for path in directory.parent.glob(pattern))
    except StoreWriteError:
        raise
    except OSError as err:
        raise StoreWriteError(f"Cannot remove {key} from {root}: {err.strerror or err}.") from err
    return freed


def _delete(path: Path) -> int:
    """Delete a file or a folder and return the bytes it held."""
    if path.is_dir() and not path.is_symlink():
        size = sum(file.lstat().st_size for file in path.rglob("*") if file.is_file())
        shutil.rmtree(path)
        return size
    size = path.lstat().st_size
    path.unlink()
    return size


#: Folders: everything for owner and group, the group handed down; others may read.
FOLDER_MODE = 0o2775

#: Files that are finished: read by all, written by nobody, replaced by a rename.
FILE_MODE = 0o444

#: Files under construction: whoever of the group resumes them writes to them.
STAGED_MODE = 0o664

#: What a process that was killed while it made a store leaves.
_HALF_WRITTEN = re.compile(r"\.zarr\.json\.[0-9a-f]{8}\.staged")


def make_store(root: Path, *, shared: bool = False, form: StoreFormat | None = None) -> bool:
    """Make an empty store at `root`, or give a store's folders and files the shared modes.

    Parameters
    ----------
    shared : bool
        Let the folder's group write: folders get mode 2775, finished files 0444. Which group
        that is, is the folder's affair (``chgrp``). Each owner of a part must do this once if
        the store was not made shared.
    form : StoreFormat, optional
        Format of a new store, and the hash of its blocks.

    Returns
    -------
    bool
        Whether the store was made now.

    Raises
    ------
    FormatVersionError
        If a newer version wrote the store.
    StoreWriteError
        If the folder holds other things or a store with another hash, the file system refuses, or
        parts belong to others.
    """
    stated = read_root(root)
    fresh = stated is None
    check_hash(str(root), stated, form)
    try:
        # A first attempt that was killed may have left its half-written file: gc removes it.
        others = root.iterdir() if fresh and root.exists() else ()
        if any(not _HALF_WRITTEN.fullmatch(path.name) for path in others):
            raise StoreWriteError(
                f"{root} holds other things and is no store. Choose an empty or a new folder."
            )
        make_folders(root)
        if shared:
            _share(root)
        if fresh:
            attributes = (form or StoreFormat()).attributes()
            write_file(root / "zarr.json", [json_bytes(group_metadata(attributes))])
        if fresh or not (root / NAME).exists():
            write_catalog(root)
    except FeatstoreError:
        raise
    except OSError as err:
        raise StoreWriteError(
            f"Cannot make the store {root}: {err.strerror or err}. Choose a folder of yours."
        ) from err
    return fresh


def check_hash(where: str, stated: StoreFormat | None, asked: StoreFormat | None) -> None:
    """Raise StoreWriteError if a store has another hash of blocks than the one asked for."""
    if stated is not None and asked is not None and stated.hash != asked.hash:
        raise StoreWriteError(
            f"The blocks of {where} are hashed by {stated.hash}, which never changes. For "
            f"{asked.hash} make a new store, and extract into that."
        )


def _share(root: Path) -> None:
    """Set the modes of everything below `root`; no link is followed."""
    # The folders first, and from above: what a writer makes meanwhile inherits from them.
    refused = [] if _set_mode(root, FOLDER_MODE) else [root]
    files, folders, _ = walk_store(root)
    for name in sorted(folders):
        refused += [] if _set_mode(root / name, FOLDER_MODE) else [root / name]
    for name in sorted(files):
        mode = STAGED_MODE if ".staging" in name.split("/") else FILE_MODE
        refused += [] if _set_mode(root / name, mode) else [root / name]
    if refused:
        owner = refused[0].lstat().st_uid
        raise StoreWriteError(
            f"{len(refused):,} files and folders belong to others, first {refused[0]} (user "
            f"{owner}). Each owner runs `featstore init {root} --shared` once."
        )


def _set_mode(path: Path, mode: int) -> bool:
    """Set a mode if it is another; False if only the owner may."""
    try:
        if stat.S_IMODE(path.lstat().st_mode) != mode:
            path.chmod(mode)
    except PermissionError:
        return False
    except FileNotFoundError:
        pass  # a writer renamed it meanwhile: renamed files have their modes
    return True

"""Remove sets, and the files that no set needs any more.

Nothing that a commit names is touched, nothing of a writer that lives, and nothing younger
than the grace period, since a writer on another machine may hold what looks forgotten.

In a group-writable store whatever is made later has the right modes by itself; see
`featstore.durable`.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import secrets
import stat
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from featstore.durable import fsync_directory, make_folders
from featstore.errors import FeatstoreError, StoreWriteError, UnknownSetError
from featstore.store.blocks import layout_of
from featstore.store.catalog import (
    NAME,
    holds_files,
    lists_nothing,
    parse_catalog,
    removals,
    set_folders,
    staged_sets,
    whole_tags,
    write_catalog,
)
from featstore.store.files import (
    MAX_JSON_BYTES,
    delete,
    json_bytes,
    read_json,
    read_regular,
    walk_store,
    write_file,
)
from featstore.store.journal import end_claim
from featstore.store.layout import SetKey, group_metadata, is_component
from featstore.store.listing import read_records, unlisted
from featstore.store.lock import Claim, abandoned, claim_set, folder_lock, is_claimed
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
from featstore.store.repair import restore_array
from featstore.store.store import open_store

#: Seconds that litter is left alone by default.
GRACE = 24 * 3600.0

_STAGED = re.compile(r"\..+\.staged")
#: What a writer may leave below a finished set that no published revision lists.
_LEFT = {
    re.compile(r"embedding/c/\d+/0"): "a shard that no commit names",
    re.compile(r"revisions/[^/.][^/]*"): "a revision that was never published",
    re.compile(r"failures[^/]*"): "failures of no published revision",
}
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
    try:
        # What is to be removed goes last: as long as it is there, it says why the rest was left.
        found, condemned = _condemned(root, before=before, grace=grace, dry_run=dry_run)
        for directory in set_folders(root).folders:
            if not _linked(root, directory):
                found += _empty(root, directory, before=before, dry_run=dry_run)
                found += _unnamed(root, directory, before=before, dry_run=dry_run)
        listed = lists_nothing(root)
        found += [Litter(NAME, "lists thumbnails of a kind without sets", 0)] if listed else []
        if (listed or condemned) and not dry_run:
            write_catalog(root)
        names = {folder.relative_to(root).as_posix() for folder in condemned}
        gone = frozenset({*names, *(litter.path for litter in found)})
        found += _loose(root, before=before, gone=gone, dry_run=dry_run)
        for folder in () if dry_run else condemned:
            _end_removal(root, folder)
    except OSError as err:
        raise StoreWriteError(f"Cannot clean {root}: {err.strerror or err}.") from err
    return found


def _condemned(
    root: Path, *, before: float, grace: float, dry_run: bool
) -> tuple[list[Litter], list[Path]]:
    """End what dead writers left; return that, and the folders of the sets to be removed."""
    found: list[Litter] = []
    folders: list[Path] = []
    for folder in removals(root):
        if not _linked(root, folder) and _newest(folder) <= before:
            name = folder.relative_to(root).as_posix()
            found.append(Litter(name, "a set whose removal was interrupted", _size(folder)))
            folders.append(folder)
    for directory in staged_sets(root):
        if not _linked(root, directory):
            litter, dead = _dead_staging(root, directory, grace=grace, dry_run=dry_run)
            found += litter
            folders += dead
    return found, folders


def _dead_staging(
    root: Path, directory: Path, *, grace: float, dry_run: bool
) -> tuple[list[Litter], list[Path]]:
    """Remove the staging of a set whose writer is dead; return it, and a set to be removed."""
    finished = (directory / POINTER).exists()
    target = staging_of(directory) if finished else directory
    if is_claimed(directory, stale=grace) or _newest(target) > time.time() - grace:
        return [], []
    what = "staging of a finished set" if finished else "an extraction that was given up"
    litter = Litter(target.relative_to(root).as_posix(), what, _size(target))
    if dry_run:
        return [litter], []
    key = key_of(directory)
    try:
        claim = claim_set(directory, key)
    except StoreWriteError:
        return [], []  # someone began just now
    condemned = []
    try:
        if (directory / POINTER).exists() != finished:
            return [], []  # and ended, too
        if finished:
            # An extension that was given up may have published a part of itself.
            _roll_back(root, key, claim)
            write_catalog(root)
            claim.finish()
        else:
            condemned.append(_condemn(directory, claim))
    finally:
        claim.release()
    return [litter], condemned


def _roll_back(root: Path, key: SetKey, claim: Claim) -> None:
    """Give the array of a finished set the form that its current commit says."""
    directory = key.directory(root)
    with contextlib.suppress(FeatstoreError):
        pointer = read_pointer(directory)
        commit = read_commit(directory, pointer["revision"]) if pointer else None
        layout = layout_of(commit) if commit else None
        if commit is not None and layout is not None:
            restore_array(root, key, commit, layout, claim)


def _empty(root: Path, directory: Path, *, before: float, dry_run: bool) -> list[Litter]:
    """Remove a folder that holds no file: its writer was stopped before it staged one."""
    inside = sorted(directory.rglob("*"), reverse=True)
    if not all(path.is_dir() and not path.is_symlink() for path in inside):
        return []
    if not directory.is_dir() or _newest(directory) > before:
        return []
    for path in () if dry_run else (*inside, directory):
        with contextlib.suppress(OSError):  # what a writer puts there meanwhile stays
            path.rmdir()
    return [Litter(directory.relative_to(root).as_posix(), "an empty folder", 0)]


def _unnamed(root: Path, directory: Path, *, before: float, dry_run: bool) -> list[Litter]:
    """Remove the files of a finished set that no published revision names."""
    with contextlib.suppress(FeatstoreError, FileNotFoundError):
        if staging_of(directory).exists():
            return []
        found = list(_old_files(root, directory, before))
        if not found or dry_run:
            return found
        claim = claim_set(directory, key_of(directory))
        try:
            # Looked at again, now that nobody else can publish.
            found = list(_old_files(root, directory, before))
            for litter in found:
                claim.discard(root / litter.path)
        finally:
            end_claim(claim)
        return found
    return []


def _old_files(root: Path, directory: Path, before: float) -> Iterator[Litter]:
    """Yield the files of a finished set that no published revision names and no writer left now."""
    records = read_records(root, key_of(directory))
    history = (records.pointer or {}).get("history", [])
    if records.pointer_fault or len(records.older) != len(history) or not records.layout:
        return  # a record that is lost may name anything
    for path in unlisted(root, records.key, records.files()):
        name, facts = path.relative_to(directory).as_posix(), path.lstat()
        what = next((what for form, what in _LEFT.items() if form.fullmatch(name)), "")
        if what and facts.st_mtime <= before:
            yield Litter(path.relative_to(root).as_posix(), what, facts.st_size)


def _loose(root: Path, *, before: float, gone: Collection[str], dry_run: bool) -> Iterator[Litter]:
    """Remove half-written files, and tables that nothing names."""
    tables: dict[Path, list[Path]] = {}
    for name in sorted(walk_store(root)[0]):
        path, parts = root / name, name.split("/")
        if name in gone or "/".join(parts[:3]) in gone or _age_of(path) > before:
            continue
        if len(parts) == 3 and _TABLE.fullmatch(parts[2]):
            tables.setdefault(path.parent, []).append(path)
        elif _STAGED.fullmatch(parts[-1]) and not staging_of(root.joinpath(*parts[:3])).exists():
            with abandoned(path) as alone:
                if alone:
                    yield _deleted(root, path, "a half-written file", dry_run=dry_run)
    for kind, paths in tables.items():
        # A writer that replaces thumbnails holds this lock; one that needs items writes them again.
        with folder_lock(kind):
            named = _named_tables(root, kind, gone)
            for path in paths:
                if named.get(path.name) is False:
                    yield _deleted(root, path, "a table that no commit names", dry_run=dry_run)


def _deleted(root: Path, path: Path, what: str, *, dry_run: bool) -> Litter:
    litter = Litter(path.relative_to(root).as_posix(), what, path.lstat().st_size)
    if not dry_run:
        path.unlink(missing_ok=True)
        fsync_directory(path.parent)
    return litter


def _named_tables(root: Path, kind: Path, gone: Collection[str]) -> dict[str, bool]:
    """Return each table of a kind -> whether it is named; absent where nobody can say."""
    there = [path.name for path in kind.iterdir()]
    names = [f"{kind.relative_to(root).as_posix()}/{name}" for name in there if is_component(name)]
    sets = [root / name for name in names if name not in gone and (root / name).is_dir()]
    sets = [directory for directory in sets if holds_files(directory)]
    tables = [name for name in there if _TABLE.fullmatch(name)]
    if not sets:
        return dict.fromkeys(tables, False)
    result: dict[str, bool] = {}
    with contextlib.suppress(FeatstoreError, OSError):
        used = {name for directory in sets for name in _named_items(root, directory, gone)}
        result |= {name: name in used for name in tables if name.startswith("items-")}
    with contextlib.suppress(FeatstoreError, OSError):
        pictures = [name for name in tables if name.startswith("thumbnails-")]
        result |= _listed_thumbnails(root, kind, pictures)
    return result


def _listed_thumbnails(root: Path, kind: Path, pictures: list[str]) -> dict[str, bool]:
    """Return each table of thumbnails -> whether the catalog lists it; empty if it lists none."""
    listed = (parse_catalog(read_json(root / NAME)) or {}).get("thumbnails")
    if listed is None:
        return {}
    beside = {Path(name).name for name in listed if (root / name).parent == kind}
    # Where those that are listed are gone, a writer had replaced them by these.
    replaced = beside.isdisjoint(pictures)
    return {name: name in beside or replaced for name in pictures}


def _named_items(root: Path, directory: Path, gone: Collection[str]) -> list[str]:
    """Return the item tables that the commits of a set name.

    Raises
    ------
    FileNotFoundError
        If what it will name is not there yet.
    CorruptStoreError
        If a commit is damaged.
    """
    records = sorted((directory / REVISIONS).glob("*.json"))
    commits = [path for path in records if path.relative_to(root).as_posix() not in gone]
    if not commits or staging_of(directory).exists():
        raise FileNotFoundError(directory)
    return [str(read_commit(directory, path.stem).items["file"]) for path in commits]


def _linked(root: Path, path: Path) -> bool:
    """Return whether a link leads to `path`: what lies behind it is not this store's."""
    parts = [path / ".staging", *(part for part in [path, *path.parents] if part != root)]
    return any(part.is_symlink() for part in parts if part.is_relative_to(root))


def _age_of(path: Path) -> float:
    """Return when a file was last written; never, if a writer has renamed it meanwhile."""
    try:
        return path.lstat().st_mtime
    except FileNotFoundError:
        return math.inf


def _newest(folder: Path) -> float:
    """Return when something in a folder was last written; never, if it is removed meanwhile."""
    return max((facts.st_mtime for facts in _facts(folder)), default=math.inf)


def _size(folder: Path) -> int:
    return sum(facts.st_size for facts in _facts(folder) if stat.S_ISREG(facts.st_mode))


def _facts(folder: Path) -> Iterator[os.stat_result]:
    """Yield the facts of a folder and of all in it, but of what is removed meanwhile."""
    for where, _, names in os.walk(folder):
        for name in ("", *names):
            with contextlib.suppress(FileNotFoundError):
                yield (Path(where) / name).lstat()


def remove_set(root: Path, key: str) -> int:
    """Remove the set of this full key and return the bytes freed.

    A damaged set is removed like any other: nothing of it is believed. Its item tables go with it
    unless another set names them, and the thumbnails of its kind with the last set of the kind. A
    removal that was interrupted is completed.

    Raises
    ------
    UnknownSetError
        If there is no such set, finished, begun or damaged.
    StoreWriteError
        If another process is writing it, or the file system refuses.
    """
    parts = SetKey.parse(key)
    directory = parts.directory(root) if parts else root
    try:
        with folder_lock(root):  # no tag is made meanwhile
            condemned = [folder for folder, of in removals(root).items() if of == key]
            there = parts is not None and directory.is_dir() and not directory.is_symlink()
            if not there and not condemned:
                raise UnknownSetError(f"{root} holds no set {key!r}.")
            if parts is not None and there:
                _check_untagged(root, key)
                if is_claimed(directory):
                    raise StoreWriteError(
                        f"{key} is being written. Wait for its writers to end, or stop them."
                    )
                claim = claim_set(directory, parts)
                try:
                    condemned.append(_condemn(directory, claim))
                finally:
                    claim.release()
        return sum(_end_removal(root, folder) for folder in condemned)
    except StoreWriteError:
        raise
    except OSError as err:
        raise StoreWriteError(f"Cannot remove {key} from {root}: {err.strerror or err}.") from err


def _check_untagged(root: Path, key: str) -> None:
    """Raise StoreWriteError if a tag names a set: without it, the tag would name what is lost."""
    names = [name for name, tag in whole_tags(root).items() if key in tag["sets"]]
    if names:
        drop = "; ".join(f"featstore tag {root} {name} --delete" for name in names)
        raise StoreWriteError(
            f"{key} is named by {'the tag' if len(names) == 1 else 'the tags'} {', '.join(names)}, "
            f"which must stay readable. Nothing was removed. Drop what nobody uses first: `{drop}`."
        )


def _condemn(directory: Path, claim: Claim) -> Path:
    """Rename the folder of a set whose claim this process holds to what is litter."""
    condemned = directory.with_name(f".removed-{directory.name}-{secrets.token_hex(4)}")
    claim.move_set(condemned)
    return condemned


def _end_removal(root: Path, condemned: Path) -> int:
    """Complete the removal of a set whose folder was renamed, and return the bytes freed.

    The folder is deleted last: as long as it is there, what is left to do is known.
    """
    write_catalog(root)
    kind = condemned.parent
    own = {f"items-{digits}.parquet" for digits in _item_tables(condemned)}
    with folder_lock(kind):
        last = kind not in set_folders(root).kinds
        gone = [
            kind / name
            for name, named in _named_tables(root, kind, ()).items()
            if not named and (last or name in own)
        ]
        # Another command may have ended the removal.
        return sum(delete(path) for path in (*gone, condemned) if path.exists())


def _item_tables(directory: Path) -> set[str]:
    """Return the digits of the item tables that the records of a set name, whole or damaged."""
    found: set[str] = set()
    for path in (directory / REVISIONS).glob("*.json"):
        with contextlib.suppress(FeatstoreError, OSError):
            text = read_regular(path, limit=MAX_JSON_BYTES).decode(errors="replace")
            found |= set(re.findall(r"items-([0-9a-f]{8})\.parquet", text))
    return found


#: Folders: everything for owner and group, the group handed down; others may read.
FOLDER_MODE = 0o2775

#: Files that are finished: read by all, written by nobody, replaced by a rename.
FILE_MODE = 0o444

#: Files under construction: any member of the group may resume them.
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
        # What a first attempt that was killed left: gc removes it, or the next extraction goes on.
        others = root.iterdir() if fresh and root.exists() else ()
        if not all(_HALF_WRITTEN.fullmatch(path.name) or _is_begun(path) for path in others):
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


def _is_begun(folder: Path) -> bool:
    """Return whether a folder is a dataset's of which nothing is published: all of it is staged."""
    if not folder.is_dir() or folder.is_symlink():
        return False
    found = folder.glob("**/*")
    return all(path.is_dir() or ".staging" in path.relative_to(folder).parts for path in found)


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

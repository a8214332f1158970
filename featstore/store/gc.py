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
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from featstore.durable import fsync_directory, make_folders
from featstore.errors import FeatstoreError, StoreWriteError, UnknownSetError
from featstore.store.catalog import (
    NAME,
    holds_files,
    lists_nothing,
    read_catalog,
    removals,
    set_folders,
    whole_tags,
    write_catalog,
)
from featstore.store.files import (
    MAX_JSON_BYTES,
    delete,
    json_bytes,
    read_regular,
    walk_store,
    write_file,
)
from featstore.store.layout import SetKey, group_metadata, is_component
from featstore.store.listing import Listed, read_records, unlisted
from featstore.store.lock import Claim, abandoned, claim_set, folder_lock, is_claimed
from featstore.store.records import (
    POINTER,
    REVISIONS,
    StoreFormat,
    key_of,
    read_root,
    staging_of,
)
from featstore.store.repair import restore_array
from featstore.store.staging import end_claim
from featstore.store.store import open_store

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
    try:
        return _Collection(root, grace, dry_run=dry_run).run()
    except OSError as err:
        raise StoreWriteError(f"Cannot clean {root}: {err.strerror or err}.") from err


class _Collection:
    """One pass over a store: what is there and not listed, and no writer has touched lately."""

    def __init__(self, root: Path, grace: float, *, dry_run: bool) -> None:
        self._root = root
        self._grace = grace
        self._before = time.time() - grace
        self._dry_run = dry_run
        self._found: list[Litter] = []

    def run(self) -> list[Litter]:
        """Remove what is litter, and return it; in a dry run it is only returned."""
        root = self._root
        # What is to be removed goes last: as long as it is there, it says why the rest was left.
        removed = dict.fromkeys(removals(root), "a set whose removal was interrupted")
        condemned = self._note(removed)
        for directory in set_folders(root).folders:
            if not _linked(root, directory):
                condemned += self._clean(directory)
        listed = lists_nothing(root)
        if listed:
            self._found.append(Litter(NAME, "lists thumbnails of a kind without sets", 0))
        if (listed or condemned) and not self._dry_run:
            write_catalog(root)
        folders = set_folders(root).folders
        for kind in sorted({folder.parent for folder in (*folders, *condemned)}):
            self._remove_tables(kind, condemned)
        for name in sorted(walk_store(root)[0]):
            if name.count("/") < 3 and _STAGED.fullmatch(name.rpartition("/")[2]):
                with abandoned(root / name) as alone:
                    if alone:
                        self._delete(self._note({root / name: "a half-written file"}))
        for folder in () if self._dry_run else condemned:
            _end_removal(root, folder)
        return self._found

    def _note(self, paths: Mapping[Path, str]) -> list[Path]:
        """Note those of the paths that are older than the grace period, and return them."""
        old = [
            path
            for path in paths
            if not _linked(self._root, path) and _newest(path) <= self._before
        ]
        for path in old:
            name = path.relative_to(self._root).as_posix()
            self._found.append(Litter(name, paths[path], _size(path)))
        return old

    def _delete(self, paths: list[Path]) -> None:
        for path in () if self._dry_run else paths:
            path.unlink(missing_ok=True)
            fsync_directory(path.parent)

    def _clean(self, directory: Path) -> list[Path]:
        """Remove what is litter of a set; return its folder if all of it is to be removed."""
        key, staging = key_of(directory), staging_of(directory)
        finished, staged = (directory / POINTER).exists(), staging.exists()
        if staged and is_claimed(directory, stale=self._grace):
            return []
        litter: dict[Path, str] = {}
        if finished and staged:
            litter[staging] = "staging of a finished set"
        elif finished:
            litter = dict.fromkeys(_unlisted_of(self._root, directory), "no revision lists it")
        elif staged or not any(walk_store(directory)[::2]):  # no file, and nothing odd
            litter[directory] = "an extraction that was given up"
        old = self._note(litter)
        if not old or self._dry_run:
            return [] if finished else old
        try:
            claim = claim_set(directory, key)
        except StoreWriteError:
            return []  # someone began just now
        try:
            if (directory / POINTER).exists() != finished:
                return []  # and ended, too
            if not finished:
                return [_condemn(directory, claim)]
            if staged:
                # An extension that was given up may have published a part of itself.
                with contextlib.suppress(FeatstoreError):
                    restore_array(read_records(self._root, key), claim)
                write_catalog(self._root)
                claim.finish()
                return []
            # Looked at again, now that nobody else can publish.
            for path in {*old}.intersection(_unlisted_of(self._root, directory)):
                claim.discard(path)
            end_claim(claim)
        finally:
            claim.release()
        return []

    def _remove_tables(self, kind: Path, condemned: Collection[Path]) -> None:
        """Remove the tables of a kind that nothing lists."""
        # A writer that replaces thumbnails holds this lock; one that needs items writes them again.
        with folder_lock(kind):
            tables = dict.fromkeys(
                _unlisted_tables(self._root, kind, condemned), "a table that no commit names"
            )
            self._delete(self._note(tables))


def _files_of(root: Path, directory: Path) -> dict[str, Listed]:
    """Return the table of a set; empty if a record that is lost may name anything."""
    with contextlib.suppress(FeatstoreError, OSError):
        records = read_records(root, key_of(directory))
        return records.files() if records.whole else {}
    return {}


def _unlisted_of(root: Path, directory: Path) -> list[Path]:
    """Return the files of a finished set that no record lists."""
    files = _files_of(root, directory)
    return list(unlisted(root, key_of(directory), files)) if files else []


def _unlisted_tables(root: Path, kind: Path, condemned: Collection[Path] = ()) -> list[Path]:
    """Return the tables of a kind that nothing lists, as far as anybody can say."""
    there = {path.relative_to(root).as_posix(): path for path in kind.iterdir()}
    tables = {name for name, path in there.items() if _TABLE.fullmatch(path.name)}
    folders = (path for path in there.values() if is_component(path.name) and path.is_dir())
    sets = [path for path in folders if path not in condemned and holds_files(path)]
    listed: set[str] = set()
    if sets:
        files = [{} if staging_of(one).exists() else _files_of(root, one) for one in sets]
        listed.update(*files)
        pictures = {name for name in tables if "/thumbnails-" in name}
        if not all(files):
            listed |= tables - pictures
        shown = {*(read_catalog(root) or {}).get("thumbnails", ())}
        # Where none of those that are listed is there, a writer had replaced them.
        listed |= shown if shown & pictures else pictures
    return [there[name] for name in sorted(tables - listed)]


def _linked(root: Path, path: Path) -> bool:
    """Return whether a link leads to `path`: what lies behind it is not this store's."""
    parts = [path / ".staging", *(part for part in [path, *path.parents] if part != root)]
    return any(part.is_symlink() for part in parts if part.is_relative_to(root))


def _newest(path: Path) -> float:
    """Return when a file, or something in a folder, was last written; never, if it is gone."""
    return max((facts.st_mtime for facts in _facts(path)), default=math.inf)


def _size(path: Path) -> int:
    return sum(facts.st_size for facts in _facts(path) if stat.S_ISREG(facts.st_mode))


def _facts(path: Path) -> Iterator[os.stat_result]:
    """Yield the facts of a file, or of a folder and all in it, but of what is removed meanwhile."""
    inside = ((where, *folders, *names) for where, folders, names in os.walk(path))
    for where, *names in ((path, ""), *inside):
        for name in names:
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
        tables = [path for path in _unlisted_tables(root, kind) if last or path.name in own]
        # Another command may have ended the removal.
        return sum(delete(path) for path in (*tables, condemned) if path.exists())


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
    files, _, odd = walk_store(folder)
    return all(".staging" in name.split("/") for name in (*files, *odd))


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

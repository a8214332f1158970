"""Remove sets, rows, and the files that no set needs; write the parts of a set as one.

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
import stat
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from featstore.durable import delete, fsync_path, is_free, make_folders, walk_store, write_file
from featstore.errors import (
    ClaimLostError,
    FeatstoreError,
    StoreWriteError,
    UnknownItemError,
    UnknownSetError,
    listed,
)
from featstore.store.layout import SetKey, is_component
from featstore.store.listing import listed_files, unlisted
from featstore.store.lock import Claim, claim_set, folder_lock, is_claimed
from featstore.store.log import (
    Log,
    check_new,
    has_log,
    listed_tags,
    present_commit,
    read_log,
    set_folders,
    update_log,
)
from featstore.store.records import REVISIONS, Commit, key_of, root_metadata, staging_of, tag_file
from featstore.store.staging import end_claim
from featstore.store.store import open_store
from featstore.store.tables import WITHDRAWN, closest, read_parts, where_equal, write_thumbnails
from featstore.store.writer import (
    SetWriter,
    WriteOptions,
    end_publication,
    join_parts,
    refuse_unfinished,
)

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
        self._before = time.time() - grace
        self._dry_run = dry_run
        self._found: list[Litter] = []

    def run(self) -> list[Litter]:
        """Remove what is litter, and return it; in a dry run it is only returned."""
        root, condemned = self._root, []
        for directory in set_folders(root):
            if not _linked(root, directory):
                condemned += self._clean(directory)
        folders = set_folders(root)
        for kind in sorted({folder.parent for folder in (*folders, *condemned)}):
            self._remove_tables(kind, condemned)
        for name in sorted(walk_store(root)[0]):
            if name.count("/") < 3 and _STAGED.fullmatch(name.rpartition("/")[2]):
                for path in self._note({root / name: "a half-written file"}):
                    if not (self._dry_run or is_free(path)):
                        self._found.pop()  # its writer lives
        with folder_lock(root) as locked:  # a tag is written and listed under it
            listed = {root / tag_file(*tag) for tag in read_log(root).tags.items()}
            stray = set((root / "tags").glob("*.json")) - listed if locked else ()
            old = self._note(dict.fromkeys(stray, "a tag that the store does not list"))
            for path in () if self._dry_run else old:
                path.unlink(missing_ok=True)
                fsync_path(path.parent)
        return self._found

    def _note(self, paths: Mapping[Path, str]) -> list[Path]:
        """Note those of the paths that are older than the grace period, and return them."""
        old = [
            path
            for path in paths
            if not _linked(self._root, path)
            and max((facts.st_mtime for facts in _facts(path)), default=math.inf) <= self._before
        ]
        for path in old:
            name = path.relative_to(self._root).as_posix()
            self._found.append(Litter(name, paths[path], _size(path)))
        return old

    def _clean(self, directory: Path) -> list[Path]:
        """Remove what is litter of a set; return its folder if all of it is to be removed."""
        key, staging = key_of(directory), staging_of(directory)
        finished, staged = str(key) in read_log(self._root).sets, staging.exists()
        if staged and is_claimed(directory):
            return []
        litter: dict[Path, str] = {}
        if finished and staged:
            litter[staging] = "staging of a finished set"
        elif finished:
            litter = dict.fromkeys(self._unlisted(key), "no commit lists it")
        elif staged or not any(walk_store(directory)[::2]):  # no file, and nothing odd
            litter[directory] = "an extraction that was given up"
        old = self._note(litter)
        if not old or self._dry_run:
            return [] if finished else old
        try:
            claim = claim_set(directory, key)
        except StoreWriteError:
            return []  # someone began just now
        with claim:
            if (str(key) in read_log(self._root).sets) != finished:
                return []  # and ended, too
            if not finished:
                _empty(directory, claim)
                return [directory]
            if staged:
                end_publication(self._root, key, claim)
                return []
            # Looked at again, now that nobody else can publish.
            for path in {*old}.intersection(self._unlisted(key)):
                claim.discard(path)
            end_claim(claim)
        return []

    def _unlisted(self, key: SetKey) -> list[Path]:
        return unlisted(self._root, key, listed_files(self._root, key))

    def _remove_tables(self, kind: Path, condemned: Collection[Path]) -> None:
        """Remove the tables of a kind that nothing lists."""
        # A writer that replaces thumbnails holds this lock; one that needs items writes them again.
        with folder_lock(kind):
            tables = dict.fromkeys(
                _unlisted_tables(self._root, kind, condemned), "a table that no commit names"
            )
            old = self._note(tables)
            if not self._dry_run:
                _delete_tables(self._root, old)


def _delete_tables(root: Path, tables: Collection[Path]) -> int:
    """Delete tables, which the log lists no more from then on, and return the bytes freed."""
    names = {path.relative_to(root).as_posix() for path in tables}
    if names & read_log(root).thumbnails:
        update_log(root, lambda log: replace(log, thumbnails=log.thumbnails - names))
    freed = sum(delete(path) for path in tables)
    for folder in {path.parent for path in tables}:
        fsync_path(folder)
    return freed


def _unlisted_tables(root: Path, kind: Path, condemned: Collection[Path] = ()) -> list[Path]:
    """Return the tables of a kind that nothing lists, as far as anybody can say."""
    there = {path.relative_to(root).as_posix(): path for path in kind.iterdir()}
    tables = {name for name, path in there.items() if _TABLE.fullmatch(path.name)}
    folders = (path for path in there.values() if is_component(path.name) and path.is_dir())
    sets = [path for path in folders if path not in condemned]
    listed: set[str] = set()
    if sets:
        files = [
            {} if staging_of(one).exists() else listed_files(root, key_of(one)) for one in sets
        ]
        listed.update(*files)
        listed |= read_log(root).thumbnails
        if not all(files):
            listed |= {name for name in tables if "/items-" in name}
    return [there[name] for name in sorted(tables - listed)]


def _linked(root: Path, path: Path) -> bool:
    """Return whether a link leads to `path`: what lies behind it is not this store's."""
    parts = [path / ".staging", *(part for part in [path, *path.parents] if part != root)]
    return any(part.is_symlink() for part in parts if part.is_relative_to(root))


def _size(path: Path) -> int:
    return sum(facts.st_size for facts in _facts(path) if stat.S_ISREG(facts.st_mode))


def _facts(path: Path) -> Iterator[os.stat_result]:
    """Yield the facts of a file, or of a folder and all in it, but of what is removed meanwhile."""
    inside = ((where, *folders, *names) for where, folders, names in os.walk(path))
    for where, *names in ((path, ""), *inside):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                yield (Path(where) / name).lstat()


def compact_set(root: Path, key: SetKey) -> None:
    """Write the parts of a set as one; its revisions stay. A set of one part is left alone.

    Raises
    ------
    UnknownSetError
        If there is no such set.
    CorruptStoreError
        If a row or an item is not the one that the commit states.
    StoreWriteError
        If another process writes it, an extraction of it is unfinished, or the disk refuses.
    """
    open_store(root).info(str(key))
    with claim_set(key.directory(root), key) as claim:
        refuse_unfinished(root, key, "compact it")
        commit = present_commit(root, key)
        if commit is not None and len(commit.parts) > 1:
            join_parts(root, key, claim, commit, 0)
        end_publication(root, key, claim)


def withdraw_items(root: Path, key: SetKey, ids: Collection[str]) -> list[str]:
    """Blank the rows of pictures in every revision of a set, and drop their thumbnails.

    The rows keep their numbers and count as failed, with the reason "withdrawn"; no retry brings
    them back. Their parts are written anew, and the old files removed. The same call completes
    one that was interrupted. Copies and caches elsewhere keep what they have.

    Returns
    -------
    list of str
        Keys of other sets of the dataset that hold these items, or texts of them.

    Raises
    ------
    UnknownSetError, UnknownItemError
        If there is no such set, or it has not all of these items; nothing is written then.
    StoreWriteError
        If the set is not of images, whose items say no more than where they were; another process
        writes it, an extraction of it is unfinished, or the disk refuses.
    CorruptStoreError
        If a row that stays, or the item table, is not the one that the commit states.
    """
    store = open_store(root)
    commit = store.info(str(key)).commit
    if key.kind != "image":
        raise StoreWriteError(
            f"{key} holds texts, which its item table repeats. Only pictures can be withdrawn: "
            "remove the set with `headstock store rm`, and extract it without these items."
        )
    directory = key.directory(root)
    items = read_parts(directory.parent, commit)["item_id"]
    unknown = sorted({*ids}.difference(items))
    if unknown:
        raise UnknownItemError(
            f"{key} lacks {len(unknown):,} of {len(ids):,} items: {listed(unknown)}. The closest "
            f"id to the first is {closest(unknown[0], items)!r}. Nothing was withdrawn."
        )
    out = store.failures(str(key)).filter(reason=WITHDRAWN)["item_id"]
    if there := frozenset(ids).difference(out):
        _blank(root, commit, there)
    write_thumbnails(directory.parent, {})
    # Of tables alone: what is wrong with the rows of another set is not told here.
    return [
        str(info.key)
        for info in map(store.info, store)
        if info.key.dataset == key.dataset
        for items in [store.item_table(info).filter(~info.commit.failed_rows())]
        if any(
            where_equal(items[one], ids).any()
            for one in {*items.columns} & {"item_id", "parent_id"}
        )
    ]


def _blank(root: Path, commit: Commit, ids: frozenset[str]) -> None:
    """Publish a set in which the rows of these items are failed ones, withdrawn."""
    spec, facts = commit.spec, commit.attributes["facts"]
    items = read_parts(spec.directory(root).parent, commit)
    options = WriteOptions(withdraw=ids)
    with SetWriter(root, spec, items, commit.dim, facts=facts, options=options) as writer:
        for block in writer.pending():
            # Not the layout of `commit`: a join or an append may have come before the claim.
            here = writer.items["item_id"][writer.layout.block_slice(block)]
            rows = np.zeros((len(here), commit.dim), dtype=np.float32)
            writer.write_block(block, rows, dict.fromkeys(ids.intersection(here), WITHDRAWN))
        writer.finish()


def remove_set(root: Path, key: str) -> int:
    """Remove the set of this full key and return the bytes freed.

    The log comes first: from then on there is no set. A damaged set is removed like any other:
    nothing of it is believed. Tables of its kind that no other set names go with it, and the
    thumbnails with the last set of the kind. The same call completes a removal that was
    interrupted.

    Raises
    ------
    UnknownSetError
        If there is no such set, finished, begun or damaged.
    StoreWriteError
        If another process is writing it, a tag names it, or the file system refuses.
    """
    parts = SetKey.parse(key)
    directory = parts.directory(root) if parts else root
    there = directory.is_dir() and not directory.is_symlink()
    if parts is None or not (there or key in read_log(root).sets):
        raise UnknownSetError(f"{root} holds no set {key!r}.")
    if is_claimed(directory):
        raise StoreWriteError(f"{key} is being written. Wait for its writers to end, or stop them.")

    def drop(log: Log) -> Log:
        names = [name for name, sets in listed_tags(root, log).items() if key in sets]
        if names:  # the tag would name what is lost
            them = "; ".join(f"headstock store tag {root} {name} --delete" for name in names)
            raise StoreWriteError(
                f"{key} is named by {'the tag' if len(names) == 1 else 'the tags'} "
                f"{', '.join(names)}, which must stay readable. Nothing was removed. "
                f"Drop what nobody uses first: `{them}`."
            )
        return replace(log, sets={name: log.sets[name] for name in log.sets if name != key})

    try:
        drop(read_log(root))  # before a claim is made
        with claim_set(directory, parts) as claim:
            update_log(root, drop, claim=claim)
            freed, kind = 0, directory.parent
            # The set is gone. What another writer has taken over meanwhile is no longer ours.
            with contextlib.suppress(ClaimLostError):
                with folder_lock(kind):
                    claim.check()
                    freed = _delete_tables(root, _unlisted_tables(root, kind, [directory]))
                freed += _empty(directory, claim)
        return freed
    except StoreWriteError:
        raise
    except OSError as err:
        raise StoreWriteError(f"Cannot remove {key} from {root}: {err.strerror or err}.") from err


def _empty(directory: Path, claim: Claim) -> int:
    """Delete the folder of a set that the log does not list, and return the bytes freed.

    The commits go first, so that no log is made again from them; the claim goes last. Each file is
    renamed into its folder: who has lost the claim deletes nothing of the set written anew.
    """
    files, folders, odd = walk_store(directory)
    freed = _size(directory)
    for name in sorted((*files, *odd), key=lambda name: (not name.startswith(REVISIONS), name)):
        if not name.startswith(".staging/"):
            claim.discard(directory / name)
    claim.finish()
    for name in (*sorted(folders, reverse=True), "."):
        with contextlib.suppress(OSError):
            (directory / name).rmdir()
    return freed


#: Folders: everything for owner and group, the group handed down; others may read.
FOLDER_MODE = 0o2775


def make_store(root: Path, *, shared: bool = False, hash_name: str | None = None) -> bool:
    """Make an empty store at `root`.

    Parameters
    ----------
    shared : bool
        Let the group of a new folder write: it gets mode 2775, which what is written in it takes
        over; finished files get 0444. Which group that is, is the folder's affair (``chgrp``).
    hash_name : str, optional
        The hash of the blocks of a new store; sha256 by default.

    Returns
    -------
    bool
        Whether the store was made now.

    Raises
    ------
    FormatVersionError
        If another version wrote the store.
    StoreWriteError
        If the folder holds other things, a store with another hash or, with `shared`, one that its
        group may not write, or if the file system refuses.
    """
    log, fresh = read_log(root), not has_log(root)
    check_hash(str(root), None if fresh else log, hash_name)
    try:
        if fresh:
            check_new(root)
        if shared and not fresh and not root.stat().st_mode & stat.S_IWGRP:
            raise StoreWriteError(
                f"{root} is a store already, and not its group's. Open it by `find {root} -type d "
                f"-exec chmod 2775 {{}} + ; chmod -R a+r {root}`, as the owner of its files."
            )
        make_folders(root)
        if fresh:
            if shared:
                root.chmod(FOLDER_MODE)
            log = replace(log, hash=hash_name or log.hash)
            update_log(root, lambda there: log if there == Log() else there)
        if not os.path.lexists(root / "zarr.json"):
            write_file(root / "zarr.json", [root_metadata(log.hash)])
    except FeatstoreError:
        raise
    except OSError as err:
        raise StoreWriteError(
            f"Cannot make the store {root}: {err.strerror or err}. Choose a folder of yours."
        ) from err
    return fresh


def check_hash(where: str, log: Log | None, asked: str | None) -> None:
    """Raise StoreWriteError if a store has another hash of blocks than the one asked for."""
    if log is not None and asked not in (None, log.hash):
        raise StoreWriteError(
            f"The blocks of {where} are hashed by {log.hash}, which never changes. For "
            f"{asked} make a new store, and extract into that."
        )

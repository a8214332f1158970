"""Verify a store: the files that its records list, beside the files that it holds; and repair it.

The log of a store lists sets, tags and pictures; the commits of a set list its files
(`featstore.store.listing`). What is listed and missing, or not as listed, is wrong, and so is
whatever is no regular file. What nothing lists is no part of the store, and only noted. Records are
written deterministically, so one is right only if it is byte for byte what its own content is
written as.

Zarr's metadata, a shard's padding and index, and a lost log follow from the commits; item tables
from a manifest or the items of a copy. Another store that has the same revision has the rest, block
by block. Each is written only if it has the hash that a commit of this set states, beside the
damaged file, and renamed over it. What is left is extracted again, into a new revision: see
`featstore.extraction.job`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from featstore.durable import (
    MAX_JSON_BYTES,
    check_no_links,
    facts_of,
    file_facts,
    json_bytes,
    open_regular,
    read_regular,
    same_file,
    walk_store,
    write_file,
)
from featstore.errors import (
    AddressError,
    CorruptStoreError,
    FeatstoreError,
    StoreWriteError,
    UnknownSetError,
)
from featstore.store.layout import DataFile, SetKey
from featstore.store.listing import (
    Listed,
    check_size,
    find_damage,
    read_block,
    set_files,
    whole_commit,
)
from featstore.store.lock import claim_set, folder_lock
from featstore.store.log import (
    ABOUT,
    Log,
    check_newest,
    checked_log,
    find_log,
    read_log,
    rebuilt_log,
    unknown_set,
)
from featstore.store.log import NAME as LOG
from featstore.store.records import (
    FIRST,
    REVISIONS,
    Commit,
    read_tag,
    root_metadata,
    tag_document,
    tag_file,
)
from featstore.store.rows import PreadRows, Rows
from featstore.store.staging import end_claim
from featstore.store.store import FeatureStore, SetInfo
from featstore.store.tables import MAX_ITEM_BYTES, item_bytes
from featstore.store.writer import tidy_set

#: The group that a store is for readers of Zarr.
ROOT = "zarr.json"

_UNTIDY = (
    "is published, but its writer was stopped before it tidied up: the same command again or "
    "`headstock store gc` does that"
)
_UNFINISHED = "belongs to an unfinished extraction, or to no set"
_UNLISTED = (
    "is listed nowhere. `headstock store gc` deletes what writers left; all else is not the store's"
)
_LOST = (
    "is not the commit record that its name says; without it nothing says what the set's other "
    "files should be (`headstock store repair --copy` takes it from another copy)"
)
_TAG = (
    "`headstock store tag STORE {}` writes it again if the sets have not changed since, a pull "
    "from a copy does, and --delete drops it"
)
#: What makes a file about the store right.
_CARD = "`headstock store card STORE -o STORE` writes and lists it"


@dataclass(frozen=True)
class Problem:
    """A file that is not as it was written; `path` is relative to the store."""

    path: str
    what: str


@dataclass
class VerifyReport:
    """What a verification found.

    Attributes
    ----------
    problems : list of Problem
        At most one a file; empty if the store is whole.
    notes : list of Problem
        What a running or interrupted writer leaves; no damage.
    n_sets, n_files : int
        Sets and files looked at.
    """

    problems: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)
    n_sets: int = 0
    n_files: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        """Return what ``headstock store verify --json`` prints."""
        return {
            "ok": self.ok,
            "sets": self.n_sets,
            "files": self.n_files,
            "problems": [vars(problem) for problem in self.problems],
            "notes": [vars(note) for note in self.notes],
        }


def verify_store(
    root: Path,
    keys: Collection[str] = (),
    *,
    full: bool = True,
    on_set: Callable[[int, int, str], object] = lambda *_: None,
) -> VerifyReport:
    """Check a store, or some of its sets, and name every file that is not right.

    Parameters
    ----------
    root : Path
        The store. It is only read.
    keys : collection of str
        Full keys of the sets to check; all, and everything around them, by default.
    full : bool
        Hash the rows too. Otherwise data files are checked by name and size.
    on_set : callable
        Told before each set: how many are checked, of how many, and its key.

    Raises
    ------
    AddressError
        If `root` is no store.
    UnknownSetError
        If a key names nothing in it.
    FormatVersionError
        If a newer version wrote the store.
    """
    if not root.is_dir() or not any((root / name).exists() for name in ("zarr.json", LOG)):
        what = "is not a Headstock store" if root.exists() else "does not exist"
        raise AddressError(f"{root} {what}. Check the path.")

    def whole_report() -> VerifyReport | None:
        verification = _Verification(root, keys, full=full)
        report = verification.run(on_set)
        return None if report.problems and verification.is_outdated() else report

    for _ in range(FREE_PASSES):
        if (report := whole_report()) is not None:
            return report
    with folder_lock(root):  # nobody publishes meanwhile, where folders have locks
        while (report := whole_report()) is None:
            pass
    return report


#: So often a store is looked at beside writers, before they have to wait for the verdict.
FREE_PASSES = 3


class _Verification:
    """One pass over a store: what is there, what is listed, what is wrong.

    Attributes
    ----------
    files : set of str
        The regular files of the store that no link leads to; no other is opened.
    known : set of str
        Files that something accounts for.
    wrong, notes : dict
        Path -> what is wrong with it, or only to be noted.
    """

    def __init__(self, root: Path, keys: Collection[str], *, full: bool) -> None:
        self.root = root
        self.full = full
        # Before anything else: whatever is published later changes it.
        self._log_state = self._read_state()
        self.files, self._folders, self._odd = walk_store(root)
        self._keys = frozenset(keys)
        self.known: set[str] = set()
        self.wrong: dict[str, str] = {}
        self.notes: dict[str, str] = {}
        self._published: dict[str, tuple[str, ...]] = {}
        self._log = self._read_log()
        self._right: set[tuple[str, str]] = set()  # tables that several sets share

    def run(self, on_set: Callable[[int, int, str], object]) -> VerifyReport:
        """Check everything and report."""
        there = (folder for folder in self._folders if folder.count("/") == 2)
        sets = sorted({*self._log.sets, *filter(SetKey.parse, there)})
        unknown = self._keys - set(sets)
        if unknown:
            raise UnknownSetError(unknown_set(self.root, min(unknown), sets))
        chosen = [key for key in sets if not self._keys or key in self._keys]
        for number, key in enumerate(chosen):
            on_set(number, len(chosen), key)
            self._check_set(key)
        self._check_root()
        self._check_listed()
        self._check_tags()
        self._check_rest()
        return VerifyReport(
            [Problem(path, what) for path, what in sorted(self.wrong.items())],
            [Problem(path, what) for path, what in sorted(self.notes.items())],
            n_sets=sum(key in self._log.sets for key in chosen),
            n_files=len(self.files),
        )

    def is_outdated(self) -> bool:
        """Return whether what is wrong may be so because the store was changed meanwhile.

        What the log named then may be gone; and what follows the log may have come only now.
        """
        if self._read_state() != self._log_state:
            return True
        missing = {path for path, what in self.wrong.items() if what.startswith("is missing")}
        return bool(missing) and not missing.isdisjoint(walk_store(self.root)[0])

    def _read_state(self) -> tuple[tuple[int, ...], bytes | None]:
        """Return which file the log is, and its bytes; None if it cannot be read.

        A set that was removed and written again may leave the same bytes, in another file.
        """
        identity: tuple[int, ...] = ()
        with suppress(OSError, CorruptStoreError):
            facts = (self.root / LOG).lstat()
            identity = (facts.st_ino, facts.st_mtime_ns)
            return identity, read_regular(self.root / LOG, limit=MAX_JSON_BYTES)
        return identity, None

    def _read_log(self) -> Log:
        """Return the log that was read; where it is damaged, what the commits say it should be."""
        self.known.add(LOG)
        data = self._log_state[1]

        def read(name: str, *, limit: int) -> bytes:
            if name == LOG and data is not None:
                return data
            return read_regular(self.root / name, limit=limit)

        try:
            log = find_log(read, str(self.root)) or Log()
            check_newest(self.root, log)
        except CorruptStoreError as err:
            self._blame(LOG, f"does not list the sets any more: {err}")
            return rebuilt_log(self.root)
        if LOG not in self.files or data != log.data():
            self._blame(LOG, "is not what a writer writes there")
        return log

    def _blame(self, path: str, what: str) -> None:
        """Report a file; what was reported first stays."""
        self.known.add(path)
        self.wrong.setdefault(path, what)

    def _check_root(self) -> None:
        """Check the group of the store, which has only one form."""
        self.known.add(ROOT)
        if ROOT in self.files and not self._is_file(ROOT, root_metadata(self._log.hash)):
            self._blame(ROOT, "is not what a writer writes there")
        elif ROOT not in self.files and {*map(self._is_busy, self._log.sets)} == {False}:
            self._blame(ROOT, "is missing")  # else its writer was stopped before it came so far

    def _is_file(self, path: str, data: bytes) -> bool:
        with suppress(OSError):
            return path in self.files and same_file(self.root / path, facts_of(data))
        return False

    def _is_busy(self, key: str) -> bool:
        """Return whether a writer is at work on a set, or was stopped."""
        return f"{key}/.staging" in self._folders

    def _check_set(self, key: str) -> None:
        """Compare the files of a set with what its commit lists."""
        with suppress(CorruptStoreError):  # a link, which is reported by itself
            parsed = SetKey(*key.split("/"))
            commit = whole_commit(self.root, parsed, log=self._log)
            if commit is not None:
                self._published[key] = commit.published
                for one in set_files(parsed, commit).values():
                    self._check_file(one, busy=self._is_busy(key))
            elif key in self._log.sets:
                self._blame(f"{key}/{REVISIONS}/{self._log.sets[key]}.json", _LOST)
                self.known |= {path for path in self.files if path.startswith(f"{key}/")}
            elif not self._is_busy(key) and any(
                path.startswith(f"{key}/{FIRST}/") for path in self.files
            ):
                self._blame(
                    f"{key}/{REVISIONS}",
                    "holds no commit, and the log does not list the set: nothing says what its "
                    "rows are. `gc` leaves them; `headstock store pull` takes the set from a copy",
                )
                self.known |= {path for path in self.files if path.startswith(f"{key}/")}

    def _check_file(self, one: Listed, *, busy: bool) -> None:
        """Compare a file with what a commit lists."""
        seen = one.path, str(one.facts.get("sha256", ""))
        if seen in self._right or (one.part == "zarr" and one.path in self.known):
            return
        self.known.add(one.path)
        if one.path in self.files:
            wrong = one.check(self.root, full=self.full)[0]
        else:
            wrong = ["is missing"]
        if wrong and busy and one.part == "zarr":
            self.notes[one.path] = _UNTIDY
        elif wrong:
            self._blame(one.path, "; ".join(wrong))
        elif one.part == "items":
            self._right.add(seen)

    def _check_listed(self) -> None:
        """Check the files that the log lists with a hash; thumbnails have it in their name."""
        named = {path: path.rsplit("-", 1)[1].split(".")[0] for path in self._log.thumbnails}
        for path, digest in {**self._log.about, **named}.items():
            self.known.add(path)
            found = ""
            with suppress(OSError):
                found = file_facts(self.root / path)["sha256"] if path in self.files else ""
            if not found.startswith(digest):
                what = "is not the one that the log lists" if found else "is missing"
                self._blame(path, f"{what}; {_CARD}" if path == ABOUT else what)

    def _check_tags(self) -> None:
        """Check that the tags of the log are there, and name revisions that are."""
        for name, digest in self._log.tags.items():
            path = tag_file(name, digest)
            if path not in self.files:
                self._blame(path, f"is missing, though the log lists the tag. {_TAG.format(name)}")
                continue
            self.known.add(path)
            try:
                sets = read_tag(self.root, name, digest)
            except FeatstoreError as err:
                self._blame(path, f"was changed: {err} {_TAG.format(name)}")
                continue
            # Neither is a set that was removed damage of the tag, nor is a record that was told.
            gone = [key for key, one in sets.items() if one not in self._published.get(key, [one])]
            if gone:
                self._blame(path, f"names a revision that {min(gone)} lacks")
            elif not self._is_file(path, json_bytes(tag_document(name, sets))):
                self._blame(path, "is not what a writer writes there")

    def _check_rest(self) -> None:
        """Report what is no regular file, and note what nothing lists but facts of runs."""
        # What lies behind a link was not looked at: the link is what is wrong.
        behind = tuple(f"{path}/" for path in self._odd)
        self.wrong = {p: what for p, what in self.wrong.items() if not p.startswith(behind)}
        for path, what in self._odd.items():
            if self._in_scope(path):
                self.wrong[path] = f"is a {what}; a store holds regular files"
        for path in filter(self._in_scope, self.files - self.known):
            if path.split("/")[3:4] != ["runs"]:
                busy = self._is_busy("/".join(path.split("/")[:3]))
                self.notes.setdefault(path, _UNFINISHED if busy else _UNLISTED)

    def _in_scope(self, path: str) -> bool:
        return not self._keys or "/".join(path.split("/")[:3]) in self._keys


class SetCopy:
    """A set of another store, asked for what is damaged in this one.

    The caller compares what it gets with the commit of the damaged set.

    Parameters
    ----------
    store : FeatureStore
        A data file that is damaged there costs its own rows alone.
    key : SetKey

    Attributes
    ----------
    reasons : list of str
        What it could not give, and why.

    Raises
    ------
    UnknownSetError
        If the store has no such set.
    CorruptStoreError
        If the records of the set are damaged there, too.
    """

    def __init__(self, store: FeatureStore, key: SetKey) -> None:
        self.reasons: list[str] = []
        self._present = store.info(str(key)).commit
        self._store = store
        self._key = key
        # Of a folder, without a look at the other files: each is opened for its own rows.
        layout, place = self._present.layout, store.place
        self._rows: Rows = PreadRows(layout, key.directory(store.root), _of_any_size)
        if place.is_remote:
            self._rows = place.rows(key, self._present, "pread")

    def commit(self, digest: str) -> Commit | None:
        """Return the commit of this digest; None if the copy has another one."""
        return self._present if self._present.digest == digest else None

    def tables(self) -> list[pl.DataFrame]:
        """Return the items that the copy has."""
        try:
            return [self._store.item_table(SetInfo(self._key, self._present))]
        except (FeatstoreError, OSError) as err:
            self._note(err)
        return []

    def file(self, one: Listed) -> bytes:
        """Return a file that a commit lists, of rows no; empty if the copy does not have it."""
        try:
            self._store.place.fetch(self._key, one.commit, one.part)
            return read_regular(self._store.root / one.path, limit=MAX_ITEM_BYTES)
        except (FeatstoreError, OSError) as err:
            self._note(err)
        return b""

    def block(self, commit: Commit, block: int) -> bytes | None:
        """Return the rows of a block of a commit, wherever they lie in the copy; None without."""
        rows = commit.layout.block_slice(block)
        try:
            if commit.revision_id not in self._present.published:
                raise CorruptStoreError(
                    f"{self._key} has no revision {commit.revision_id[:12]} in "
                    f"{self._store.address}."
                )
            found = self._rows.read(np.arange(rows.start, rows.stop)).tobytes()
            if commit.block_hash(found) == commit.blocks[block]:
                return found
            raise CorruptStoreError(
                f"Rows {rows.start:,}-{rows.stop - 1:,} of {self._key} are damaged in "
                f"{self._store.address}, too."
            )
        except (FeatstoreError, OSError) as err:
            self._note(err)
        return None

    def _note(self, err: Exception) -> None:
        self.reasons += [str(err)] if str(err) not in self.reasons else []


@contextmanager
def _of_any_size(directory: Path, file: DataFile) -> Iterator[int]:
    """Open a data file that may be cut: it has the rows before its end."""
    path = directory / file.path
    with open_regular(path) as handle:
        try:
            yield handle.fileno()
        except CorruptStoreError as err:
            raise CorruptStoreError(f"{path} {check_size(path, file)}.") from err


@dataclass
class Repair:
    """What became of a damaged set.

    Attributes
    ----------
    key : str
        Full name of the set.
    rebuilt : list of str
        Files that are whole again, relative to the store; in a dry run those that would be,
        without the manifest.
    left : list of Problem
        What is still wrong.
    reasons : list of str
        Why something could not be repaired.
    commands : list of str
        What to type next.
    """

    key: str
    rebuilt: list[str] = field(default_factory=list)
    left: list[Problem] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)


def rebuild_set(
    root: Path,
    key: str,
    *,
    copy: FeatureStore | None = None,
    items: pl.DataFrame | None = None,
    dry_run: bool = False,
) -> Repair:
    """Rebuild what follows from the rest of the store or is in a copy; report what is left.

    Parameters
    ----------
    copy : FeatureStore, optional
        Another store that has the same revision of the set.
    items : DataFrame, optional
        What the item table may be, or the beginning of it: that of a manifest.

    Raises
    ------
    UnknownSetError
        If there is no such set, here or in `copy`.
    StoreWriteError
        If another process is writing the set, or the file system refuses.
    """
    before, set_key = verify_store(root, [key]).problems, SetKey(*key.split("/"))
    log = repair_log(root, dry_run=dry_run)
    if not before:
        if not dry_run:
            tidy_set(root, set_key)  # a repair that was killed before it could tidy up
        return Repair(key)
    source = None if copy is None else SetCopy(copy, set_key)
    directory, written = set_key.directory(root), list[str]()
    names = ("embedding", "bias", "revisions", ".staging")
    check_no_links(root, [directory / name for name in names])
    claim = None if dry_run else claim_set(directory, set_key)

    def write(path: Path, parts: Sequence[bytes]) -> None:
        """Write a file whose bytes have only one right form; in a dry run only note it."""
        check_no_links(root, [path.parent])
        if claim is not None:
            claim.write_file(path, parts)
            claim.sync()
        written.append(path.relative_to(root).as_posix())

    try:
        if claim is not None and read_log(root).sets.get(key) != log.sets.get(key):
            raise StoreWriteError(f"{root / key} was changed meanwhile. Run the command again.")
        _rebuild(write, root, set_key, log, source, items)
    finally:
        if claim is not None:
            end_claim(claim)
    if dry_run:
        would = {*written, LOG}
        left = [problem for problem in before if problem.path not in would]
    else:
        left = verify_store(root, [key]).problems
    paths = {problem.path for problem in left}
    files = [problem.path for problem in before if problem.path not in paths]
    return Repair(key, files, left, source.reasons if source and left else [])


def repair_log(root: Path, *, dry_run: bool = False) -> Log:
    """Return the log of a store, made again from its commits if it is damaged or lost.

    Raises
    ------
    FormatVersionError
        If another version wrote the store.
    StoreWriteError
        If the file system refuses.
    """
    with suppress(CorruptStoreError):
        return checked_log(root)
    with folder_lock(root):
        log = rebuilt_log(root)
        if not dry_run:
            write_file(root / LOG, [log.data()])
    return log


#: Writes a file of a set.
Write = Callable[[Path, Sequence[bytes]], None]


def _rebuild(
    write: Write, root: Path, key: SetKey, log: Log, copy: SetCopy | None,
    items: pl.DataFrame | None,
) -> None:  # fmt: skip
    """Write again what has only one right form."""
    metadata = root_metadata(log.hash)
    if not same_file(root / "zarr.json", facts_of(metadata)):
        write(root / "zarr.json", [metadata])
    commit = whole_commit(root, key, log=log, fetch=copy.commit if copy else lambda _: None)
    if commit is None:
        return
    damage = find_damage(root, key, commit)
    tables = [] if items is None else [items]
    if copy is not None and damage.items:
        tables += copy.tables()
    for one in damage.wrong:
        data = derive_items(one, tables) if one.part == "items" else one.content
        if data is None and copy is not None:
            data = copy.file(one)
        if data is not None and facts_of(data) == dict(one.facts):
            write(root / one.path, [data])
    for one, bad in damage.data:
        parts = _whole_parts(root, one, bad, copy)
        # Blocks that are right are of no use without the others of their file.
        if parts is not None:
            write(root / one.path, parts)


def _whole_parts(
    root: Path, one: Listed, bad: Collection[int], copy: SetCopy | None
) -> list[bytes] | None:
    """Return a damaged data file: good blocks from itself, the others from the copy.

    None if a block cannot be had, or is not the one that the commit names.
    """
    file, path = one.data, root / one.path
    assert file is not None
    parts = [bytes(file.part.padding)]
    for block in file.blocks:
        if block in bad:
            data = None if copy is None else copy.block(one.commit, block)
        else:
            data = read_block(path, file, block)
        if data is None or one.commit.block_hash(data) != one.commit.blocks[block]:
            return None
        parts.append(data)
    return [*parts, file.tail()]


def derive_items(one: Listed, tables: Iterable[pl.DataFrame]) -> bytes | None:
    """Return an item table of a commit, if as many rows of one of these make it."""
    start = 0
    for items in one.commit.tables:
        for table, at in itertools.product(tables, {0, start}):
            data = item_bytes(table[at : at + items["n"]])
            if facts_of(data) == one.facts:
                return data
        start += items["n"]
    return None

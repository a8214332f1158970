"""Verify a store: the files that its records list, beside the files that it holds.

The log of a store lists sets, tags and pictures; the commits of a set list its files
(`featstore.store.listing`). What is listed and missing, or not as listed, is wrong. What nothing
lists is a leftover of a writer, which is noted, or belongs to nothing. Records are written
deterministically, so one is right only if it is byte for byte what its own content is written as.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featstore.errors import AddressError, CorruptStoreError, FeatstoreError, UnknownSetError
from featstore.identity import SHORT
from featstore.store.convention import root_metadata, zarr_metadata
from featstore.store.files import (
    facts_of,
    file_facts,
    json_bytes,
    read_json,
    same_file,
    walk_store,
)
from featstore.store.layout import SetKey, group_metadata
from featstore.store.listing import Listed, SetRecords, read_records
from featstore.store.log import ABOUT, Log, read_log, rebuilt_log, unknown_set
from featstore.store.log import NAME as LOG
from featstore.store.records import (
    REVISIONS,
    parse_tag,
    read_commit,
    read_tag,
    tag_document,
    tag_file,
)
from featstore.store.tables import read_items, read_thumbnail_file

#: The group that a store is for readers of Zarr.
ROOT = "zarr.json"

#: What a writer puts below a set before a record lists it, and what a set may hold without.
_STAGING = re.compile(
    r"\.staging/(part-\d{5}-of-\d{5}/)?"
    r"(lock|w\d{6}-[0-9a-f]{8}/(claim|journal\.jsonl|data-\d{6}\.bin|[^/]+\.staged))"
)
_RUN = re.compile(r"runs/[^/]+\.json")
_UNFINISHED = re.compile(
    r"(embedding/(c/|[0-9a-f]{16}/)?|bias/)?zarr\.json"
    r"|(embedding(/[0-9a-f]{16})?|bias)/c/\d+(/0)?|golden\.json|failures(-[0-9a-f]{8})?\.parquet"
    r"|revisions/[0-9a-f]{64}\.json"
)
_STAGED = re.compile(r"\..+\.staged")
_UNTIDY = (
    "is published, but its writer was stopped before it tidied up: the same command again or "
    "`headstock store gc` does that"
)
_LOST = (
    "is not the commit record that its name says; without it nothing says what the set's other "
    "files should be (`headstock store repair --copy` takes it from another copy)"
)
_ITEMS = re.compile(r"[^/]+/[^/]+/items-([0-9a-f]{8})\.parquet")
_TAG = re.compile(r"tags/[A-Za-z0-9][A-Za-z0-9._-]{0,136}\.json")
#: What makes a file about the store right.
_CARD = "`headstock store card STORE -o STORE` writes and lists it"
_THUMBNAILS = re.compile(r"[^/]+/[^/]+/thumbnails-([0-9a-f]{8})\.parquet")


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
    return _Verification(root, keys, full=full).run(on_set)


class _Verification:
    """One pass over a store: what is there, what is listed, what is wrong.

    Attributes
    ----------
    files : set of str
        The regular files of the store that no link leads to; no other is opened.
    by_set : dict
        Key of a set -> its files, relative to it.
    known : set of str
        Files that something accounts for.
    wrong, notes : dict
        Path -> what is wrong with it, or only to be noted.
    """

    def __init__(self, root: Path, keys: Collection[str], *, full: bool) -> None:
        self.root = root
        self.full = full
        self.files, self._folders, self._odd = walk_store(root)
        self.by_set: dict[str, set[str]] = {}
        for name in self.files:
            *above, inside = name.split("/", 3)
            if len(above) == 3:
                self.by_set.setdefault("/".join(above), set()).add(inside)
        self._keys = frozenset(keys)
        self.known: set[str] = set()
        self.wrong: dict[str, str] = {}
        self.notes: dict[str, str] = {}
        self._log = self._read_log()
        self._tables: set[tuple[str, str, int]] = set()

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
        self._check_thumbnails()
        self._check_tags()
        self._check_about()
        self._check_rest()
        return VerifyReport(
            [Problem(path, what) for path, what in sorted(self.wrong.items())],
            [Problem(path, what) for path, what in sorted(self.notes.items())],
            n_sets=len(chosen),
            n_files=len(self.files),
        )

    def _read_log(self) -> Log:
        """Return the log; where it is damaged, what the commits say it should be."""
        self.known.add(LOG)
        try:
            log = read_log(self.root)
        except CorruptStoreError as err:
            self._blame(LOG, f"does not list the sets any more: {err}")
            return rebuilt_log(self.root)
        if not self._is_file(LOG, log.data()):
            self._blame(LOG, "is not what a writer writes there")
        return log

    def _blame(self, path: str, what: str) -> None:
        """Report a file; what was reported first stays."""
        self.known.add(path)
        self.wrong.setdefault(path, what)

    def _note(self, path: str, what: str) -> None:
        self.known.add(path)
        self.notes.setdefault(path, what)

    def _check_root(self) -> None:
        """Check the group of the store, which has only one form."""
        self.known.add(ROOT)
        if not self._is_file(ROOT, root_metadata(self._log.hash)):
            if ROOT in self.files:
                self._blame(ROOT, "is not what a writer writes there")
            elif self._log.sets and not any(map(self._is_busy, self._log.sets)):
                # Otherwise its writer was stopped before it came so far.
                self._blame(ROOT, "is missing")

    def _is_file(self, path: str, data: bytes) -> bool:
        with contextlib.suppress(OSError):
            return path in self.files and same_file(self.root / path, facts_of(data))
        return False

    def _is_busy(self, key: str) -> bool:
        """Return whether a writer is at work on a set, or was stopped."""
        return f"{key}/.staging" in self._folders

    def _check_set(self, key: str) -> None:
        """Compare the files of a set with what its records list."""
        names, busy = self.by_set.get(key, set()), self._is_busy(key)
        listed = key in self._log.sets
        for name in names:
            if _RUN.fullmatch(name):
                self.known.add(f"{key}/{name}")
            elif _STAGING.fullmatch(name):
                self._note(f"{key}/{name}", "belongs to an unfinished extraction")
        try:
            records = read_records(self.root, SetKey(*key.split("/")), log=self._log)
        except CorruptStoreError:
            self.known |= {f"{key}/{name}" for name in names}
            return  # a link leads to its records, which is reported by itself
        for revision in records.lost:
            self._blame(f"{key}/{REVISIONS}/{revision}.json", _LOST)
        for one in records.files().values():
            self._check_file(one, records, busy=busy)
        if not busy and not records.lost:
            return
        what = f"belongs to an {'extension under way' if listed else 'unfinished extraction'}"
        for path in (f"{key}/{name}" for name in names if _UNFINISHED.fullmatch(name)):
            if path not in self.known and busy:
                self._note(path, what)
            elif listed:
                self.known.add(path)  # a record that is lost may list it

    def _check_file(self, one: Listed, records: SetRecords, *, busy: bool) -> None:
        """Compare a file with what a commit lists; what several sets share is read once."""
        part = one.part
        if part == "zarr" and one.path in self.known:
            return
        self.known.add(one.path)
        if busy and part == "zarr" and self._is_behind(one, records):
            self._note(one.path, _UNTIDY)
            return
        seen = (one.path, one.facts["sha256"], one.commit.n) if one.facts else ("", "", 0)
        if part == "items" and seen in self._tables:
            return
        if one.path not in self.files:
            self._blame(one.path, "is missing")
            return
        wrong, current = one.check(self.root, full=self.full).reasons, records.current
        if current and (current.dim, current.block_rows) != (one.commit.dim, one.commit.block_rows):
            wrong.append("is of a commit of another set")
        if part == "items" and not wrong:
            self._tables.add(seen)
            if self.full:
                try:
                    for own in one.commit.parts:
                        if own.items_facts == one.facts:
                            read_items(self.root / one.path, own.items, n=own.n)
                except CorruptStoreError as err:
                    wrong.append(f"cannot be opened: {err}")
        if wrong:
            self._blame(one.path, "; ".join(wrong))

    def _is_behind(self, one: Listed, records: SetRecords) -> bool:
        """Return whether Zarr's metadata is that of another revision, or still to be written."""
        if one.path not in self.files or self._is_file(one.path, one.content or b""):
            return one.path not in self.files
        for record in (records.directory / REVISIONS).glob("*.json"):
            with contextlib.suppress(CorruptStoreError):
                other = zarr_metadata(records.key, read_commit(records.directory, record.stem))
                if self._is_file(one.path, other.get(one.path, b"")):
                    return True
        return False

    def _check_thumbnails(self) -> None:
        """Thumbnails carry their hash in their name; the log says which there are."""
        listed = self._log.thumbnails
        elsewhere = {name.rsplit("/", 1)[1]: name for name in listed}
        unlisted = set()
        for path, match in [(path, _THUMBNAILS.fullmatch(path)) for path in self.files]:
            if match is None:
                continue
            self.known.add(path)
            with contextlib.suppress(FileNotFoundError):  # a writer has replaced it meanwhile
                if file_facts(self.root / path)["sha256"][:SHORT] != match[1]:
                    self._blame(path, "was changed: it has another hash than its name")
                elif path not in listed:
                    unlisted.add(path.rsplit("/", 1)[0])
                    name = elsewhere.get(path.rsplit("/", 1)[1])
                    self._check_unlisted(path, name)
        for path in listed - self.files - set(self._odd):
            if path.rsplit("/", 1)[0] in unlisted:
                self.notes[LOG] = f"lists {path}, which a writer that was stopped has replaced"
            else:
                self._blame(path, "is missing")

    def _check_unlisted(self, path: str, moved: str | None) -> None:
        """Note thumbnails of a writer that was stopped before it had listed them."""
        try:
            read_thumbnail_file(self.root / path)
        except CorruptStoreError as err:
            self._blame(path, f"are no thumbnails: {err}")
        if moved is not None:
            self._blame(path, f"are those of {moved}: they were moved")
        elif path not in self.wrong:
            self.notes[path] = "are thumbnails that no writer has listed yet"

    def _check_tags(self) -> None:
        """Check that the tags of the log are there, and name revisions that are."""
        for name, digest in self._log.tags.items():
            path = tag_file(name, digest)
            self.known.add(path)
            if self._is_behind_link(path):
                continue
            try:
                sets = read_tag(self.root, name, digest)
            except FeatstoreError as err:
                self._blame(path, f"is missing or changed: {err}")
                continue
            data = json_bytes(tag_document(name, sets))
            # Neither is a set that was removed damage of the tag, nor is a record that was told.
            records = {key: f"{key}/{REVISIONS}/{revision}.json" for key, revision in sets.items()}
            gone = [key for key, record in records.items() if key in self._log.sets
                    and record not in self.files | self.wrong.keys()
                    and not self._is_behind_link(record)]  # fmt: skip
            if gone or not self._is_file(path, data):
                what = "is not what a writer writes there"
                self._blame(path, f"names a revision that {min(gone)} lacks" if gone else what)

    def _check_about(self) -> None:
        """Check what is written about the store; as the log lists it."""
        listed = self._log.about
        for name in self.files & set(ABOUT):
            self.known.add(name)
            if name not in listed:
                self.notes[name] = f"is not listed; {_CARD}"
            elif file_facts(self.root / name)["sha256"] != listed[name]:
                self._blame(name, f"is not the one that the log lists; {_CARD}")
        for name in listed.keys() - self.files - set(self._odd):
            self._blame(name, f"is missing, though the log lists it; {_CARD}")

    def _check_rest(self) -> None:
        """Report what nothing accounts for, and whatever is no regular file."""
        # What lies behind a link was not looked at: the link is what is wrong.
        self.wrong = {p: what for p, what in self.wrong.items() if not self._is_behind_link(p)}
        for path, what in self._odd.items():
            if self._in_scope(path):
                self.wrong[path] = f"is a {what}; a store holds regular files"
        for path in self.files - self.known:
            if not self._in_scope(path):
                continue
            folder, _, name = path.rpartition("/")
            of_group = dict(zip(("dataset", "kind"), folder.split("/"), strict=False))
            if _STAGED.fullmatch(name):
                self.notes[path] = (
                    "is left from an unfinished write; `headstock store gc` removes it"
                )
            elif self._is_file(path, json_bytes(group_metadata(of_group))):
                self.notes[path] = "is a group that holds no set"
            elif _TAG.fullmatch(path) and self._is_tag(path):
                self.notes[path] = (
                    "is a tag that the log does not list; `headstock store gc` removes it"
                )
            elif self._is_whole_table(path):
                self.notes[path] = (
                    "is an item table that no commit names; `headstock store gc` removes it"
                )
            else:
                self.wrong[path] = "belongs to nothing in this store"

    def _is_tag(self, path: str) -> bool:
        with contextlib.suppress(FeatstoreError, OSError):
            tag = parse_tag(read_json(self.root / path), where=path)
            return path == tag_file(tag["name"], tag["digest"])
        return False

    def _is_whole_table(self, path: str) -> bool:
        match = _ITEMS.fullmatch(path)
        return match is not None and file_facts(self.root / path)["sha256"].startswith(match[1])

    def _is_behind_link(self, path: str) -> bool:
        return not self._odd.keys().isdisjoint((path, *_folders_above(path)))

    def _in_scope(self, path: str) -> bool:
        return not self._keys or "/".join(path.split("/")[:3]) in self._keys


def _folders_above(path: str) -> Iterator[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path

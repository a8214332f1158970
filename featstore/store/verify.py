"""Verify a store: the files that its records list, beside the files that it holds.

The log of a store lists sets, tags and pictures; the commits of a set list its files
(`featstore.store.listing`). What is listed and missing, or not as listed, is wrong, and so is
whatever is no regular file. What nothing lists is no part of the store, and only noted. Records are
written deterministically, so one is right only if it is byte for byte what its own content is
written as.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featstore.errors import AddressError, CorruptStoreError, FeatstoreError, UnknownSetError
from featstore.store.convention import root_metadata
from featstore.store.files import (
    facts_of,
    file_facts,
    json_bytes,
    same_file,
    walk_store,
)
from featstore.store.layout import SetKey
from featstore.store.listing import Listed, set_files, whole_commit
from featstore.store.log import ABOUT, Log, read_log, rebuilt_log, unknown_set
from featstore.store.log import NAME as LOG
from featstore.store.records import (
    REVISIONS,
    read_tag,
    tag_document,
    tag_file,
)

#: The group that a store is for readers of Zarr.
ROOT = "zarr.json"

_UNTIDY = (
    "is published, but its writer was stopped before it tidied up: the same command again or "
    "`headstock store gc` does that"
)
_UNFINISHED = "belongs to an unfinished extraction, or to no set"
_UNLISTED = "is listed nowhere; `headstock store gc` removes what an unfinished write left"
_LOST = (
    "is not the commit record that its name says; without it nothing says what the set's other "
    "files should be (`headstock store repair --copy` takes it from another copy)"
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
    while True:
        found = _Verification(root, keys, full=full)
        report = found.run(on_set)
        if report.ok or not found.is_outdated():
            return report


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
            n_sets=len(chosen),
            n_files=len(self.files),
        )

    def is_outdated(self) -> bool:
        """Return whether the log was replaced meanwhile: what it named then may be gone."""
        with contextlib.suppress(CorruptStoreError):
            return LOG not in self.wrong and read_log(self.root) != self._log
        return False

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
        """Compare the files of a set with what its commit lists."""
        with contextlib.suppress(CorruptStoreError):  # a link, which is reported by itself
            parsed = SetKey(*key.split("/"))
            commit = whole_commit(self.root, parsed, log=self._log)
            if commit is not None:
                self._published[key] = commit.published
                for one in set_files(parsed, commit).values():
                    self._check_file(one, busy=self._is_busy(key))
            elif key in self._log.sets:
                self._blame(f"{key}/{REVISIONS}/{self._log.sets[key]}.json", _LOST)
                self.known |= {path for path in self.files if path.startswith(f"{key}/")}

    def _check_file(self, one: Listed, *, busy: bool) -> None:
        """Compare a file with what a commit lists."""
        seen = one.path, str(one.facts.get("sha256", ""))
        if seen in self._right or (one.part == "zarr" and one.path in self.known):
            return
        self.known.add(one.path)
        if one.path in self.files:
            wrong = one.check(self.root, full=self.full).reasons
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
            cure = f"; {_CARD}" if path in ABOUT else ""
            try:
                if not file_facts(self.root / path)["sha256"].startswith(digest):
                    self._blame(path, f"is not the one that the log lists{cure}")
            except FileNotFoundError:
                self._blame(path, f"is missing, though the log lists it{cure}")
            except CorruptStoreError as err:
                self._blame(path, str(err))

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
            gone = [key for key, one in sets.items() if one not in self._published.get(key, [one])]
            if gone or not self._is_file(path, data):
                what = "is not what a writer writes there"
                self._blame(path, f"names a revision that {min(gone)} lacks" if gone else what)

    def _check_rest(self) -> None:
        """Report what is no regular file, and note what nothing lists but facts of runs."""
        # What lies behind a link was not looked at: the link is what is wrong.
        self.wrong = {p: what for p, what in self.wrong.items() if not self._is_behind_link(p)}
        for path, what in self._odd.items():
            if self._in_scope(path):
                self.wrong[path] = f"is a {what}; a store holds regular files"
        for path in filter(self._in_scope, self.files - self.known):
            if path.split("/")[3:4] != ["runs"]:
                busy = self._is_busy("/".join(path.split("/")[:3]))
                self.notes.setdefault(path, _UNFINISHED if busy else _UNLISTED)

    def _is_behind_link(self, path: str) -> bool:
        return not self._odd.keys().isdisjoint((path, *_folders_above(path)))

    def _in_scope(self, path: str) -> bool:
        return not self._keys or "/".join(path.split("/")[:3]) in self._keys


def _folders_above(path: str) -> Iterator[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path

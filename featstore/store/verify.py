"""Verify a store: the files that its records list, beside the files that it holds.

The root and the catalog of a store list sets, tags and pictures; the pointer and the commits of a
set list its files (`featstore.store.listing`). What is listed and missing, or not as listed, is
wrong. What nothing lists is a leftover of a writer, which is noted, or belongs to nothing. Records
are written deterministically, so one is right only if it is byte for byte what its own content is
written as.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featstore.errors import CorruptStoreError, FeatstoreError, FormatVersionError, UnknownSetError
from featstore.identity import SHORT
from featstore.store.blocks import first_row_not_stored
from featstore.store.catalog import (
    ABOUT,
    parse_catalog,
    read_catalog,
    removals,
    store_format,
    unknown_set,
)
from featstore.store.catalog import NAME as CATALOG
from featstore.store.convention import is_group
from featstore.store.files import (
    MAX_JSON_BYTES,
    MAX_METADATA_BYTES,
    file_facts,
    has_grown_to,
    json_bytes,
    parse_json,
    read_regular,
    walk_store,
)
from featstore.store.layout import SetKey
from featstore.store.listing import ARRAY, Listed, SetRecords, read_records
from featstore.store.records import (
    POINTER,
    REVISIONS,
    SIGNATURE,
    Commit,
    parse_tag,
    read_root,
    tag_file,
    unlike_listed,
)
from featstore.store.signature import Signature
from featstore.store.tables import read_items, read_thumbnail_file

#: What a writer puts below a set before a record lists it, and what a set may hold without.
_COMMIT = re.compile(r"revisions/([0-9a-f]{64})\.json")
_STAGING = re.compile(
    r"\.staging/(part-\d{5}-of-\d{5}/)?"
    r"(lock|w\d{6}-[0-9a-f]{8}/(claim|journal\.jsonl|data-\d{6}\.bin|[^/]+\.staged))"
)
_RUN = re.compile(r"runs/[^/]+\.json")
_UNFINISHED = re.compile(
    r"(embedding|bias)/(zarr\.json|c/\d+(/0)?)|golden\.json|failures(-[0-9a-f]{8})?\.parquet"
    r"|revisions/[0-9a-f]{64}\.json"
)
_STAGED = re.compile(r"\..+\.staged")
_REMOVED = re.compile(r"(^|/)\.removed-[^/]+/")
_ENDS_REMOVAL = "`featstore rm` again or `featstore gc` ends it"

_UNTIDY = (
    "is published, but its writer was stopped before it tidied up: the same command again or "
    "`featstore gc` does that"
)
_LOST = (
    "is not the commit record that its name says; without it nothing says what the set's other "
    "files should be (`featstore repair --from` takes it from another copy)"
)
_ITEMS = re.compile(r"[^/]+/[^/]+/items-([0-9a-f]{8})\.parquet")
_TAG = re.compile(r"tags/[A-Za-z0-9][A-Za-z0-9._-]{0,127}\.json")
#: What makes a file about the store right.
_CARD = "`featstore card STORE -o STORE` writes and lists it"
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
        """Return what ``featstore verify --json`` prints."""
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
    UnknownSetError
        If `root` is no store, or a key names nothing in it.
    FormatVersionError
        If a newer version wrote the store.
    """
    if not root.is_dir() or not any((root / name).exists() for name in ("zarr.json", CATALOG)):
        what = "is not a featstore store" if root.exists() else "does not exist"
        raise UnknownSetError(f"{root} {what}. Check the path.")
    _check_version(root)
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
        self._listed: dict[str, Any] = {"sets": {}}
        self._tables: set[tuple[str, str, int]] = set()

    def run(self, on_set: Callable[[int, int, str], object]) -> VerifyReport:
        """Check everything and report."""
        self._read_catalog()
        # Root and catalog state the format; the catalog under a digest.
        form = self._listed.get("form") or store_format(self.root)
        self._check_group("", form.attributes())
        there = (folder for folder in self._folders if folder.count("/") == 2)
        sets = sorted({*self._listed["sets"], *filter(SetKey.parse, there)})
        unknown = self._keys - set(sets)
        if unknown:
            raise UnknownSetError(unknown_set(self.root, min(unknown), sets))
        chosen = [key for key in sets if not self._keys or key in self._keys]
        for number, key in enumerate(chosen):
            on_set(number, len(chosen), key)
            self._check_set(key)
        for folder in sorted({key.rsplit("/", 1)[0] for key in chosen}):
            dataset, kind = folder.split("/")
            self._check_group(dataset, {"dataset": dataset})
            self._check_group(folder, {"dataset": dataset, "kind": kind})
        self._check_thumbnails()
        self._check_tags()
        self._check_about()
        if SIGNATURE in self.files:
            self._document(SIGNATURE, lambda found: Signature.parse(found, where=SIGNATURE))
        self._check_rest()
        return VerifyReport(
            [Problem(path, what) for path, what in sorted(self.wrong.items())],
            [Problem(path, what) for path, what in sorted(self.notes.items())],
            n_sets=len(chosen),
            n_files=len(self.files),
        )

    def _blame(self, path: str, what: str) -> None:
        """Report a file; what was reported first stays."""
        self.known.add(path)
        self.wrong.setdefault(path, what)

    def _note(self, path: str, what: str) -> None:
        self.known.add(path)
        self.notes.setdefault(path, what)

    def _document(self, path: str, parse: Callable[[Any], Any]) -> Any:
        """Return what a record states, or None; it is wrong if no writer writes it so."""
        self.known.add(path)
        found = None
        try:
            data = read_regular(self.root / path, limit=MAX_JSON_BYTES)
            document = parse_json(data, where=path)
            found = parse(document)
            if found is not None and data == json_bytes(document):
                return found
        except (FeatstoreError, OSError):
            pass
        self._blame(path, "is not what a writer writes there")
        return None

    def _check_group(self, folder: str, attributes: dict[str, Any]) -> None:
        """Check the ``zarr.json`` of the root, a dataset or a kind: it has only one form."""
        path = f"{folder}/{POINTER}".lstrip("/")
        if path in self.files and not self._is_group(path, attributes):
            self._blame(path, "is not the group metadata that a writer writes there")
        elif path not in self.files and folder in self._above_published:
            # Otherwise nothing is published yet: its writer was stopped before it came so far.
            self._blame(path, "is missing")
        self.known.add(path)

    def _is_group(self, path: str, attributes: dict[str, Any]) -> bool:
        with contextlib.suppress(CorruptStoreError, OSError):
            data = read_regular(self.root / path, limit=MAX_METADATA_BYTES)
            return is_group(data, attributes)
        return False

    @functools.cached_property
    def _above_published(self) -> frozenset[str]:
        """The folders above the sets that are finished, or once were; the store's is ''."""
        finished = {key for key, names in self.by_set.items() if POINTER in names}
        keys = {*self._listed["sets"], *filter(SetKey.parse, finished)}
        return frozenset(above for key in keys for above in (*_folders_above(key), ""))

    def _read_catalog(self) -> None:
        def parse(document: Any) -> dict[str, Any] | None:
            found = parse_catalog(document)
            return found if found is not None and all(map(SetKey.parse, found["sets"])) else None

        if CATALOG in self.files:
            self._listed = self._document(CATALOG, parse) or self._listed
            sets = self._listed["sets"]
            lost = [key for key in sets if POINTER not in self.by_set.get(key, ())]
            removed = removals(self.root).values() if lost else ()
            for key in (key for key in lost if key in removed and key not in self.by_set):
                self.notes[CATALOG] = f"lists {key}, whose removal was interrupted; {_ENDS_REMOVAL}"
                del sets[key]
            return
        published = [key for key, names in self.by_set.items() if POINTER in names]
        if not all(map(self._is_busy, filter(SetKey.parse, published))):
            self._blame(CATALOG, "is missing")

    def _is_busy(self, key: str) -> bool:
        """Return whether a writer is at work on a set, or was stopped."""
        return f"{key}/.staging" in self._folders

    def _check_set(self, key: str) -> None:
        """Compare the files of a set with what its records list."""
        names, listed = self.by_set.get(key, set()), self._listed["sets"].get(key)
        records = read_records(self.root, SetKey(*key.split("/")), names=names, listed=listed or "")
        busy, path = self._is_busy(key), f"{key}/{POINTER}"
        for name in names:
            match = _COMMIT.fullmatch(name)
            if _RUN.fullmatch(name):
                self.known.add(f"{key}/{name}")
            elif _STAGING.fullmatch(name):
                self._note(f"{key}/{name}", "belongs to an unfinished extraction")
            elif match and match[1] not in records.commits:
                self._blame(f"{key}/{name}", _LOST)
        published = POINTER in names or listed is not None
        if published:
            self._check_published(records, listed, busy=busy)
        if not busy and records.whole:
            return
        what = f"belongs to an {'extension under way' if published else 'unfinished extraction'}"
        for path in (f"{key}/{name}" for name in names if _UNFINISHED.fullmatch(name)):
            if path not in self.known and busy:
                self._note(path, what)
            elif published:
                self.known.add(path)  # a record that is lost may list it

    def _check_published(self, records: SetRecords, listed: str | None, *, busy: bool) -> None:
        """Check pointer, commits and all that they list; `listed` is what the catalog says."""
        key = str(records.key)
        path = f"{key}/{POINTER}"
        pointer, current, fault = records.pointer, records.current, records.pointer_fault
        self.known.add(path)
        revisions = []
        if pointer is not None and current is None:
            revisions = [pointer["revision"]]  # nothing says what the files should be
        elif fault:
            self._blame(path, fault)
        elif pointer is not None:
            revisions = pointer.get("history", [])
        for lost in (f"{key}/{REVISIONS}/{revision}.json" for revision in revisions):
            if lost not in self.files:
                self._blame(lost, "is missing, though the set names it")
        for one in records.files().values():
            self._check_file(one, records, busy=busy)
        if current is not None and records.layout is None:
            self._blame(f"{key}/{ARRAY}", "is not the metadata of an array of its commit")
        if current is None or listed == current.revision_id:
            return
        if busy:
            self.notes.setdefault(path, _UNTIDY)
        elif CATALOG not in self.wrong:
            self._blame(CATALOG, f"does not list {key} as it is; `featstore repair` rebuilds it")

    def _check_file(self, one: Listed, records: SetRecords, *, busy: bool) -> None:
        """Compare a file with what a commit lists; item tables of several sets are read once."""
        self.known.add(one.path)
        if busy and one.path.endswith(f"/{ARRAY}") and self._grown(records):
            self._note(one.path, "is that of an extension under way")
            return
        part = one.part
        seen = (one.path, one.facts["sha256"], one.commit.n) if one.facts else ("", "", 0)
        if part == "items" and seen in self._tables:
            return
        if one.path not in self.files:
            self._blame(one.path, "is missing")
            return
        wrong = one.check(self.root, full=self.full, grown=busy).reasons
        if part == "record" and one.commit is not records.current:
            wrong += self._unlike_current(one.commit, records)
        if part == "items" and not wrong:
            self._tables.add(seen)
            if self.full:
                try:
                    read_items(self.root / one.path, one.commit.items, n=one.commit.n)
                except CorruptStoreError as err:
                    wrong.append(f"cannot be opened: {err}")
        if wrong:
            self._blame(one.path, "; ".join(wrong))

    def _grown(self, records: SetRecords) -> bool:
        """Return whether the array's metadata is that of more rows, as an extension writes it."""
        layout = records.layout
        return layout is not None and has_grown_to(records.directory / "embedding", layout)

    def _unlike_current(self, older: Commit, records: SetRecords) -> list[str]:
        """Return what is wrong with an earlier revision: its rows are a beginning of those now."""
        current, layout = records.current, records.layout
        assert current is not None
        if len({(one.dim, one.dtype, one.block_rows, one.set_id) for one in (older, current)}) > 1:
            return ["is a commit of another set"]
        row = None
        if layout is not None and self.full and older.n <= current.n:
            # A data file that cannot be read is reported by itself.
            row = first_row_not_stored(records.directory / "embedding", layout, current, older)
        return [] if row is None else [f"its rows from {row:,} are not stored"]

    def _check_thumbnails(self) -> None:
        """Thumbnails carry their hash in their name; the catalog says which there are."""
        listed = self._listed.get("thumbnails")
        elsewhere = {name.rsplit("/", 1)[1]: name for name in listed or ()}
        unlisted = set()
        for path, match in [(path, _THUMBNAILS.fullmatch(path)) for path in self.files]:
            if match is None:
                continue
            self.known.add(path)
            with contextlib.suppress(FileNotFoundError):  # a writer has replaced it meanwhile
                if file_facts(self.root / path)["sha256"][:SHORT] != match[1]:
                    self._blame(path, "was changed: it has another hash than its name")
                elif listed is not None and path not in listed:
                    unlisted.add(path.rsplit("/", 1)[0])
                    name = elsewhere.get(path.rsplit("/", 1)[1])
                    self._check_unlisted(path, name)
        for path in set(listed or ()) - self.files - set(self._odd):
            if path.rsplit("/", 1)[0] in unlisted:
                self.notes[CATALOG] = f"lists {path}, which a writer that was stopped has replaced"
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
        """Check that tags are those of the catalog, and name revisions that are there."""
        listed: dict[str, str] | None = self._listed.get("tags")
        for path in map(tag_file, listed or ()):
            if path not in self.files and path not in self._odd:
                self._blame(path, "is missing, though the catalog lists the tag")
        for path in filter(_TAG.fullmatch, self.files):
            name = Path(path).stem
            tag = self._document(path, functools.partial(self._tag, name))
            if tag is None:
                continue
            unlike = unlike_listed(name, tag.get("digest", ""), listed)
            # Neither is a set that was removed damage of the tag, nor is a record that was told.
            records = {key: f"{key}/{REVISIONS}/{tag['sets'][key]}.json" for key in tag["sets"]}
            gone = [key for key, record in records.items() if f"{key}/{POINTER}" in self.files
                    and record not in self.files | self.wrong.keys()
                    and not self._is_behind_link(record)]  # fmt: skip
            if unlike or gone:
                self._blame(path, unlike or f"names a revision that {min(gone)} lacks")

    def _tag(self, name: str, document: Any) -> Any:
        parse_tag(document, name=name, where=tag_file(name))
        return document

    def _check_about(self) -> None:
        """Check what is written about the store; as the catalog lists it."""
        listed: dict[str, str] | None = self._listed.get("about")
        for name in self.files & set(ABOUT):
            self.known.add(name)
            if listed is not None and name not in listed:
                self.notes[name] = f"is not listed; {_CARD}"
            elif listed is not None and file_facts(self.root / name)["sha256"] != listed[name]:
                self._blame(name, f"is not the one that the catalog lists; {_CARD}")
        for name in set(listed or ()) - self.files - set(self._odd):
            self._blame(name, f"is missing, though the catalog lists it; {_CARD}")

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
                self.notes[path] = "is left from an unfinished write; `featstore gc` removes it"
            elif name == POINTER and path.count("/") < 3 and self._is_group(path, of_group):
                self.notes[path] = "is a group that holds no set"
            elif _REMOVED.search(path):
                self.notes[path] = f"is left from a removal; {_ENDS_REMOVAL}"
            elif self._is_whole_table(path):
                self.notes[path] = (
                    "is an item table that no commit names; `featstore gc` removes it"
                )
            else:
                self.wrong[path] = "belongs to nothing in this store"

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


def _check_version(root: Path) -> None:
    """Raise FormatVersionError if a newer version wrote the store; damage is for later."""
    try:
        read_root(root)
    except FormatVersionError:
        if read_catalog(root) is None:  # else the sealed catalog denies it: the root was damaged
            raise
    except (FeatstoreError, OSError):
        return

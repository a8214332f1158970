"""Verify a store: every file against its commit, and every record against the others.

Metadata is written deterministically, so a JSON file is right only if it is byte for byte
what its own content would be written as, and its content hashes to what the commit says.
Pointer, commit and catalog name one revision three times: where one of them disagrees, the
other two say which.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from featstore.errors import CorruptStoreError, FeatstoreError, FormatVersionError, UnknownSetError
from featstore.identity import SHORT
from featstore.store.blocks import (
    check_file,
    check_size,
    first_row_not_stored,
    layout_of,
    may_have_grown,
)
from featstore.store.catalog import (
    ABOUT,
    parse_catalog,
    read_catalog,
    removals,
    store_format,
    unknown_set,
)
from featstore.store.catalog import NAME as CATALOG
from featstore.store.damage import item_ids, judge_alone
from featstore.store.files import (
    MAX_JSON_BYTES,
    MAX_METADATA_BYTES,
    file_facts,
    has_grown_to,
    json_bytes,
    parse_json,
    read_json,
    read_regular,
    same_file,
)
from featstore.store.layout import SetKey, SetSpec, group_metadata
from featstore.store.records import (
    POINTER,
    REVISIONS,
    Commit,
    belongs,
    commit_bytes,
    commit_of,
    is_group,
    is_pointer,
    parse_pointer,
    parse_tag,
    read_root,
    tag_file,
    unlike_listed,
)
from featstore.store.signature import NAME as SIGNATURE
from featstore.store.signature import read_signature
from featstore.store.tables import MAX_THUMBNAILS_BYTES, read_items, read_thumbnail_file

_COMMIT = re.compile(r"revisions/([0-9a-f]{64})\.json")
_STAGING = re.compile(
    r"\.staging/(part-\d{5}-of-\d{5}/)?"
    r"(lock|w\d{6}-[0-9a-f]{8}/(claim|journal\.jsonl|data-\d{6}\.bin|[^/]+\.staged))"
)
_RUN = re.compile(r"runs/[^/]+\.json")
_FAILURES = re.compile(r"failures(-[0-9a-f]{8})?\.parquet")
_UNFINISHED = re.compile(
    r"(embedding|bias)/(zarr\.json|c/\d+(/0)?)|golden\.json|failures(-[0-9a-f]{8})?\.parquet"
)


class _SetVerification:
    """The check of one set, as part of a pass over its store."""

    def __init__(self, store: _Verification, key: SetKey, *, listed: str | None) -> None:
        self._store = store
        self._key = key
        self._name = str(key)
        self._directory = f"{store.root}/{self._name}"
        self._files: set[str] = store.by_set.get(self._name, set())
        self._listed = listed
        self._extending = False

    def run(self) -> str | None:
        """Check the set and return its current revision, if it can be told."""
        for name in self._files:
            if _RUN.fullmatch(name):
                self._know(name)
            elif _STAGING.fullmatch(name):
                self._note(name, "belongs to an unfinished extraction")
        commits = self._read_commits()
        attributes = self._read_pointer(commits)
        finished = POINTER in self._files or self._listed is not None
        if not finished:
            self._tolerate_unfinished(commits)
            return None
        current = self._current(attributes, commits)
        if current is None:
            self._tolerate(self._files, note=None)
            for name, what in judge_alone(Path(self._directory), self._files).items():
                self._blame(name, what)
            return None
        self._extending = any(name.startswith(".staging/") for name in self._files)
        published = commits.keys() if attributes is None else attributes.get("history", [])
        for revision, commit in commits.items():
            self._check_items(commit)
            # Beside a writer, one that is not published may be what a repair has just replaced.
            if revision != current.revision_id and (not self._extending or revision in published):
                self._check_older(commit, current)
        self._check_history(attributes, current, commits)
        self._check_small(current)
        self._check_data(current)
        return current.revision_id

    def _know(self, name: str) -> None:
        self._store.known.add(f"{self._name}/{name}")

    def _note(self, name: str, what: str) -> None:
        self._know(name)
        self._store.notes[f"{self._name}/{name}"] = what

    def _blame(self, name: str, what: str) -> None:
        self._store.blame(f"{self._name}/{name}", what)

    def _read_commits(self) -> dict[str, Commit]:
        """Return the commits that are what their names say; report the others."""
        commits = {}
        for name in sorted(self._files):
            match = _COMMIT.fullmatch(name)
            if match is None:
                continue
            self._know(name)
            path = f"{self._directory}/{name}"
            try:
                data = read_regular(path, limit=MAX_JSON_BYTES)
                commit = commit_of(data, match[1], where=path)
            except (FeatstoreError, FileNotFoundError):
                self._blame(
                    name,
                    "is not the commit record that its name says; without it only the form of "
                    "the set's other files can be checked (`featstore repair --from` takes it from "
                    "another copy)",
                )
                continue
            if data != commit_bytes(commit):
                self._blame(name, "is not written as a writer writes it")
            commits[match[1]] = commit
        return commits

    def _read_pointer(self, commits: Mapping[str, Commit]) -> dict[str, Any] | None:
        """Return the attributes of the set if its pointer is what a writer writes."""
        self._know(POINTER)
        path = f"{self._directory}/{POINTER}"
        if POINTER not in self._files:
            return None
        try:
            data = read_regular(path, limit=MAX_METADATA_BYTES)
            attributes = parse_pointer(parse_json(data, where=path), where=path)
            if not is_pointer(data, attributes, commits.get(attributes["revision"])):
                self._blame(POINTER, "is not written as a writer writes it")
        except FeatstoreError:
            self._blame(POINTER, "is not the metadata of a set")
            return None
        except FileNotFoundError:
            return None
        return attributes

    def _current(
        self, attributes: dict[str, Any] | None, commits: dict[str, Commit]
    ) -> Commit | None:
        """Return the commit that the set has now; report the files that disagree."""
        if attributes is None:
            if POINTER not in self._files:
                self._blame(POINTER, "is missing, though the catalog lists the set")
        elif attributes["revision"] not in commits:
            # Two of three: a revision that the catalog and a commit agree on is the right one.
            if self._listed in commits:
                self._blame(POINTER, "points to a revision that does not exist")
            else:
                name = f"{REVISIONS}/{attributes['revision']}.json"
                self._blame(name, "is missing, though the set points to it")
        else:
            commit = commits[attributes["revision"]]
            if not belongs(self._key, attributes, commit) or not _identified(
                attributes, commit.dtype
            ):
                self._blame(POINTER, "is changed, or the metadata of another set")
            return commit
        if self._listed in commits:
            return commits[str(self._listed)]
        return next(iter(commits.values())) if len(commits) == 1 else None

    def _check_items(self, commit: Commit) -> None:
        name = str(commit.items["file"])
        path = f"{self._key.dataset}/{self._key.kind}/{name}"
        self._store.known.add(path)
        table = (path, commit.items["sha256"], commit.n)
        if table in self._store.tables:
            return
        self._store.tables.add(table)
        self._compare(commit.items_facts, path)
        if self._store.full and path not in self._store.wrong:
            try:
                read_items(self._store.root / path, commit.items_facts, n=commit.n)
            except CorruptStoreError as err:
                self._store.blame(path, f"cannot be opened: {err}")

    def _compare(self, facts: dict[str, Any], path: str) -> None:
        if path not in self._store.files:
            self._store.blame(path, "is missing")
        elif not same_file(f"{self._store.root}/{path}", facts):
            self._store.blame(path, "differs from its commit")

    def _check_history(
        self, attributes: dict[str, Any] | None, current: Commit, commits: dict[str, Commit]
    ) -> None:
        """Check that pointer and commits name the same earlier revisions."""
        if attributes is None or f"{self._name}/{POINTER}" in self._store.wrong:
            return
        history = attributes.get("history", [])
        for revision in history:
            name = f"{REVISIONS}/{revision}.json"
            if name not in self._files:
                self._blame(name, "is missing, though the set names it as an earlier revision")
        for revision in set(commits) - {current.revision_id, *history}:
            name = f"{REVISIONS}/{revision}.json"
            if self._extending:
                self._note(name, "is a revision that is not yet published")
            else:
                self._blame(name, "is a revision that was never published; see `featstore gc`")

    def _check_small(self, commit: Commit) -> None:
        for name, facts in commit.metadata.items():
            self._know(name)
            if name == "embedding/zarr.json" and self._grown(commit):
                note = "is that of an extension under way"
                self._store.notes.setdefault(f"{self._name}/{name}", note)
                continue
            self._compare(facts, f"{self._name}/{name}")
        if self._extending:
            for name in self._files:
                if _FAILURES.fullmatch(name) and name not in commit.metadata:
                    self._note(name, "belongs to an extension under way")

    def _grown(self, commit: Commit) -> bool:
        """Return whether the array's metadata is that of more rows, as an extension writes it."""
        facts = commit.metadata["embedding/zarr.json"]
        if not self._extending or "embedding/zarr.json" not in self._files:
            return False
        array = Path(self._directory, "embedding")
        if same_file(array / "zarr.json", facts):
            return False
        layout = layout_of(commit)
        return layout is not None and has_grown_to(array, layout)

    def _check_data(self, commit: Commit) -> None:
        layout = layout_of(commit)
        if layout is None:
            self._blame("embedding/zarr.json", "is not the metadata of an array of its commit")
            self._tolerate([name for name in self._files if name.startswith("embedding/c/")])
            return
        for file in range(layout.n_files):
            name = f"embedding/{layout.file_name(file)}"
            self._know(name)
            path = f"{self._directory}/{name}"
            grown = self._extending and name in self._files and may_have_grown(path, layout, file)
            if name not in self._files:
                reasons = ["is missing"]
            elif self._store.full:
                reasons = check_file(path, layout, file, commit, grown=grown).reasons
            else:
                reasons = [what for what in [check_size(path, layout, file)] if what and not grown]
            if reasons:
                self._blame(name, "; ".join(reasons))
            elif grown:
                self._note(name, "holds rows of an extension under way")
        if self._extending:
            for name in self._files:
                unknown = f"{self._name}/{name}" not in self._store.known
                if name.startswith("embedding/c/") and unknown:
                    self._note(name, "belongs to an extension under way")

    def _check_older(self, commit: Commit, current: Commit) -> None:
        """Check the rows of another revision: they are a beginning of the current ones."""
        name = f"{REVISIONS}/{commit.revision_id}.json"
        if commit.n > current.n:
            return  # not published: `_check_history` says so
        for small, facts in commit.metadata.items():
            if small != "embedding/zarr.json":
                self._know(small)
                self._compare(facts, f"{self._name}/{small}")
        same = (commit.dim, commit.dtype, commit.block_rows) == (
            current.dim,
            current.dtype,
            current.block_rows,
        )
        if not same or commit.set_id != current.set_id:
            self._blame(name, "is a commit of another set")
            return
        layout = layout_of(current) if self._store.full else None
        if layout is None:
            return
        # A data file that cannot be read is reported by itself.
        array = Path(self._directory, "embedding")
        row = first_row_not_stored(array, layout, current, commit)
        if row is not None:
            self._blame(name, f"its rows from {row:,} are not stored")

    def _tolerate_unfinished(self, commits: dict[str, Commit]) -> None:
        """Take the files of a set under extraction for what they are, if one is under way."""
        if not any(name.startswith(".staging/") for name in self._files):
            return
        self._tolerate(self._files)
        for commit in commits.values():
            self._check_items(commit)

    def _tolerate(
        self, names: Collection[str], *, note: str | None = "belongs to an unfinished extraction"
    ) -> None:
        for name in names:
            if _UNFINISHED.fullmatch(name):
                self._know(name)
                if note:
                    self._store.notes.setdefault(f"{self._name}/{name}", note)


def _identified(attributes: dict[str, Any], dtype: str) -> bool:
    """Return whether the ids of a set are the hashes of what it says it is."""
    names = ("dataset", "kind", "encoder", "space", "precision")
    spec = SetSpec(dtype=dtype, **{name: attributes[name] for name in names})
    return (spec.space_id, spec.set_id) == (attributes["space_id"], attributes["set_id"])


_STAGED = re.compile(r"\..+\.staged")
_REMOVED = re.compile(r"(^|/)\.removed-[^/]+/")
_ENDS_REMOVAL = "`featstore rm` again or `featstore gc` ends it"

#: Pointers and commits, and the folders of a set that is being written or removed.
_RECORD = re.compile(r"/(zarr|[0-9a-f]{64})\.json$")
_BUSY = re.compile(r"^[^/]+/[^/]+/([^/]+/\.staging|\.removed-[^/]+)$")
_UNTIDY = (
    "is published, but its writer was stopped before it tidied up: the same command again or "
    "`featstore gc` does that"
)
_ITEMS = re.compile(r"items-[0-9a-f]{8}\.parquet")
_TAG = re.compile(r"tags/[A-Za-z0-9][A-Za-z0-9._-]{0,127}\.json")
#: What makes a file about the store right.
_CARD = "`featstore card STORE -o STORE` writes and lists it"
_THUMBNAILS = re.compile(r"thumbnails-[0-9a-f]{8}\.parquet")


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
    """One pass over a store: what is there, what is known, what is wrong.

    Attributes
    ----------
    files : set of str
        The regular files of the store that no link leads to; no other is opened.
    by_set : dict
        Key of a set -> its files, relative to it.
    known : set of str
        Files that something accounts for.
    tables : set of tuple
        Item tables that were checked, for the many sets that share them: path, sha256 and rows.
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
        self.tables: set[tuple[str, str, int]] = set()
        self.wrong: dict[str, str] = {}
        self.notes: dict[str, str] = {}
        self._listed: dict[str, Any] = {"sets": {}}

    def run(self, on_set: Callable[[int, int, str], object]) -> VerifyReport:
        """Check everything and report."""
        self._read_catalog()
        # Root and catalog state the format; the catalog under a digest.
        self._form = self._listed.get("form") or store_format(self.root)
        self._check_group("", self._form.attributes())
        sets = self._set_keys()
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
        self._check_signature()
        self._check_rest()
        return VerifyReport(
            [Problem(path, what) for path, what in sorted(self.wrong.items())],
            [Problem(path, what) for path, what in sorted(self.notes.items())],
            n_sets=len(chosen),
            n_files=len(self.files),
        )

    def blame(self, path: str, what: str) -> None:
        """Report a file; what was reported first stays."""
        self.known.add(path)
        self.wrong.setdefault(path, what)

    def _set_keys(self) -> list[str]:
        """Return the keys of everything that is a set, was one, or may become one."""
        there = (folder for folder in self._folders if folder.count("/") == 2)
        return sorted({*self._listed["sets"], *filter(SetKey.parse, there)})

    def _check_group(self, folder: str, attributes: dict[str, Any]) -> None:
        """Check the ``zarr.json`` of the root, a dataset or a kind: it has only one form."""
        path = f"{folder}/zarr.json".lstrip("/")
        self.known.add(path)
        try:
            found = read_regular(self.root / path, limit=MAX_METADATA_BYTES)
            right = is_group(found, attributes)
        except OSError:
            # Below it nothing is published yet: its writer was stopped before it came so far.
            if folder in self._above_published:
                self.blame(path, "is missing")
        except CorruptStoreError:
            self.blame(path, "is not the metadata of a group")
        else:
            if not right:
                self.blame(path, "differs from what a writer writes there")

    def _read_catalog(self) -> None:
        self.known.add(CATALOG)
        try:
            document = read_json(self.root / CATALOG)
            parsed = parse_catalog(document)
            same = read_regular(self.root / CATALOG, limit=MAX_JSON_BYTES) == json_bytes(document)
        except OSError:
            sets = [key for key, names in self.by_set.items() if POINTER in names]
            if not all(self._is_untidy(key) for key in filter(SetKey.parse, sets)):
                self.blame(CATALOG, "is missing")
            return
        except FeatstoreError:
            parsed, same = None, False
        if parsed is None or not same or not all(map(SetKey.parse, parsed["sets"])):
            self.blame(CATALOG, "is not the catalog that a writer writes")
            return
        self._drop_moved(parsed["sets"])
        self._listed = parsed

    def _drop_moved(self, listed: dict[str, str]) -> None:
        """Take out of what the catalog lists the sets that were renamed, or are being removed."""
        lost = [key for key in listed if POINTER not in self.by_set.get(key, ())]
        removed = frozenset(removals(self.root).values() if lost else ())
        there = {path.rsplit("/", 1)[1] for path in self.files if "/" in path} if lost else set()
        for key in lost:
            if key in removed and key not in self.by_set:
                self.notes[CATALOG] = f"lists {key}, whose removal was interrupted; {_ENDS_REMOVAL}"
                del listed[key]
            elif f"{listed[key]}.json" in there and not self._has_commit(key, listed[key]):
                self.blame(CATALOG, f"lists {key}, whose revision is that of another set")
                del listed[key]

    def _check_set(self, key: str) -> None:
        listed = self._listed["sets"].get(key)
        revision = _SetVerification(self, SetKey(*key.split("/")), listed=listed).run()
        stale = revision is not None and listed != revision
        if stale and self._is_untidy(key):
            self.notes.setdefault(f"{key}/zarr.json", _UNTIDY)
        elif stale and CATALOG not in self.wrong:
            self.blame(CATALOG, f"does not list {key} as it is; `featstore repair` rebuilds it")

    @cached_property
    def _above_published(self) -> frozenset[str]:
        """The folders above the sets that are finished, or once were; the store's is ''."""
        finished = {key for key, names in self.by_set.items() if POINTER in names}
        keys = {*self._listed["sets"], *filter(SetKey.parse, finished)}
        kinds = {key.rsplit("/", 1)[0] for key in keys}
        above = {*kinds, *(kind.split("/")[0] for kind in kinds)}
        return frozenset({*above, ""} if above else ())

    def _has_commit(self, key: str, revision: str) -> bool:
        return f"{REVISIONS}/{revision}.json" in self.by_set.get(key, ())

    def _is_untidy(self, key: str) -> bool:
        """Return whether a set was published by a writer who was stopped right after."""
        return f"{key}/.staging" in self._folders

    def _check_thumbnails(self) -> None:
        """Thumbnails carry their hash in their name; the catalog says which there are."""
        listed = self._listed.get("thumbnails")
        unlisted = []
        for path in self.files:
            parts = path.split("/")
            if len(parts) != 3 or not _THUMBNAILS.fullmatch(parts[2]):
                continue
            if (self.root / path).lstat().st_size > MAX_THUMBNAILS_BYTES:
                self.blame(path, "is larger than thumbnails may be")
                continue
            digest = file_facts(self.root / path)["sha256"]
            if digest[:SHORT] != parts[2].split("-")[1][:SHORT]:
                self.blame(path, "was changed: it has another hash than its name")
            elif listed is None or path in listed:
                self.known.add(path)
            else:
                unlisted.append(path)
        # A writer that was stopped before it had listed them: the next one does, and unites them.
        missing = {name.rsplit("/", 1)[1] for name in set(listed or ()) - self.files}
        for path in unlisted:
            self.known.add(path)
            folder, _, name = path.rpartition("/")
            try:
                items = read_thumbnail_file(self.root / path).keys()
            except FeatstoreError as err:
                self.blame(path, f"are no thumbnails: {err}")
                continue
            known = item_ids(self.root / folder)
            if name in missing or (known and known.isdisjoint(items)):
                self.blame(path, f"are those of another dataset than {folder}: they were moved")
            else:
                self.notes[path] = "are thumbnails that no writer has listed yet"
        replaced = {path.rsplit("/", 1)[0] for path in unlisted}
        for path in set(listed or ()) - self.files - set(self._odd):
            if path.rsplit("/", 1)[0] in replaced:
                self.notes[CATALOG] = f"lists {path}, which a writer that was stopped has replaced"
            else:
                self.blame(path, "is missing")

    def _check_tags(self) -> None:
        """Check that tags are those of the catalog, and name revisions that are there."""
        listed: dict[str, str] | None = self._listed.get("tags")
        for name in listed or ():
            if tag_file(name) not in self.files and tag_file(name) not in self._odd:
                self.blame(tag_file(name), "is missing, though the catalog lists the tag")
        for path in [path for path in self.files if _TAG.fullmatch(path)]:
            name = Path(path).stem
            try:
                document = read_json(self.root / path)
                sets = parse_tag(document, name=name, where=path)
                same = read_regular(self.root / path, limit=MAX_JSON_BYTES) == json_bytes(document)
            except FeatstoreError:
                document, sets, same = {}, {}, False
            unlike = unlike_listed(name, document.get("digest", ""), listed)
            records = {key: f"{key}/revisions/{revision}.json" for key, revision in sets.items()}
            # Neither is a set that was removed damage of the tag, nor is a record that was told.
            gone = [key for key, record in records.items() if record not in self.files
                    and f"{key}/zarr.json" in self.files and record not in self.wrong
                    and not any(record.startswith(f"{odd}/") or record == odd
                                for odd in self._odd)]  # fmt: skip
            self.known.add(path)
            if not same:
                self.blame(path, "is not the tag that a writer wrote there")
            elif unlike:
                self.blame(path, unlike)
            elif gone:
                self.blame(path, f"names a revision that {min(gone)} lacks")

    def _check_about(self) -> None:
        """Check what is written about the store."""
        listed: dict[str, str] | None = self._listed.get("about")
        for name in ABOUT:
            if name in self.files and listed is None:
                self.known.add(name)
            elif name in self.files and name not in (listed or ()):
                self.known.add(name)
                self.notes[name] = f"is not listed; {_CARD}"
            elif name in self.files:
                self.known.add(name)
                if file_facts(self.root / name)["sha256"] != (listed or {}).get(name):
                    self.blame(name, f"is not the one that the catalog lists; {_CARD}")
            elif name in (listed or ()) and name not in self._odd:
                self.blame(name, f"is missing, though the catalog lists it; {_CARD}")

    def _check_signature(self) -> None:
        """Check that a signature is one by its form: of whom it may be, only a key tells."""
        if SIGNATURE in self.files:
            self.known.add(SIGNATURE)
            try:
                found = read_signature(self.root, where=str(self.root))
                data = read_regular(self.root / SIGNATURE, limit=MAX_METADATA_BYTES)
                same = found is not None and data == json_bytes(found.document())
            except FeatstoreError:
                same = False
            if not same:
                self.blame(SIGNATURE, "is no signature that `featstore sign` writes")

    def _check_rest(self) -> None:
        """Report what nothing accounts for, and whatever is no regular file."""
        for path, what in self._odd.items():
            if self._in_scope(path):
                self.wrong[path] = f"is a {what}; a store holds regular files"
        # What lies behind a link was not looked at: the link is what is wrong.
        for path in [path for path in self.wrong if path not in self._odd]:
            if not self._odd.keys().isdisjoint(_folders_above(path)):
                del self.wrong[path]
        for path in self.files:
            if path in self.known or not self._in_scope(path):
                continue
            name = path.rsplit("/", 1)[-1]
            if _STAGED.fullmatch(name):
                self.notes[path] = "is left from an unfinished write; `featstore gc` removes it"
            elif name == "zarr.json" and self._is_empty_group(path):
                self.notes[path] = "is a group that holds no set"
            elif _REMOVED.search(path):
                self.notes[path] = f"is left from a removal; {_ENDS_REMOVAL}"
            elif _ITEMS.fullmatch(name) and self._may_be_needed(path):
                self.notes[path] = "is an item table whose set is not finished, or damaged"
            else:
                self.wrong[path] = "belongs to nothing in this store"

    def _is_empty_group(self, path: str) -> bool:
        """Return whether a file is the metadata of a dataset or kind, as a writer writes it."""
        parts = path.split("/")[:-1]
        attributes = dict(zip(("dataset", "kind"), parts, strict=False))
        if not 1 <= len(parts) <= 2:
            return False
        data = read_regular(self.root / path, limit=MAX_METADATA_BYTES)
        return is_group(data, attributes)

    def _may_be_needed(self, path: str) -> bool:
        """Return whether an item table may belong to a set that could not be read."""
        folder, _, name = path.rpartition("/")
        if folder not in self._unread:
            return False
        return name.startswith(f"items-{file_facts(self.root / path)['sha256'][:SHORT]}")

    @cached_property
    def _unread(self) -> frozenset[str]:
        """The kinds of which a set is damaged, being written or being removed."""
        doubtful = [path for path in self.wrong if _RECORD.search(path)]
        busy = [path for path in self._folders if _BUSY.search(path)]
        found = [path.split("/")[:2] for path in [*doubtful, *busy, *self._odd]]
        return frozenset(map("/".join, found))

    def _in_scope(self, path: str) -> bool:
        return not self._keys or "/".join(path.split("/")[:3]) in self._keys


def _folders_above(path: str) -> Iterator[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def _check_version(root: Path) -> None:
    """Raise FormatVersionError if another version wrote the store; damage is for later."""
    path = root / "zarr.json"
    try:
        read_root(root)
    except FormatVersionError:
        # A root that was damaged is not what a writer writes, or the sealed catalog denies it.
        document = read_json(path, limit=MAX_METADATA_BYTES)
        written = json_bytes(group_metadata(document["attributes"]["featstore"]))
        same = read_regular(path, limit=MAX_METADATA_BYTES) == written
        if same and "digest" not in (read_catalog(root) or {}):
            raise
    except (FeatstoreError, OSError):
        return


def walk_store(root: Path) -> tuple[set[str], set[str], dict[str, str]]:
    """Return files, folders, and what is neither, below `root`; no link is followed."""
    files: set[str] = set()
    folders: set[str] = set()
    odd: dict[str, str] = {}
    left = [(os.fspath(root), "")]
    while left:
        folder, above = left.pop()
        for entry in _entries(folder):
            name = above + entry.name
            if entry.is_dir(follow_symlinks=False):
                folders.add(name)
                left.append((entry.path, f"{name}/"))
            elif entry.is_file(follow_symlinks=False):
                files.add(name)
            else:
                odd[name] = "symbolic link" if entry.is_symlink() else "device or pipe"
    return files, folders, odd


def _entries(folder: str) -> Iterable[os.DirEntry[str]]:
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as found:
        return list(found)
    return ()  # a writer has removed it meanwhile

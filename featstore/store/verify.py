"""Verify a store: every file is accounted for, and every byte is the one that was written.

Metadata is written deterministically, so a JSON file is right only if it is byte for byte
what its own content would be written as, and its content hashes to what the commit says.
Pointer, commit and catalog name one revision three times: where one of them disagrees, the
other two say which.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featstore.errors import CorruptStoreError, FeatstoreError, FormatVersionError, UnknownSetError
from featstore.keys import SHORT
from featstore.store.catalog import NAME as CATALOG
from featstore.store.catalog import parse_catalog
from featstore.store.files import (
    MAX_JSON_BYTES,
    MAX_METADATA_BYTES,
    file_facts,
    json_bytes,
    read_json,
    read_regular,
)
from featstore.store.layout import FORMAT, LayoutError, SetKey, group_metadata
from featstore.store.records import check_format
from featstore.store.tags import parse_tag, tag_bytes
from featstore.store.thumbnails import read_thumbnail_file
from featstore.store.verify_set import SetCheck, verify_set

_STAGED = re.compile(r"\..+\.staged")
_REMOVED = re.compile(r"(^|/)\.removed-[^/]+/")
_UNTIDY = (
    "is published, but its writer was stopped before it tidied up: the same command again or "
    "`featstore gc` does that"
)
_ITEMS = re.compile(r"items-[0-9a-f]{8}\.parquet")
#: What `featstore card` may write beside the sets, for people and catalogues; nothing reads it.
ABOUT = frozenset({"README.md", "croissant.json"})

_TAG = re.compile(r"tags/[A-Za-z0-9][A-Za-z0-9._-]{0,127}\.json")
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


def verify_store(root: Path, keys: Collection[str] = (), *, full: bool = True) -> VerifyReport:
    """Check a store, or some of its sets, and name every file that is not right.

    Parameters
    ----------
    root : Path
        The store. It is only read.
    keys : collection of str
        Full keys of the sets to check; all, and everything around them, by default.
    full : bool
        Hash the rows too. Otherwise data files are checked by name and size.

    Raises
    ------
    UnknownSetError
        If `root` is no store, or a key names nothing in it.
    FormatVersionError
        If a newer version wrote the store.
    """
    if not root.is_dir() or not any((root / name).exists() for name in ("zarr.json", CATALOG)):
        what = "is not a featstore store" if root.exists() else "does not exist"
        msg = f"{root} {what}."
        raise UnknownSetError(msg)
    _check_version(root)
    return _Verification(root, keys, full=full).run()


class _Verification:
    """One pass over a store: what is there, what is known, what is wrong."""

    def __init__(self, root: Path, keys: Collection[str], *, full: bool) -> None:
        self._root = root
        self._full = full
        self._files, self._folders, self._odd = walk_store(root)
        self._keys = frozenset(keys)
        self._known: set[str] = set()
        self._wrong: dict[str, str] = {}
        self._notes: dict[str, str] = {}
        self._listed: dict[str, Any] = {"sets": {}}

    def run(self) -> VerifyReport:
        """Check everything and report."""
        self._check_group("", {"format": FORMAT})
        self._read_catalog()
        sets = self._set_keys()
        unknown = self._keys - set(sets)
        if unknown:
            msg = (
                f"{self._root} holds no set {min(unknown)!r}. It holds: {', '.join(sorted(sets))}."
            )
            raise UnknownSetError(msg)
        chosen = [key for key in sets if not self._keys or key in self._keys]
        for key in chosen:
            self._check_set(key)
        for folder in sorted({key.rsplit("/", 1)[0] for key in chosen}):
            dataset, kind = folder.split("/")
            self._check_group(dataset, {"dataset": dataset})
            self._check_group(folder, {"dataset": dataset, "kind": kind})
        self._check_thumbnails()
        self._check_tags()
        self._known |= ABOUT & self._files
        self._check_rest()
        return VerifyReport(
            [Problem(path, what) for path, what in sorted(self._wrong.items())],
            [Problem(path, what) for path, what in sorted(self._notes.items())],
            n_sets=len(chosen),
            n_files=len(self._files),
        )

    def _blame(self, path: str, what: str) -> None:
        self._known.add(path)
        self._wrong.setdefault(path, what)

    def _set_keys(self) -> list[str]:
        """Return the keys of everything that is a set, was one, or may become one."""
        found = set(self._listed["sets"])
        for folder in self._folders:
            if folder.count("/") == 2 and _is_key(folder):
                found.add(folder)
        return sorted(found)

    def _check_group(self, folder: str, attributes: dict[str, Any]) -> None:
        """Check the ``zarr.json`` of the root, a dataset or a kind: it has only one form."""
        path = f"{folder}/zarr.json".lstrip("/")
        self._known.add(path)
        expected = json_bytes(group_metadata(attributes))
        try:
            found = read_regular(self._root / path, limit=MAX_METADATA_BYTES)
        except OSError:
            # Below it nothing is published yet: its writer was stopped before it came so far.
            if any(key.startswith(f"{folder}/".lstrip("/")) for key in self._published()):
                self._blame(path, "is missing")
        except CorruptStoreError:
            self._blame(path, "is not the metadata of a group")
        else:
            if found != expected:
                self._blame(path, "differs from what a writer writes there")

    def _read_catalog(self) -> None:
        self._known.add(CATALOG)
        try:
            document = read_json(self._root / CATALOG)
            parsed = parse_catalog(document)
            same = read_regular(self._root / CATALOG, limit=MAX_JSON_BYTES) == json_bytes(document)
        except OSError:
            sets = [key for key in self._published() if f"{key}/zarr.json" in self._files]
            if not all(self._is_untidy(key) for key in sets):
                self._blame(CATALOG, "is missing")
            return
        except FeatstoreError:
            parsed, same = None, False
        if parsed is None or not same or not all(map(_is_key, parsed["sets"])):
            self._blame(CATALOG, "is not the catalog that a writer writes")
            return
        for key, revision in list(parsed["sets"].items()):
            moved = f"/revisions/{revision}.json"
            if f"{key}/zarr.json" not in self._files and any(
                path.endswith(moved) and not path.startswith(f"{key}/") for path in self._files
            ):
                self._blame(CATALOG, f"lists {key}, whose revision is that of another set")
                del parsed["sets"][key]
        self._listed = parsed

    def _check_set(self, key: str) -> None:
        check: SetCheck = verify_set(
            self._root,
            SetKey(*key.split("/")),
            self._files,
            listed=self._listed["sets"].get(key),
            full=self._full,
        )
        for path, what in check.wrong.items():
            self._blame(path, what)
        for path, what in check.notes.items():
            self._notes.setdefault(path, what)
        self._known |= check.known
        stale = check.revision is not None and self._listed["sets"].get(key) != check.revision
        if stale and self._is_untidy(key):
            self._notes.setdefault(f"{key}/zarr.json", _UNTIDY)
        elif stale and CATALOG not in self._wrong:
            self._blame(CATALOG, f"does not list {key} as it is; `featstore repair` rebuilds it")

    def _published(self) -> set[str]:
        """Return the keys of the sets that are finished, or once were."""
        there = {path.rsplit("/", 1)[0] for path in self._files if path.endswith("/zarr.json")}
        return {*self._listed["sets"], *filter(_is_key, there)}

    def _is_untidy(self, key: str) -> bool:
        """Return whether a set was published by a writer who was stopped right after."""
        return any(path.startswith(f"{key}/.staging/") for path in self._files | self._folders)

    def _check_thumbnails(self) -> None:
        """Thumbnails carry their hash in their name; the catalog says which there are."""
        listed = self._listed.get("thumbnails")
        unlisted = []
        for path in self._files:
            parts = path.split("/")
            if len(parts) != 3 or not _THUMBNAILS.fullmatch(parts[2]):
                continue
            digest = file_facts(self._root / path)["sha256"]
            if digest[:SHORT] != parts[2].split("-")[1][:SHORT]:
                self._blame(path, "was changed: it has another hash than its name")
            elif listed is None or path in listed:
                self._known.add(path)
            else:
                unlisted.append(path)
        # A writer that was stopped before it had listed them: the next one does, and unites them.
        for path in unlisted:
            self._known.add(path)
            try:
                read_thumbnail_file(self._root / path)
            except FeatstoreError as err:
                self._blame(path, f"are no thumbnails: {err}")
            else:
                self._notes[path] = "are thumbnails that no writer has listed yet"
        replaced = {path.rsplit("/", 1)[0] for path in unlisted}
        for path in set(listed or ()) - self._files - set(self._odd):
            if path.rsplit("/", 1)[0] in replaced:
                self._notes[CATALOG] = f"lists {path}, which a writer that was stopped has replaced"
            else:
                self._blame(path, "is missing")

    def _check_tags(self) -> None:
        """Check that tags name revisions that are there, in the one form that a writer gives."""
        for path in [path for path in self._files if _TAG.fullmatch(path)]:
            try:
                sets = parse_tag(read_json(self._root / path), where=path)
                same = read_regular(self._root / path, limit=MAX_JSON_BYTES) == tag_bytes(sets)
            except FeatstoreError:
                sets, same = {}, False
            records = {key: f"{key}/revisions/{revision}.json" for key, revision in sets.items()}
            # A set that was removed is no damage of the tag.
            gone = [key for key, record in records.items() if record not in self._files
                    and f"{key}/zarr.json" in self._files]  # fmt: skip
            self._known.add(path)
            if not same:
                self._blame(path, "is not a tag that a writer writes")
            elif gone:
                self._blame(path, f"names a revision that {min(gone)} lacks")

    def _check_rest(self) -> None:
        """Report what nothing accounts for, and whatever is no regular file."""
        for path, what in self._odd.items():
            if self._in_scope(path):
                self._wrong[path] = f"is a {what}; a store holds regular files"
        # What lies behind a link was not looked at: the link is what is wrong.
        for path in [path for path in self._wrong if path not in self._odd]:
            if any(path.startswith(f"{odd}/") for odd in self._odd):
                del self._wrong[path]
        for path in self._files:
            if path in self._known or not self._in_scope(path):
                continue
            name = path.rsplit("/", 1)[-1]
            if _STAGED.fullmatch(name):
                self._notes[path] = "is left from an unfinished write; `featstore gc` removes it"
            elif name == "zarr.json" and self._is_empty_group(path):
                self._notes[path] = "is a group that holds no set"
            elif _REMOVED.search(path):
                self._notes[path] = "is left from a removal; `featstore gc` removes it"
            elif _ITEMS.fullmatch(name) and self._may_be_needed(path):
                self._notes[path] = "is an item table whose set is not finished, or damaged"
            else:
                self._wrong[path] = "belongs to nothing in this store"

    def _is_empty_group(self, path: str) -> bool:
        """Return whether a file is the metadata of a dataset or kind, as a writer writes it."""
        parts = path.split("/")[:-1]
        attributes = dict(zip(("dataset", "kind"), parts, strict=False))
        if not 1 <= len(parts) <= 2:
            return False
        data = read_regular(self._root / path, limit=MAX_METADATA_BYTES)
        return data == json_bytes(group_metadata(attributes))

    def _may_be_needed(self, path: str) -> bool:
        """Return whether an item table may belong to a set that could not be read."""
        folder = path.rsplit("/", 1)[0]
        unread = [*self._wrong, *self._notes]
        doubtful = any(
            other.startswith(f"{folder}/") and re.search(r"/(zarr|[0-9a-f]{64})\.json$", other)
            for other in self._wrong
        ) or any(other.startswith(f"{folder}/") for other in self._odd)
        staged = any(f"{folder}/" in other and "/.staging" in other for other in unread)
        named = path.rsplit("-", 1)[1][:SHORT]
        intact = file_facts(self._root / path)["sha256"][:SHORT] == named
        return intact and (doubtful or staged)

    def _in_scope(self, path: str) -> bool:
        return not self._keys or any(path.startswith(f"{key}/") for key in self._keys)


def _check_version(root: Path) -> None:
    """Raise FormatVersionError if a newer version wrote the store; damage is for later."""
    try:
        document = read_json(root / "zarr.json", limit=MAX_METADATA_BYTES)
        check_format(document["attributes"]["featstore"]["format"], where=str(root / "zarr.json"))
    except FormatVersionError:
        if not _rewritten(root / "zarr.json", document):
            return
        raise
    except (FeatstoreError, OSError, KeyError, TypeError):
        return


def _rewritten(path: Path, document: Any) -> bool:
    """Return whether a document is what a writer of its own version would write."""
    attributes = document["attributes"]["featstore"]
    return read_regular(path, limit=MAX_METADATA_BYTES) == json_bytes(group_metadata(attributes))


def _is_key(text: str) -> bool:
    try:
        SetKey(*text.split("/"))
    except (LayoutError, TypeError):
        return False
    return True


def walk_store(root: Path) -> tuple[set[str], set[str], dict[str, str]]:
    """Return files, folders, and what is neither, below `root`; no link is followed."""
    files: set[str] = set()
    folders: set[str] = set()
    odd: dict[str, str] = {}
    left: list[Path] = [root]
    while left:
        for entry in _entries(left.pop()):
            path = Path(entry.path)
            name = path.relative_to(root).as_posix()
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISREG(mode):
                files.add(name)
            elif stat.S_ISDIR(mode):
                folders.add(name)
                left.append(path)
            else:
                odd[name] = "symbolic link" if stat.S_ISLNK(mode) else "device or pipe"
    return files, folders, odd


def _entries(folder: Path) -> Iterable[os.DirEntry[str]]:
    with os.scandir(folder) as found:
        return list(found)

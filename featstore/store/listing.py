"""What the records of a set list: every file, by size and hash, and how it can be had again.

This table is what the verbs that care for a store work on: verify compares it with the files that
are there, gc and a writer remove what lies beside it, repair makes again what is not as listed, and
a copy sends it. The attributes of a pointer are right if they hash to what the commit says.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featstore.errors import CorruptStoreError, FeatstoreError
from featstore.store.blocks import FileCheck, check_file, check_size, layout_of, may_have_grown
from featstore.store.catalog import read_catalog
from featstore.store.convention import is_pointer
from featstore.store.files import (
    MAX_METADATA_BYTES,
    check_no_links,
    facts_of,
    json_bytes,
    parse_json,
    read_regular,
    same_file,
    walk_store,
)
from featstore.store.layout import ArrayLayout, SetKey, SetSpec, array_metadata, vector_metadata
from featstore.store.records import (
    POINTER,
    REVISIONS,
    Commit,
    belongs,
    commit_bytes,
    is_sha256,
    parse_pointer,
    read_commit,
    staging_of,
)

#: The metadata of a set's array: that of the current revision, whatever earlier ones say.
ARRAY = "embedding/zarr.json"


#: Of the small files: what rows are read with, the item table, and what rows are read without.
PARTS = ("rows", "items", "rest")


@dataclass(frozen=True)
class Listed:
    """A file that the commit of a revision lists.

    Attributes
    ----------
    path : str
        Below the store.
    commit : Commit
    facts : mapping
        Its ``bytes`` and ``sha256``; none of a file of rows, whose blocks have hashes.
    derive : callable or None
        Returns its content, where that follows from the commit.
    layout : ArrayLayout or None
        Of a file of rows, which is number `file` of the array.
    """

    path: str
    commit: Commit
    facts: Mapping[str, Any] = field(default_factory=dict)
    derive: Callable[[], bytes] | None = None
    layout: ArrayLayout | None = None
    file: int = -1

    @property
    def part(self) -> str:
        """One of `PARTS`; ``"record"`` of a commit, and ``"data"`` of a file of rows."""
        steps = self.path.split("/")
        if self.layout is not None:
            return "data"
        if len(steps) == 3:
            return "items"
        usual = "rows" if steps[3] in ("embedding", "bias") else "rest"
        return "record" if steps[3] == REVISIONS else usual

    def content(self) -> bytes | None:
        """Return what the file holds, where that follows from the commit."""
        return None if self.derive is None else self.derive()

    def check(self, root: Path, *, full: bool = True, grown: bool = False) -> FileCheck:
        """Compare the file below `root` with what is listed.

        Parameters
        ----------
        full : bool
            Hash rows, too; else only the size of their file is compared.
        grown : bool
            A file of rows may hold later ones, too.
        """
        path = f"{root}/{self.path}"
        if self.layout is None:
            if same_file(path, self.facts):
                return FileCheck()
            return FileCheck(["differs from its commit" if os.path.lexists(path) else "is missing"])
        grown = grown and os.path.lexists(path) and may_have_grown(path, self.layout, self.file)
        if full:
            return check_file(path, self.layout, self.file, self.commit, grown=grown)
        wrong = "" if grown else check_size(path, self.layout, self.file)
        return FileCheck([wrong] if wrong else [])


def set_files(
    key: SetKey, current: Commit, older: Iterable[Commit] = (), layout: ArrayLayout | None = None
) -> dict[str, Listed]:
    """Return path -> file of a set's revisions, without the pointer: rows, and records last.

    Parameters
    ----------
    layout : ArrayLayout, optional
        Of the current revision; files of rows are left out without.
    """
    found: list[Listed] = []
    records: list[Listed] = []
    if layout is not None:
        for file in range(layout.n_files):
            path = f"{key}/embedding/{layout.file_name(file)}"
            found.append(Listed(path, current, layout=layout, file=file))
    for commit in (*older, current):
        known: dict[str, Callable[[], bytes]] = {
            "bias/zarr.json": functools.partial(_bias, commit.n)
        }
        if layout is not None:
            known[ARRAY] = functools.partial(_array, layout)
        table = f"{key.dataset}/{key.kind}/{commit.items['file']}"
        found.append(Listed(table, commit, commit.items_facts))
        for name, facts in commit.metadata.items():
            if name != ARRAY or commit is current:
                found.append(Listed(f"{key}/{name}", commit, facts, known.get(name)))
        data = commit_bytes(commit)
        path = f"{key}/{REVISIONS}/{commit.revision_id}.json"
        records.append(Listed(path, commit, facts_of(data), functools.partial(bytes, data)))
    return {one.path: one for one in (*found, *records)}


def _array(layout: ArrayLayout) -> bytes:
    return json_bytes(array_metadata(layout))


def _bias(n: int) -> bytes:
    return json_bytes(vector_metadata(n, "float32"))


def unlisted(root: Path, key: SetKey, listed: Collection[str]) -> Iterator[Path]:
    """Yield the files of a finished set that no record lists, but runs and what is staged."""
    directory = key.directory(root)
    # Not by rglob: folders of writers that wait come and go below `.staging`.
    for name in sorted(walk_store(directory)[0]):
        if name.split("/")[0] in (POINTER, ".staging", "runs"):
            continue
        if f"{key}/{name}" not in listed:
            yield directory / name


@dataclass
class SetRecords:
    """The records of one set, as far as they are what their names and hashes say.

    Attributes
    ----------
    stated : dict
        The attributes that the pointer states, right or wrong; empty if it states none.
    pointer : dict or None
        The same if they have the form of a set's attributes.
    commits : dict
        Every revision whose record is whole.
    current : Commit or None
        The pointer's revision, or else the catalog's, or else the only one.
    older : list of Commit
        Published before it, the oldest first, as far as they are whole: those that the pointer
        names or, if that is damaged, all that are no larger.
    """

    root: Path
    key: SetKey
    stated: dict[str, Any]
    pointer: dict[str, Any] | None
    commits: dict[str, Commit]
    current: Commit | None
    older: list[Commit]
    _data: bytes | None

    @property
    def directory(self) -> Path:
        """Folder of the set."""
        return self.key.directory(self.root)

    @functools.cached_property
    def layout(self) -> ArrayLayout | None:
        """How the current array is cut; None if no commit says so."""
        return None if self.current is None else layout_of(self.current)

    def files(self) -> dict[str, Listed]:
        """Return the table of the set; empty if no commit says what its files should be."""
        if self.current is None:
            return {}
        return set_files(self.key, self.current, self.older, self.layout)

    @functools.cached_property
    def pointer_fault(self) -> str:
        """What is wrong with the pointer beside the current commit, or an empty string."""
        if self.pointer is None:
            return "is missing" if self._data is None else "is not the metadata of a set"
        if self.current is None or self.pointer["revision"] != self.current.revision_id:
            return "points to a revision that does not exist"
        if not belongs(self.key, self.pointer, self.current) or not self._identified():
            return "is changed, or the metadata of another set"
        right = is_pointer(self._data or b"", self.pointer, self.current)
        return "" if right else "is not written as a writer writes it"

    @property
    def whole(self) -> bool:
        """Whether every revision that is published says what its files are."""
        history = (self.pointer or {}).get("history", [])
        lost = self.pointer_fault or len(self.older) != len(history)
        return not lost and self.layout is not None

    def published(self) -> list[Commit]:
        """Return the revisions before the current one: see `older`."""
        others = {name: one for name, one in self.commits.items() if one is not self.current}
        if self.current is None:
            return []
        if self.pointer is not None and not self.pointer_fault:
            return [others[name] for name in self.pointer.get("history", []) if name in others]
        smaller = [one for one in others.values() if one.n <= self.current.n]
        return sorted(smaller, key=lambda one: one.n)

    def _identified(self) -> bool:
        """Return whether the ids of the set are the hashes of what it says it is."""
        assert self.pointer is not None
        assert self.current is not None
        names = ("dataset", "kind", "encoder", "space", "precision")
        stated = {name: self.pointer[name] for name in names}
        spec = SetSpec(dtype=self.current.dtype, **stated)
        ids = (self.pointer["space_id"], self.pointer["set_id"])
        return (spec.space_id, spec.set_id) == ids


def read_records(
    root: Path,
    key: SetKey,
    *,
    names: Collection[str] | None = None,
    listed: str | None = None,
    fetch: Callable[[str], Commit | None] = lambda _: None,
) -> SetRecords:
    """Read the records of a set, whole or damaged.

    Parameters
    ----------
    names : collection of str, optional
        The regular files of the set, relative to it; no other is opened. All by default.
    listed : str, optional
        The revision that the catalog lists, which is looked up by default if the pointer names none
        that is whole.
    fetch : callable
        Asked for the revisions whose record is damaged or missing.

    Raises
    ------
    CorruptStoreError
        Without `names`, if a link leads to what is read.
    """
    directory = key.directory(root)
    if names is None:
        check_no_links(root, [directory / REVISIONS])
        names = {POINTER, *(f"{REVISIONS}/{p.name}" for p in (directory / REVISIONS).glob("*"))}
    data, stated, pointer = _pointer(directory) if POINTER in names else (None, {}, None)
    history = stated.get("history")
    ids = [stated.get("revision"), *(history if isinstance(history, list) else []), listed]
    ids += [Path(name).stem for name in names if name.startswith(f"{REVISIONS}/")]
    ids = list(dict.fromkeys(ids))
    found = {name: _commit(directory, name, names, fetch) for name in filter(is_sha256, ids)}
    if found.get(str(ids[0])) is None and listed is None:
        listed = str((read_catalog(root) or {"sets": {}})["sets"].get(str(key), ""))
        if is_sha256(listed) and listed not in found:
            found[listed] = _commit(directory, listed, names, fetch)
    commits = {name: commit for name, commit in found.items() if commit is not None}
    only = next(iter(commits.values())) if len(commits) == 1 else None
    current = commits.get(str(ids[0])) or commits.get(str(listed)) or only
    records = SetRecords(root, key, stated, pointer, commits, current, [], data)
    records.older = records.published()
    return records


def _pointer(directory: Path) -> tuple[bytes, dict[str, Any], dict[str, Any] | None]:
    """Return a pointer's bytes, the attributes that they state, and the same if of right form."""
    data, stated = b"", {}
    with contextlib.suppress(FeatstoreError, OSError):
        data = read_regular(f"{directory}/{POINTER}", limit=MAX_METADATA_BYTES)
        document = parse_json(data, where=POINTER)
        with contextlib.suppress(KeyError, TypeError):
            found = document["attributes"]["featstore"]
            stated = found if isinstance(found, dict) else {}
        return data, stated, parse_pointer(document, where=POINTER)
    return data, stated, None


def _commit(
    directory: Path,
    revision: str,
    names: Collection[str],
    fetch: Callable[[str], Commit | None],
) -> Commit | None:
    """Return a revision whose record is whole, here or where `fetch` asks."""
    if f"{REVISIONS}/{revision}.json" in names:
        with contextlib.suppress(FeatstoreError):
            return read_commit(directory, revision)
    return fetch(revision)


@dataclass
class Damage:
    """The files of a set that must be made again.

    Attributes
    ----------
    records : SetRecords
    commit : Commit
        The current revision.
    layout : ArrayLayout
        Of its array.
    files : dict
        Number of a damaged data file -> its blocks that are not those of the commit; none if only
        what lies behind the rows is wrong.
    wrong : list of Listed
        The other files that are not as listed.
    pointer : dict or None
        The attributes of the set; None if the pointer is damaged.
    """

    records: SetRecords
    commit: Commit
    layout: ArrayLayout
    files: dict[int, list[int]] = field(default_factory=dict)
    wrong: list[Listed] = field(default_factory=list)
    pointer: dict[str, Any] | None = None

    @property
    def blocks(self) -> list[int]:
        """Every block whose rows must be had from elsewhere."""
        return [block for blocks in self.files.values() for block in blocks]

    def describe(self, block: int) -> dict[str, Any]:
        """Return file, number and rows (first and last) of a block, for a report."""
        rows = self.layout.block_slice(block)
        name = self.layout.file_name(block // self.layout.blocks_per_file)
        file = f"{self.records.key}/embedding/{name}"
        return {"file": file, "block": block, "rows": [rows.start, rows.stop - 1]}

    @property
    def items(self) -> list[Listed]:
        """The item tables that are damaged."""
        return [one for one in self.wrong if one.part == "items"]

    @property
    def lost(self) -> list[str]:
        """Small files of the current revision that are damaged, and the pointer, if it is."""
        start = f"{self.records.key}/"
        small = [one.path.removeprefix(start) for one in self.wrong]
        small = [name for name in small if name in self.commit.metadata]
        return small if self.pointer is not None else [*small, POINTER]

    def attributes(self) -> dict[str, Any]:
        """Return the attributes of the set, or only its history if the pointer is damaged."""
        history = [commit.revision_id for commit in self.records.older]
        return {**(self.pointer or {}), "revision": self.commit.revision_id, "history": history}


def find_damage(records: SetRecords) -> Damage:
    """Compare every file of a set with its commits.

    Raises
    ------
    CorruptStoreError
        If no commit says what the set should be, or a link leads to a file.
    """
    root, key, current, layout = records.root, records.key, records.current, records.layout
    if current is None or layout is None:
        raise CorruptStoreError(
            f"{key} has no commit record that says what its files should be. Take it from another "
            "copy (`featstore repair --from`), or remove the set and extract it anew."
        )
    found = Damage(records, current, layout)
    found.pointer = None if records.pointer_fault else records.pointer
    busy = staging_of(records.directory).exists()
    for one in records.files().values():
        check_no_links(root, [root / one.path])
        check = one.check(root, grown=busy)
        if check.reasons and one.layout is None:
            found.wrong.append(one)
        elif check.reasons:
            found.files[one.file] = check.bad_blocks
    return found

"""What the records of a set list: every file, by size and hash, and how it can be had again.

This table is what the verbs that care for a store work on: verify compares it with the files that
are there, gc and a writer remove what lies beside it, repair makes again what is not as listed, and
a copy sends it.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featstore.errors import CorruptStoreError, FeatstoreError
from featstore.store.blocks import FileCheck, check_file, check_size
from featstore.store.convention import zarr_metadata
from featstore.store.files import check_no_links, facts_of, same_file
from featstore.store.layout import DataFile, SetKey
from featstore.store.log import Log, read_log
from featstore.store.records import (
    REVISIONS,
    Commit,
    commit_bytes,
    read_commit,
)

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
    content : bytes or None
        What it holds, where that follows from the commit.
    data : DataFile or None
        What a file of rows holds.
    """

    path: str
    commit: Commit
    facts: Mapping[str, Any] = field(default_factory=dict)
    content: bytes | None = None
    data: DataFile | None = None

    @property
    def part(self) -> str:
        """One of `PARTS`; or ``"record"`` of a commit, ``"data"`` of rows, ``"zarr"`` of Zarr."""
        steps = self.path.split("/")
        if self.data is not None:
            return "data"
        if steps[-1] == "zarr.json":
            return "zarr"
        if len(steps) == 3:
            return "items"
        usual = "rows" if steps[3] == "bias" else "rest"
        return "record" if steps[3] == REVISIONS else usual

    def check(self, root: Path, *, full: bool = True) -> FileCheck:
        """Compare the file below `root` with what is listed.

        Parameters
        ----------
        full : bool
            Hash rows, too; else only the size of their file is compared.
        """
        path = f"{root}/{self.path}"
        if self.data is None:
            if same_file(path, self.facts):
                return FileCheck()
            return FileCheck(["differs from its commit" if os.path.lexists(path) else "is missing"])
        if full:
            return check_file(path, self.data, self.commit)
        wrong = check_size(path, self.data)
        return FileCheck([wrong] if wrong else [])


def set_files(key: SetKey, current: Commit, older: Iterable[Commit] = ()) -> dict[str, Listed]:
    """Return path -> file of a set's revisions: rows first, then records, and Zarr's metadata."""
    found, commits = [], (*older, current)
    for commit in commits:
        found += [Listed(f"{key}/{file.path}", commit, data=file) for file in commit.layout.files]
    records: dict[str, tuple[Commit, bytes]] = {}
    for commit in commits:
        for part in commit.parts:
            table = f"{key.dataset}/{key.kind}/{part.items['file']}"
            found.append(Listed(table, commit, part.items_facts))
        small = commit.metadata.items()
        found += [Listed(f"{key}/{name}", commit, facts) for name, facts in small]
        path = f"{key}/{REVISIONS}/{commit.revision_id}.json"
        records[path] = commit, commit_bytes(commit)
    for path, data in zarr_metadata(key, current).items():
        records[path] = current, data
    for path, (commit, data) in records.items():
        found.append(Listed(path, commit, facts_of(data), data))
    return {one.path: one for one in found}


@dataclass(frozen=True)
class SetRecords:
    """The records of one set, as far as they are what their names and hashes say.

    Attributes
    ----------
    revision : str
        The present one, as the log lists it; empty if it lists none.
    commits : dict
        Id -> those that are whole of this revision and those before it.
    """

    root: Path
    key: SetKey
    revision: str
    commits: dict[str, Commit]

    @property
    def directory(self) -> Path:
        """Folder of the set."""
        return self.key.directory(self.root)

    @functools.cached_property
    def current(self) -> Commit | None:
        """The present revision; None if nothing says what it is."""
        return self.commits.get(self.revision)

    @property
    def older(self) -> list[Commit]:
        """The revisions before it, the oldest first, as far as they are whole."""
        return [one for one in self.commits.values() if one is not self.current]

    @property
    def lost(self) -> list[str]:
        """Ids of the revisions whose record is missing or damaged."""
        listed = (self.revision, *(self.current.history if self.current else ()))
        return [name for name in listed if name and name not in self.commits]

    def files(self) -> dict[str, Listed]:
        """Return the table of the set; empty if no commit says what its files should be."""
        return {} if self.current is None else set_files(self.key, self.current, self.older)


def read_records(
    root: Path,
    key: SetKey,
    *,
    log: Log | None = None,
    fetch: Callable[[str], Commit | None] = lambda _: None,
) -> SetRecords:
    """Read the records of a set, whole or damaged.

    Parameters
    ----------
    log : Log, optional
        Of the store.
    fetch : callable
        Asked for the revisions whose record is damaged or missing.

    Raises
    ------
    CorruptStoreError
        If the log is damaged, or a link leads to what is read.
    """
    directory = key.directory(root)
    check_no_links(root, [directory / REVISIONS])
    revision = (read_log(root) if log is None else log).sets.get(str(key), "")

    def read(name: str) -> Commit | None:
        with contextlib.suppress(FeatstoreError):
            return read_commit(directory, name)
        return fetch(name)

    current = read(revision) if revision else None
    history = {} if current is None else {name: read(name) for name in current.history}
    found = {**history, revision: current}
    commits = {name: one for name, one in found.items() if one is not None}
    return SetRecords(root, key, revision, commits)


@dataclass
class Damage:
    """The files of a set that must be made again.

    Attributes
    ----------
    records : SetRecords
    commit : Commit
        The current revision.
    data : list of (Listed, list of int)
        The damaged files of rows, each with its blocks that are not those of its commit; none if
        only what lies around the rows is wrong.
    wrong : list of Listed
        The other files that are not as listed.
    """

    records: SetRecords
    commit: Commit
    data: list[tuple[Listed, list[int]]] = field(default_factory=list)
    wrong: list[Listed] = field(default_factory=list)

    @property
    def blocks(self) -> list[int]:
        """Every block of the current revision whose rows must be had from elsewhere."""
        own = (blocks for one, blocks in self.data if one.commit is self.commit)
        return [block for blocks in own for block in blocks]

    def describe(self, block: int, commit: Commit | None = None) -> dict[str, Any]:
        """Return file, number and rows (first and last) of a block, for a report."""
        layout = (commit or self.commit).layout
        rows, path = layout.block_slice(block), layout.files[layout.file_of[block]].path
        file = f"{self.records.key}/{path}"
        return {"file": file, "block": block, "rows": [rows.start, rows.stop - 1]}

    @property
    def items(self) -> list[Listed]:
        """The item tables that are damaged."""
        return [one for one in self.wrong if one.part == "items"]

    @property
    def lost(self) -> list[str]:
        """Small files of the current revision that are damaged."""
        small = (one.path.removeprefix(f"{self.records.key}/") for one in self.wrong)
        return [name for name in small if name in self.commit.metadata]

    @property
    def stale(self) -> bool:
        """Whether an earlier revision has a damaged file of its own."""
        files = (*self.wrong, *(one for one, _ in self.data))
        return any(one.commit is not self.commit for one in files)


def find_damage(records: SetRecords) -> Damage:
    """Compare every file of a set with its commits.

    Raises
    ------
    CorruptStoreError
        If no commit says what the set should be, or a link leads to a file.
    """
    root, key, current = records.root, records.key, records.current
    if current is None:
        raise CorruptStoreError(
            f"{key} has no commit record that says what its files should be. Take it from another "
            "copy (`headstock store repair --copy`), or remove the set and extract it anew."
        )
    found = Damage(records, current)
    for one in records.files().values():
        check_no_links(root, [root / one.path])
        check = one.check(root)
        if check.reasons and one.data is None:
            found.wrong.append(one)
        elif check.reasons:
            found.data.append((one, check.bad_blocks))
    return found

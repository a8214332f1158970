"""Verify one set: pointer, commits, items, small files and data, each against the commit."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from featstore.errors import FeatstoreError
from featstore.keys import set_id, space_id
from featstore.store.blocks import (
    check_file,
    check_size,
    layout_of,
    may_have_grown,
    prefix_hash,
)
from featstore.store.commit import (
    POINTER,
    REVISIONS,
    Commit,
    belongs,
    read_commit,
    read_pointer,
)
from featstore.store.data_files import has_grown_to
from featstore.store.files import MAX_JSON_BYTES, json_bytes, read_regular, same_file
from featstore.store.layout import SetKey, group_metadata
from featstore.store.records import is_sha256
from featstore.store.rederive import derive_commit
from featstore.store.verify_alone import judge_alone

_COMMIT = re.compile(r"revisions/([0-9a-f]{64})\.json")
_STAGING = re.compile(
    r"\.staging/(part-\d{5}-of-\d{5}/)?"
    r"(lock|w\d{6}-[0-9a-f]{8}/(claim|journal\.jsonl|data-\d{6}\.bin|.+\.staged))"
)
_FAILURES = re.compile(r"failures(-[0-9a-f]{8})?\.parquet")
_UNFINISHED = re.compile(
    r"(embedding|bias)/(zarr\.json|c/\d+(/0)?)|golden\.json|failures(-[0-9a-f]{8})?\.parquet"
)


@dataclass
class SetCheck:
    """Of one set: what is wrong, what is known, all paths relative to the store."""

    wrong: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)
    revision: str | None = None


def verify_set(
    root: Path, key: SetKey, there: Collection[str], *, listed: str | None, full: bool
) -> SetCheck:
    """Check one set.

    Parameters
    ----------
    there : collection of str
        The regular files of the store that no link leads to; no other is opened.
    listed : str, optional
        The revision that the catalog names.
    full : bool
        Hash the rows too.
    """
    return _SetVerification(root, key, there, listed=listed, full=full).run()


class _SetVerification:
    def __init__(
        self, root: Path, key: SetKey, there: Collection[str], *, listed: str | None, full: bool
    ) -> None:
        self._key = key
        self._directory = key.directory(root)
        self._there = there
        self._files = {name[len(str(key)) + 1 :] for name in there if name.startswith(f"{key}/")}
        self._listed = listed
        self._full = full
        self._check = SetCheck()
        self._extending = False

    def run(self) -> SetCheck:
        """Check the set and return what was found."""
        for name in self._files:
            if name.startswith("runs/"):
                self._know(name)
            elif _STAGING.fullmatch(name):
                self._note(name, "belongs to an unfinished extraction")
        commits = self._read_commits()
        attributes = self._read_pointer()
        finished = POINTER in self._files or self._listed is not None
        if not finished:
            self._tolerate_unfinished(commits)
            return self._check
        current = self._current(attributes, commits) or self._derived(attributes, commits)
        if current is None:
            self._tolerate(self._files, note=None)
            for name, what in judge_alone(self._directory, self._files).items():
                self._blame(name, what)
            return self._check
        self._check.revision = current.revision_id
        self._extending = any(name.startswith(".staging/") for name in self._files)
        for revision, commit in commits.items():
            self._check_items(commit)
            if revision != current.revision_id:
                self._check_older(commit, current)
        self._check_history(attributes, current, commits)
        self._check_small(current)
        self._check_data(current)
        return self._check

    def _know(self, name: str) -> None:
        self._check.known.add(f"{self._key}/{name}")

    def _note(self, name: str, what: str) -> None:
        self._know(name)
        self._check.notes[f"{self._key}/{name}"] = what

    def _blame(self, name: str, what: str) -> None:
        self._know(name)
        self._check.wrong.setdefault(f"{self._key}/{name}", what)

    def _read_commits(self) -> dict[str, Commit]:
        """Return the commits that are what their names say; report the others."""
        commits = {}
        for name in sorted(self._files):
            match = _COMMIT.fullmatch(name)
            if match is None:
                continue
            self._know(name)
            try:
                commit = read_commit(self._directory, match[1])
            except FeatstoreError:
                self._blame(
                    name,
                    "is not the commit record that its name says; without it only the form of "
                    "the set's other files can be checked",
                )
                continue
            data = read_regular(self._directory / name, limit=MAX_JSON_BYTES)
            if data != json_bytes(asdict(commit)):
                self._blame(name, "is not written as a writer writes it")
            commits[match[1]] = commit
        return commits

    def _read_pointer(self) -> dict[str, Any] | None:
        """Return the attributes of the set if its pointer is what a writer writes."""
        self._know(POINTER)
        path = self._directory / POINTER
        try:
            attributes = read_pointer(self._directory) if POINTER in self._files else None
            if attributes is None:
                return None
            if read_regular(path, limit=MAX_JSON_BYTES) != json_bytes(group_metadata(attributes)):
                self._blame(POINTER, "is not written as a writer writes it")
        except FeatstoreError:
            self._blame(POINTER, "is not the metadata of a set")
            return None
        return attributes

    def _current(
        self, attributes: dict[str, Any] | None, commits: dict[str, Commit]
    ) -> Commit | None:
        """Return the commit that the set stands for; blame whoever disagrees."""
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

    def _derived(
        self, attributes: dict[str, Any] | None, commits: dict[str, Commit]
    ) -> Commit | None:
        """Return the damaged commit, put together from the files that it named.

        It has the right hash only if each of them is right.
        """
        if attributes is None or not self._full or not is_sha256(attributes["revision"]):
            return None
        commit = derive_commit(self._directory, attributes["revision"], attributes)
        if commit is not None:
            commits[commit.revision_id] = commit
            name = f"{self._key}/{REVISIONS}/{commit.revision_id}.json"
            self._check.wrong[name] = "is damaged or missing; `featstore repair` writes it again"
        return commit

    def _check_items(self, commit: Commit) -> None:
        name = str(commit.items["file"])
        path = self._directory.parent / name
        relative = f"{self._key.dataset}/{self._key.kind}/{name}"
        self._check.known.add(relative)
        facts = {"bytes": commit.items["bytes"], "sha256": commit.items["sha256"]}
        self._compare(path, facts, relative)

    def _compare(self, path: Path, facts: dict[str, Any], relative: str) -> None:
        if relative not in self._there:
            self._check.wrong.setdefault(relative, "is missing")
        elif not same_file(path, facts):
            self._check.wrong.setdefault(relative, "differs from its commit")

    def _check_history(
        self, attributes: dict[str, Any] | None, current: Commit, commits: dict[str, Commit]
    ) -> None:
        """Check that pointer and commits name the same earlier revisions."""
        if attributes is None or f"{self._key}/{POINTER}" in self._check.wrong:
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
                self._check.notes.setdefault(f"{self._key}/{name}", note)
                continue
            self._compare(self._directory / name, facts, f"{self._key}/{name}")
        if self._extending:
            for name in self._files:
                if _FAILURES.fullmatch(name) and name not in commit.metadata:
                    self._note(name, "belongs to an extension under way")

    def _grown(self, commit: Commit) -> bool:
        """Return whether the array's metadata is that of more rows, as an extension writes it."""
        layout = layout_of(commit)
        name = f"{self._key}/embedding/zarr.json"
        facts = commit.metadata["embedding/zarr.json"]
        path = self._directory / "embedding" / "zarr.json"
        if not self._extending or name not in self._there or same_file(path, facts):
            return False
        return layout is not None and has_grown_to(path.parent, layout)

    def _check_data(self, commit: Commit) -> None:
        layout = layout_of(commit)
        if layout is None:
            self._blame("embedding/zarr.json", "is not the metadata of an array of its commit")
            self._tolerate([name for name in self._files if name.startswith("embedding/c/")])
            return
        for file in range(layout.n_files):
            name = f"embedding/{layout.file_name(file)}"
            self._know(name)
            path = self._directory / name
            grown = self._extending and name in self._files and may_have_grown(path, layout, file)
            if name not in self._files:
                reasons = ["is missing"]
            elif self._full:
                reasons = check_file(path, layout, file, commit.blocks, grown=grown).reasons
            else:
                reasons = [what for what in [check_size(path, layout, file)] if what and not grown]
            if reasons:
                self._blame(name, "; ".join(reasons))
            elif grown:
                self._note(name, "holds rows of an extension under way")
        if self._extending:
            for name in self._files:
                unknown = f"{self._key}/{name}" not in self._check.known
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
                self._compare(self._directory / small, facts, f"{self._key}/{small}")
        same = (commit.dim, commit.dtype, commit.block_rows) == (
            current.dim,
            current.dtype,
            current.block_rows,
        )
        if not same or commit.set_id != current.set_id:
            self._blame(name, "is a commit of another set")
            return
        layout = layout_of(current) if self._full else None
        if layout is None:
            return
        for block, digest in enumerate(commit.blocks):
            if digest == current.blocks[block]:
                continue
            rows = min(commit.block_rows, commit.n - block * commit.block_rows)
            start = block * commit.block_rows
            blank = np.flatnonzero(commit.failed_rows()[start : start + rows])
            try:
                array = self._directory / "embedding"
                same = prefix_hash(array, layout, block, rows, blank=blank) == digest
            except (FeatstoreError, OSError):
                continue  # the data file is reported by itself
            if not same:
                self._blame(name, f"its rows from {block * commit.block_rows:,} are not stored")
                return

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
                    self._check.notes.setdefault(f"{self._key}/{name}", note)


def _identified(attributes: dict[str, Any], dtype: str) -> bool:
    """Return whether the ids of a set are the hashes of what it says it is."""
    space = space_id(attributes["space"])
    identity = set_id(
        space,
        dataset=attributes["dataset"],
        kind=attributes["kind"],
        precision=attributes["precision"],
        dtype=dtype,
    )
    return (space, identity) == (attributes["space_id"], attributes["set_id"])

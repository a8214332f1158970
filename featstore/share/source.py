"""The store that is copied, and what its sets are to those of the other."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from featstore.errors import CorruptStoreError, PublishConflictError
from featstore.store.blocks import layout_of
from featstore.store.files import json_bytes, read_regular, same_file
from featstore.store.layout import ArrayLayout, array_metadata, group_metadata
from featstore.store.records import POINTER, REVISIONS, Commit, read_commit
from featstore.store.store import FeatureStore, SetInfo
from featstore.store.tables import MAX_ITEM_BYTES

_ARRAY = "embedding/zarr.json"


@dataclass
class SetSource:
    """One set of an opened store.

    Attributes
    ----------
    store : FeatureStore
    info : SetInfo
        Its current revision.
    """

    store: FeatureStore
    info: SetInfo

    def __post_init__(self) -> None:
        self.directory = self.info.key.directory(self.store.root)
        self.history: list[str] = list(self.info.attributes.get("history", []))

    @property
    def revision(self) -> str:
        """The revision_id that is sent."""
        return self.info.commit.revision_id

    def layout(self) -> ArrayLayout:
        """Return how the array is cut into files."""
        return self.store.layout(self.info)

    def commits(self) -> list[Commit]:
        """Return the commit of every revision, the oldest first."""
        for revision in self.history:
            self.store.place.fetch_records(self.info.key, revision)
        earlier = [read_commit(self.directory, revision) for revision in self.history]
        return [*earlier, self.info.commit]

    def small_files(self) -> dict[str, bytes]:
        """Return the files of all revisions but data and pointer: path below the store -> bytes.

        The commit records come last.

        Raises
        ------
        CorruptStoreError
            If one is not what its commit states.
        """
        files: dict[str, bytes] = {}
        key, commits = self.info.key, self.commits()
        for commit in commits:
            self.store.place.fetch_files(key, commit)
            items = commit.items
            facts = {"bytes": items["bytes"], "sha256": items["sha256"]}
            name = f"{key.dataset}/{key.kind}/{items['file']}"
            files[name] = self._checked(self.directory.parent / items["file"], facts)
            for part, stated in commit.metadata.items():
                if part != _ARRAY:
                    files[f"{key}/{part}"] = self._checked(self.directory / part, stated)
        files[f"{key}/{_ARRAY}"] = json_bytes(array_metadata(self.layout()))
        for commit in commits:
            part = f"{REVISIONS}/{commit.revision_id}.json"
            files[f"{key}/{part}"] = read_regular(self.directory / part, limit=MAX_ITEM_BYTES)
        return files

    def groups(self) -> dict[str, bytes]:
        """Return the metadata of the groups above the set: path below the store -> bytes."""
        key = self.info.key
        dataset = group_metadata({"dataset": key.dataset})
        kind = group_metadata({"dataset": key.dataset, "kind": key.kind})
        return {
            f"{key.dataset}/zarr.json": json_bytes(dataset),
            f"{key.dataset}/{key.kind}/zarr.json": json_bytes(kind),
        }

    def pointer(self) -> bytes:
        """Return the set's pointer."""
        return json_bytes(group_metadata(self.info.attributes))

    def pointer_name(self) -> str:
        """Return the pointer's path below the store."""
        return f"{self.info.key}/{POINTER}"

    @functools.cached_property
    def data_file(self) -> Callable[[int], Path]:
        """From the number of a data file to its path; see `featstore.store.place.Place`."""
        return self.store.place.data_files(self.info.key, self.info.commit, self.layout())

    def _checked(self, path: Path, facts: dict[str, int | str]) -> bytes:
        if not same_file(path, facts):
            raise CorruptStoreError(
                f"{path} is missing or differs from its commit record. The set was not sent."
            )
        return read_regular(path, limit=MAX_ITEM_BYTES)


def kept_files(base: Commit | None, now: Commit, layout: ArrayLayout) -> set[int]:
    """Return the data files of `now` that a store with `base` has, byte for byte.

    Those whose blocks, all of them full, have the same hashes in both. The last file of the base is
    among them only if nothing was appended to it.
    """
    before = None if base is None else layout_of(base)
    if base is None or before is None or replace(before, n=layout.n) != layout:
        return set()
    if base.n != now.n and not layout.shard_rows:
        return set()
    kept = set()
    for file in range(layout.n_files):
        rows, blocks = layout.file_rows(file), layout.file_blocks(file)
        same = base.blocks[blocks.start : blocks.stop] == now.blocks[blocks.start : blocks.stop]
        if same and rows.stop <= base.n and (base.n == now.n or file < layout.n_files - 1):
            kept.add(file)
    return kept


#: ``new`` and ``behind`` are to be sent; ``same`` and ``newer`` need nothing.
Relation = Literal["new", "behind", "same", "newer"]


def relation(there: Mapping[str, Any] | None, here: Mapping[str, Any], *, where: str) -> Relation:
    """Return how the set there stands to the one here, from the attributes of both.

    Raises
    ------
    PublishConflictError
        If each has a revision that the other lacks: both were extended apart.
    """
    if there is None:
        return "new"
    theirs, ours = there["revision"], here["revision"]
    if theirs == ours:
        return "same"
    if theirs in here.get("history", []):
        return "behind"
    if ours in there.get("history", []):
        return "newer"
    raise conflict(where, winner=theirs, loser=ours)


def conflict(where: str, *, winner: str, loser: str) -> PublishConflictError:
    """Return the error of a publisher who came second."""
    return PublishConflictError(
        f"{where} has revision {winner[:12]}, which another publisher put there first; revision "
        f"{loser[:12]} does not follow from it and was not published. Pull theirs into a store of "
        "its own, and extend that."
    )

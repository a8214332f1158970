"""The small files of a remote store, in a folder of the cache that is laid out like the store.

Whatever a hash names is fetched once and compared with it. The three things that no hash names
(the root's metadata, the catalog, and the pointer of a set) are asked for by each handle once, and
kept for when the server cannot be reached.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from featstore.errors import CorruptStoreError, RemoteStoreError
from featstore.keys import sha256_hex
from featstore.objects.base import Objects
from featstore.store.blocks import layout_of
from featstore.store.catalog import NAME as CATALOG
from featstore.store.commit import (
    POINTER,
    REVISIONS,
    Commit,
    belongs,
    parse_commit,
    read_commit,
)
from featstore.store.data_files import has_grown_to
from featstore.store.files import (
    MAX_JSON_BYTES,
    MAX_METADATA_BYTES,
    json_bytes,
    parse_json,
    same_file,
)
from featstore.store.items import MAX_ITEM_BYTES
from featstore.store.layout import SetKey, array_metadata
from featstore.store.records import parse_pointer

_ARRAY = "embedding/zarr.json"


class Mirror:
    """Fetches small files of `objects` to `root`.

    Attributes
    ----------
    offline : bool
        Nothing is asked of the server: what was fetched before is all there is.
    """

    def __init__(self, objects: Objects, root: Path, *, offline: bool) -> None:
        self.objects = objects
        self.root = root
        self.offline = offline

    def refresh(self, name: str, *, limit: int = MAX_METADATA_BYTES) -> bool:
        """Fetch a file that no hash names, whatever is there; False if the store has none.

        Raises
        ------
        CorruptStoreError
            If it is no JSON that a store holds.
        RemoteStoreError
            If the server cannot be reached.
        """
        if self.offline:
            return (self.root / name).is_file()
        try:
            data = self.objects.read(name, limit=limit)
        except FileNotFoundError:
            (self.root / name).unlink(missing_ok=True)
            return False
        parse_json(data, where=f"{self.objects.address}/{name}")
        place(self.root / name, data)
        return True

    def refresh_catalog(self) -> bool:
        """Fetch ``catalog.json``; False if there is none."""
        return self.refresh(CATALOG, limit=MAX_JSON_BYTES)

    def fetch_records(self, key: SetKey) -> None:
        """Fetch a set's pointer and the commit records that it names, the pointer last.

        Raises
        ------
        CorruptStoreError
            If a record is not what its name says, or the pointer and the commit disagree.
        """
        if self.offline:
            return
        name = f"{key}/{POINTER}"
        directory = key.directory(self.root)
        try:
            data = self.objects.read(name, limit=MAX_METADATA_BYTES)
        except FileNotFoundError:
            (directory / POINTER).unlink(missing_ok=True)
            return
        where = f"{self.objects.address}/{name}"
        attributes = parse_pointer(parse_json(data, where=where), where=where)
        commit = self.fetch_commit(key, str(attributes["revision"]))
        if not belongs(key, attributes, commit):
            msg = f"{where} carries the metadata of another set, or changed metadata."
            raise CorruptStoreError(msg)
        place(directory / POINTER, data)

    def fetch_commit(self, key: SetKey, revision: str) -> Commit:
        """Return a commit record, fetched if it is not there."""
        directory = key.directory(self.root)
        name = f"{REVISIONS}/{revision[:64]}.json"
        if not (directory / name).exists():
            data = self._read(f"{key}/{name}", limit=MAX_JSON_BYTES)
            where = f"{self.objects.address}/{key}/{name}"
            commit = parse_commit(parse_json(data, where=where), where=where)
            if commit.revision_id != revision:
                msg = f"{where} has another hash than its name. It was not used."
                raise CorruptStoreError(msg)
            place(directory / name, data)
        return read_commit(directory, revision)

    def fetch_small(self, key: SetKey, commit: Commit) -> None:
        """Fetch the item table and the small files that a commit names, and compare their hashes.

        Raises
        ------
        CorruptStoreError
            If one is missing, larger, or has another hash.
        """
        directory = key.directory(self.root)
        for name, facts in commit.metadata.items():
            if same_file(directory / name, facts):
                continue
            if name == _ARRAY:
                # The commit implies it: what a later revision made of it does not matter.
                layout = layout_of(commit)
                if layout is not None and has_grown_to(directory / "embedding", layout):
                    continue
                if layout is not None:
                    place(directory / name, json_bytes(array_metadata(layout)))
                    continue
            self._fetch(f"{key}/{name}", directory / name, facts)
        items = commit.items
        path = directory.parent / items["file"]
        if not same_file(path, {"bytes": items["bytes"], "sha256": items["sha256"]}):
            self._fetch(f"{key.dataset}/{key.kind}/{items['file']}", path, items)

    def fetch_named(self, name: str, *, limit: int) -> None:
        """Fetch a file whose name carries its hash, unless it is there."""
        if not (self.root / name).exists():
            place(self.root / name, self._read(name, limit=limit))

    def _fetch(self, name: str, path: Path, facts: Mapping[str, Any]) -> None:
        if facts["bytes"] > MAX_ITEM_BYTES:
            msg = f"{name} is stated to have {facts['bytes']:,} bytes. It was not asked for."
            raise CorruptStoreError(msg)
        data = self._read(name, limit=facts["bytes"])
        if len(data) != facts["bytes"] or sha256_hex(data) != facts["sha256"]:
            msg = (
                f"{self.objects.address}/{name} is not the file that the commit record states. The "
                "server's copy is damaged, or the server lies. It was not used."
            )
            raise CorruptStoreError(msg)
        place(path, data)

    def _read(self, name: str, *, limit: int) -> bytes:
        if self.offline:
            msg = f"{self.objects.address}/{name} is not in the cache, and the server is not asked."
            raise RemoteStoreError(msg)
        try:
            return self.objects.read(name, limit=limit)
        except FileNotFoundError as err:
            msg = f"{self.objects.address}/{name} is missing, though the store names it."
            raise CorruptStoreError(msg) from err


def place(path: Path, data: bytes) -> None:
    """Write a file of the mirror; it appears whole. What a loss of power tears is fetched again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.staged")
    try:
        staged.write_bytes(data)
        os.replace(staged, path)  # noqa: PTH105
    except BaseException:
        staged.unlink(missing_ok=True)
        raise

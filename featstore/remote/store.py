"""A store behind an address, read through the cache."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from featstore.errors import CorruptStoreError, RemoteStoreError, UnknownSetError, UnreachableError
from featstore.remote.cache import Cache, Mirror, user_cache
from featstore.remote.objects import Address, Objects, open_objects
from featstore.remote.rows import REQUESTS, RemoteRows
from featstore.store.catalog import NAME as CATALOG
from featstore.store.catalog import finished_sets, match_names, parse_catalog
from featstore.store.files import read_json
from featstore.store.layout import ArrayLayout, LayoutError, SetKey, check_component
from featstore.store.records import FOLDER as TAGS
from featstore.store.records import POINTER, check_format, key_of, read_pointer, read_tag, tag_file
from featstore.store.rows import Mode, RowSource, Verify
from featstore.store.store import FeatureStore, SetInfo
from featstore.store.tables import MAX_THUMBNAILS_BYTES


class RemoteStore(FeatureStore):
    """A read-only handle on a remote store.

    It asks for the pointer of a set once: what was published meanwhile is seen by opening the store
    again. Everything that it returns was compared with the commit record that the pointer names.
    """

    def __init__(
        self, mirror: Mirror, cache: Cache, *, mode: Mode = "auto", verify: Verify = "never"
    ) -> None:
        super().__init__(mirror.root, mode=mode, verify=verify)
        self.address = mirror.objects.address
        self.mirror = mirror
        self.cache = cache
        self._asked: set[SetKey] = set()
        self._ready: set[tuple[SetKey, str]] = set()

    def keys(self) -> list[SetKey]:
        """Return the keys of the sets that the store lists, in ``catalog.json`` or by itself."""
        names: list[str] = []
        if (self.root / CATALOG).is_file():
            catalog = parse_catalog(read_json(self.root / CATALOG))
            if catalog is None:
                raise CorruptStoreError(
                    f"{self.address}/{CATALOG} is no catalog that featstore writes."
                )
            names = list(catalog["sets"])
        elif self.mirror.offline:
            names = [str(key_of(folder)) for folder in finished_sets(self.root)]
        else:
            try:
                found = [name.split("/") for name, _ in self.mirror.objects.names()]
            except RemoteStoreError as err:
                raise UnknownSetError(
                    f"{self.address} has no {CATALOG} and cannot list its files. Publish the "
                    "store's catalog with it."
                ) from err
            names = ["/".join(parts[:3]) for parts in found if parts[3:] == [POINTER]]
        if self._pins is not None:
            names = list(self._pins)
        keys = {key for name in names if (key := _key(name)) is not None}
        return sorted(keys, key=str)

    def prefetch(
        self,
        name: str,
        *,
        revision: str | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> None:
        """Fetch all of a set, so that it can be read without the server.

        Parameters
        ----------
        name, revision
            See `info`.
        progress : callable, optional
            Called with numbers of bytes that arrived, from several threads.

        Raises
        ------
        CorruptStoreError, RemoteStoreError, CacheFullError
            See `featstore.remote.rows.RemoteRows.read`.
        """
        info = self.info(name, revision=revision)
        _ = self.view(str(info.key), revision=revision)  # what it compares, it fetches
        self.open_array(info, self.layout(info)).fetch_all(progress)

    def open_array(self, info: SetInfo, layout: ArrayLayout) -> RemoteRows:
        """Return the reader of a set's array that fetches what it needs."""
        return RemoteRows(
            self.mirror.objects,
            f"{info.key}/embedding",
            layout,
            blocks=info.commit.blocks,
            failed=info.commit.failed_rows(),
            cache=self.cache,
            mode=self.mode,
        )

    def thumbnails(self, dataset: str, kind: str = "image") -> dict[str, bytes]:
        """Return item_id -> WebP bytes of the stored thumbnails; empty if there are none."""
        folder = f"{check_component(dataset, what='dataset')}/{check_component(kind, what='kind')}"
        catalog: dict[str, Any] = {}
        if (self.root / CATALOG).is_file():
            catalog = parse_catalog(read_json(self.root / CATALOG)) or {}
        for name in catalog.get("thumbnails", []):
            inside, _, file = name.rpartition("/")
            if inside == folder and file.startswith("thumbnails-"):
                self.mirror.fetch_named(name, limit=MAX_THUMBNAILS_BYTES)
        return super().thumbnails(dataset, kind)

    def stored_bytes(self, info: SetInfo) -> int:
        """Return the bytes of the files that the current revision names."""
        commit, layout = info.commit, self.layout(info)
        small = sum(facts["bytes"] for facts in commit.metadata.values())
        data = sum(layout.file_bytes(file) for file in range(layout.n_files))
        return int(small + data)

    def unfinished(self) -> list[SetKey]:
        """Return no keys: what is not published is not read from elsewhere."""
        return []

    def folders(self) -> list[Path]:
        """Return the folders of the finished sets below `root`, sorted by key."""
        keys = self.keys()
        with ThreadPoolExecutor(REQUESTS, "records") as pool:
            there = list(pool.map(self._is_there, keys))
        return [key.directory(self.root) for key, found in zip(keys, there, strict=True) if found]

    def _find(self, name: str) -> dict[str, Path]:
        full = _key(name.strip("/"))
        keys = {str(key): key for key in self.keys()}
        chosen = [name.strip("/")] if name.strip("/") in keys else match_names(name, keys)
        if not chosen and full is not None and self._pins is None:
            keys, chosen = {str(full): full}, [str(full)]  # younger than the catalog
        found = {}
        for text in chosen:
            self._fetch_records(keys[text])
            directory = keys[text].directory(self.root)
            if (directory / POINTER).exists():
                found[text] = directory
            elif self.mirror.offline:
                raise RemoteStoreError(
                    f"{text} of {self.address} is not in the cache, and the server is not asked."
                )
        return found

    def tags(self) -> list[str]:
        """Return the names of the tags; none where the place cannot list."""
        try:
            names = [name for name, _ in self.mirror.objects.names(f"{TAGS}/")]
        except RemoteStoreError:
            return []
        return sorted(Path(name).stem for name in names if name.startswith(f"{TAGS}/"))

    def tag(self, name: str) -> dict[str, str]:
        """Return key -> revision_id of a tag; UnknownSetError if there is none."""
        if not self.mirror.refresh(tag_file(name)):
            raise UnknownSetError(f"No tag named {name!r} in {self.address}.")
        return read_tag(self.root, name)

    def _is_there(self, key: SetKey) -> bool:
        """Tell whether there is such a set, damaged or not; whoever reads it is told of damage."""
        try:
            self._fetch_records(key)
        except CorruptStoreError:
            return True
        return (key.directory(self.root) / POINTER).exists()

    def _fetch_records(self, key: SetKey) -> None:
        if key not in self._asked:
            self.mirror.fetch_records(key)
            self._asked.add(key)

    def _info(self, directory: Path, revision: str | None = None) -> SetInfo:
        key = key_of(directory)
        self._fetch_records(key)
        if revision is None and self._pins is not None:
            revision = self._pins.get(str(key))
        if revision is not None and not self.mirror.offline:
            attributes = read_pointer(directory) or {}
            for name in attributes.get("history", []):
                if name.startswith(revision):
                    self.mirror.fetch_commit(key, name)
        return super()._info(directory, revision)

    def _prepare(self, info: SetInfo) -> None:
        ready = (info.key, info.commit.revision_id)
        if ready not in self._ready:
            self.mirror.fetch_small(info.key, info.commit)
            self._ready.add(ready)

    def _rows(self, info: SetInfo, layout: ArrayLayout) -> RowSource:
        rows = self.open_array(info, layout)
        return rows.source if rows.complete and self.mode in ("auto", "map") else rows

    def layout(self, info: SetInfo) -> ArrayLayout:
        """Return how a set's array is cut into files; raises as `view`."""
        self._prepare(info)
        return super().layout(info)


def open_remote(
    address: Address,
    *,
    revision: str | None = None,
    mode: Mode = "auto",
    verify: Verify = "never",
    objects: Objects | None = None,
    cache: Cache | None = None,
) -> RemoteStore:
    """Open a remote store; see `featstore.store.store.open_store`.

    If the server cannot be reached, what was fetched before is read, with a warning that says so.
    With ``HEADSTOCK_OFFLINE=1`` in the environment the server is never asked.

    Raises
    ------
    UnknownSetError
        If there is no store, or no such revision.
    RemoteStoreError
        If the server cannot be reached, and nothing of it was fetched before.
    ValueError
        If `mode` is ``"zarr"``, which reads folders only.
    """
    if mode == "zarr":
        raise ValueError(
            "A remote store is read from the cache: mode auto, map, segments or pread."
        )
    objects = objects or open_objects(address)
    cache = cache or user_cache()
    root = cache.store(address.url)
    offline = os.environ.get("HEADSTOCK_OFFLINE", "") not in ("", "0")
    mirror = Mirror(objects, root, offline=offline)
    try:
        found = mirror.refresh("zarr.json")
        mirror.refresh_catalog()
    except UnreachableError as err:
        if not (root / "zarr.json").is_file():
            raise
        mirror.offline = found = True
        fetched = time.strftime("%Y-%m-%d", time.localtime((root / "zarr.json").stat().st_mtime))
        msg = (
            f"{address.url} cannot be reached ({str(err)[:200]}): read from the cache, as it was "
            f"on {fetched}."
        )
        warnings.warn(msg, stacklevel=3)
    attributes = _root_attributes(root) if found else None
    if not isinstance(attributes, dict):
        what = "is no featstore store" if found else "has no store (no zarr.json)"
        raise UnknownSetError(
            f"{address.url} {what}. Check the address, or publish one with `featstore push`."
        )
    check_format(attributes.get("format"), where=f"{address.url}/zarr.json")
    store = RemoteStore(mirror, cache, mode=mode, verify=verify)
    if revision is not None:
        store.pin(revision)
    return store


def _root_attributes(root: Path) -> Any:
    try:
        return read_json(root / "zarr.json")["attributes"]["featstore"]
    except (KeyError, TypeError):
        return None


def _key(text: str) -> SetKey | None:
    try:
        return SetKey(*text.split("/"))
    except (LayoutError, TypeError):
        return None

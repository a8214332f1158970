"""A store behind an address, read through the cache."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import time
import warnings
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

from featstore.address import Address
from featstore.errors import (
    CorruptStoreError,
    FeatstoreError,
    RemoteStoreError,
    UnknownSetError,
    UnreachableError,
)
from featstore.remote.cache import Cache, Mirror, at_once, user_cache
from featstore.remote.objects import open_objects
from featstore.remote.rows import REQUESTS, RemoteRows
from featstore.store.catalog import NAME as CATALOG
from featstore.store.catalog import finished_sets, match_names, parse_catalog
from featstore.store.files import MAX_JSON_BYTES, read_json
from featstore.store.layout import ArrayLayout, SetKey
from featstore.store.listing import PARTS
from featstore.store.place import Place, Progress
from featstore.store.records import FOLDER as TAGS
from featstore.store.records import POINTER, Commit, key_of, read_pointer
from featstore.store.rows import Mode, RowSource
from featstore.store.tables import MAX_THUMBNAILS_BYTES


class RemotePlace(Place):
    """A remote store, and the mirror and the cache that hold what was read of it.

    It asks for the pointer of a set once: what was published meanwhile is seen by opening the store
    again.

    Attributes
    ----------
    mirror : Mirror
        Of the small files.
    cache : Cache
        Of the data files.
    """

    is_remote: ClassVar[bool] = True
    made_by: ClassVar[str] = "push"

    def __init__(self, mirror: Mirror, cache: Cache) -> None:
        super().__init__(mirror.root, mirror.objects.address)
        self.mirror = mirror
        self.cache = cache
        self._asked: set[SetKey] = set()
        self._ready: set[tuple[SetKey, str]] = set()
        self._coming: dict[tuple[SetKey, str], threading.Thread] = {}

    def catalog(self) -> dict[str, Any] | None:
        """Return the store's catalog; None if there is none.

        Raises
        ------
        CorruptStoreError
            If it is damaged.
        """
        if not (self.root / CATALOG).is_file():
            return None
        catalog = parse_catalog(read_json(self.root / CATALOG))
        if catalog is None:
            raise CorruptStoreError(
                f"{self.address}/{CATALOG} is no catalog that featstore writes."
            )
        return catalog

    def _keys(self, among: Collection[str] | None) -> list[SetKey]:
        """Return the keys of the sets that the store lists, in ``catalog.json`` or by itself."""
        catalog = self.catalog()
        if among is not None:
            names = among
        elif catalog is not None:
            names = catalog["sets"]
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
        return sorted({key for name in names if (key := SetKey.parse(name)) is not None}, key=str)

    def folders(self, among: Collection[str] | None = None) -> list[Path]:
        """Return the folders of the finished sets, whose records are fetched, sorted by key."""
        keys = self._keys(among)
        with ThreadPoolExecutor(REQUESTS, "records") as pool:
            there = list(pool.map(self._is_there, keys))
        return [key.directory(self.root) for key, found in zip(keys, there, strict=True) if found]

    def find(self, name: str, among: Collection[str] | None = None) -> dict[str, Path]:
        """Return key -> folder of the finished sets that `name` fits; only these are fetched."""
        name = name.strip("/")
        full = SetKey.parse(name)
        keys = {str(key): key for key in self._keys(among)}
        chosen = [name] if name in keys else match_names(name, keys)
        if not chosen and full is not None and among is None:
            keys, chosen = {str(full): full}, [str(full)]  # younger than the catalog
        found = {}
        for text in chosen:
            self._fetch_records(keys[text], to_read=len(chosen) == 1)
            directory = keys[text].directory(self.root)
            if (directory / POINTER).exists():
                found[text] = directory
            elif self.mirror.offline:
                raise RemoteStoreError(
                    f"{text} of {self.address} is not in the cache, and the server is not asked."
                )
        return found

    def rows(
        self, key: SetKey, commit: Commit, layout: ArrayLayout, mode: Mode, *, damaged: bool = False
    ) -> RowSource:
        """Return the reader of a set's array; it fetches the blocks that the cache lacks."""
        rows = self._array(key, commit, layout, mode)
        return rows.source if rows.complete and mode in ("auto", "map") and not damaged else rows

    def data_files(self, key: SetKey, commit: Commit, layout: ArrayLayout) -> Callable[[int], Path]:
        """Return a function from the number of a data file to its path in the cache, whole."""
        return self._array(key, commit, layout).fetch_file

    def tags(self) -> list[str]:
        """Return the names of the tags; none where the place cannot list, or need not."""
        if "tags" in (self.catalog() or {}):
            return []
        try:
            names = [name for name, _ in self.mirror.objects.names(f"{TAGS}/")]
        except RemoteStoreError:
            return []
        return sorted(Path(name).stem for name in names if name.startswith(f"{TAGS}/"))

    def refresh(self, *names: str) -> None:
        """Fetch records of the store that no hash names, as far as there are any."""
        for name in names:
            self.mirror.refresh(name, limit=MAX_JSON_BYTES)

    def fetch_records(self, key: SetKey, revision: str | None = None) -> None:
        """Fetch the pointer of a set, its commit, and the commits whose id begins `revision`."""
        self._fetch_records(key)
        if revision is not None and not self.mirror.offline:
            attributes = read_pointer(key.directory(self.root)) or {}
            for name in attributes.get("history", []):
                if name.startswith(revision):
                    self.mirror.fetch_commit(key, name)

    def fetch(self, key: SetKey, commit: Commit, *parts: str) -> None:
        """Fetch the small files of a revision: all, or these `featstore.store.listing.PARTS`."""
        ready = (key, commit.revision_id)
        wanted = {*(parts or PARTS)} - ({"rows"} if ready in self._ready else set())
        if wanted - {"rows"} and ready in self._coming:
            self._coming[ready].join()
        if wanted:
            self.mirror.fetch(key, commit, wanted)
        if "rows" in wanted:
            self._ready.add(ready)

    def begin_fetch(self, key: SetKey, commit: Commit) -> None:
        """Begin to fetch both, beside the first rows: they are there when the server is not."""
        parts = ("items", "rest")
        if (key, commit.revision_id) in self._coming or self.mirror.has(key, commit, parts):
            return

        def fetch() -> None:
            # What was wrong is said when they are asked for.
            with contextlib.suppress(FeatstoreError, OSError, RuntimeError):
                self.mirror.fetch(key, commit, parts)

        thread = threading.Thread(target=fetch, daemon=True)
        with contextlib.suppress(RuntimeError):  # no more threads: then they are fetched when asked
            thread.start()
            self._coming[key, commit.revision_id] = thread

    def fetch_thumbnails(self, folder: str) -> None:
        """Fetch the thumbnails of ``dataset/kind`` that the catalog lists."""
        for name in (self.catalog() or {}).get("thumbnails", []):
            inside, _, file = name.rpartition("/")
            if inside == folder and file.startswith("thumbnails-"):
                self.mirror.fetch_named(name, limit=MAX_THUMBNAILS_BYTES)

    def fetch_rows(
        self, key: SetKey, commit: Commit, layout: ArrayLayout, progress: Progress | None
    ) -> None:
        """Fetch all rows of a set."""
        self._array(key, commit, layout).fetch_all(progress)

    @functools.cached_property
    def _listed(self) -> dict[str, str]:
        """Key -> revision of the catalog at opening; empty if there is none that can be read."""
        with contextlib.suppress(CorruptStoreError):
            return dict((self.catalog() or {}).get("sets", {}))
        return {}

    def _fetch_records(self, key: SetKey, *, to_read: bool = False) -> None:
        if key not in self._asked:
            likely = self._listed.get(str(key), "")
            self.mirror.fetch_records(key, likely=likely, to_read=to_read)
            self._asked.add(key)

    def _is_there(self, key: SetKey) -> bool:
        """Return whether there is such a set, damaged or not: reading it raises for the damage."""
        try:
            self.fetch_records(key)
        except CorruptStoreError:
            return True
        return (key.directory(self.root) / POINTER).exists()

    def _array(
        self, key: SetKey, commit: Commit, layout: ArrayLayout, mode: Mode = "auto"
    ) -> RemoteRows:
        return RemoteRows(
            self.mirror.objects,
            f"{key}/embedding",
            layout,
            commit=commit,
            cache=self.cache,
            mode=mode,
        )


def open_remote(address: Address) -> RemotePlace:
    """Return the place behind an address; see `featstore.store.store.open_store`.

    If the server cannot be reached, what was fetched before is read, with a warning that says so.
    With ``HEADSTOCK_OFFLINE=1`` in the environment the server is never asked.

    Raises
    ------
    RemoteStoreError
        If the server cannot be reached, and nothing of it was fetched before.
    """
    cache = user_cache()
    root = cache.store(address.url)
    offline = os.environ.get("HEADSTOCK_OFFLINE", "") not in ("", "0")
    mirror = Mirror(open_objects(address), root, offline=offline)
    try:
        at_once(
            [
                lambda: mirror.refresh("zarr.json"),
                lambda: mirror.refresh(CATALOG, limit=MAX_JSON_BYTES),
            ]
        )
    except UnreachableError as err:
        if not (root / "zarr.json").is_file():
            raise
        mirror.offline = True
        fetched = time.strftime("%Y-%m-%d", time.localtime((root / "zarr.json").stat().st_mtime))
        warnings.warn(
            f"{address.url} cannot be reached ({str(err)[:200]}): read from the cache, as it was "
            f"on {fetched}.",
            stacklevel=3,
        )
    return RemotePlace(mirror, cache)

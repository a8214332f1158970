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

from featstore.errors import (
    CorruptStoreError,
    FeatstoreError,
    RemoteStoreError,
    UnknownSetError,
    UnreachableError,
)
from featstore.remote.cache import Cache, Mirror, at_once, user_cache
from featstore.remote.objects import Address, open_objects
from featstore.remote.rows import REQUESTS, RemoteRows
from featstore.store.catalog import NAME as CATALOG
from featstore.store.catalog import finished_sets, match_names, parse_catalog
from featstore.store.files import MAX_JSON_BYTES, read_json
from featstore.store.layout import ArrayLayout, SetKey
from featstore.store.place import Place, Progress
from featstore.store.records import FOLDER as TAGS
from featstore.store.records import POINTER, Commit, key_of, read_pointer, tag_file
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

    def stored_bytes(self, key: SetKey, commit: Commit, layout: ArrayLayout) -> int:
        """Return the bytes of the files that the commit names."""
        del key
        small = sum(facts["bytes"] for facts in commit.metadata.values())
        return int(small + sum(layout.file_bytes(file) for file in range(layout.n_files)))

    def tags(self) -> list[str]:
        """Return the names of the tags; none where the place cannot list, or need not."""
        if "tags" in (self.catalog() or {}):
            return []
        try:
            names = [name for name, _ in self.mirror.objects.names(f"{TAGS}/")]
        except RemoteStoreError:
            return []
        return sorted(Path(name).stem for name in names if name.startswith(f"{TAGS}/"))

    def fetch_tag(self, name: str) -> None:
        """Fetch a tag, if there is one of this name, and the catalog, which may list it by now."""
        self.mirror.refresh(tag_file(name))
        self.mirror.refresh(CATALOG, limit=MAX_JSON_BYTES)

    def fetch_signature(self) -> None:
        """Fetch the signature of the store, if it has one."""
        self.mirror.refresh("signature.json")

    def fetch_records(self, key: SetKey, revision: str | None = None) -> None:
        """Fetch the pointer of a set, its commit, and the commits whose id begins `revision`."""
        self._fetch_records(key)
        if revision is not None and not self.mirror.offline:
            attributes = read_pointer(key.directory(self.root)) or {}
            for name in attributes.get("history", []):
                if name.startswith(revision):
                    self.mirror.fetch_commit(key, name)

    def fetch_files(self, key: SetKey, commit: Commit) -> None:
        """Fetch the small files that the rows of a revision are read with."""
        ready = (key, commit.revision_id)
        if ready not in self._ready:
            self.mirror.fetch_small(key, commit)
            self._ready.add(ready)

    def fetch_items(self, key: SetKey, commit: Commit) -> None:
        """Fetch the item table of a revision."""
        self._end_rest(key, commit)
        self.mirror.fetch_items(key, commit)

    def fetch_rest(self, key: SetKey, commit: Commit) -> None:
        """Fetch the small files of a revision that rows are read without."""
        self._end_rest(key, commit)
        self.mirror.fetch_rest(key, commit)

    def begin_rest(self, key: SetKey, commit: Commit) -> None:
        """Begin to fetch both, beside the first rows: they are there when the server is not."""
        if (key, commit.revision_id) in self._coming or self.mirror.has_rest(key, commit):
            return
        thread = threading.Thread(target=self._fetch_both, args=(key, commit), daemon=True)
        with contextlib.suppress(RuntimeError):  # no more threads: then they are fetched when asked
            thread.start()
            self._coming[key, commit.revision_id] = thread

    def _fetch_both(self, key: SetKey, commit: Commit) -> None:
        def one(fetch: Callable[[SetKey, Commit], None]) -> None:
            # What was wrong is said when they are asked for.
            with contextlib.suppress(FeatstoreError, OSError, RuntimeError):
                fetch(key, commit)

        with contextlib.suppress(RuntimeError):
            mirror = self.mirror
            at_once([lambda: one(mirror.fetch_items), lambda: one(mirror.fetch_rest)])

    def _end_rest(self, key: SetKey, commit: Commit) -> None:
        thread = self._coming.get((key, commit.revision_id))
        if thread is not None:
            thread.join()

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

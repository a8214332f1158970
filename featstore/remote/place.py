"""A store behind an address, read through the cache: the cache is a place in front of a place.

Whatever a hash names is fetched once and compared with it. The three things that no hash names
(the root's metadata, the catalog, and the pointer of a set) are asked for by each handle once, and
kept for when the server cannot be reached.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
import warnings
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from featstore.durable import write_durably
from featstore.errors import CorruptStoreError, FeatstoreError, RemoteStoreError, UnreachableError
from featstore.parallel import in_background
from featstore.remote.cache import kept_below, user_cache
from featstore.remote.rows import REQUESTS, RemoteRows
from featstore.store.blocks import layout_of
from featstore.store.catalog import NAME as CATALOG
from featstore.store.catalog import match_names, read_catalog
from featstore.store.files import (
    MAX_JSON_BYTES,
    MAX_METADATA_BYTES,
    facts_of,
    has_grown_to,
    parse_json,
    same_file,
)
from featstore.store.layout import ArrayLayout, SetKey
from featstore.store.listing import PARTS, Listed, set_files
from featstore.store.place import Place, Progress
from featstore.store.records import (
    POINTER,
    REVISIONS,
    Commit,
    belongs,
    parse_commit,
    parse_pointer,
    read_commit,
    read_pointer,
)
from featstore.store.rows import Mode, RowSource
from featstore.store.tables import MAX_ITEM_BYTES, MAX_THUMBNAILS_BYTES

if TYPE_CHECKING:
    from featstore.remote.objects import Objects

T = TypeVar("T")


class RemotePlace(Place):
    """A remote store, and the mirror and the cache that hold what was read of it.

    It asks for the pointer of a set once: what was published meanwhile is seen by opening the store
    again. If the server cannot be reached, what was fetched before is read, with a warning that
    says so. With ``HEADSTOCK_OFFLINE=1`` in the environment the server is never asked.

    Attributes
    ----------
    objects : Objects
        The files of the store.
    cache : Cache
        Of the data files; the small ones lie in `root`.
    offline : bool
        Nothing is asked of the server: what was fetched before is all there is.

    Raises
    ------
    RemoteStoreError
        If the server cannot be reached, and nothing of it was fetched before.
    """

    is_remote: ClassVar[bool] = True
    made_by: ClassVar[str] = "push"

    def __init__(self, objects: Objects) -> None:
        self.cache = user_cache()
        super().__init__(self.cache.store(objects.address), objects.address)
        self.objects = objects
        self.offline = os.environ.get("HEADSTOCK_OFFLINE", "") not in ("", "0")
        self._asked: set[SetKey] = set()
        self._coming: dict[tuple[SetKey, str], Future[None]] = {}
        root = self.root / "zarr.json"
        try:
            self.refresh("zarr.json", CATALOG)
        except UnreachableError as err:
            if not root.is_file():
                raise
            self.offline = True
            fetched = time.strftime("%Y-%m-%d", time.localtime(root.stat().st_mtime))
            warnings.warn(
                f"{self.address} cannot be reached ({str(err)[:200]}): read from the cache, as it "
                f"was on {fetched}.",
                stacklevel=5,
            )

    def catalog(self) -> dict[str, Any]:
        """Return the store's catalog.

        Raises
        ------
        CorruptStoreError
            If it is missing or damaged.
        """
        catalog = read_catalog(self.root)
        if catalog is None:
            raise CorruptStoreError(
                f"{self.address}/{CATALOG} is missing, or not one that featstore writes. Publish "
                "the store's catalog with it, or push to it once."
            )
        return catalog

    def _keys(self, among: Collection[str] | None) -> list[SetKey]:
        """Return the keys of the sets that the store lists, or of these."""
        names = self.catalog()["sets"] if among is None else among
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
        keys = {str(key): key for key in self._keys(among)}
        full = SetKey.parse(name)
        chosen = [name] if name in keys else match_names(name, keys)
        if not chosen and full is not None and among is None:
            keys, chosen = {name: full}, [name]  # younger than the catalog
        found = {}
        for text in chosen:
            self.fetch_records(keys[text])
            directory = keys[text].directory(self.root)
            if (directory / POINTER).exists():
                found[text] = directory
            elif self.offline:
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
        """Return no name: the catalog lists the tags, and no reader takes another."""
        return []

    def refresh(self, *names: str) -> None:
        """Fetch files that no hash names, whatever is there; one that the store lacks goes.

        Raises
        ------
        CorruptStoreError
            If one is no JSON that a store holds.
        RemoteStoreError
            If the server cannot be reached.
        """
        _at_once([functools.partial(self._refresh, name) for name in names])

    def _refresh(self, name: str) -> None:
        if self.offline:
            return
        try:
            limit = MAX_METADATA_BYTES if name == "zarr.json" else MAX_JSON_BYTES
            data = self.objects.read(name, limit=limit)
        except FileNotFoundError:
            (self.root / name).unlink(missing_ok=True)
            return
        parse_json(data, where=f"{self.address}/{name}")
        self._keep(self.root / name, data)

    def fetch_records(self, key: SetKey, revision: str | None = None) -> None:
        """Fetch the pointer of a set, its commit, and the commits whose id begins `revision`.

        Raises
        ------
        CorruptStoreError
            If a record is not what its name says, or the pointer and the commit disagree.
        """
        if self.offline:
            return
        if key not in self._asked:
            self._fetch_pointer(key)
            self._asked.add(key)
        if revision is not None:
            attributes = read_pointer(key.directory(self.root)) or {}
            for name in attributes.get("history", []):
                if name.startswith(revision):
                    self._fetch_commit(key, name)

    def _fetch_pointer(self, key: SetKey) -> None:
        """Fetch a set's pointer and the commit record that it names; the pointer is kept last."""
        name, directory = f"{key}/{POINTER}", key.directory(self.root)

        def pointer() -> bytes | None:
            with contextlib.suppress(FileNotFoundError):
                return self.objects.read(name, limit=MAX_METADATA_BYTES)
            return None

        def commit_of_catalog() -> None:
            with contextlib.suppress(FeatstoreError):  # it counts if the pointer names it
                self._fetch_commit(key, self._listed[str(key)])

        calls: list[Callable[[], bytes | None]] = [pointer]
        data = _at_once([*calls, commit_of_catalog] if str(key) in self._listed else calls)[0]
        if data is None:
            (directory / POINTER).unlink(missing_ok=True)
            return
        where = f"{self.address}/{name}"
        attributes = parse_pointer(parse_json(data, where=where), where=where)
        commit = self._fetch_commit(key, str(attributes["revision"]))
        if not belongs(key, attributes, commit):
            raise CorruptStoreError(
                f"{where} carries the metadata of another set, or changed metadata."
            )
        self._keep(directory / POINTER, data)

    def _fetch_commit(self, key: SetKey, revision: str) -> Commit:
        """Return a commit record, fetched if it is not there."""
        directory = key.directory(self.root)
        name = f"{REVISIONS}/{revision[:64]}.json"
        if not (directory / name).exists():
            data = self._read(f"{key}/{name}", limit=MAX_JSON_BYTES)
            where = f"{self.address}/{key}/{name}"
            commit = parse_commit(parse_json(data, where=where), where=where)
            if commit.revision_id != revision:
                raise CorruptStoreError(f"{where} has another hash than its name. It was not used.")
            self._keep(directory / name, data)
        return read_commit(directory, revision)

    def fetch(self, key: SetKey, commit: Commit, *parts: str) -> None:
        """Fetch the small files of a revision: all, or these `featstore.store.listing.PARTS`.

        Raises
        ------
        CorruptStoreError
            If a file is missing, larger, or has another hash.
        """
        wanted, coming = {*(parts or PARTS)}, self._coming.get((key, commit.revision_id))
        if wanted != {"rows"} and coming is not None:
            coming.exception()
        self._fetch_parts(key, commit, wanted)

    def begin_fetch(self, key: SetKey, commit: Commit) -> None:
        """Begin to fetch both, beside the first rows: they are there when the server is not."""
        parts = {"items", "rest"}
        small = [one for one in set_files(key, commit).values() if one.part in parts]
        ready = (key, commit.revision_id)
        if ready in self._coming or all((self.root / one.path).exists() for one in small):
            return
        # What was wrong is said when they are asked for.
        self._coming[ready] = in_background(lambda: self._fetch_parts(key, commit, parts))

    def fetch_thumbnails(self, folder: str) -> None:
        """Fetch the thumbnails of ``dataset/kind`` that the catalog lists."""
        for name in self.catalog()["thumbnails"]:
            inside, _, file = name.rpartition("/")
            path = self.root / name
            if inside == folder and file.startswith("thumbnails-") and not path.exists():
                self._keep(path, self._read(name, limit=MAX_THUMBNAILS_BYTES))

    def fetch_rows(
        self, key: SetKey, commit: Commit, layout: ArrayLayout, progress: Progress | None
    ) -> None:
        """Fetch all rows of a set."""
        self._array(key, commit, layout).fetch_all(progress)

    @functools.cached_property
    def _listed(self) -> dict[str, str]:
        """Key -> revision of the catalog at opening; empty if there is none that can be read."""
        return dict((read_catalog(self.root) or {"sets": {}})["sets"])

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
        array = f"{key}/embedding"
        return RemoteRows(self.objects, array, layout, commit=commit, cache=self.cache, mode=mode)

    def _fetch_parts(self, key: SetKey, commit: Commit, parts: Collection[str]) -> None:
        missing: list[Callable[[], None]] = []
        layout = layout_of(commit) if "rows" in parts else None
        for one in set_files(key, commit, layout=layout).values():
            path = self.root / one.path
            if one.part not in parts or same_file(path, one.facts):
                continue
            if layout is not None and path.name == POINTER and has_grown_to(path.parent, layout):
                continue  # the commit implies it: what a later revision made of it does not matter
            data = one.content()
            if data is not None and facts_of(data) == one.facts:
                self._keep(path, data)
            else:
                missing.append(functools.partial(self._fetch_file, one))
        _at_once(missing)

    def _fetch_file(self, one: Listed) -> None:
        size = one.facts["bytes"]
        if size > MAX_ITEM_BYTES:
            raise CorruptStoreError(
                f"{one.path} is stated to have {size:,} bytes. It was not asked for."
            )
        data = self._read(one.path, limit=size)
        if facts_of(data) != one.facts:
            raise CorruptStoreError(
                f"{self.address}/{one.path} is not the file that the commit record states. The set "
                "was replaced since it was opened (open it again), or the server's copy is "
                "damaged, or the server lies. It was not used."
            )
        self._keep(self.root / one.path, data)

    def _keep(self, path: Path, data: bytes) -> None:
        """Write a small file; it appears whole. What a loss of power tears is fetched again."""
        with kept_below(self.cache.root):
            write_durably(path, [data], synced=False)

    def _read(self, name: str, *, limit: int) -> bytes:
        if self.offline:
            raise RemoteStoreError(
                f"{self.address}/{name} is not in the cache, and the server is not asked."
            )
        try:
            return self.objects.read(name, limit=limit)
        except FileNotFoundError as err:
            raise CorruptStoreError(
                f"{self.address}/{name} is missing, though the store names it."
            ) from err


def _at_once(calls: Sequence[Callable[[], T]]) -> list[T]:
    """Return what calls that wait for a server return, made in threads at the same time."""
    return [answer.result() for answer in [in_background(call) for call in calls]]

"""The local cache of remote stores: verified blocks, and files kept in step with their store.

    shards/<2>/<sha256>      data files, named by the hashes of the blocks that they hold
    stores/<16>/…            the small files of one address, in the layout of a store

Shards are removed, the least recently used first, when they take more than the limit. A removed
shard that a process still reads stays on the disk until that process ends.

Whatever a hash names is fetched once and compared with it. The three things that no hash names
(the root's metadata, the catalog, and the pointer of a set) are asked for by each handle once, and
kept for when the server cannot be reached.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from data_manifests.cache import cache_folder
from featstore.durable import write_durably
from featstore.errors import CacheFullError, CorruptStoreError, FeatstoreError, RemoteStoreError
from featstore.identity import sha256_hex
from featstore.remote.objects import Objects
from featstore.store.blocks import layout_of
from featstore.store.files import (
    MAX_JSON_BYTES,
    MAX_METADATA_BYTES,
    facts_of,
    has_grown_to,
    parse_json,
    read_regular,
    same_file,
)
from featstore.store.layout import SetKey
from featstore.store.listing import set_files
from featstore.store.records import (
    POINTER,
    REVISIONS,
    Commit,
    belongs,
    parse_commit,
    parse_pointer,
    read_commit,
)
from featstore.store.tables import MAX_ITEM_BYTES

T = TypeVar("T")

#: Bytes of shards that are kept unless $HEADSTOCK_CACHE_BYTES says otherwise.
LIMIT = 64 * 2**30

_ADDRESS = ".address"


@contextlib.contextmanager
def kept_below(root: Path) -> Iterator[None]:
    """Within the block files of a cache are written; CacheFullError if its disk refuses."""
    try:
        yield
    except OSError as err:
        if isinstance(err, FeatstoreError | FileNotFoundError):
            raise
        raise CacheFullError(
            f"The cache {root} cannot be written: {err.strerror or err}. Free space on its disk "
            "(`featstore cache gc --all` empties it), set HEADSTOCK_CACHE_BYTES lower, or "
            "XDG_CACHE_HOME to another folder. Then run the same command again."
        ) from err


@dataclass(frozen=True)
class CacheEntry:
    """A shard, or the small files of one store.

    Attributes
    ----------
    path : Path
    what : str
        ``"shard"``, or the address of the store.
    bytes : int
        Disk space that it takes; of a shard in part, that part.
    used : float
        When it was last opened or written, seconds since the epoch.
    """

    path: Path
    what: str
    bytes: int
    used: float


@dataclass(frozen=True)
class Cache:
    """A cache in a folder of this user; any number of processes may use it at once."""

    root: Path
    limit: int

    def shard(self, name: str) -> Path:
        """Return where the shard of this name lies, or would lie; its folder is made."""
        folder = self.root / "shards" / name[:2]
        with kept_below(self.root):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder / name

    def store(self, address: str) -> Path:
        """Return the folder of the small files of an address; it is made."""
        folder = self.root / "stores" / sha256_hex(address.encode())[:16]
        if not (folder / _ADDRESS).exists():
            with kept_below(self.root):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                place(folder / _ADDRESS, address.encode())
        return folder

    def shards(self) -> list[CacheEntry]:
        """Return the shards, the last used first."""
        found = []
        for path in self.root.glob("shards/*/*"):
            with contextlib.suppress(FileNotFoundError):
                facts = path.lstat()
                found.append(CacheEntry(path, "shard", facts.st_blocks * 512, facts.st_mtime))
        return sorted(found, key=lambda entry: -entry.used)

    def stores(self) -> list[CacheEntry]:
        """Return the small files of each store, the last used first."""
        found = []
        for folder in self.root.glob("stores/*"):
            with contextlib.suppress(OSError, CorruptStoreError):
                files = [path.lstat() for path in folder.rglob("*") if path.is_file()]
                size = sum(facts.st_size for facts in files)
                used = max((facts.st_mtime for facts in files), default=0.0)
                # Without an address where a removal was interrupted.
                named = (folder / _ADDRESS).is_file()
                stated = read_regular(folder / _ADDRESS, limit=MAX_JSON_BYTES) if named else b""
                address = stated.decode() if named else "a store in part"
                found.append(CacheEntry(folder, address, size, used))
        return sorted(found, key=lambda entry: -entry.used)

    def trim(self, *, limit: int | None = None, keep: Collection[str] = ()) -> list[CacheEntry]:
        """Remove the least recently used shards until the rest takes at most `limit` bytes.

        Parameters
        ----------
        limit : int, optional
            The cache's own by default.
        keep : collection of str
            Names of shards that stay, since this process reads them.
        """
        room = self.limit if limit is None else limit
        removed = []
        entries = self.shards()
        room -= sum(entry.bytes for entry in entries if entry.path.name in keep)
        for entry in entries:
            if entry.path.name in keep:
                continue
            room -= entry.bytes
            if room < 0:
                entry.path.unlink(missing_ok=True)
                removed.append(entry)
        return removed

    def forget(self) -> list[CacheEntry]:
        """Remove everything."""
        removed = [*self.trim(limit=-1), *self.stores()]
        for entry in removed:
            if entry.what != "shard":
                with contextlib.suppress(FileNotFoundError):  # another process removes it, too
                    shutil.rmtree(entry.path)
        return removed

    def check_room(self, n_bytes: int, *, what: str) -> None:
        """Raise CacheFullError if `n_bytes` of one set can never be held."""
        if n_bytes > self.limit:
            raise CacheFullError(
                f"{what} needs {n_bytes:,} bytes of the cache {self.root}, which may hold "
                f"{self.limit:,}. Set HEADSTOCK_CACHE_BYTES higher, or read fewer rows at once."
            )


def user_cache() -> Cache:
    """Return the cache of remote stores, a folder of the user's cache.

    Raises
    ------
    CacheFullError
        If $HEADSTOCK_CACHE_BYTES is no number of bytes.
    """
    stated = os.environ.get("HEADSTOCK_CACHE_BYTES", "")
    if stated and not stated.isdecimal():
        raise CacheFullError(f"HEADSTOCK_CACHE_BYTES is {stated!r}; it must be a number of bytes.")
    return Cache(cache_folder("remote"), int(stated) if stated else LIMIT)


def at_once(calls: Sequence[Callable[[], T]]) -> list[T]:
    """Return what calls that wait for a server return, made in threads at the same time."""
    if len(calls) < 2:
        return [call() for call in calls]
    with ThreadPoolExecutor(len(calls), "small") as pool:
        return list(pool.map(lambda call: call(), calls))


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
        self._keep(self.root / name, data)
        return True

    def fetch_records(self, key: SetKey, *, likely: str = "", to_read: bool = False) -> None:
        """Fetch a set's pointer and the commit record that it names; the pointer is kept last.

        Parameters
        ----------
        likely : str
            Revision that the pointer names, as the catalog has it: that commit is asked for at the
            same time. The pointer decides.
        to_read : bool
            Rows of the set will probably be read, the first ones above all.

        Raises
        ------
        CorruptStoreError
            If a record is not what its name says, or the pointer and the commit disagree.
        """
        if self.offline:
            return
        name = f"{key}/{POINTER}"
        directory = key.directory(self.root)

        def pointer() -> bytes | None:
            with contextlib.suppress(FileNotFoundError):
                return self.objects.read(name, limit=MAX_METADATA_BYTES)
            return None

        def commit_of_catalog() -> None:
            with contextlib.suppress(FeatstoreError):  # it counts if the pointer names it
                self.fetch_commit(key, likely)

        if likely and not (directory / f"{REVISIONS}/{likely[:64]}.json").exists():
            calls: list[Callable[[], bytes | None]] = [pointer, commit_of_catalog]
            if to_read:
                calls.append(lambda: self.objects.expect(f"{key}/embedding/c/0/0"))
            data = at_once(calls)[0]
        else:
            data = pointer()
        if data is None:
            (directory / POINTER).unlink(missing_ok=True)
            return
        where = f"{self.objects.address}/{name}"
        attributes = parse_pointer(parse_json(data, where=where), where=where)
        commit = self.fetch_commit(key, str(attributes["revision"]))
        if not belongs(key, attributes, commit):
            raise CorruptStoreError(
                f"{where} carries the metadata of another set, or changed metadata."
            )
        self._keep(directory / POINTER, data)

    def fetch_commit(self, key: SetKey, revision: str) -> Commit:
        """Return a commit record, fetched if it is not there."""
        directory = key.directory(self.root)
        name = f"{REVISIONS}/{revision[:64]}.json"
        if not (directory / name).exists():
            data = self._read(f"{key}/{name}", limit=MAX_JSON_BYTES)
            where = f"{self.objects.address}/{key}/{name}"
            commit = parse_commit(parse_json(data, where=where), where=where)
            if commit.revision_id != revision:
                raise CorruptStoreError(f"{where} has another hash than its name. It was not used.")
            self._keep(directory / name, data)
        return read_commit(directory, revision)

    def has(self, key: SetKey, commit: Commit, parts: Collection[str]) -> bool:
        """Return whether there are files of the names of these parts of a revision."""
        listed = set_files(key, commit).values()
        return all((self.root / one.path).exists() for one in listed if one.part in parts)

    def fetch(self, key: SetKey, commit: Commit, parts: Collection[str]) -> None:
        """Fetch what is not here of these parts of a revision, and compare the hashes.

        Raises
        ------
        CorruptStoreError
            If a file is missing, larger, or has another hash.
        """
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
                missing.append(functools.partial(self._fetch, one.path, path, one.facts))
        at_once(missing)

    def fetch_named(self, name: str, *, limit: int) -> None:
        """Fetch a file whose name carries its hash, unless it is there."""
        if not (self.root / name).exists():
            self._keep(self.root / name, self._read(name, limit=limit))

    def _fetch(self, name: str, path: Path, facts: Mapping[str, Any]) -> None:
        if facts["bytes"] > MAX_ITEM_BYTES:
            raise CorruptStoreError(
                f"{name} is stated to have {facts['bytes']:,} bytes. It was not asked for."
            )
        data = self._read(name, limit=facts["bytes"])
        if len(data) != facts["bytes"] or sha256_hex(data) != facts["sha256"]:
            raise CorruptStoreError(
                f"{self.objects.address}/{name} is not the file that the commit record states. The "
                "set was replaced since it was opened (open it again), or the server's copy is "
                "damaged, or the server lies. It was not used."
            )
        self._keep(path, data)

    def _keep(self, path: Path, data: bytes) -> None:
        with kept_below(self.root.parents[1]):
            place(path, data)

    def _read(self, name: str, *, limit: int) -> bytes:
        if self.offline:
            raise RemoteStoreError(
                f"{self.objects.address}/{name} is not in the cache, and the server is not asked."
            )
        try:
            return self.objects.read(name, limit=limit)
        except FileNotFoundError as err:
            raise CorruptStoreError(
                f"{self.objects.address}/{name} is missing, though the store names it."
            ) from err


def place(path: Path, data: bytes) -> None:
    """Write a file of the mirror; it appears whole. What a loss of power tears is fetched again."""
    write_durably(path, [data], synced=False)

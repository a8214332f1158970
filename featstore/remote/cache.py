"""The local cache of remote stores: verified blocks, and files kept in step with their store.

    shards/<2>/<sha256>      data files, named by the hashes of the blocks that they hold
    stores/<16>/…            the small files of one address, in the layout of a store

Shards are removed, the least recently used first, when they take more than the limit. A removed
shard that a process still reads stays on the disk until that process ends.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from data_manifests import cache_folder
from featstore.durable import write_durably
from featstore.errors import CacheFullError, CorruptStoreError, FeatstoreError
from featstore.identity import sha256_hex
from featstore.store.files import (
    MAX_JSON_BYTES,
    read_regular,
)

T = TypeVar("T")

#: Bytes of shards that are kept unless $HEADSTOCK_CACHE_SIZE says otherwise.
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
            "(`headstock cache --max-size 0` empties it), set HEADSTOCK_CACHE_SIZE lower, or "
            "HEADSTOCK_CACHE to another folder. Then run the same command again."
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
                write_durably(folder / _ADDRESS, [address.encode()], synced=False)
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
                address = "a store in part"
                if (folder / _ADDRESS).is_file():
                    address = read_regular(folder / _ADDRESS, limit=MAX_JSON_BYTES).decode()
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
        shards, stores = self.trim(limit=-1), self.stores()
        for entry in stores:
            with contextlib.suppress(FileNotFoundError):  # another process removes it, too
                shutil.rmtree(entry.path)
        return [*shards, *stores]

    def check_room(self, n_bytes: int, *, what: str) -> None:
        """Raise CacheFullError if `n_bytes` of one set can never be held."""
        if n_bytes > self.limit:
            raise CacheFullError(
                f"{what} needs {n_bytes:,} bytes of the cache {self.root}, which may hold "
                f"{self.limit:,}. Set HEADSTOCK_CACHE_SIZE higher, or read fewer rows at once."
            )


def user_cache() -> Cache:
    """Return the cache of remote stores, a folder of the user's cache.

    Raises
    ------
    CacheFullError
        If $HEADSTOCK_CACHE_SIZE is no size.
    """
    stated = os.environ.get("HEADSTOCK_CACHE_SIZE")
    try:
        return Cache(cache_folder("remote"), size_of(stated) if stated else LIMIT)
    except ValueError as err:
        raise CacheFullError(f"HEADSTOCK_CACHE_SIZE: {err}") from err


_SIZES = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20,
          "GIB": 2**30, "TIB": 2**40}  # fmt: skip


def size_of(text: str) -> int:
    """Return the bytes of a size.

    Raises
    ------
    ValueError
        If it is none.

    Examples
    --------
    >>> size_of("500MB"), size_of("64 GiB"), size_of("12")
    (500000000, 68719476736, 12)
    """
    match = re.fullmatch(r"(\d{1,15}) ?([KMGT]?i?B|)", text.strip(), re.IGNORECASE)
    if match is None or match[2].upper() not in _SIZES:
        raise ValueError(f"{text!r} is not a size such as 500MB or 64GiB; a bare number is bytes.")
    return int(match[1]) * _SIZES[match[2].upper()]

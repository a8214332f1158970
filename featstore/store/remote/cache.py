"""The local cache of remote stores: shards by their content, and the small files of each store.

    shards/<2>/<sha256>      data files, named by the hashes of the blocks that they hold
    stores/<16>/…            the small files of one address, in the layout of a store

Shards are removed, the least recently used first, when they take more than the limit. A removed
shard that a process still reads stays on the disk until that process ends.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from featstore.errors import CacheFullError
from featstore.keys import sha256_hex

#: Bytes of shards that are kept unless $HEADSTOCK_CACHE_BYTES says otherwise.
LIMIT = 64 * 2**30

_ADDRESS = ".address"


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
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder / name

    def store(self, address: str) -> Path:
        """Return the folder of the small files of an address; it is made."""
        folder = self.root / "stores" / sha256_hex(address.encode())[:16]
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not (folder / _ADDRESS).exists():
            (folder / _ADDRESS).write_text(address)
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
            with contextlib.suppress(OSError):
                files = [path.lstat() for path in folder.rglob("*") if path.is_file()]
                size = sum(facts.st_size for facts in files)
                used = max((facts.st_mtime for facts in files), default=0.0)
                address = (folder / _ADDRESS).read_text()
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
                shutil.rmtree(entry.path, ignore_errors=True)
        return removed

    def check_room(self, n_bytes: int, *, what: str) -> None:
        """Raise CacheFullError if `n_bytes` of one set can never be held."""
        if n_bytes > self.limit:
            msg = (
                f"{what} needs {n_bytes:,} bytes of the cache {self.root}, which may hold "
                f"{self.limit:,}. Set HEADSTOCK_CACHE_BYTES higher, or read fewer rows at once."
            )
            raise CacheFullError(msg)


def user_cache() -> Cache:
    """Return the user's cache: ``headstock/remote`` below $XDG_CACHE_HOME or ~/.cache.

    Raises
    ------
    CacheFullError
        If $HEADSTOCK_CACHE_BYTES is no number of bytes.
    """
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    stated = os.environ.get("HEADSTOCK_CACHE_BYTES", "")
    if stated and not stated.isdecimal():
        msg = f"HEADSTOCK_CACHE_BYTES is {stated!r}; it must be a number of bytes."
        raise CacheFullError(msg)
    return Cache(Path(base) / "headstock" / "remote", int(stated) if stated else LIMIT)

"""A store behind an address, read through the cache: the cache is a place in front of a place.

Whatever a hash names is fetched once and compared with it. The log, which no hash names, is asked
for by each handle once, and kept for when the server cannot be reached.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from featstore.durable import MAX_JSON_BYTES, facts_of, parse_json, same_file, write_durably
from featstore.errors import CorruptStoreError, RemoteStoreError, UnreachableError
from featstore.remote.cache import REQUESTS, RemoteRows, kept_below, user_cache
from featstore.store.layout import SetKey
from featstore.store.listing import PARTS, Listed, set_files
from featstore.store.log import NAME as LOG
from featstore.store.log import Log, read_log
from featstore.store.records import REVISIONS, Commit, commit_of, parse_tag, tag_file
from featstore.store.rows import Mode, Place, Progress, Rows
from featstore.store.tables import MAX_ITEM_BYTES, MAX_THUMBNAILS_BYTES

if TYPE_CHECKING:
    from featstore.remote import Objects


class RemotePlace(Place):
    """A remote store, and the mirror and the cache that hold what was read of it.

    It asks for the log once: what was published meanwhile is seen by opening the store again. If
    the server cannot be reached, what was fetched before is read, with a warning that says so. With
    ``HEADSTOCK_OFFLINE=1`` in the environment the server is never asked.

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
    made_by: ClassVar[str] = "store push"

    def __init__(self, objects: Objects) -> None:
        self.cache = user_cache()
        super().__init__(self.cache.store(objects.address), objects.address)
        self.objects = objects
        self.offline = os.environ.get("HEADSTOCK_OFFLINE", "") not in ("", "0")
        root = self.root / LOG
        try:
            self.refresh()
        except UnreachableError as err:
            if not root.is_file():
                raise
            self.offline = True
            self.refresh()
            fetched = time.strftime("%Y-%m-%d", time.localtime(root.stat().st_mtime))
            warnings.warn(
                f"{self.address} cannot be reached ({str(err)[:200]}): read from the cache, as it "
                f"was on {fetched}.",
                stacklevel=6,
            )

    def log(self) -> Log:
        """Return the log of the store as it was at opening."""
        return self._log

    def refresh(self) -> None:
        """Fetch the log, whatever is there; that of a store that is gone goes.

        Raises
        ------
        CorruptStoreError
            If it is damaged.
        RemoteStoreError
            If the server cannot be reached.
        """
        if self.offline:
            self._log = read_log(self.root)
            return
        log = self.objects.log()
        if log is None:
            (self.root / LOG).unlink(missing_ok=True)
        else:
            self._keep(self.root / LOG, log.data())
        self._log = log or Log()

    def available(self, digests: Mapping[str, str]) -> list[str]:
        """Return the keys of these sets, whose commits are fetched; offline, those that were."""

        def fetch(key: str) -> bool:
            """Damage is said when the set is read."""
            parsed, name = SetKey(*key.split("/")), f"{REVISIONS}/{digests[key]}.json"
            with contextlib.suppress(CorruptStoreError):
                if not self.offline:
                    self.fetch_record(parsed, digests[key])
            return not self.offline or (parsed.directory(self.root) / name).exists()

        with ThreadPoolExecutor(REQUESTS, "records") as pool:
            keys = sorted(digests)
            return [key for key, there in zip(keys, pool.map(fetch, keys), strict=True) if there]

    def rows(self, key: SetKey, commit: Commit, mode: Mode) -> Rows:
        """Return the reader of a set's rows; it fetches the blocks that the cache lacks."""
        rows = self.array(key, commit, mode)
        return rows.source if rows.complete and mode in ("auto", "map") else rows

    def fetch_tag(self, name: str, digest: str) -> None:
        """Fetch the file of a tag, unless it is there."""
        path = tag_file(name, digest)
        where = f"{self.address}/{path}"
        self._bring(path, lambda data: parse_tag(parse_json(data, where=path), where=where))

    def fetch_record(self, key: SetKey, digest: str) -> None:
        """Fetch the commit of a set, unless it is there.

        Raises
        ------
        CorruptStoreError
            If a record is missing, or not what its name says.
        RemoteStoreError
            If the server cannot be reached, or is not asked.
        """
        name = f"{key}/{REVISIONS}/{digest}.json"
        where = f"{self.address}/{name}"
        self._bring(name, lambda data: commit_of(data, key, digest, where=where))

    def fetch(self, key: SetKey, commit: Commit, *parts: str) -> None:
        """Fetch the small files of a revision: all, or these `featstore.store.listing.PARTS`.

        Raises
        ------
        CorruptStoreError
            If a file is missing, larger, or has another hash.
        """
        wanted = [one for one in set_files(key, commit).values() if one.part in (parts or PARTS)]
        missing = [one for one in wanted if not same_file(self.root / one.path, one.facts)]
        with ThreadPoolExecutor(REQUESTS, "files") as pool:
            list(pool.map(self._fetch_file, missing))

    def fetch_thumbnails(self, folder: str) -> None:
        """Fetch the thumbnails of ``dataset/kind`` that the log lists."""
        for name in sorted(self.log().thumbnails):
            if re.fullmatch(f"{folder}/thumbnails-[^/]+", name):
                self._bring(name, limit=MAX_THUMBNAILS_BYTES)

    def fetch_rows(self, key: SetKey, commit: Commit, progress: Progress | None) -> None:
        """Fetch all rows of a set."""
        self.array(key, commit).fetch_all(progress)

    def array(self, key: SetKey, commit: Commit, mode: Mode = "auto") -> RemoteRows:
        """Return the rows of a set, read block by block into the cache."""
        return RemoteRows(self.objects, key, commit=commit, cache=self.cache, mode=mode)

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

    def _bring(
        self,
        name: str,
        check: Callable[[bytes], object] = lambda _: None,
        *,
        limit: int = MAX_JSON_BYTES,
    ) -> None:
        """Fetch a small file, unless it is there; `check` raises if it is not what it should be."""
        if not (self.root / name).exists():
            data = self._read(name, limit=limit)
            check(data)
            self._keep(self.root / name, data)

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

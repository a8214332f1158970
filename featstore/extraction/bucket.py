"""Extraction into a bucket: blocks are sent as they are done, and whoever goes on takes them.

A set under extraction lies in a staging store on this machine, as in any other store. Beside the
encoders its blocks are put into the bucket, each as one file below

    <set>/.staging/extract-<base>-<device>.<batch>.<threads>-<plan>/
        golden.json                            golden vectors of the encoder, as in the set
        000012                                 a row of the journal, and the rows of the block

where base is 8 digits of the revision that is extended, and plan a digest of all that the blocks
have in common.

A block is put on the condition that there is none: the first one is the block of the set, and
whoever made another takes that one. The golden vectors are agreed on likewise. So all machines that
share a plan end with the same blocks and the same golden vectors, hence with the same revision, and
the last step of each is the push of `featstore.share`, which one of them may begin and
another end. Only then does the set exist for readers. The blocks are removed after the log lists
it, never before.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import msgspec

from data_manifests import cache_folder
from featstore.address import Address, parse_address
from featstore.durable import MAX_JSON_BYTES, json_bytes, local_folder
from featstore.errors import (
    AlreadyFinishedError,
    CorruptStoreError,
    PublishConflictError,
    RemoteStoreError,
    StoreWriteError,
    UnknownSetError,
)
from featstore.extraction.opening import GOLDEN_FILE, Golden
from featstore.extraction.options import ExtractConfig, ExtractResult
from featstore.identity import SHORT, canonical_json, sha256_hex
from featstore.remote import Objects, open_objects, writable_objects
from featstore.share import (
    Relation,
    SetSource,
    make_bucket_store,
    publish,
    read_present,
    send_thumbnails,
)
from featstore.store.gc import make_store, remove_set
from featstore.store.layout import SetKey, SetSpec
from featstore.store.lock import folder_lock
from featstore.store.log import Log, read_log
from featstore.store.staging import BlockRecord, extended
from featstore.store.store import FeatureStore, SetInfo, open_store
from featstore.store.tables import ItemFile
from featstore.store.writer import SetWriter

#: Blocks that are sent, or fetched, at the same time: so many are in memory.
AT_ONCE = 4

#: The end of a folder of blocks: device type, batch size, threads, and the plan's digest.
_SETTINGS = re.compile(r"-(\w+)\.(\d{1,9})\.(\d{1,9}|None)-\w+")


def staging_folder(address: Address, staging: str | Path | None) -> Path:
    """Return where the unfinished sets of a bucket lie on this machine.

    Parameters
    ----------
    staging : path, optional
        Folder for the staging stores of all addresses; in the user's cache by default.
    """
    folder = cache_folder("staging") if staging is None else local_folder(staging)
    name = f"{address.host.split(':')[0]}-{sha256_hex(address.url.encode())[:SHORT]}"
    return folder.absolute() / name / "store"


def open_bucket(store: str | Path, staging: str | Path | None) -> Bucket | None:
    """Return the bucket that `store` is the address of, ready to be written; None for a path.

    Raises
    ------
    AddressError
        If it is an address of an unknown kind.
    RemoteStoreError
        If the place cannot be written, or ignores the conditions of puts.
    """
    address = parse_address(store)
    return Bucket(address, staging) if isinstance(address, Address) else None


class Bucket:
    """A store in a bucket that sets are extracted into.

    Attributes
    ----------
    url : str
    staging : Path
        The store of unfinished sets on this machine.
    """

    def __init__(self, address: Address, staging: str | Path | None) -> None:
        self.url = address.url
        self.staging = staging_folder(address, staging)
        self._objects = writable_objects(address)
        make_bucket_store(self._objects)
        make_store(self.staging, hash_name=(self._objects.log() or Log()).hash)

    def has(self, spec: SetSpec) -> bool:
        """Return whether the set is published, or was begun."""
        return any(self._objects.names(f"{spec.key}/"))

    def finished(
        self, spec: SetSpec, items: ItemFile, *, retry_failed: bool = False
    ) -> ExtractResult | None:
        """Return the result for a set that is published with these very items, else None."""
        if str(spec.key) not in (self._objects.log() or Log()).sets:
            return None
        return published_result(open_store(self.url), spec.key, items, retry_failed=retry_failed)

    def prepare(
        self, spec: SetSpec, items: ItemFile, *, retry_failed: bool = False
    ) -> ExtractResult | None:
        """Bring the staged set to where the bucket is; return what `finished` does.

        A set that was finished here and not sent is sent, one that another publisher has overtaken
        is dropped, and one that is to be extended is pulled.

        Raises
        ------
        PublishConflictError
            If another publisher is at work.
        RemoteStoreError, CorruptStoreError
            If the bucket cannot be read or written, or what it holds is damaged.
        """
        key = spec.key
        with folder_lock(self.staging.parent):  # of several processes of this machine one does it
            if self._staged(key) and self._push(key) in ("newer", None):
                remove_set(self.staging, str(key))
            done = self.finished(spec, items, retry_failed=retry_failed)
            if done is not None:
                self._tidy(key)
            elif not self._staged(key) and str(key) in (self._objects.log() or Log()).sets:
                with contextlib.suppress(UnknownSetError):
                    remove_set(self.staging, str(key))  # begun without a base: of no use
                publish(open_objects(self.staging), SetSource(*_opened(self.url, key)))
        return done

    def publish(
        self, spec: SetSpec, items: ItemFile, *, retry_failed: bool = False, ended: str = ""
    ) -> ExtractResult | None:
        """Publish a set that is finished in the staging store, and remove it there.

        Parameters
        ----------
        ended : str
            The folder of its blocks.

        Returns
        -------
        ExtractResult or None
            That of another publisher, who was first with these items; None if it is this one's.

        Raises
        ------
        PublishConflictError
            If another publisher was first with other items, or is at work.
        RemoteStoreError
            If the bucket refuses: the set stays in the staging store.
        """
        found = None
        if self._staged(spec.key) and self._push(spec.key) is None:
            found = self.finished(spec, items, retry_failed=retry_failed)
            if found is None:
                raise PublishConflictError(
                    f"Another publisher was first with {spec.key} in {self.url}, and has other "
                    "items there. Nothing was published. Run the same command again: it goes on "
                    "from what is there."
                )
        send_thumbnails(open_store(self.staging), self._objects, [str(spec.key)])
        self._tidy(spec.key, ended)
        return found

    def fetch_thumbnails(self, key: SetKey) -> None:
        """Bring the thumbnails of a kind into the staging store."""
        send_thumbnails(open_store(self.url), self.staging, [str(key)])

    def begun_settings(
        self, spec: SetSpec, items: ItemFile, config: ExtractConfig
    ) -> Iterator[dict[str, Any]]:
        """Yield the settings of unfinished attempts that fit: first that with most blocks."""
        names = (name.rpartition("/")[0] for name, _ in self._objects.names(f"{spec.key}/.staging"))
        for folder, _ in Counter(names).most_common():
            device, batch, threads = (_SETTINGS.findall(folder) or [("", "0", "None")])[-1]
            settings = {
                "batch": int(batch),
                "threads": None if threads == "None" else int(threads),
                "device": device,
            }
            if folder == self._folder(spec, items, config, settings):
                yield settings

    def blocks(
        self,
        writer: SetWriter,
        items: ItemFile,
        config: ExtractConfig,
        settings: Mapping[str, Any],
    ) -> SharedBlocks:
        """Return the blocks of the set that a writer is writing, as the bucket has them."""
        folder = self._folder(writer.spec, items, config, settings)
        return SharedBlocks(self._objects, folder, writer)

    def _folder(
        self, spec: SetSpec, items: ItemFile, config: ExtractConfig, settings: Mapping[str, Any]
    ) -> str:
        """Return the folder of the blocks of all machines that share a plan."""
        base = self._staged(spec.key)
        plan = {
            "set_id": spec.set_id,
            "items": items.facts["sha256"],
            "base": base,
            "retry_failed": config.retry_failed,
            "block_rows": config.block_rows,
            "settings": dict(settings),
        }
        how = ".".join(str(settings[name]) for name in ("device", "batch", "threads"))
        digest = sha256_hex(canonical_json(plan))[:16]
        return f"{spec.key}/.staging/extract-{base[:SHORT] or 'new'}-{how}-{digest}"

    def _staged(self, key: SetKey) -> str:
        """Return the digest of a set that is finished in the staging store; "" if none is."""
        return read_log(self.staging).sets.get(str(key), "")

    def _push(self, key: SetKey) -> Relation | None:
        """Push a staged set; None if the bucket has a revision that it does not extend."""
        source = SetSource(*_opened(self.staging, key))
        try:
            return publish(self._objects, source)
        except PublishConflictError as err:
            there = read_present(self._objects, key, self._objects.log())[1]
            if there and there[0] not in source.info.commit.published[1:]:
                return None
            err.add_note(f"The set is finished in {self.staging}, and can be pushed from there.")
            raise

    def _tidy(self, key: SetKey, ended: str = "") -> None:
        """Do what follows publication; here and in the bucket the unfinished set is then gone.

        Blocks for an extension of the current revision stay, but for those in the folder `ended`:
        failed items that failed again make no other revision, and are to be tried the next time.
        """
        for path in sorted((key.directory(self.staging) / "runs").glob("*.json")):
            self._objects.create(f"{key}/runs/{path.name}", path.read_bytes())
        base = (self._objects.log() or Log()).sets.get(str(key), "")[:SHORT]
        for name, _ in list(self._objects.names(f"{key}/.staging")):
            current = name.startswith(f"{key}/.staging/extract-{base}-")
            if not current or name.rpartition("/")[0] == ended:
                self._objects.delete(name)
        with contextlib.suppress(UnknownSetError, StoreWriteError):
            remove_set(self.staging, str(key))


def published_result(
    store: FeatureStore, key: SetKey, items: ItemFile, *, retry_failed: bool
) -> ExtractResult | None:
    """Return the result for a published set with these very items, else None.

    With `retry_failed`, a set of which items failed is not finished. With other items it is not
    either: whether they extend it is for its writer to say.
    """
    name, info = str(key), store.info(str(key))
    commit = info.commit
    if retry_failed and commit.n_failed:
        return None
    have = store.item_table(info)
    if not extended(key, have, items.table).equals(have):
        return None
    if not store.place.is_remote:
        # Sizes of the data and hashes of everything else: what is damaged is not "reused".
        store.view(name)
    failures = dict(store.failures(name).iter_rows())
    return ExtractResult(
        name, commit.n - len(failures), 0, len(failures), commit.revision_id, failures=failures
    )


def _opened(store: str | Path, key: SetKey) -> tuple[FeatureStore, SetInfo]:
    opened = open_store(store)
    return opened, opened.info(str(key))


class SharedBlocks:
    """The blocks of one unfinished set in a bucket, kept in step with its writer here.

    Use as a context manager around the writing: what was not sent at its end stays on this machine.

    Parameters
    ----------
    objects : Objects
        The bucket.
    folder : str
        Of the blocks, in the bucket.
    writer : SetWriter
        Open.
    """

    def __init__(self, objects: Objects, folder: str, writer: SetWriter) -> None:
        self._objects, self._writer = objects, writer
        self.folder = folder
        self._pool = ThreadPoolExecutor(AT_ONCE, "blocks")
        self._sent: dict[int, Future[bool]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def there(self) -> set[int]:
        """Return the blocks that the bucket has."""
        found = (name.rpartition("/")[2] for name, _ in self._objects.names(self.folder))
        return {int(name) for name in found if name.isdecimal()}

    def agree(self, golden: Golden) -> None:
        """Give the set the golden vectors of whoever was first; errors as for `Golden.agree`."""
        name = f"{self.folder}/{GOLDEN_FILE}"
        if not self._objects.create(name, json_bytes(golden.document())):
            golden.agree(self._read(name, MAX_JSON_BYTES), where=f"{self._objects.address}/{name}")

    def settle(self, *, publishes: bool) -> set[int]:
        """Send what the bucket lacks, and return the blocks that are left to encode.

        Parameters
        ----------
        publishes : bool
            The writer is to finish the set: it takes every block as the bucket has it.

        Raises
        ------
        AlreadyFinishedError
            If blocks went while they were read, since the set was published.
        RemoteStoreError
            If the bucket refuses.
        """
        there = self.there()
        if publishes:
            self._take(there)
        for block in sorted(self._writer.records().keys() - there):
            self.send(block)
        return set(self._writer.pending()) - there

    def send(self, block: int) -> None:
        """Put a block that is done into the bucket, in another thread."""
        self._sent[block] = self._pool.submit(self._send, block)

    def drain(self, *, publishes: bool) -> None:
        """Wait until every block is in the bucket; parameters and errors as for `settle`."""
        try:
            others = [block for block, sent in self._sent.items() if not sent.result()]
        except RemoteStoreError as err:
            raise RemoteStoreError(
                f"{err} The blocks of {self._writer.key} that are done are kept in "
                f"{self._writer.root}: when the bucket can be written, run the same command again "
                "on this machine, and only the rest is encoded."
            ) from err
        self._sent.clear()
        if publishes:
            with contextlib.suppress(AlreadyFinishedError):  # as the push will find
                self._take(others)

    def _send(self, block: int) -> bool:
        """Put a block; False if the bucket has one, perhaps another."""
        record, data = self._writer.done_block(block)
        return self._objects.create(self._name(block), record.line() + data)

    def _take(self, blocks: Iterable[int]) -> None:
        """Give the set these blocks as the bucket has them."""
        mine, layout = self._writer.records(), self._writer.layout
        every = range(layout.n_blocks)
        wanted = sorted(b for b in blocks if b in every and not self._writer.kept(b).all())
        for start in range(0, len(wanted), AT_ONCE):
            some = wanted[start : start + AT_ONCE]
            found = self._pool.map(lambda b: self._fetch(b, mine.get(b)), some)
            for block, data in zip(some, found, strict=True):
                if data is None:
                    continue
                head, rows = data[: -layout.block_bytes(block)], data[-layout.block_bytes(block) :]
                try:
                    record = msgspec.json.decode(head, type=BlockRecord)
                    if block not in mine or mine[block].digest != record.digest:
                        self._writer.take_block(block, record, rows)
                except (CorruptStoreError, ValueError, RecursionError) as err:
                    raise CorruptStoreError(
                        f"{self._objects.address}/{self._name(block)} is damaged. Delete it, and "
                        "run the same command again: the block is then encoded anew."
                    ) from err

    def _fetch(self, block: int, mine: BlockRecord | None) -> bytes | None:
        """Return a block and its record as the bucket has them; None if the record is mine."""
        own = mine.line() if mine else b""
        with contextlib.suppress(CorruptStoreError, FileNotFoundError, RemoteStoreError):
            if own and own == b"".join(self._objects.stream(self._name(block), 0, len(own))):
                return None
        return self._read(
            self._name(block), self._writer.layout.block_bytes(block) + MAX_JSON_BYTES
        )

    def _read(self, name: str, limit: int) -> bytes:
        try:
            return self._objects.read(name, limit=limit)
        except FileNotFoundError as err:
            raise AlreadyFinishedError(
                f"Blocks of {self._writer.key} were removed from {self._objects.address}: another "
                "machine has published the set. Run the same command again."
            ) from err

    def _name(self, block: int) -> str:
        return f"{self.folder}/{block:06d}"

"""Extraction into a bucket: blocks are sent as they are done, and whoever goes on takes them.

A set under extraction lies in a staging store on this machine, as in any other store. Beside the
encoders its blocks are put into the bucket, each as one file below

    <set>/.staging/extract-<base>-<plan>/      base: 8 digits of the revision that is extended
        plan.json                              batch size, threads and device type
        golden.json                            golden vectors of the encoder, as in the set
        000012                                 a row of the journal, and the rows of the block

A block is put on the condition that there is none: the first one is the block of the set, and
whoever made another takes that one. The golden vectors are agreed on likewise. So all machines that
share a plan end with the same blocks and the same golden vectors, hence with the same revision, and
the last step of each is the push of `featstore.share`, which one of them may begin and
another end. Only then does the set exist for readers. The blocks are removed after the log lists
it, never before.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

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
from featstore.extraction.options import ExtractResult
from featstore.identity import SHORT, canonical_json, sha256_hex
from featstore.remote import Objects, open_objects, writable_objects
from featstore.share import (
    Relation,
    SetSource,
    make_bucket_store,
    publish,
    read_present,
    read_record,
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
        self._begun: dict[SetKey, str] = {}  # folders of blocks that this process works with

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
                self._pull(key)
        return done

    def publish(
        self, spec: SetSpec, items: ItemFile, *, retry_failed: bool = False
    ) -> ExtractResult | None:
        """Publish a set that is finished in the staging store, and remove it there.

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
        pictures = send_thumbnails(open_store(self.staging), self._objects, [str(spec.key)])
        self._tidy(spec.key, pictures, ended=self._begun.get(spec.key))
        return found

    def fetch_thumbnails(self, key: SetKey) -> None:
        """Bring the thumbnails of a kind into the staging store."""
        send_thumbnails(open_store(self.url), self.staging, [str(key)])

    def begun_settings(
        self, spec: SetSpec, items: ItemFile, *, retry_failed: bool
    ) -> Iterator[dict[str, Any]]:
        """Yield the settings of unfinished attempts that fit: first that with most blocks."""
        names = [name.split("/") for name, _ in self._objects.names(f"{spec.key}/.staging")]
        blocks = Counter(parts[4] for parts in names if len(parts) == 6)
        base = self._staged(spec.key)
        for folder, _ in blocks.most_common():
            with contextlib.suppress(CorruptStoreError):
                plan, _ = read_record(self._objects, f"{spec.key}/.staging/{folder}/{_PLAN}")
                found = plan.get("settings") if isinstance(plan, dict) else None
                same = plan == _plan(spec, items, base, found, retry_failed=retry_failed)
                if same and isinstance(found, dict):
                    yield found

    def blocks(
        self, writer: SetWriter, items: ItemFile, settings: Mapping[str, Any], *, retry: bool
    ) -> SharedBlocks:
        """Return the blocks of the set that a writer is writing, as the bucket has them."""
        base = writer.base.commit.digest if writer.base else ""
        plan = _plan(writer.spec, items, base, dict(settings), retry_failed=retry)
        shared = SharedBlocks(self._objects, plan, writer)
        self._begun[writer.spec.key] = shared.folder
        return shared

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

    def _pull(self, key: SetKey) -> None:
        with contextlib.suppress(UnknownSetError):
            remove_set(self.staging, str(key))  # begun without a base: of no use
        publish(open_objects(self.staging), SetSource(*_opened(self.url, key)))

    def _tidy(
        self, key: SetKey, thumbnails: frozenset[str] = frozenset(), ended: str | None = None
    ) -> None:
        """Do what follows publication; here and in the bucket the unfinished set is then gone.

        Blocks for an extension of the current revision stay, but for those in the folder `ended`:
        failed items that failed again make no other revision, and are to be tried the next time.
        """
        folder = key.directory(self.staging)
        for path in sorted((folder / "runs").glob("*.json")):
            self._objects.create(f"{key}/runs/{path.name}", path.read_bytes())
        if thumbnails:
            self._objects.update_log(
                lambda log: replace(log, thumbnails=log.thumbnails | thumbnails)
            )
        base = (self._objects.log() or Log()).sets.get(str(key), "")[:SHORT]
        for name, _ in list(self._objects.names(f"{key}/.staging")):
            parts = name.split("/")
            old = len(parts) == 6 and parts[4].split("-")[1:2] != [base]
            if old or name.rpartition("/")[0] == ended:
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


#: The file of an unfinished set that says what all its blocks have in common.
_PLAN = "plan.json"


def _plan(
    spec: SetSpec, items: ItemFile, base: str, settings: Any, *, retry_failed: bool
) -> dict[str, Any]:
    """Return all that two machines must agree on for their blocks to be of one set."""
    return {
        "key": str(spec.key),
        "set_id": spec.set_id,
        "items": items.facts["sha256"],
        "base": base,
        "retry_failed": retry_failed,
        "settings": settings,
    }


class SharedBlocks:
    """The blocks of one unfinished set in a bucket, kept in step with its writer here.

    Use as a context manager around the writing: what was not sent at its end stays on this machine.

    Parameters
    ----------
    objects : Objects
        The bucket.
    plan : dict
        Names the folder of the blocks.
    writer : SetWriter
        Open.

    Attributes
    ----------
    folder : str
        Of the blocks, in the bucket.
    """

    def __init__(self, objects: Objects, plan: dict[str, Any], writer: SetWriter) -> None:
        digest = sha256_hex(canonical_json({**plan, "layout": repr(writer.layout)}))
        base = str(plan["base"])[:SHORT] or "new"
        self._objects, self._writer, self._plan = objects, writer, plan
        self.folder = f"{plan['key']}/.staging/extract-{base}-{digest[:16]}"
        self._pool = ThreadPoolExecutor(AT_ONCE, "blocks")
        self._sent: dict[int, Future[bool]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def there(self) -> dict[int, int]:
        """Return block -> size of its file, of the blocks that the bucket has."""
        found = ((name.rpartition("/")[2], size) for name, size in self._objects.names(self.folder))
        return {int(name): size for name, size in found if name.isdecimal()}

    def agree(self, golden: Golden) -> None:
        """Give the set the golden vectors of whoever was first; errors as for `Golden.agree`."""
        name = f"{self.folder}/{GOLDEN_FILE}"
        if not self._objects.create(name, json_bytes(golden.document())):
            try:
                data = self._objects.read(name, limit=MAX_JSON_BYTES)
            except FileNotFoundError as err:
                raise self._removed() from err
            golden.agree(data, where=f"{self._objects.address}/{name}")

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
        self._objects.create(f"{self.folder}/{_PLAN}", json_bytes(self._plan))
        there, mine = self.there(), self._writer.records()
        if publishes:
            every = range(self._writer.layout.n_blocks)
            wanted = sorted(b for b in there if b in every and not self._writer.kept(b).all())
            for start in range(0, len(wanted), AT_ONCE):
                some = wanted[start : start + AT_ONCE]
                found = self._pool.map(lambda b: self._other(b, there[b], mine.get(b)), some)
                for block, other in zip(some, found, strict=True):
                    if other is not None:
                        self._writer.take_block(block, *other)
        for block in sorted(mine.keys() - there.keys()):
            self.send(block)
        return set(self._writer.pending()) - there.keys()

    def send(self, block: int) -> None:
        """Put a block that is done into the bucket, in another thread."""
        self._sent[block] = self._pool.submit(self._send, block)

    def drain(self, *, publishes: bool) -> None:
        """Wait until every block is in the bucket; parameters and errors as for `settle`."""
        for block, sent in self._sent.items():
            try:
                try:
                    ours = sent.result()
                except RemoteStoreError:  # the bucket may be back
                    ours = self._send(block)
            except RemoteStoreError as err:
                raise RemoteStoreError(
                    f"{err} The blocks of {self._writer.key} that are done are kept in "
                    f"{self._writer.root}: when the bucket can be written, run the same command "
                    "again on this machine, and only the rest is encoded."
                ) from err
            if not ours and publishes:
                with contextlib.suppress(AlreadyFinishedError):  # as the push will find
                    self._writer.take_block(block, *self._fetch(block))
        self._sent.clear()

    def _send(self, block: int) -> bool:
        """Put a block; False if the bucket has another one."""
        record, data = self._writer.done_block(block)
        if not record.fits(data):
            raise CorruptStoreError(f"Block {block:,} of {self._writer.key} changed on the disk.")
        if self._objects.create(self._name(block), record.line(block) + data):
            return True
        with contextlib.suppress(AlreadyFinishedError):  # as the push will find
            return self._fetch(block)[0].digest == record.digest
        return True

    def _other(
        self, block: int, size: int, mine: BlockRecord | None
    ) -> tuple[BlockRecord, bytes] | None:
        """Return the block of the bucket, None if it is the one that is here."""
        head = size - self._rows_bytes(block)
        if mine is not None and head <= MAX_JSON_BYTES:
            with contextlib.suppress(CorruptStoreError, FileNotFoundError):
                line = b"".join(self._objects.stream(self._name(block), 0, head))
                if BlockRecord.parse(line, block).digest == mine.digest:
                    return None
        return self._fetch(block)

    def _fetch(self, block: int) -> tuple[BlockRecord, bytes]:
        size = self._rows_bytes(block)
        try:
            data = self._objects.read(self._name(block), limit=size + MAX_JSON_BYTES)
        except FileNotFoundError as err:
            raise self._removed() from err
        with contextlib.suppress(CorruptStoreError):
            record = BlockRecord.parse(data[:-size], block)
            if record.fits(data[-size:]):
                return record, data[-size:]
        raise CorruptStoreError(
            f"{self._objects.address}/{self._name(block)} is damaged. Delete it, and run the same "
            "command again: the block is then encoded anew."
        )

    def _removed(self) -> AlreadyFinishedError:
        return AlreadyFinishedError(
            f"Blocks of {self._writer.key} were removed from {self._objects.address}: another "
            "machine has published the set. Run the same command again."
        )

    def _rows_bytes(self, block: int) -> int:
        return self._writer.layout.block_bytes(block)

    def _name(self, block: int) -> str:
        return f"{self.folder}/{block:06d}"

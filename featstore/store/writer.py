"""Write one set: blocks staged and journalled, assembled into shards, published last.

The order is what makes a kill at any point harmless: a block is a file that was fsynced
and renamed before its journal row was written; a shard is assembled from journalled blocks;
the commit record names every hash; the pointer ``zarr.json`` comes last, and a set without
it does not exist for readers.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
import polars as pl

from featstore.errors import NonFiniteEmbeddingError, StoreWriteError
from featstore.keys import encoder_directory, sha256_hex
from featstore.keys import set_id as set_identity
from featstore.keys import space_id as space_identity
from featstore.store.casting import convert_rows
from featstore.store.catalog import write_catalog
from featstore.store.commit import (
    POINTER,
    Commit,
    attributes_digest,
    pack_failed,
    staging_of,
    write_commit,
)
from featstore.store.files import file_facts, json_bytes, write_file
from featstore.store.items import items_bytes, items_file_name
from featstore.store.journal import BlockRecord, Journal
from featstore.store.layout import (
    BLOCK_ROWS,
    FORMAT,
    ArrayLayout,
    SetKey,
    array_metadata,
    group_metadata,
    plan_array,
    vector_metadata,
)
from featstore.store.lock import lock_set
from featstore.store.records import check_root
from featstore.store.staged import StagedFiles
from featstore.store.workers import workers

logger = logging.getLogger(__name__)

#: A block is durable at most this long after it was written: what a kill can cost.
SYNC_SECONDS = 2.0


class SetWriter:
    """The one writer of a set.

    Use as a context manager: entering takes the set's lock and reads the journal of an
    interrupted attempt; leaving releases the lock and keeps what is staged.

    Parameters
    ----------
    root : Path
        The store, made if missing.
    dataset, kind, encoder : str
        Name of the dataset, kind of the items, and name of the encoder (``family:name``).
    space : mapping
        Keyed facts of the embedding space; its hash is the space_id.
    items : DataFrame
        Item table; row i of the array is item i.
    dim : int
        Embedding dimension.
    dtype : str
        Stored dtype, one of `featstore.store.layout.DTYPES`.
    precision : str
        Compute precision of the encoder; part of the set_id.
    facts : mapping
        Recorded in the set's attributes, not keyed (label set, encoder name …).
    plan : mapping
        What else must be equal for staged blocks to be taken over (batch size, threads).
    block_rows, plain_bytes, shard_bytes
        Layout limits; smaller in tests.

    Raises
    ------
    StoreWriteError
        If the store cannot be written, or another process is writing this set.
    """

    def __init__(
        self,
        root: Path,
        *,
        dataset: str,
        kind: str,
        encoder: str,
        space: Mapping[str, Any],
        items: pl.DataFrame,
        dim: int,
        dtype: str,
        precision: str = "float32",
        facts: Mapping[str, Any] | None = None,
        plan: Mapping[str, Any] | None = None,
        block_rows: int = BLOCK_ROWS,
        **limits: int,
    ) -> None:
        self.root = root
        self.space = dict(space)
        self.space_id = space_identity(self.space)
        self.set_id = set_identity(
            self.space_id, dataset=dataset, kind=kind, precision=precision, dtype=dtype
        )
        self.encoder = encoder
        self.key = SetKey(dataset, kind, encoder_directory(encoder, self.set_id))
        self.directory = self.key.directory(root)
        self.layout: ArrayLayout = plan_array(
            items.height, dim, dtype, block_rows=block_rows, **limits
        )
        self.precision = precision
        self.facts = dict(facts or {})
        self._items = items_bytes(items)
        self._item_ids = items["item_id"]
        self._plan = {
            "set_id": self.set_id,
            "items": sha256_hex(self._items),
            "layout": repr(self.layout),
            **dict(plan or {}),
        }
        self._lock: IO[str] | None = None
        self._journal: Journal | None = None
        self._staged: StagedFiles | None = None
        self._last_sync = time.monotonic()

    @property
    def staging(self) -> Path:
        """Where unfinished blocks lie."""
        return staging_of(self.directory)

    def __enter__(self) -> Self:
        self._refuse_finished()
        check_root(self.root)
        try:
            self.staging.mkdir(parents=True, exist_ok=True)
            self._lock = lock_set(self.staging / "writer.lock", key=self.key)
            self._refuse_finished()
            self._write_groups()
            self._staged = StagedFiles(self.staging, self.layout)
            self._journal = Journal.open(
                self.staging, plan=self._plan, read_block=self._staged.read
            )
            for file in list(self._journal.files):
                path = self._file_path(file)
                if not path.exists() or path.stat().st_size != self.layout.file_bytes(file):
                    self._journal.forget_file(file)
        except BaseException as err:
            self._release()
            if isinstance(err, StoreWriteError) or not isinstance(err, OSError):
                raise
            msg = (
                f"Cannot write the store {self.root}: {err.strerror or err}. Choose a folder that "
                "you may write."
            )
            raise StoreWriteError(msg) from err
        return self

    def __exit__(self, kind: type[BaseException] | None = None, *_: object) -> None:
        try:
            if self._journal is not None and self._staged is not None:
                # What ended the block matters more than what ends its last blocks.
                with contextlib.suppress(StoreWriteError) if kind else contextlib.nullcontext():
                    self.sync()
        finally:
            self._release()

    def _release(self) -> None:
        for resource in (self._staged, self._journal, self._lock):
            if resource is not None:
                resource.close()
        self._staged = self._journal = self._lock = None

    def _refuse_finished(self) -> None:
        """Raise if the set was published meanwhile: a finished set is never written again."""
        if (self.directory / POINTER).exists():
            msg = f"{self.key} is finished. Remove it with `featstore rm` to extract it anew."
            raise StoreWriteError(msg)

    def pending(self) -> list[int]:
        """Return the blocks that are not yet written, in order."""
        done = self._opened()[0].blocks
        return [block for block in range(self.layout.n_blocks) if block not in done]

    @property
    def failures(self) -> dict[str, str]:
        """item_id -> reason of the items that have failed so far."""
        return dict(self._opened()[0].failures)

    def write_block(
        self, block: int, rows: np.ndarray, failures: Mapping[str, str] | None = None
    ) -> None:
        """Stage the rows of one block; `sync` follows within `SYNC_SECONDS` of writing.

        Parameters
        ----------
        block : int
            Number of the block.
        rows : ndarray of shape (rows of the block, d)
            Raw encoder output. Whatever stands in the rows of failed items is not kept.
        failures : mapping
            item_id -> reason, for the items of this block that have no embedding.

        Raises
        ------
        NonFiniteEmbeddingError
            If a row of an item that did not fail is not finite, or has values that the stored
            dtype cannot hold. Nothing is written then.
        """
        journal, staged = self._opened()
        where = self.layout.block_slice(block)
        reasons = dict(failures or {})
        converted = convert_rows(
            rows,
            self._item_ids[where.start : where.stop],
            failed=reasons,
            layout=self.layout,
            where=f"encoder {self.encoder}, rows {where.start:,}-{where.stop - 1:,} of {self.key}",
        )
        view = converted.data.data.cast("B")
        # The longest part runs beside all others: hashing releases the interpreter lock.
        digest = workers().submit(sha256_hex, view)
        converted.check()
        with self._disk_errors():
            staged.write(block, view)
        journal.add_block(block, BlockRecord(digest.result(), reasons))
        file = block // self.layout.blocks_per_file
        if all(other in journal.blocks for other in self.layout.file_blocks(file)):
            self._publish(file)
        elif time.monotonic() - self._last_sync > SYNC_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Make every block that was written durable: first its bytes, then its journal row."""
        journal, staged = self._opened()
        with self._disk_errors():
            staged.sync()
            journal.sync()
        self._last_sync = time.monotonic()

    def finish(
        self,
        *,
        bias: np.ndarray | None = None,
        golden: Mapping[str, Any] | None = None,
        run: Mapping[str, Any] | None = None,
    ) -> str:
        """Publish the set and return its revision_id.

        Order: data files, item table, small arrays and failures, commit record, pointer.
        """
        journal = self._opened()[0]
        pending = self.pending()
        if pending:
            msg = (
                f"{self.key} lacks {len(pending):,} of {self.layout.n_blocks:,} blocks; it cannot "
                "be published."
            )
            raise StoreWriteError(msg)
        for file in range(self.layout.n_files):
            if file not in journal.files:
                self._publish(file)
        metadata = self._write_small(journal, bias=bias, golden=golden)
        items_name = items_file_name(self._items)
        items_path = self.directory.parent / items_name
        if not items_path.exists() or items_path.read_bytes() != self._items:
            write_file(items_path, [self._items])
        failed = np.isin(self._item_ids.to_numpy(), list(journal.failures))
        attributes = {
            "format": FORMAT,
            "dataset": self.key.dataset,
            "kind": self.key.kind,
            "encoder": self.encoder,
            "space": self.space,
            "space_id": self.space_id,
            "set_id": self.set_id,
            "precision": self.precision,
            "facts": self.facts,
        }
        commit = Commit(
            n=self.layout.n,
            dim=self.layout.dim,
            dtype=self.layout.dtype,
            block_rows=self.layout.block_rows,
            blocks=tuple(journal.blocks[block].sha256 for block in range(self.layout.n_blocks)),
            items={
                "file": items_name,
                "bytes": len(self._items),
                "sha256": sha256_hex(self._items),
            },
            metadata=metadata,
            space_id=self.space_id,
            set_id=self.set_id,
            attributes=attributes_digest(attributes),
            failed=pack_failed(failed),
        )
        revision = write_commit(self.directory, commit)
        if run:
            stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
            name = f"{stamp}-{revision[:8]}-{os.getpid()}.json"
            write_file(self.directory / "runs" / name, [json_bytes(dict(run))])
        pointer = group_metadata({**attributes, "revision": revision})
        write_file(self.directory / POINTER, [json_bytes(pointer)])
        # The removal of the kind's last other set may have taken the item table meanwhile.
        if not items_path.exists():
            write_file(items_path, [self._items])
        write_catalog(self.root)
        shutil.rmtree(self.staging, ignore_errors=True)
        self._release()
        return revision

    def _opened(self) -> tuple[Journal, StagedFiles]:
        if self._journal is None or self._staged is None:
            msg = "A SetWriter writes only inside its `with` block."
            raise StoreWriteError(msg)
        return self._journal, self._staged

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        """Turn a full or failing disk into one sentence."""
        try:
            yield
        except OSError as err:
            msg = (
                f"Cannot write {self.key} below {self.root}: {err.strerror or err}. Free space, "
                "then run the same command again; finished blocks are kept."
            )
            raise StoreWriteError(msg) from err

    def _write_groups(self) -> None:
        """Write the groups above the set, each only if it is missing."""
        groups: list[tuple[Path, dict[str, Any]]] = [
            (self.root, {"format": FORMAT}),
            (self.root / self.key.dataset, {"dataset": self.key.dataset}),
            (self.directory.parent, {"dataset": self.key.dataset, "kind": self.key.kind}),
        ]
        for directory, attributes in groups:
            path = directory / "zarr.json"
            if not path.exists():
                write_file(path, [json_bytes(group_metadata(attributes))])

    def _publish(self, file: int) -> None:
        """Bring a complete data file to its place and journal it."""
        journal, staged = self._opened()
        self.sync()
        with self._disk_errors():
            staged.publish(file, self._file_path(file))
            journal.add_file(file, blocks=self.layout.file_blocks(file))
            journal.sync()

    def _file_path(self, file: int) -> Path:
        return self.directory / "embedding" / self.layout.file_name(file)

    def _write_small(
        self,
        journal: Journal,
        *,
        bias: np.ndarray | None,
        golden: Mapping[str, Any] | None,
    ) -> dict[str, dict[str, Any]]:
        """Write array metadata, bias, golden vectors and failures; return their digests."""
        names = ["embedding/zarr.json"]
        metadata = array_metadata(self.layout)
        write_file(self.directory / names[0], [json_bytes(metadata)])
        if bias is not None:
            data = np.ascontiguousarray(bias, dtype="<f4")
            if data.shape != (self.layout.n,) or not np.isfinite(data).all():
                msg = (
                    f"The bias of {self.key} must be {self.layout.n:,} finite numbers; got shape "
                    f"{data.shape}."
                )
                raise NonFiniteEmbeddingError(msg)
            document = json_bytes(vector_metadata(self.layout.n, "float32"))
            write_file(self.directory / "bias" / "zarr.json", [document])
            write_file(self.directory / "bias" / "c" / "0", [data.tobytes()])
            names += ["bias/zarr.json", "bias/c/0"]
        if golden is not None:
            write_file(self.directory / "golden.json", [json_bytes(dict(golden))])
            names.append("golden.json")
        if journal.failures:
            table = pl.DataFrame(
                sorted(journal.failures.items()), schema=["item_id", "reason"], orient="row"
            )
            write_file(self.directory / "failures.parquet", [items_bytes(table)])
            names.append("failures.parquet")
        return {name: file_facts(self.directory / name) for name in names}

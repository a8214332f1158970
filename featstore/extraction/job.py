"""The extraction job: check everything, write block by block, publish last."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from featstore.encoders.base import Encoder
from featstore.encoders.golden import golden_vectors
from featstore.encoders.object_encoder import ObjectEncoder
from featstore.errors import (
    AlreadyFinishedError,
    EmptySelectionError,
    EncoderError,
    ManifestError,
    TooManyFailuresError,
)
from featstore.extraction.events import BlockDone, ExtractResult
from featstore.extraction.pipeline import encode_block
from featstore.extraction.provenance import lasting_facts, run_facts
from featstore.extraction.reuse import finished_result
from featstore.images import ImageError, decode_image, thumbnail_webp
from featstore.manifest import Manifest, read_manifest
from featstore.store.layout import BLOCK_ROWS
from featstore.store.thumbnails import read_thumbnails, write_thumbnails
from featstore.store.writer import SetWriter

#: Stored dtype of image and text embeddings.
DEFAULT_DTYPE = "float16"

#: Images on which the head identity W f + b = logits is checked before the first block.
HEAD_CHECK_IMAGES = 4


@dataclass(frozen=True)
class Job:
    """Items, encoder and options of one set, all checks done."""

    source: Manifest
    kind: str
    items: pl.DataFrame
    encoder: Encoder
    store: Path
    dtype: str
    device: str
    batch: int
    threads: int | None
    workers: int
    thumbnails: bool
    max_failures: int
    block_rows: int
    on_block: Callable[[BlockDone], None] | None
    wait: float = 0.0


def extract(
    manifest: str | Path | Manifest,
    *,
    kind: str,
    encoder: str | Any,
    store: str | Path,
    space: Mapping[str, Any] | None = None,
    weights: str | None = None,
    dtype: str = DEFAULT_DTYPE,
    device: str = "cpu",
    batch_size: int | None = None,
    threads: int | None = None,
    workers: int | None = None,
    thumbnails: bool = False,
    max_failures: int | None = None,
    limit: int | None = None,
    block_rows: int = BLOCK_ROWS,
    on_block: Callable[[BlockDone], None] | None = None,
    wait: float = 0.0,
) -> ExtractResult:
    """Encode the items of one kind into a finished set of the store.

    All checks come before the first batch. An interrupted job, started again with the same
    arguments, takes over its finished blocks; a finished one touches nothing.

    Parameters
    ----------
    manifest : path or Manifest
        Folder of a built manifest.
    kind : str
        ``image``, ``caption`` or ``class_name``; heads go through `extract_head`.
    encoder : str or object
        ``family:name``, or any object with ``encode(list of PIL images or str) -> (b, d)``,
        which then needs `space`.
    store : path
        The store, made if missing.
    space : mapping
        Only with an encoder object: the facts that identify its embedding space, at least
        ``name``. Same facts, same space_id: that promise is the caller's.
    weights : str, optional
        ``package:NAME``, a file, a folder, or None for the model's hub.
    dtype : str
        Stored dtype: ``float16`` or ``float32``.
    device, batch_size, threads, workers
        Of the encoder, and the number of decoding threads. Batch size and threads are part
        of the plan: staged blocks of another plan are not taken over.
    thumbnails : bool
        Keep a small WebP of every image in the store.
    max_failures : int, optional
        Items that may fail before the job stops; default the larger of 10 and 0.1 %.
    limit : int, optional
        Only the first `limit` items.
    block_rows : int
        Rows of a block.
    on_block : callable, optional
        Called after every finished block.
    wait : float
        Seconds to wait for another process that is writing this set; its rows are then reused.

    Raises
    ------
    ManifestError, UnknownEncoderError, EncoderError, StoreWriteError
        Before anything is encoded.
    NonFiniteEmbeddingError, TooManyFailuresError
        While encoding; finished blocks stay staged.
    """
    source = manifest if isinstance(manifest, Manifest) else read_manifest(Path(manifest))
    items = _items_of(source, kind, limit)
    if isinstance(encoder, str):
        from featstore.encoders.registry import open_encoder

        opened = open_encoder(
            encoder, weights=weights, device=device, batch_size=batch_size, threads=threads
        )
    elif space is None:
        msg = "An encoder object needs space={...}: the facts that identify its embedding space."
        raise EncoderError(msg)
    else:
        opened = ObjectEncoder(encoder, space=space, kinds=frozenset({kind}))
    if kind not in opened.kinds:
        msg = f"Encoder {opened.name} encodes {' and '.join(sorted(opened.kinds))}, not {kind}."
        raise EncoderError(msg)
    job = Job(
        source=source,
        kind=kind,
        items=items,
        encoder=opened,
        store=Path(store),
        dtype=dtype,
        device=device,
        batch=batch_size or opened.batch_size,
        threads=threads,
        workers=workers or os.cpu_count() or 1,
        thumbnails=thumbnails and kind == "image",
        max_failures=max(10, items.height // 1000) if max_failures is None else max_failures,
        block_rows=block_rows,
        on_block=on_block,
        wait=wait,
    )
    result = _finished(job)
    if result is None:
        try:
            result = _encode(job)
        except AlreadyFinishedError:
            # Another process wrote it between the two looks, or while this one waited.
            result = _finished(job)
            if result is None:
                raise
    if job.thumbnails:
        _complete_thumbnails(job, skip=result.failures)
    return result


def _finished(job: Job) -> ExtractResult | None:
    """Return the result for a set that is finished with these very items, else None."""
    return finished_result(
        job.store,
        job.encoder.space,
        dataset=job.source.name,
        kind=job.kind,
        encoder=job.encoder.name,
        items=job.items,
        dtype=job.dtype,
    )


def _encode(job: Job) -> ExtractResult:
    """Encode the blocks that are missing and publish the set."""
    started = time.time()
    plan = {"batch": job.batch, "threads": job.threads, "device": job.device}
    facts = {
        **lasting_facts(job.encoder.facts),
        "manifest_revision": str(job.source.facts.get("revision", "")),
        # What every reader of results on this dataset should know.
        "note": str(job.source.facts.get("note", "")),
    }
    small: dict[str, bytes] = {}
    new = truncated = 0
    if job.kind == "image":
        _check_head(job)
    with (
        SetWriter(
            job.store,
            dataset=job.source.name,
            kind=job.kind,
            encoder=job.encoder.name,
            space=job.encoder.space,
            items=job.items,
            dim=job.encoder.dim,
            dtype=job.dtype,
            facts=facts,
            plan=plan,
            block_rows=job.block_rows,
            wait=job.wait,
        ) as writer,
        ThreadPoolExecutor(job.workers) as pool,
    ):
        failures = writer.failures
        for block in writer.pending():
            rows = writer.layout.block_slice(block)
            part = job.items[rows.start : rows.stop]
            output = encode_block(
                part,
                job.source.root,
                [job.encoder],
                pool,
                batch=job.batch,
                thumbnail=job.thumbnails,
            )
            failures.update(output.failures)
            _check_failures(job, writer, failures)
            writer.write_block(block, output.rows[0], output.failures)
            small.update(output.thumbnails)
            new += part.height - len(output.failures)
            truncated += _count_truncated(job.encoder, part["text"])
            if job.on_block is not None:
                job.on_block(BlockDone(str(writer.key), rows.stop, job.items.height, len(failures)))
        vectors = np.round(golden_vectors(job.encoder).astype(np.float64), 6)
        revision = writer.finish(
            golden={"vectors": vectors.tolist()},
            run={
                **run_facts(job.encoder.facts, device=job.device),
                **plan,
                "seconds": round(time.time() - started, 3),
            },
        )
    if small:
        write_thumbnails(writer.directory.parent, small)
    return ExtractResult(
        key=str(writer.key),
        reused=job.items.height - new - len(failures),
        new=new,
        failed=len(failures),
        revision_id=revision,
        failures=failures,
        truncated=truncated,
    )


def _items_of(source: Manifest, kind: str, limit: int | None) -> pl.DataFrame:
    if kind not in source.tables:
        known = ", ".join(source.tables) or "none"
        msg = f"Manifest {source.name} has no items of kind {kind!r}. It has: {known}."
        raise ManifestError(msg)
    items = source.tables[kind]
    items = items if limit is None else items.head(limit)
    if items.is_empty():
        msg = f"Manifest {source.name} has no {kind} item to extract."
        raise EmptySelectionError(msg)
    return items


def _check_head(job: Job) -> None:
    """Check W f + b = logits on the first readable images, if the encoder has a head."""
    check = getattr(job.encoder, "check_head", None)
    if check is None:
        return
    images = []
    for uri in job.items["uri"].head(5 * HEAD_CHECK_IMAGES).to_list():
        try:
            images.append(job.encoder.prepare(decode_image(job.source.root / uri)))
        except (ImageError, OSError):
            continue  # the job itself lists it
        if len(images) == HEAD_CHECK_IMAGES:
            break
    if images:
        check(images)


def _count_truncated(encoder: Encoder, texts: pl.Series) -> int:
    """Return how many texts are longer than the encoder's context."""
    is_truncated = getattr(encoder, "is_truncated", None)
    if is_truncated is None:
        return 0
    return sum(bool(is_truncated(text)) for text in texts.drop_nulls())


def _check_failures(job: Job, writer: SetWriter, failures: Mapping[str, str]) -> None:
    """Raise TooManyFailuresError if more items failed than may, or all did."""
    total = job.items.height
    if len(failures) <= job.max_failures and len(failures) < total:
        return
    item, reason = next(iter(failures.items()))
    what = "All" if len(failures) == total else f"{len(failures):,} of {total:,}"
    msg = (
        f"{what} items of {writer.key} failed (first {item!r}: {reason.rstrip('.')}); at most "
        f"{job.max_failures:,} may. Mend them, or allow more with --max-failures. Finished "
        "blocks are kept."
    )
    raise TooManyFailuresError(msg)


def _complete_thumbnails(job: Job, *, skip: Mapping[str, str]) -> None:
    """Draw the thumbnails that an interrupted job, or one without them, did not leave."""
    directory = job.store / job.source.name / job.kind
    have = read_thumbnails(directory)
    small: dict[str, bytes] = {}
    for item, uri in job.items.select("item_id", "uri").iter_rows():
        if item in have or item in skip:
            continue
        try:
            small[item] = thumbnail_webp(decode_image(job.source.root / uri))
        except (ImageError, OSError):
            continue  # an image without a picture is shown by its id
    if small:
        write_thumbnails(directory, small)

"""Extract embeddings: open the items and encoders of a job, and run it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import polars as pl

from featstore.decoding.pool import RULE
from featstore.encoders.base import Encoder
from featstore.encoders.object_encoder import ObjectEncoder
from featstore.errors import EmptySelectionError, EncoderError, ManifestError, needs_extra
from featstore.extraction.options import (
    DECODE_TIMEOUT,
    DEFAULT_DTYPE,
    Decode,
    EncoderChoice,
    OnError,
    Options,
)
from featstore.extraction.progress import BlockDone, ExtractResult, JobLog, Progress
from featstore.extraction.run import encode_sets
from featstore.extraction.targets import Job, make_targets
from featstore.extraction.views import draw_view, source_item, view_items, views_dataset
from featstore.images import ImageError, decode_image, thumbnail_webp
from featstore.manifest.io import read_manifest
from featstore.manifest.manifest import Manifest
from featstore.sources.reader import ByteReader
from featstore.store.layout import BLOCK_ROWS
from featstore.store.tables import read_thumbnails, write_thumbnails


def job_items(source: Manifest, kind: str, options: Options) -> tuple[str, pl.DataFrame]:
    """Return the dataset and the item table that a job is about.

    Raises
    ------
    ManifestError
        If the manifest has no items of this kind, or views are asked for of what is no image.
    EmptySelectionError
        If there is no item.
    """
    items = source.items(kind)
    items = items if options.limit is None else items.head(options.limit)
    if items.is_empty():
        msg = f"Manifest {source.name} has no {kind} item to extract."
        raise EmptySelectionError(msg)
    if not options.views:
        return source.name, items
    if kind != "image":
        msg = f"Only images have views; {kind} items have none. Leave views out."
        raise ManifestError(msg)
    dataset = views_dataset(source.name, options.views, options.seed)
    return dataset, view_items(items, views=options.views, seed=options.seed)


def open_choices(choices: Sequence[EncoderChoice], kind: str, options: Options) -> list[Encoder]:
    """Open the encoders of a job.

    Raises
    ------
    UnknownEncoderError
        If a name means none; looked at before any weights are read.
    EncoderError
        If one cannot be built, does not take items of this kind, or takes no such option.
    """
    from featstore.encoders.registry import check_options

    if not choices:
        msg = "An extraction needs at least one encoder."
        raise EncoderError(msg)
    for choice in choices:
        if isinstance(choice.encoder, str):
            check_options(
                choice.encoder,
                **choice.model_options(),
                trust_remote_code=options.trust_remote_code,
            )
        elif choice.space is None:
            msg = "An encoder object needs space={...}: the facts that identify its space."
            raise EncoderError(msg)
    opened = [_open(choice, kind, options) for choice in choices]
    for encoder in opened:
        if kind not in encoder.kinds:
            known = " and ".join(sorted(encoder.kinds))
            msg = f"Encoder {encoder.name} encodes {known}, not {kind}."
            raise EncoderError(msg)
    return opened


def default_threads(choices: Sequence[EncoderChoice]) -> int | None:
    """Return the threads that torch would run on, or None for encoder objects alone."""
    if not any(isinstance(choice.encoder, str) for choice in choices):
        return None
    with needs_extra("Encoding with a named encoder"):
        import torch

    return torch.get_num_threads()


def _open(choice: EncoderChoice, kind: str, options: Options) -> Encoder:
    if not isinstance(choice.encoder, str):
        return ObjectEncoder(choice.encoder, space=choice.space or {}, kinds=frozenset({kind}))
    from featstore.encoders.registry import open_encoder

    encoder = open_encoder(
        choice.encoder,
        kind=kind,
        weights=choice.weights,
        device=options.device,
        precision=options.precision,
        **choice.model_options(),
        trust_remote_code=options.trust_remote_code,
        compile=options.compile,
    )
    if options.decode == "gpu" and kind == "image":
        space: Any = encoder.space
        space["preprocessing"]["decode"]["jpeg"] = RULE
    return encoder


def complete_thumbnails(job: Job, *, skip: Collection[str]) -> None:
    """Draw the thumbnails that an interrupted job, or one without them, did not leave."""
    directory = job.store / job.dataset / job.kind
    have = read_thumbnails(directory)
    small: dict[str, bytes] = {}
    with ByteReader(job.source.root) as reader:
        for item in job.items.iter_rows(named=True):
            if item["item_id"] in have or item["item_id"] in skip:
                continue
            try:
                image = decode_image(reader.read(source_item(item)), formats=job.formats)
            except (ImageError, OSError):
                continue  # an image without a picture is shown by its id
            small[item["item_id"]] = thumbnail_webp(draw_view(image, item))
    if small:
        write_thumbnails(directory, small)


logger = logging.getLogger(__name__)


def extract(
    manifest: str | Path | Manifest,
    *,
    kind: str,
    encoder: str | Any,
    store: str | Path,
    space: Mapping[str, Any] | None = None,
    weights: str | None = None,
    pool: str | None = None,
    prompt_name: str | None = None,
    prefix: str | None = None,
    max_length: int | None = None,
    dtype: str = DEFAULT_DTYPE,
    precision: str = "float32",
    device: str = "cpu",
    batch_size: int | Literal["auto"] | None = None,
    threads: int | None = None,
    workers: int | None = None,
    decode_timeout: float | None = DECODE_TIMEOUT,
    decode: Decode = "cpu",
    tiff: bool = False,
    thumbnails: bool = False,
    views: int = 0,
    seed: int = 0,
    limit: int | None = None,
    on_error: OnError = "skip",
    max_failures: int | None = None,
    retry_failed: bool = False,
    trust_remote_code: bool = False,
    compile: bool = False,  # noqa: A002 -- torch's word for it
    wait: float = 0.0,
    block_rows: int = BLOCK_ROWS,
    log: str | Path | None = None,
    on_block: Callable[[BlockDone], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> ExtractResult:
    """Encode the items of one kind into a finished set of the store.

    All checks come before the first batch. An interrupted job, started again with the same
    arguments, takes over its finished blocks; a finished one touches nothing. A set whose items
    these begin with is extended. Rows of the same content in the same space, wherever they are
    in the store, are copied.

    Parameters
    ----------
    manifest : path or Manifest
        Folder of a built manifest.
    kind : str
        ``image``, ``caption`` or ``class_name``; heads go through `extract_head`.
    encoder : str or object
        ``family:name``, or any object with ``encode(list of PIL images or str) -> (b, d)``,
        which then needs `space`. Several at once: `extract_many`.
    store : path
        The store, made if missing.
    space : mapping
        Only with an encoder object: the facts that identify its embedding space, at least
        ``name``. Same facts, same space_id: that promise is the caller's.
    weights : str, optional
        ``package:NAME``, a file, a folder, or None for the model's hub.
    pool, prompt_name, prefix, max_length : optional
        Another layer or pooling; what is put before texts; tokens that the model sees: see
        `featstore.encoders.open_encoder`. Each makes another space.
    dtype : str
        Stored dtype: ``float16``, ``bfloat16`` or ``float32``.
    precision : str
        Compute precision: ``float32``, ``bfloat16`` or ``float16``.
    device, threads, workers
        Of the encoder, and how many threads, or processes, decode.
    batch_size : int or "auto", optional
        Items a batch; ``auto`` halves it until it fits. Batch size and threads are part of the
        plan: a job that is resumed without them takes those that it was begun with, and with
        others begins anew.
    decode_timeout : float, optional
        Seconds that one image may take; it is decoded in a process of its own, so that a crash
        or a hang costs that image. None decodes in threads, without that protection.
    decode : {"cpu", "gpu"}
        Where plain JPEG files are decoded; by nvJPEG they make another space.
    tiff : bool
        Decode TIFF files too, their first page; they fail otherwise.
    thumbnails : bool
        Keep a small WebP of every image in the store.
    views, seed : int
        Encode so many seeded augmented views of each image, instead of the image, into the
        dataset ``<dataset>.views<views>-seed<seed>``.
    limit : int, optional
        Only the first `limit` items.
    on_error : {"skip", "fail"}
        What an item that cannot be read or decoded costs: its row, or the job.
    max_failures : int, optional
        Items that may fail before the job stops; default the larger of 10 and 0.1 %.
    retry_failed : bool
        Try the failed items of a finished set again, into a new revision.
    trust_remote_code, compile : bool
        See `featstore.encoders.open_encoder`.
    wait : float
        Seconds to wait for another writer of the set.
    block_rows : int
        Rows of a block.
    log : path, optional
        File to which events are appended as JSON lines.
    on_block : callable, optional
        Called after every finished block.
    on_progress : callable, optional
        Called after every batch.

    Raises
    ------
    ManifestError, UnknownEncoderError, EncoderError, StoreWriteError
        Before anything is encoded.
    NonFiniteEmbeddingError, TooManyFailuresError
        While encoding; finished blocks stay staged.
    """
    options = Options(
        dtype=dtype,
        precision=precision,
        device=device,
        batch_size=batch_size,
        threads=threads,
        workers=workers,
        decode_timeout=decode_timeout,
        decode=decode,
        tiff=tiff,
        thumbnails=thumbnails,
        views=views,
        seed=seed,
        limit=limit,
        on_error=on_error,
        max_failures=max_failures,
        retry_failed=retry_failed,
        trust_remote_code=trust_remote_code,
        compile=compile,
        wait=wait,
        block_rows=block_rows,
        log=None if log is None else Path(log),
        on_block=on_block,
        on_progress=on_progress,
    )
    choice = EncoderChoice(
        encoder,
        weights=weights,
        pool=pool,
        prompt_name=prompt_name,
        prefix=prefix,
        max_length=max_length,
        space=space,
    )
    return extract_many(manifest, kind=kind, encoders=[choice], store=store, options=options)[0]


def extract_many(
    manifest: str | Path | Manifest,
    *,
    kind: str,
    encoders: Sequence[EncoderChoice],
    store: str | Path,
    options: Options | None = None,
) -> list[ExtractResult]:
    """Encode the items of one kind with several encoders; each image is decoded once.

    Every encoder has a set of its own, with the same rows as if it had been alone, bit for bit.

    Parameters
    ----------
    manifest, kind, store
        As for `extract`.
    encoders : sequence of EncoderChoice
    options : Options, optional
        The other arguments of `extract`, with the same names and defaults.

    Returns
    -------
    list of ExtractResult
        One an encoder, in order.

    Raises
    ------
    FeatstoreError
        As for `extract`.
    """
    asked = options or Options()
    log = JobLog(asked.log)
    try:
        with _log_errors(log):
            job = open_job(manifest, kind=kind, encoders=encoders, store=store, options=asked)
            return run_job(job, log)
    finally:
        log.close()


def open_job(
    manifest: str | Path | Manifest,
    *,
    kind: str,
    encoders: Sequence[EncoderChoice],
    store: str | Path,
    options: Options,
    opened: Sequence[Encoder] | None = None,
) -> Job:
    """Open what a job needs, and check it.

    Parameters
    ----------
    opened : sequence of Encoder, optional
        Encoders that are open already, one for each of `encoders`.

    Raises
    ------
    FeatstoreError
        As for `extract`; nothing is touched.
    """
    source = manifest if isinstance(manifest, Manifest) else read_manifest(Path(manifest))
    dataset, items = job_items(source, kind, options)
    choices = list(encoders)
    found = list(opened) if opened is not None else open_choices(choices, kind, options)
    targets = make_targets(
        dataset,
        items,
        kind=kind,
        choices=choices,
        encoders=found,
        store=Path(store),
        options=options,
    )
    threads = options.threads or default_threads(choices)
    return Job(source, dataset, kind, items, Path(store), options, targets, threads)


def run_job(job: Job, log: JobLog) -> list[ExtractResult]:
    """Make the sets of an open job that are not there, and the thumbnails."""
    log.write("started", store=str(job.store), items=job.items.height, settings=job.settings())
    results: dict[str, ExtractResult] = {}
    for target in job.targets:
        done = target.finished()
        if done is not None:
            results[target.set_id] = done
    missing = [target for target in job.targets if target.set_id not in results]
    if missing:
        results |= encode_sets(job, missing, log)
    if job.thumbnails and not job.options.part:
        skip = set().union(*(result.failures for result in results.values()))
        complete_thumbnails(job, skip=skip)
    ordered = [results[target.set_id] for target in job.targets]
    for result in ordered:
        summary = {k: v for k, v in result.as_dict().items() if not isinstance(v, dict | list)}
        log.write("finished", **summary)
    return ordered


@contextlib.contextmanager
def _log_errors(log: JobLog) -> Iterator[None]:
    try:
        yield
    except BaseException as err:
        log.write("error", error=type(err).__name__, message=" ".join(str(err).split()))
        raise

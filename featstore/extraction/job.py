"""Extract embeddings: run a job, and complete what it leaves."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from featstore.errors import EncoderError
from featstore.extraction.options import EncoderSpec, ExtractConfig, settle_options
from featstore.extraction.progress import ExtractResult, JobLog, Progress
from featstore.extraction.run import encode_sets
from featstore.extraction.targets import Job
from featstore.extraction.views import draw_view, source_item
from featstore.images import ImageError, decode_image, thumbnail_webp
from featstore.manifest.io import read_manifest
from featstore.manifest.manifest import Manifest
from featstore.options import document
from featstore.sources.reader import ByteReader
from featstore.store import BLOCK_ROWS
from featstore.store.tables import read_thumbnails, write_thumbnails


def draw_thumbnails(job: Job, *, skip: Collection[str], side: int = 96) -> None:
    """Draw the thumbnails that are not there, of images that could be encoded."""
    directory = job.folder / job.dataset / job.kind
    have = read_thumbnails(directory)
    left = job.items.filter(~pl.col("item_id").is_in([*have, *skip]))
    job.source.check_files(left)
    small: dict[str, bytes] = {}

    def draw(item: Mapping[str, Any]) -> None:
        # An image without a picture is shown by its id.
        with contextlib.suppress(ImageError, OSError):
            image = decode_image(reader.read(source_item(item)), **job.accepted | {"scaled": False})
            small[item["item_id"]] = thumbnail_webp(draw_view(image, item), side=side)

    with (
        ByteReader(job.source.root) as reader,
        ThreadPoolExecutor(job.workers, "thumbnails") as threads,
    ):
        for part in left.iter_slices(BLOCK_ROWS):
            list(threads.map(draw, part.iter_rows(named=True)))
    # Without a new one, too: a job that was stopped may not have listed, or united, what it wrote.
    write_thumbnails(directory, small)


logger = logging.getLogger(__name__)


def extract(
    manifest: str | Path | Manifest,
    store: str | Path,
    *,
    encoder: str | EncoderSpec | Any,
    kind: str,
    config: ExtractConfig | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    **options: Any,
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
    store : path or address
        The store, made if missing. Of a bucket (``s3://``, ``gs://``, ``az://``) blocks are sent as
        they are done; see `featstore.extraction.bucket`.
    encoder : str, EncoderSpec or object
        ``family:name``, or any object with ``encode(list of PIL images or str) -> (b, d)``,
        which then needs `space`. Several at once: `extract_many`.
    kind : str
        ``image``, ``caption`` or ``class_name``; heads go through `extract_head`.
    config : ExtractConfig, optional
        The options of the extraction; fields that are given beside it win.
    on_progress : callable, optional
        Called after every batch.
    **options
        Fields of `EncoderSpec` and of `ExtractConfig`: those below, ``space`` (the facts that
        identify the space of an encoder object) and ``on_block`` (called after every block).

    Other Parameters
    ----------------
    {options}

    Raises
    ------
    OptionError
        If there is no option of a name.
    ManifestError, UnknownEncoderError, EncoderError, StoreWriteError
        Before anything is encoded.
    NonFiniteEmbeddingError, TooManyFailuresError
        While encoding; finished blocks stay staged.

    Examples
    --------
    >>> def lengths(texts):
    ...     return np.array([[len(text), 1.0] for text in texts])
    >>> birds = toy_manifest("birds", 4, captions=True)
    >>> space = {"name": "lengths"}
    >>> extract(birds, "store", encoder=lengths, kind="caption", space=space).new
    4
    """
    spec, settled = settle_options(encoder, config or ExtractConfig(), options, of="extract")
    if len(spec.layers) > 1:
        raise EncoderError(
            f"{len(spec.layers)} layers are {len(spec.layers)} sets, and extract makes one. Call "
            "extract_many(manifest, encoders=[EncoderSpec(…, layers=…)], …)."
        )
    if on_progress is not None:
        settled = replace(settled, on_progress=on_progress)
    return extract_many(manifest, kind=kind, encoders=[spec], store=store, config=settled)[0]


document(extract, EncoderSpec, ExtractConfig)


def extract_many(
    manifest: str | Path | Manifest,
    store: str | Path,
    *,
    encoders: Sequence[EncoderSpec],
    kind: str,
    config: ExtractConfig | None = None,
) -> list[ExtractResult]:
    """Encode the items of one kind with several encoders; each image is decoded once.

    Every encoder has a set of its own, with the same rows as if it had been alone, bit for bit.
    So has every layer of an ``EncoderSpec("timm:…", layers=("blocks.3", "blocks.5"))``, and one
    forward pass serves all of them.

    Parameters
    ----------
    manifest, store, kind
        As for `extract`.
    encoders : sequence of EncoderSpec
    config : ExtractConfig, optional

    Returns
    -------
    list of ExtractResult
        One a set, in the order of encoders and layers.

    Raises
    ------
    FeatstoreError
        As for `extract`.

    Examples
    --------
    >>> def lengths(texts):
    ...     return np.array([[len(text), 1.0] for text in texts])
    >>> both = [EncoderSpec(lengths, space={"name": f"lengths-{i}"}) for i in (1, 2)]
    >>> birds = toy_manifest("birds", 4, captions=True)
    >>> [done.new for done in extract_many(birds, "store", encoders=both, kind="caption")]
    [4, 4]
    """
    source = manifest if isinstance(manifest, Manifest) else read_manifest(Path(manifest))
    return run_logged(Job(source, kind, encoders, store, config or ExtractConfig()))


def run_logged(job: Job) -> list[ExtractResult]:
    """Open a job and run it in this process; errors are logged, too."""
    with contextlib.closing(JobLog(job.config.log)) as log, contextlib.closing(job):
        try:
            return run_job(job.open(begin=True), log)
        except BaseException as err:
            log.write("error", error=type(err).__name__, message=" ".join(str(err).split()))
            raise


def run_job(job: Job, log: JobLog) -> list[ExtractResult]:
    """Make the sets of an open job that are not there, and the thumbnails."""
    log.write("started", store=str(job.folder), items=job.items.height, settings=job.settings())
    for target in job.targets:
        target.mend()
    found = {target.spec.set_id: target.finished() for target in job.targets}
    results = {set_id: done for set_id, done in found.items() if done is not None}
    missing = [target for target in job.targets if target.spec.set_id not in results]
    if missing:
        results |= encode_sets(job, missing, log)
    if job.thumbnails and not job.config.part:
        if job.bucket is not None:
            job.bucket.fetch_thumbnails(job.targets[0].spec.key)
        skip = set().union(*(result.failures for result in results.values()))
        draw_thumbnails(job, skip=skip)
    if job.bucket is not None and not job.config.part:
        retry = job.config.retry_failed
        for target in job.targets:
            ended = job.bucket.publish(target.spec, job.file, retry_failed=retry)
            results |= {target.spec.set_id: ended} if ended else {}
    ordered = [results[target.spec.set_id] for target in job.targets]
    for result in ordered:
        summary = {k: v for k, v in result.as_dict().items() if not isinstance(v, dict | list)}
        log.write("finished", **summary)
    return ordered

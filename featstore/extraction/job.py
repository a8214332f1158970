"""Extract embeddings: open the items and encoders of a job, and run it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from featstore.command_line import StorePlace
from featstore.decoding.pool import RESIZE_RULE, RULE, decode_on_gpu
from featstore.durable import local_folder
from featstore.encoders.base import AUTO, Encoder
from featstore.encoders.golden import cosine_of, enlarged_golden
from featstore.encoders.object_encoder import ObjectEncoder
from featstore.errors import EmptySelectionError, EncoderError, ManifestError, needs_extra
from featstore.extraction.bucket import open_bucket
from featstore.extraction.options import (
    EncoderSpec,
    ExtractConfig,
    settle_device,
    settle_options,
)
from featstore.extraction.progress import ExtractResult, JobLog, Progress
from featstore.extraction.run import encode_sets
from featstore.extraction.targets import Job, make_targets
from featstore.extraction.views import draw_view, source_item, view_items, views_dataset
from featstore.images import (
    SCALED_RULE,
    SCALED_SIDE,
    Geometry,
    ImageError,
    decode_image,
    thumbnail_webp,
)
from featstore.manifest.io import read_manifest
from featstore.manifest.manifest import Manifest
from featstore.options import document
from featstore.remote.objects import parse_address
from featstore.sources.reader import ByteReader
from featstore.store.tables import read_thumbnails, write_thumbnails


def job_items(source: Manifest, kind: str, config: ExtractConfig) -> tuple[str, pl.DataFrame]:
    """Return the dataset and the item table that a job is about.

    Raises
    ------
    ManifestError
        If the manifest has no items of this kind, or views are asked for of what is no image.
    EmptySelectionError
        If there is no item.
    """
    items = source.items(kind)
    items = items if config.limit is None else items.head(config.limit)
    if items.is_empty():
        raise EmptySelectionError(f"Manifest {source.name} has no {kind} item to extract.")
    if not config.views:
        return source.name, items
    if kind != "image":
        raise ManifestError(f"Only images have views; {kind} items have none. Leave views out.")
    dataset = views_dataset(source.name, config.views, config.seed)
    return dataset, view_items(items, views=config.views, seed=config.seed)


def open_choices(choices: Sequence[EncoderSpec], kind: str, config: ExtractConfig) -> list[Encoder]:
    """Open the encoders of a job; layers of one model share it.

    Raises
    ------
    UnknownEncoderError
        If a name means none; looked at before any weights are read.
    EncoderError
        If one cannot be built, does not take items of this kind, or takes no such option.
    """
    from featstore.encoders.registry import check_kind, check_options

    if not choices:
        raise EncoderError("An extraction needs at least one encoder.")
    for choice in choices:
        if isinstance(choice.encoder, str):
            check_kind(choice.encoder, kind)
            check_options(choice.encoder, **choice.model_options())
        elif choice.space is None:
            raise EncoderError(
                "An encoder object needs space={...}: the facts that identify its space."
            )
    opened: list[Encoder] = []
    for choice in choices:
        pairs = zip(choices, opened, strict=False)
        like: Any = next((one for other, one in pairs if choice.shares_pass(other)), None)
        opened.append(like.beside(choice.pool) if like else _open(choice, kind, config))
    for encoder in opened if kind == "image" and not config.usual_pixels else ():
        record_pixels(encoder, config)
    return opened


def default_threads(choices: Sequence[EncoderSpec]) -> int | None:
    """Return the threads that torch would run on, or None where no encoder of ours needs it."""
    from featstore.encoders.registry import FAMILIES, family_of

    named = [choice.encoder for choice in choices if isinstance(choice.encoder, str)]
    if not any(FAMILIES.is_ours(family_of(name)) for name in named):
        return None
    with needs_extra("Encoding with a named encoder"):
        import torch

    return torch.get_num_threads()


def _open(choice: EncoderSpec, kind: str, config: ExtractConfig) -> Encoder:
    encoder: Encoder
    if not isinstance(choice.encoder, str):
        encoder = ObjectEncoder(choice.encoder, space=choice.space or {}, kinds=frozenset({kind}))
        return encoder if kind != "image" else with_pixels(encoder, config)
    from featstore.encoders.registry import open_encoder

    encoder = open_encoder(
        choice.encoder,
        kind=kind,
        weights=choice.weights,
        device=config.device,
        # What a precision is best depends on the encoder and the set: see `make_targets`.
        precision="float32" if config.precision == AUTO else config.precision,
        **choice.model_options(),
        compile=config.compile,
    )
    return encoder if kind != "image" else with_pixels(encoder, config)


def with_pixels(encoder: Any, config: ExtractConfig) -> Any:
    """Return an encoder of images as it is opened for these pixels: others make another space.

    Raises
    ------
    EncoderError
        If the encoder has a transform of its own that has to be run as it is, or sees more of a
        picture than scaled decoding leaves.
    """
    if config.usual_pixels:
        return encoder
    usual: Geometry | None = getattr(encoder, "geometry", None)
    if config.resize != "pillow" and usual is None:
        raise EncoderError(
            f"{encoder.name} prepares pictures in a way of its own, so {config.resize} cannot "
            "resize them. Leave resize out."
        )
    if config.decode == "scaled" and usual is not None and min(usual.resize) > SCALED_SIDE:
        raise EncoderError(
            f"{encoder.name} sees pictures of {min(usual.resize)} pixels, and scaled decoding "
            f"leaves {SCALED_SIDE} of a shorter side. Leave decode out."
        )
    keyed = encoder.space.setdefault("preprocessing", {})
    rule = {"gpu": RULE, "scaled": SCALED_RULE}.get(config.decode)
    if rule is not None:
        keyed.setdefault("decode", {})["jpeg"] = rule
    if usual is not None and (config.decode == "gpu" or config.resize != "pillow"):
        # Where others decode: the same pixels for those that are prepared one by one, and in runs.
        device = config.device if config.decode == "gpu" else "cpu"
        encoder.geometry = replace(usual, resizer="torchvision", device=device)
        if "geometry" in encoder.space:  # of an object
            encoder.space["geometry"] = encoder.geometry.facts()
        here = "torchvision, antialiased, on uint8"
        keyed["resizer"] = RESIZE_RULE if config.decode == "gpu" else here
    return encoder


def record_pixels(encoder: Any, config: ExtractConfig) -> None:
    """Note in an encoder's facts how far its pixels turn its vectors from those of the default's.

    Smallest and mean cosine over the golden pictures, enlarged eight times and saved as JPEG.
    """
    geometry: Geometry | None = getattr(encoder, "geometry", None)
    files = enlarged_golden()
    if config.decode == "gpu":
        pictures = [decode_on_gpu(file, config.device) for file in files]
    else:
        pictures = [decode_image(file, scaled=config.decode == "scaled") for file in files]
    ours = encoder.encode([encoder.prepare(picture) for picture in pictures])
    if geometry is not None:
        encoder.geometry = replace(geometry, resizer="pillow")
    usual = encoder.encode([encoder.prepare(decode_image(file)) for file in files])
    if geometry is not None:
        encoder.geometry = geometry
    compute = encoder.facts.setdefault("compute", {})
    compute["cosine_to_usual_pixels"] = cosine_of(ours, usual).as_dict()


def complete_thumbnails(job: Job, *, skip: Collection[str]) -> None:
    """Draw the thumbnails that an interrupted job, or one without them, did not leave."""
    directory = job.store / job.dataset / job.kind
    have = read_thumbnails(directory)
    job.source.check_files(job.items.filter(~pl.col("item_id").is_in([*have, *skip])))
    small: dict[str, bytes] = {}
    with ByteReader(job.source.root) as reader:
        for item in job.items.iter_rows(named=True):
            if item["item_id"] in have or item["item_id"] in skip:
                continue
            try:
                image = decode_image(reader.read(source_item(item)), **job.accepted)
            except (ImageError, OSError):
                continue  # an image without a picture is shown by its id
            small[item["item_id"]] = thumbnail_webp(draw_view(image, item))
    # Without a new one, too: a job that was stopped may not have listed, or united, what it wrote.
    write_thumbnails(directory, small)


logger = logging.getLogger(__name__)


def extract(
    manifest: str | Path | Manifest,
    *,
    kind: str,
    encoder: str | EncoderSpec | Any,
    store: str | Path,
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
    kind : str
        ``image``, ``caption`` or ``class_name``; heads go through `extract_head`.
    encoder : str, EncoderSpec or object
        ``family:name``, or any object with ``encode(list of PIL images or str) -> (b, d)``,
        which then needs `space`. Several at once: `extract_many`.
    store : path or address
        The store, made if missing. Of a bucket (``s3://``, ``gs://``, ``az://``) blocks are sent as
        they are done; see `featstore.extraction.bucket`.
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
    >>> extract(birds, kind="caption", encoder=lengths, space=space, store="store").new
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
    *,
    kind: str,
    encoders: Sequence[EncoderSpec],
    store: str | Path,
    config: ExtractConfig | None = None,
) -> list[ExtractResult]:
    """Encode the items of one kind with several encoders; each image is decoded once.

    Every encoder has a set of its own, with the same rows as if it had been alone, bit for bit.
    So has every layer of an ``EncoderSpec("timm:…", layers=("blocks.3", "blocks.5"))``, and one
    forward pass serves all of them.

    Parameters
    ----------
    manifest, kind, store
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
    >>> [done.new for done in extract_many(birds, kind="caption", encoders=both, store="store")]
    [4, 4]
    """
    requested = config or ExtractConfig()
    with contextlib.closing(JobLog(requested.log)) as log, _log_errors(log):
        job = open_job(manifest, kind=kind, encoders=encoders, store=store, config=requested)
        return run_job(job, log)


def job_store(store: str | Path) -> StorePlace:
    """Return a store as other processes find it: the address of a bucket, or an absolute path."""
    address = parse_address(store)
    return local_folder(store).absolute() if isinstance(address, Path) else address.url


def open_job(
    manifest: str | Path | Manifest,
    *,
    kind: str,
    encoders: Sequence[EncoderSpec],
    store: str | Path,
    config: ExtractConfig,
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
    bucket = open_bucket(store, config.staging)
    folder = bucket.staging if bucket else local_folder(store)
    source = manifest if isinstance(manifest, Manifest) else read_manifest(Path(manifest))
    dataset, items = job_items(source, kind, config)
    choices = [one for spec in encoders for one in spec.each_layer()]
    config = settle_device(config, choices)
    found = list(opened) if opened is not None else open_choices(choices, kind, config)
    targets = make_targets(
        dataset,
        items,
        kind=kind,
        opened=zip(choices, found, strict=True),
        store=folder,
        config=config,
        bucket=bucket,
    )
    for target in targets:
        target.prepare()
    if opened is None and config.device_reason and config.device != "cpu":
        # Which sets they are, only open encoders say; on another device they would begin anew.
        begun = set().union(*(target.begun_devices() for target in targets))
        if begun == {"cpu"}:
            there = replace(config, device="cpu", device_reason="these sets were begun on it")
            return open_job(source, kind=kind, encoders=choices, store=store, config=there)
    threads = config.threads or default_threads(choices)
    return Job(source, dataset, kind, items, folder, config, targets, threads, bucket=bucket)


def run_job(job: Job, log: JobLog) -> list[ExtractResult]:
    """Make the sets of an open job that are not there, and the thumbnails."""
    log.write("started", store=str(job.store), items=job.items.height, settings=job.settings())
    found = {target.spec.set_id: target.finished() for target in job.targets}
    results = {set_id: done for set_id, done in found.items() if done is not None}
    missing = [target for target in job.targets if target.spec.set_id not in results]
    if missing:
        results |= encode_sets(job, missing, log)
    if job.thumbnails and not job.config.part:
        if job.bucket is not None:
            job.bucket.fetch_thumbnails(job.targets[0].spec.key)
        skip = set().union(*(result.failures for result in results.values()))
        complete_thumbnails(job, skip=skip)
    for target in () if job.config.part else job.targets:
        ended = target.publish()
        results |= {target.spec.set_id: ended} if ended else {}
    ordered = [results[target.spec.set_id] for target in job.targets]
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

"""Extract embeddings: run a job, encode and write its sets, and complete and repair what it leaves.

A repair asks first the store, then another copy, if one is named (`featstore.store.verify`): what
they give has the hash that the commit states. What is left the extraction itself makes again, with
``repair``: damaged blocks are pending then, the others stay, and a new revision is published.
Where the encoder gives the same bits as before, that is the same revision, byte for byte.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from featstore.address import parse_address
from featstore.durable import local_folder
from featstore.encoders.base import golden_inputs
from featstore.errors import AlreadyFinishedError, EncoderError, StoreWriteError
from featstore.extraction.batches import BatchRunner, StageClock, Tracker
from featstore.extraction.opening import (
    GOLDEN_FILE,
    Golden,
    require_same_encoder,
)
from featstore.extraction.options import (
    MODEL_OPTIONS,
    EncoderSpec,
    ExtractConfig,
    ExtractResult,
    Progress,
    mapping_of,
    recorded_choice,
    settle_options,
    tell_how,
    typed_options,
)
from featstore.extraction.pipeline import (
    BlockTask,
    FailureLimit,
    Preparation,
    encode_blocks,
)
from featstore.extraction.targets import Job, Target, check_free_space
from featstore.images import (
    ImageError,
    decode_image,
    draw_view,
    source_item,
    thumbnail_webp,
)
from featstore.manifest import Manifest, read_manifest
from featstore.options import document
from featstore.sources.reader import ByteReader
from featstore.store import BLOCK_ROWS
from featstore.store.layout import LayoutLimits, SetKey
from featstore.store.listing import whole_commit
from featstore.store.log import resolve_set
from featstore.store.store import FeatureStore, open_store
from featstore.store.tables import read_thumbnails, write_thumbnails
from featstore.store.verify import Repair, rebuild_set, repair_log
from featstore.store.writer import SetWriter, WriteOptions, tidy_set


def encode_sets(job: Job, targets: Sequence[Target]) -> dict[str, ExtractResult]:
    """Make these sets; return set_id -> result.

    Sets whose blocks have the same rows share one pass.
    """
    results: dict[str, ExtractResult] = {}
    with ByteReader(job.source.root) as reader, contextlib.ExitStack() as stack:
        # Layout and dtype are checked, and disks measured, before anything is written.
        for target in targets:
            _prepare_set(job, target)
        if job.config.pinned is None:
            tell_how(say_how(job, {target.spec.set_id: target.settings for target in targets}))
        if not job.config.part:  # of parts, `settle` looks once for all
            new = [target for target in targets if not target.repair]
            check_free_space(job.folder, [target.state() for target in new])
        for encoder in (target.encoder for target in targets):
            if (check := getattr(encoder, "check_head", None)) is not None:
                check([encoder.prepare(item) for item in golden_inputs(encoder.kinds)])
        opened: list[Target] = []
        for target in targets:
            done = _open_writer(job, target, stack)
            if done is not None:
                results[target.spec.set_id] = done
                continue
            base = target.writer.base
            if base is not None and GOLDEN_FILE not in base.lost:
                key = str(target.spec.key)
                require_same_encoder(target.golden, key, base.directory, base.commit)
            target.known = target.known_rows(target.golden)
            opened.append(target)
        shapes = [
            (one.writer.layout.block_rows, [p.start for p in one.writer.layout.parts],
             number * (one.writer.items is not job.items))
            for number, one in enumerate(opened)
        ]  # fmt: skip
        for shape in sorted({repr(shape): shape for shape in shapes}.values()):
            group = [one for one, own in zip(opened, shapes, strict=True) if own == shape]
            results |= _run_pass(job, group, reader)
    return results


def _prepare_set(job: Job, target: Target) -> None:
    """Make the writer, with batch size and threads settled.

    Raises
    ------
    EncoderError
        If the job's plan has no such set.
    """
    config, pinned = job.config, job.config.pinned
    if pinned is not None and target.spec.set_id not in pinned:
        raise EncoderError(
            f"The plan of the job has no {target.spec.key}, in {target.spec.precision} as "
            f"{config.device} settled it. Give every worker one `precision=`, and run the same "
            "command again."
        )
    settings = settle_settings(job, target) if pinned is None else dict(pinned[target.spec.set_id])
    target.settings = settings
    target.writer = SetWriter(
        job.folder,
        target.spec,
        job.file,
        target.encoder.dim,
        facts=target.facts(),
        # What a repair has staged is not taken for an extension, and goes on as a repair.
        plan={"settings": {**settings, "repair": True} if target.repair else settings},
        options=WriteOptions(
            config.retry_failed,
            repair=target.repair,
            part=config.part,
            wait=config.wait,
        ),
        limits=LayoutLimits(block_rows=config.block_rows),
    )
    target.runner = BatchRunner(
        target.encoder,
        settings["batch"],
        device=config.device,
        threads=settings["threads"],
    )
    target.golden = Golden(target.encoder, settings["threads"])


def settle_settings(job: Job, target: Target) -> dict[str, Any]:
    """Return batch size, threads and device type, on which the bits of a row depend."""
    config = job.config
    # Not which of several equal devices: they share the blocks of a set.
    device = config.device.partition(":")[0]
    # On another device the bits of a row differ.
    begun = next((one for one in target.begun_settings() if one.get("device") == device), {})
    return {
        "batch": config.batch_size or begun.get("batch") or target.encoder.batch_size,
        "threads": config.threads or begun.get("threads") or job.threads,
        "device": device,
    }


def say_how(job: Job, settings: Mapping[str, Mapping[str, Any]]) -> str:
    """Return in one line where and how sets are encoded, and why.

    Parameters
    ----------
    job : Job
    settings : mapping
        set_id -> what `settle_settings` returned, for the sets that are not finished.

    Returns
    -------
    str
        Empty where no encoder of torch has anything to do.
    """
    targets = [target for target in job.targets if target.spec.set_id in settings]
    targets = [target for target in targets if hasattr(target.encoder, "precision_reason")]
    if not targets:
        return ""
    device, why = job.config.device, job.config.device_reason or "as asked for"
    reasons: dict[str, str] = {}
    for target in targets:
        reasons.setdefault(target.spec.precision, target.encoder.precision_reason)  # type: ignore[attr-defined]
    own = [settings[target.spec.set_id] for target in targets]
    batches = " and ".join(dict.fromkeys(str(one["batch"]) for one in own))
    precisions = ", ".join(f"in {name} ({reason})" for name, reason in reasons.items())
    return (
        f"Encoding on {device} ({why}), {precisions}, batches of {batches}, "
        f"threads: {own[0]['threads']}."
    )


def _open_writer(job: Job, target: Target, stack: contextlib.ExitStack) -> ExtractResult | None:
    """Claim the set; return its result if another process has finished it meanwhile."""
    try:
        stack.enter_context(target.writer)
        pending = set(target.writer.pending())
        if job.bucket is not None:
            shared = job.bucket.blocks(target.writer, job.file, job.config, target.settings)
            target.shared = stack.enter_context(shared)
            if job.config.part is None:
                shared.agree(target.golden)
            pending = shared.settle(publishes=job.config.part is None)
        target.pending = frozenset(pending)
    except AlreadyFinishedError:
        done = target.finished()
        if done is None:
            raise
        return done
    return None


def _run_pass(job: Job, sets: list[Target], reader: ByteReader) -> dict[str, ExtractResult]:
    """Encode every pending block once for all sets that lack it, and publish the sets."""
    clock = StageClock()
    tracker = Tracker(
        clock,
        rows_total=sum(one.writer.layout.n for one in sets),
        rows_done=sum(one.n_done_at_start() for one in sets),
        encoders=len(sets),
    )
    limit = _failure_limit(job, sets, tracker)
    limit.check()
    on_part, on_progress = job.config.on_part, job.config.on_progress

    def count(rows: int) -> None:
        tracker.advance(rows, encoded=True)
        if on_part is None:
            tell_how(tracker.first_bottleneck())
            if on_progress is not None:
                on_progress(tracker.progress())

    with Preparation(
        reader,
        [one.runner for one in sets],
        workers=job.workers,
        pool=job.decoders(),
        accepted=job.accepted,
        clock=clock,
    ) as preparation:
        for output in encode_blocks(_tasks(sets), preparation, on_failure=limit.add, on_rows=count):
            for number, one in enumerate(sets):
                if output.number not in one.pending:
                    continue
                with clock.measure("write"):
                    tracker.advance(one.write(output, number), encoded=False)
                if job.config.on_block is not None:
                    job.config.on_block(output.number)
    if on_part is not None:
        on_part(clock.counted, tracker.failures)
    run = {"seconds": round(tracker.elapsed, 3), "settings": job.settings()}
    results = {}
    for one in sets:
        results[one.spec.set_id] = one.end_part() if job.config.part else one.finish(run)
    return results


def _tasks(sets: Sequence[Target]) -> Iterator[BlockTask]:
    """Yield every block that some set lacks."""
    for block in sorted(frozenset().union(*(one.pending for one in sets))):
        items = sets[0].writer.items[sets[0].writer.layout.block_slice(block)]
        yield BlockTask(block, items, [one.needed(block) for one in sets])


def _failure_limit(job: Job, sets: Sequence[Target], tracker: Tracker) -> FailureLimit:
    before: dict[str, str] = {}
    tried_again = 0
    for one in sets:
        before |= one.new_failures_before()
        if one.writer.base is not None:
            base = one.writer.base
            tried_again = max(tried_again, int((~base.kept & base.commit.failed_rows()).sum()))
    tracker.failures = set(before)
    config = job.config
    if config.max_failures is None and any(one.repair for one in sets):
        # What was embedded must be again; only what failed before may fail.
        config = replace(config, max_failures=tried_again)
    return FailureLimit(
        str(sets[0].spec.key), job.items.height, config, before=before, known=tried_again,
        on_failure=lambda item, _: tracker.failures.add(item),
    )  # fmt: skip


def draw_thumbnails(job: Job, *, skip: Collection[str], side: int = 96) -> None:
    """Draw the thumbnails that are not there, of images that could be encoded."""
    directory = job.folder / job.dataset / job.kind
    left = job.items.filter(~pl.col("item_id").is_in([*read_thumbnails(directory), *skip]))
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
    return run_job(Job(source, kind, encoders, store, config or ExtractConfig()).open())


def run_job(job: Job) -> list[ExtractResult]:
    """Make the sets of an open job that are not there, and the thumbnails."""
    results: dict[str, ExtractResult] = {}
    missing: list[Target] = []
    for target in job.targets:
        target.mend()
        finished = target.finished()
        if finished is None:
            missing.append(target)
        else:
            tidy_set(job.folder, target.spec.key)
            results[target.spec.set_id] = finished
    if missing:
        results |= encode_sets(job, missing)
    if job.config.thumbnails and job.kind == "image" and not job.config.part:
        if job.bucket is not None:
            job.bucket.fetch_thumbnails(job.targets[0].spec.key)
        skip = set().union(*(result.failures for result in results.values()))
        draw_thumbnails(job, skip=skip)
    if job.bucket is not None and not job.config.part:
        retry = job.config.retry_failed
        for target in job.targets:
            folder = target.shared.folder if target.shared else ""
            other = job.bucket.publish(target.spec, job.file, retry_failed=retry, ended=folder)
            results |= {target.spec.set_id: other} if other else {}
    return [results[target.spec.set_id] for target in job.targets]


def repair_set(
    root: str | Path, key: str, *, copy: str | Path | None = None, dry_run: bool = False
) -> Repair:
    """Repair a damaged set, as far as that needs no encoder.

    Parameters
    ----------
    root : path
        The store.
    key : str
        The set; a short name will do.
    copy : path or address, optional
        Another store that has the same revision of the set: what is damaged here is taken from
        there, block by block, if it has the hash that the commit states.
    dry_run : bool
        Write nothing.

    Raises
    ------
    UnknownSetError, AmbiguousSetError
        If no set, or several, have this name; or the other copy has none of it.
    StoreWriteError
        If another process is writing the set, or the file system refuses.
    RemoteStoreError
        If the other copy cannot be reached.

    Examples
    --------
    >>> repair_set("store", "birds/image/resnet50", copy="s3://team/birds")  # doctest: +SKIP
    """
    root = local_folder(root)
    name = resolve_set(root, key)
    other = None if copy is None else open_copy(root, copy)
    done = rebuild_set(root, name, copy=other, dry_run=dry_run)
    set_key = SetKey(*name.split("/"))
    if any(problem.path.startswith(f"{set_key.dataset}/") for problem in done.left):
        commit = whole_commit(root, set_key, log=repair_log(root, dry_run=True))
        attributes: Mapping[str, Any] = {} if commit is None else commit.attributes
        done.commands = next_commands(root, set_key, attributes)
    return done


def open_copy(root: Path, copy: str | Path) -> FeatureStore:
    """Open the store to repair from.

    Raises
    ------
    StoreWriteError
        If it is the store that is to be repaired.
    UnknownSetError, RemoteStoreError
        If it is no store, or cannot be reached.
    """
    place = parse_address(copy)
    if isinstance(place, Path) and place.exists() and place.samefile(root):
        raise StoreWriteError(
            f"{copy} is the store that is to be repaired. Name another copy of it."
        )
    return open_store(copy)


def next_commands(root: Path, key: SetKey, attributes: Mapping[str, Any]) -> list[str]:
    """Return what to type to make a damaged set whole: any one of them, the best first.

    Parameters
    ----------
    attributes : mapping
        What its commit says; empty if nothing says what its blocks are: then the set must be
        removed and made again.
    """
    encoder = str(attributes.get("encoder") or key.encoder.rsplit("-", 1)[0].replace(".", ":", 1))
    choice = recorded_choice(key.directory(root), encoder, local="FOLDER")
    found = [
        f"headstock store repair {_quote(root)} {key} --copy ADDRESS"
        if str(key) in repair_log(root, dry_run=True).sets
        else f"headstock store pull ADDRESS {_quote(root)} --select {key}"
    ]
    remove = f"headstock store rm {_quote(root)} {key} --yes"
    place = f"--kind {key.kind} --encoder {_quote(encoder)} --store {_quote(root)}"
    provenance = mapping_of(attributes.get("space")).get("provenance")
    if provenance == "derived":
        made = mapping_of(mapping_of(attributes.get("facts")).get("derived"))
        source, how = (_quote(made.get(name, name.upper())) for name in ("key", "by"))
        again = f"headstock store derive {_quote(root)} {source} --by {how}"
        return [*found, f"{remove} && {again} --name {_quote(encoder)}"]
    if provenance == "imported":
        source = mapping_of(attributes.get("facts")).get("source", "FILE")
        again = f"headstock import {_quote(source)} --dataset {key.dataset} {place}"
        return [*found, f"{remove} && {again}"]
    if encoder.startswith("object:"):
        how = "hs.extract(..., encoder=...%s)" % (", repair=True" if attributes else "")
        return [*found, f"python: {how}" if attributes else f"{remove}; then in python: {how}"]
    given = {name: getattr(choice, name) for name in MODEL_OPTIONS}
    requested = {name: value for name, value in given.items() if value is not None}
    typed = "".join(f" -s {_quote(f'{name}={value}')}" for name, value in requested.items())
    typed += f" --weights {_quote(choice.weights)}" if choice.weights else ""
    typed += "" if key.kind == "head_weight" else typed_options(key.directory(root))
    again = f"headstock extract MANIFEST {place}{typed}"
    return [*found, f"{again} --repair" if attributes else f"{remove} && {again}"]


def _quote(value: Any) -> str:
    return shlex.quote(str(value))

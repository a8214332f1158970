"""Encode and write the sets of a job."""

from __future__ import annotations

import contextlib
import functools
import sys
import timeit
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from featstore.encoders.golden import golden_images, golden_inputs
from featstore.errors import AlreadyFinishedError, EncoderError
from featstore.extraction.batches import (
    BatchRunner,
    settle_batch_size,
    sorting_window,
    torch_threads,
)
from featstore.extraction.golden_check import (
    GOLDEN_FILE,
    Golden,
    require_same_encoder,
)
from featstore.extraction.options import tell_how
from featstore.extraction.pipeline import (
    BlockOutput,
    BlockTask,
    FailureLimit,
    Preparation,
    encode_blocks,
)
from featstore.extraction.progress import (
    BlockDone,
    ExtractResult,
    JobLog,
    StageClock,
    Tracker,
    ignore,
)
from featstore.extraction.targets import Job, Target, check_free_space
from featstore.images import Geometry
from featstore.parallel import gains_from_bf16
from featstore.sources.reader import ByteReader
from featstore.store.layout import LayoutLimits
from featstore.store.writer import SetWriter, WriteOptions


def encode_sets(job: Job, targets: Sequence[Target], log: JobLog) -> dict[str, ExtractResult]:
    """Make these sets; return set_id -> result.

    Sets whose blocks have the same rows share one pass; only sets of an earlier layout, and texts
    that are sorted over other numbers of blocks, do not.
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
            _check_golden(target, log)
            target.known = target.known_rows(target.golden)
            opened.append(target)
        shapes = [
            (one.writer.layout.block_rows, one.window, [p.start for p in one.writer.layout.parts],
             number * (one.writer.items is not job.items))
            for number, one in enumerate(opened)
        ]  # fmt: skip
        for shape in sorted({repr(shape): shape for shape in shapes}.values()):
            group = [one for one, own in zip(opened, shapes, strict=True) if own == shape]
            results |= _run_pass(job, group, reader, log)
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
            part_blocks=target.window,
            wait=config.wait,
        ),
        limits=LayoutLimits(block_rows=config.block_rows),
    )
    target.runner = BatchRunner(
        target.encoder,
        settings["batch"],
        device=config.device,
        halve=config.may_halve,
        threads=settings["threads"],
    )
    target.golden = Golden(target.encoder, settings["threads"])


def settle_settings(job: Job, target: Target) -> dict[str, Any]:
    """Return batch size, threads, device type and window, on which the bits of a row depend."""
    config = job.config
    # Not which of several equal devices: they share the blocks of a set.
    device = config.device.partition(":")[0]
    # On another device the bits of a row differ.
    begun = next((one for one in target.begun_settings() if one.get("device") == device), {})
    threads = config.threads or begun.get("threads") or job.threads
    begun_batch = begun.get("batch")
    with torch_threads(threads):
        batch = settle_batch_size(
            target.encoder,
            config.batch_size,
            begun=begun_batch if isinstance(begun_batch, int) else None,
            device=config.device,
        )
    # What was begun or recorded without a window is sorted block by block.
    window = begun.get("window") or (1 if begun else sorting_window(
        target.encoder, batch, items=job.items.height, block_rows=config.block_rows
    ))  # fmt: skip
    settings = {"batch": batch, "threads": threads, "device": device}
    return settings | ({"window": window} if window > 1 else {})


def say_how(job: Job, settings: Mapping[str, Mapping[str, Any]]) -> str:
    """Return in one line where and how sets are encoded, why, and what would be faster.

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
    on_gpu = device.startswith("cuda")
    faster = [] if on_gpu else ["a GPU"]
    if "float32" in reasons and (on_gpu or gains_from_bf16()):
        faster.append("`precision=bfloat16`, which makes another set")
    if not faster and job.config.batch_size is None:
        faster.append("a larger batch, which `batch_size=auto` looks for")
    return (
        f"Encoding on {device} ({why}), {precisions}, batches of {batches}, "
        f"threads: {own[0]['threads']}."
        + (f" May be faster: {'; '.join(faster)}." if faster else "")
    )


def _open_writer(job: Job, target: Target, stack: contextlib.ExitStack) -> ExtractResult | None:
    """Claim the set; return its result if another process has finished it meanwhile."""
    try:
        stack.enter_context(target.writer)
        pending = set(target.writer.pending())
        if job.bucket is not None:
            retry = job.config.retry_failed
            shared = job.bucket.blocks(target.writer, job.file, target.settings, retry=retry)
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


def _check_golden(target: Target, log: JobLog) -> None:
    base, key = target.writer.base, str(target.spec.key)
    if base is None or GOLDEN_FILE in base.lost:
        return
    cosine = require_same_encoder(target.golden, key, base.directory, base.commit)
    log.write("golden", key=key, cosine=cosine)


def _run_pass(
    job: Job, sets: list[Target], reader: ByteReader, log: JobLog
) -> dict[str, ExtractResult]:
    """Encode every pending block once for all sets that lack it, and publish the sets."""
    clock = StageClock()
    tracker = Tracker(
        clock,
        rows_total=sum(one.writer.layout.n for one in sets),
        rows_done=sum(one.n_done_at_start() for one in sets),
        encoders=len(sets),
        workers=job.workers,
        device=job.config.device,
    )
    limit = _failure_limit(job, sets, tracker, log)
    limit.check()
    on_step, on_progress = job.config.on_step, job.config.on_progress
    geometry, resizing = sets[0].runner.geometry, None
    # Where no encoder has loaded it, importing torch for a line takes seconds and 200 MB.
    if geometry is not None and job.config.usual_pixels and "torchvision" in sys.modules:
        resizing = partial(resizing_gain, geometry)

    def count(rows: int) -> None:
        tracker.advance(rows, encoded=True)
        if on_step is not None:
            on_step(tracker.step())
            return
        tell_how(tracker.first_bottleneck(resizing))
        if on_progress is not None:
            on_progress(tracker.progress())

    with Preparation(
        reader,
        [one.runner for one in sets],
        workers=job.workers,
        pool=job.early.pop() if job.early else job.decoders(),
        gpu=job.config.device if job.config.decode == "gpu" else None,
        accepted=job.accepted,
        clock=clock,
    ) as preparation:
        outputs = encode_blocks(_tasks(job, sets), preparation, on_failure=limit.add, on_rows=count)
        for output in _blocks(outputs, sets[0]):
            for number, one in enumerate(sets):
                if output.number not in one.pending:
                    continue
                with clock.measure("write"):
                    tracker.advance(one.write(output, number), encoded=False)
                _tell_block(job, one, output.number, output.truncated[number], tracker, log)
    run = {
        "seconds": round(tracker.elapsed, 3),
        "shares": tracker.shares(),
        "settings": job.settings(),
    }
    results = {}
    for one in sets:
        results[one.spec.set_id] = one.end_part() if job.config.part else one.finish(run)
    log.write("pass", seconds=run["seconds"], **vars(tracker.progress()))
    return results


@functools.cache
def resizing_gain(geometry: Geometry) -> float:
    """Return how many times as fast as Pillow torchvision resizes a photograph here, on a thread.

    Measured once a process.
    """
    image, seconds = golden_images()[0].resize((640, 480)), []
    with torch_threads(1):
        for resizer in ("torchvision", "pillow"):
            resize = partial(replace(geometry, resizer=resizer).data, image)
            resize()  # what is imported once
            seconds.append(min(timeit.repeat(resize, number=1, repeat=5)))
    return seconds[1] / seconds[0]


def _tasks(job: Job, sets: Sequence[Target]) -> Iterator[BlockTask]:
    """Yield every block that some set lacks, or the window that it is in."""
    layout, window = sets[0].writer.layout, sets[0].window
    pending = frozenset().union(*(one.pending for one in sets))
    for first in sorted({block - block % window for block in pending}):
        blocks = range(first, min(first + window, layout.n_blocks))
        rows = slice(layout.block_slice(first).start, layout.block_slice(blocks[-1]).stop)
        asked = [np.concatenate([one.needed(block) for block in blocks]) for one in sets]
        # A set that lacks none of them takes no part: of one that does, the texts of all meet.
        needed = [
            np.concatenate([one.encoded(block) for block in blocks]) & own.any()
            for one, own in zip(sets, asked, strict=True)
        ]
        items = sets[0].writer.items[rows]
        job.source.check_files(items)
        yield BlockTask(first, items, needed, asked)


def _blocks(outputs: Iterable[BlockOutput], target: Target) -> Iterator[BlockOutput]:
    """Yield the blocks of which windows consist."""
    if target.window == 1:
        yield from outputs
        return
    layout, every = target.writer.layout, target.writer.items["item_id"]
    for output in outputs:
        blocks = range(output.number, min(output.number + target.window, layout.n_blocks))
        base = layout.block_slice(output.number).start
        for block in blocks:
            rows = layout.block_slice(block)
            ids = set(every[rows.start : rows.stop])
            yield replace(
                output,
                number=block,
                rows=[own[rows.start - base : rows.stop - base] for own in output.rows],
                truncated=[[item for item in own if item in ids] for own in output.truncated],
            )


def _failure_limit(job: Job, sets: Sequence[Target], tracker: Tracker, log: JobLog) -> FailureLimit:
    before: dict[str, str] = {}
    tried_again = 0
    for one in sets:
        before |= one.new_failures_before()
        if one.writer.base is not None:
            base = one.writer.base
            tried_again = max(tried_again, int((~base.kept & base.commit.failed_rows()).sum()))
    tracker.failures = set(before)
    key = str(sets[0].spec.key)

    def note(item: str, reason: str) -> None:
        tracker.failures.add(item)
        log.write("failure", key=key, item_id=item, reason=reason)

    config = job.config
    if config.max_failures is None and any(one.repair for one in sets):
        # What was embedded must be again; only what failed before may fail.
        config = replace(config, max_failures=tried_again)
    return FailureLimit(
        key, job.items.height, config, before=before, known=tried_again, on_failure=note
    )


def _tell_block(
    job: Job,
    target: Target,
    block: int,
    truncated: list[str],
    tracker: Tracker,
    log: JobLog,
) -> None:
    """Log a block that was written, and tell the caller."""
    layout, key = target.writer.layout, str(target.spec.key)
    rows_done = layout.block_slice(block).stop
    done = BlockDone(key, rows_done, layout.n, len(target.writer.failures))
    progress = tracker.progress()
    if truncated:
        log.write("truncated", key=done.key, block=block, items=truncated)
    log.write(
        "block",
        key=done.key,
        block=block,
        rows_done=done.rows_done,
        rows_total=done.rows_total,
        failed=done.failed,
        per_second=round(progress.per_second, 2),
        shares=progress.shares,
    )
    (job.config.on_block or ignore)(done)

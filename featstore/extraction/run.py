"""Encode and write the sets of a job."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from featstore.encoders.golden import golden_cosine
from featstore.errors import AlreadyFinishedError, EncoderError
from featstore.extraction.batches import (
    BatchRunner,
    remember_size,
    settle_batch_size,
    sorting_window,
    torch_threads,
)
from featstore.extraction.golden_check import (
    GOLDEN_FILE,
    Golden,
    require_same_encoder,
    run_facts,
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
from featstore.extraction.targets import Job, KnownRows, Target, check_free_space
from featstore.parallel import gains_from_bf16
from featstore.sources.reader import ByteReader
from featstore.store.layout import LayoutLimits
from featstore.store.tables import write_thumbnails
from featstore.store.writer import SetWriter, WriteOptions

if TYPE_CHECKING:
    from featstore.extraction.bucket import SharedBlocks


@dataclass
class SetInProgress:
    """The writer of one set, and the rows that it takes from elsewhere."""

    target: Target
    writer: SetWriter
    runner: BatchRunner
    golden: Golden
    settings: dict[str, Any]
    known: KnownRows | None = None
    shared: SharedBlocks | None = None
    pending: frozenset[int] = frozenset()
    count_left: bool = False
    new: int = 0
    copied: int = 0
    truncated: list[str] = field(default_factory=list)

    def needed(self, block: int) -> np.ndarray:
        """Return a boolean for each row of a block: whether it is to be encoded."""
        return self.encoded(block) & (block in self.pending)

    def encoded(self, block: int) -> np.ndarray:
        """Return the same, as if nothing had been encoded before."""
        kept = self.writer.kept(block)
        if self.target.repair and block not in self.pending:
            # What a repair leaves alone was sorted together with what it makes.
            kept = np.zeros_like(kept)
        return np.asarray(~kept & ~self._copies(block))

    @property
    def window(self) -> int:
        """Blocks over which texts are sorted by length."""
        return int(self.settings.get("window", 1))

    def n_done_at_start(self) -> int:
        """Return how many rows were done when this began."""
        layout = self.writer.layout
        lacking = sum(
            layout.block_slice(block).stop - layout.block_slice(block).start
            for block in self.pending
        )
        return int(layout.n - lacking)

    def new_failures_before(self) -> dict[str, str]:
        """Return what failed in an interrupted attempt, without what an earlier revision has."""
        base = self.writer.base
        old = {} if base is None else base.failures
        return {item: why for item, why in self.writer.failures.items() if item not in old}

    def write(self, output: BlockOutput, number: int) -> int:
        """Write a block that is pending; return how many rows came without encoding.

        Parameters
        ----------
        output : BlockOutput
        number : int
            Of this set's encoder among those of the output.
        """
        block = output.number
        where = self.writer.layout.block_slice(block)
        rows = output.rows[number]
        copies, needed = self._copies(block), self.needed(block)
        if self.known is not None and copies.any():
            rows[copies] = self.known.read(where.start + np.flatnonzero(copies))
        lost = output.failures
        if lost:
            ids = self.target.items["item_id"][where.start : where.stop].filter(pl.Series(needed))
            lost = {item: lost[item] for item in ids if item in lost}
        self.writer.write_block(block, rows, lost)
        if self.shared is not None:
            self.shared.send(block)
        self.new += int(needed.sum()) - len(lost)
        self.copied += int(copies.sum())
        self.truncated += output.truncated[number]
        return int((~needed).sum())

    def finish(self, run: dict[str, Any]) -> ExtractResult:
        """Publish the set."""
        if self.shared is not None:
            self.shared.drain(publishes=True)
        result = self._result()  # whose failures the writer knows until it has published
        facts = run_facts(self.target.encoder.facts, device=self.target.config.device)
        # Of the run: another device or library gives another cosine for the same set.
        cosine = golden_cosine(self.target.encoder)
        if cosine is not None:
            facts["golden_cosine_to_float32"] = cosine.as_dict()
        revision = self.writer.finish(
            golden=self.golden.document(),
            run={
                **facts,
                **self.settings,
                **run,
                # Of several encoders, asked for auto, each has its own.
                "settings": {**run["settings"], "precision": self.target.spec.precision},
                "encoded": self.new,
                "copied": self.copied,
                "truncated": len(self.truncated),
            },
        )
        return replace(result, revision_id=revision)

    def end_part(self) -> ExtractResult:
        """Make what was written durable, and say what is left; nothing is published."""
        self.writer.sync()
        left: Collection[int] = self.writer.left() if self.count_left or self.shared else ()
        if self.shared is not None:
            self.shared.drain(publishes=False)
            left = set(left) - self.shared.there().keys()
        return replace(self._result(), blocks_left=len(left))

    def _result(self) -> ExtractResult:
        failures = self.writer.failures
        return ExtractResult(
            key=str(self.writer.key),
            reused=self.writer.layout.n - self.new - len(failures),
            new=self.new,
            failed=len(failures),
            revision_id="",
            failures=failures,
            truncated=len(self.truncated),
            copied=self.copied,
            truncated_items=self.truncated,
        )

    def _copies(self, block: int) -> np.ndarray:
        rows = self.writer.layout.block_slice(block)
        if self.known is None:
            return np.zeros(rows.stop - rows.start, dtype=bool)
        return np.asarray(self.known.has(rows) & ~self.writer.kept(block))


def encode_sets(job: Job, targets: Sequence[Target], log: JobLog) -> dict[str, ExtractResult]:
    """Make these sets; return set_id -> result.

    Sets whose blocks have the same rows share one pass; only sets of an earlier layout, and texts
    that are sorted over other numbers of blocks, do not.
    """
    results: dict[str, ExtractResult] = {}
    with ByteReader(job.source.root) as reader, contextlib.ExitStack() as stack:
        # Layout and dtype are checked, and disks measured, before anything is written.
        sets = [_prepare_set(job, target) for target in targets]
        if job.config.pinned is None:
            tell_how(say_how(job, {one.target.spec.set_id: one.settings for one in sets}))
        if not job.config.part:  # of parts, `Worker.settle` looks once for all
            new = [target for target in targets if not target.repair]
            check_free_space(job.store, [target.state() for target in new])
        for one in sets:
            one.golden.check_head()
        opened: list[SetInProgress] = []
        for one in sets:
            done = _open_writer(job, one, stack)
            if done is not None:
                results[one.target.spec.set_id] = done
                continue
            _check_golden(one, log)
            one.known = one.target.known_rows(one.golden)
            opened.append(one)
        shapes = [(one.writer.layout.block_rows, one.window) for one in opened]
        for shape in sorted(set(shapes)):
            group = [one for one, own in zip(opened, shapes, strict=True) if own == shape]
            results |= _run_pass(job, group, reader, log)
    return results


def _prepare_set(job: Job, target: Target) -> SetInProgress:
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
            f"{config.device} settled it. Give every worker one --precision, and run the same "
            "command again."
        )
    settings = settle_settings(job, target) if pinned is None else dict(pinned[target.spec.set_id])
    writer = SetWriter(
        job.store,
        target.spec,
        target.file,
        target.encoder.dim,
        facts=target.facts(job.source),
        # What a repair has staged is not taken for an extension, and goes on as a repair.
        plan={"settings": {**settings, "repair": True} if target.repair else settings},
        options=WriteOptions(
            config.retry_failed,
            repair=target.repair,
            part=config.part,
            part_blocks=int(settings.get("window", 1)),
            wait=config.wait,
            hold=job.bucket is not None,
        ),
        limits=LayoutLimits(block_rows=config.block_rows),
    )
    runner = BatchRunner(
        target.encoder,
        settings["batch"],
        device=config.device,
        halve=config.may_halve,
        threads=settings["threads"],
    )
    golden = Golden(target.encoder, settings["threads"])
    return SetInProgress(target, writer, runner, golden, settings, count_left=job.count_left)


def settle_settings(job: Job, target: Target) -> dict[str, Any]:
    """Return batch size, threads, device type and window, on which the bits of a row depend."""
    config = job.config
    begun = target.begun_settings()
    threads = config.threads or begun.get("threads") or job.threads
    begun_batch = begun.get("batch")
    with torch_threads(threads):
        batch = settle_batch_size(
            target.encoder,
            config.batch_size,
            begun=begun_batch if isinstance(begun_batch, int) else None,
            device=config.device,
            precision=target.spec.precision,
        )
    # What was begun or recorded without a window is sorted block by block.
    window = config.window or begun.get("window") or (1 if begun else sorting_window(
        target.encoder, batch, items=job.items.height, block_rows=config.block_rows
    ))  # fmt: skip
    # Not which of several equal devices: they share the blocks of a set.
    settings = {"batch": batch, "threads": threads, "device": config.device.partition(":")[0]}
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
        faster.append("--precision bfloat16, which makes another set")
    if not faster and job.config.batch_size is None:
        faster.append("a larger batch, which --batch-size auto looks for")
    return (
        f"Encoding on {device} ({why}), {precisions}, batches of {batches}, "
        f"threads: {own[0]['threads']}."
        + (f" May be faster: {'; '.join(faster)}." if faster else "")
    )


def _open_writer(job: Job, one: SetInProgress, stack: contextlib.ExitStack) -> ExtractResult | None:
    """Claim the set; return its result if another process has finished it meanwhile."""
    try:
        stack.enter_context(one.writer)
        pending = set(one.writer.pending())
        if job.bucket is not None:
            retry = job.config.retry_failed
            shared = job.bucket.blocks(one.writer, one.target.file, one.settings, retry=retry)
            one.shared = stack.enter_context(shared)
            if job.config.part is None:
                shared.agree(one.golden)
            pending = shared.settle(publishes=job.config.part is None)
        one.pending = frozenset(pending)
    except AlreadyFinishedError:
        done = one.target.finished()
        if done is None:
            raise
        return done
    return None


def _check_golden(one: SetInProgress, log: JobLog) -> None:
    base = one.writer.base
    if base is None or GOLDEN_FILE in base.lost:
        return
    cosine = require_same_encoder(one.golden, str(one.writer.key), base.directory, base.commit)
    log.write("golden", key=str(one.writer.key), cosine=cosine)


def _run_pass(
    job: Job, sets: list[SetInProgress], reader: ByteReader, log: JobLog
) -> dict[str, ExtractResult]:
    """Encode every pending block once for all sets that lack it, and publish the sets."""
    clock = StageClock()
    tracker = Tracker(
        clock,
        rows_total=sum(one.writer.layout.n for one in sets),
        rows_done=sum(one.n_done_at_start() for one in sets),
        encoders=len(sets),
        workers=job.workers,
    )
    limit = _failure_limit(job, sets, tracker, log)
    limit.check()
    on_progress = job.config.on_progress or ignore
    if job.config.part:
        on_progress(tracker.progress())  # how much of the set this part has to do

    def count(rows: int) -> None:
        tracker.advance(rows, encoded=True)
        if on_progress is not ignore:
            on_progress(tracker.progress())

    small: dict[str, bytes] = {}
    with Preparation(
        reader,
        [one.runner for one in sets],
        workers=job.workers,
        decode_timeout=job.config.decode_timeout,
        gpu=job.config.device if job.config.decode == "gpu" else None,
        scaled=job.config.decode == "scaled",
        accepted=job.accepted,
        thumbnail=job.thumbnails,
        clock=clock,
    ) as preparation:
        outputs = encode_blocks(_tasks(job, sets), preparation, on_failure=limit.add, on_rows=count)
        for output in _blocks(outputs, sets[0]):
            small.update(output.thumbnails)
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
        if one.runner.limit < one.runner.size:
            remember_size(
                one.target.encoder,
                one.runner.limit,
                device=job.config.device,
                precision=one.target.spec.precision,
            )
        results[one.target.spec.set_id] = one.end_part() if job.config.part else one.finish(run)
    if small:
        write_thumbnails(job.store / job.dataset / job.kind, small)
    log.write("pass", seconds=run["seconds"], **tracker.progress().as_dict())
    return results


def _tasks(job: Job, sets: Sequence[SetInProgress]) -> Iterator[BlockTask]:
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
        items = job.items[rows]
        job.source.check_files(items)
        yield BlockTask(first, items, needed, asked)


def _blocks(outputs: Iterable[BlockOutput], one: SetInProgress) -> Iterator[BlockOutput]:
    """Yield the blocks of which windows consist."""
    if one.window == 1:
        yield from outputs
        return
    layout = one.writer.layout
    for output in outputs:
        blocks = range(output.number, min(output.number + one.window, layout.n_blocks))
        base = layout.block_slice(output.number).start
        for block in blocks:
            rows = layout.block_slice(block)
            ids = set(one.target.items["item_id"][rows.start : rows.stop])
            yield replace(
                output,
                number=block,
                rows=[own[rows.start - base : rows.stop - base] for own in output.rows],
                truncated=[[item for item in own if item in ids] for own in output.truncated],
            )


def _failure_limit(
    job: Job, sets: Sequence[SetInProgress], tracker: Tracker, log: JobLog
) -> FailureLimit:
    before: dict[str, str] = {}
    tried_again = 0
    for one in sets:
        before |= one.new_failures_before()
        if one.writer.base is not None:
            base = one.writer.base
            tried_again = max(tried_again, int((~base.kept & base.commit.failed_rows()).sum()))
    tracker.failed = len(before)
    key = str(sets[0].writer.key)

    def note(item: str, reason: str) -> None:
        tracker.failed += 1
        log.write("failure", key=key, item_id=item, reason=reason)

    return FailureLimit(
        key, job.items.height, job.config, before=before, known=tried_again, on_failure=note
    )


def _tell_block(
    job: Job,
    one: SetInProgress,
    block: int,
    truncated: list[str],
    tracker: Tracker,
    log: JobLog,
) -> None:
    """Log a block that was written, and tell the caller."""
    layout, key = one.writer.layout, str(one.writer.key)
    rows_done = layout.block_slice(block).stop
    done = BlockDone(key, rows_done, layout.n, len(one.writer.failures))
    progress: dict[str, Any] = tracker.progress().as_dict()
    if truncated:
        log.write("truncated", key=done.key, block=block, items=truncated)
    log.write(
        "block",
        key=done.key,
        block=block,
        rows_done=done.rows_done,
        rows_total=done.rows_total,
        failed=done.failed,
        per_second=round(progress["per_second"], 2),
        shares=progress["shares"],
    )
    (job.config.on_block or ignore)(done)

"""From files to rows: prefetch, decode, encode, with failures kept apart.

Batches are fixed slots by row inside the block, for each encoder by itself; a failed item keeps
its slot, so that neither which other items are bad nor which other encoders run beside it
changes the bits of a good row. Reading, decoding and preparing run ahead, across the borders of
blocks, while the encoders work: pictures of encoders that state a geometry in runs, all else item
by item in threads. Texts need no reading and cannot fail: they are tokenized in runs, and sorted
into batches by length. Nothing here knows about the store: a process of its own can encode blocks
as well.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import compress, groupby
from types import MappingProxyType, TracebackType
from typing import Any, Self

import numpy as np
import polars as pl

from featstore.decoding import Decoded, DecodePool, Feed, Reader
from featstore.encoders.base import TEXT_KINDS, prepare_many
from featstore.errors import TooManyFailuresError
from featstore.extraction.batches import (
    IN_FLIGHT,
    LOOKAHEAD,
    Batch,
    Batches,
    BatchRunner,
    Runs,
    StageClock,
    use_device,
)
from featstore.extraction.options import ExtractConfig, ignore
from featstore.images import (
    LEFT_OUT,
    VIEW_ID,
    ImageError,
    decode_image,
    draw_view,
    source_item,
)


class Preparation:
    """Reads, decodes and prepares items in threads; a context manager.

    Parameters
    ----------
    reader : Reader
    runners : sequence of BatchRunner
        The encoders.
    workers : int
        Threads, and processes that decode.
    pool : DecodePool, optional
        Processes that decode, so that a crash or a hang costs one image; ended with this. None
        decodes in the threads.
    accepted : mapping
        ``formats``, ``max_pixels`` and ``scaled`` of `featstore.images.decode_image`, for threads.
    clock : StageClock, optional
    """

    def __init__(
        self,
        reader: Reader,
        runners: Sequence[BatchRunner],
        *,
        workers: int,
        pool: DecodePool | None = None,
        accepted: Mapping[str, Any] = MappingProxyType({}),
        clock: StageClock | None = None,
    ) -> None:
        self.runners = runners
        self.takes_texts = bool(TEXT_KINDS & runners[0].encoder.kinds)
        self.clock = clock or StageClock()
        self._reader = reader
        self.threads = ThreadPoolExecutor(workers, "prepare")
        self._encoding = {
            number: ThreadPoolExecutor(IN_FLIGHT, "encode", use_device, (runner.device,))
            for number, runner in enumerate(runners)
            if runner.overlaps
        }
        self._room = {number: threading.BoundedSemaphore(IN_FLIGHT) for number in self._encoding}
        self._accepted = accepted
        self._workers, self._pool = workers, pool
        self._runs: Runs | None = None
        self._begun = False

    def begin(self, items: pl.DataFrame) -> Runs | None:
        """Start what prepares items like these; return the runs, if it is by runs."""
        if self._begun or not items["uri"].count():
            return self._runs
        self._begun = True
        given = [runner.geometry for runner in self.runners]
        known = VIEW_ID not in items.columns and None not in given
        feed = Feed(self._reader, tuple(dict.fromkeys(filter(None, given))))
        if known and self._pool is not None and self._pool.memory is not None:
            self._runs = Runs(self.runners, feed, self._workers, self._pool)
        return self._runs

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for pool in (self.threads, *self._encoding.values()):
            pool.shutdown(wait=True, cancel_futures=True)
        if self._pool is not None:
            self._pool.close()

    def prepare_texts(self, texts: list[str]) -> Decoded:
        """Prepare texts for each encoder."""
        return Decoded(prepared=[prepare_many(one.encoder, texts) for one in self.runners])

    def encode(self, numbers: Sequence[int], batch: list[Any]) -> Future[np.ndarray]:
        """Return the vectors to come of a batch: at once, unless the encoder overlaps.

        Waits while as many batches of the encoder are under way as may be.

        Parameters
        ----------
        numbers : sequence of int
            Of the encoder; or of several that one pass serves: their vectors stand side by side.
        batch : list
        """
        number, several = numbers[0], len(numbers) > 1
        layers = [self.runners[one].encoder for one in numbers] if several else ()
        if number in self._encoding:
            with self.clock.measure("forward"):
                self._room[number].acquire()
            future = self._encoding[number].submit(self.runners[number].encode, batch, layers)
            future.add_done_callback(lambda _: self._room[number].release())
            return future
        done: Future[np.ndarray] = Future()
        with self.clock.measure("forward"):
            done.set_result(self.runners[number].encode(batch, layers))
        return done

    def prepare(self, records: list[dict[str, Any]]) -> Decoded:
        """Prepare items that share one image for each encoder."""
        try:
            data = self._reader.read(source_item(records[0]))
            image = (
                decode_image(data, **self._accepted) if self._pool is None
                else self._pool.submit(data).result()
            )  # fmt: skip
            made = [self._for_each(draw_view(image, record)) for record in records]
            return Decoded(prepared=[list(of_one) for of_one in zip(*made, strict=True)])
        except (ImageError, OSError) as err:
            failures = dict.fromkeys(range(len(records)), str(err))
            return Decoded(failures, prepared=[[None] * len(records)] * len(self.runners))

    def _for_each(self, item: Any) -> tuple[Any, ...]:
        first = {runner.pass_key: runner.encoder for runner in self.runners}
        made = {key: encoder.prepare(item) for key, encoder in first.items()}
        return tuple(made[runner.pass_key] for runner in self.runners)


#: A task, rows of it, and what comes of them.
_Entry = tuple["BlockTask", list[int], Any]

#: Texts that are prepared by one call of a tokenizer.
TEXT_RUN = 256


@dataclass(frozen=True)
class BlockTask:
    """A block to encode.

    Attributes
    ----------
    number : int
        Of the block.
    items : DataFrame
        All items of the block.
    needed : sequence of boolean ndarrays of shape (rows of the block,)
        One an encoder: the rows that it is to encode.
    """

    number: int
    items: pl.DataFrame
    needed: Sequence[np.ndarray]


@dataclass
class BlockOutput:
    """Embeddings of a block.

    Attributes
    ----------
    number : int
        Of the block.
    rows : list of ndarray of shape (rows of the block, d)
        One an encoder, float32; NaN where nothing was asked for, and where an item failed.
    failures : dict
        item_id -> reason.
    truncated : list of list of str
        item_ids of the texts that were cut, one list an encoder.
    """

    number: int
    rows: list[np.ndarray]
    failures: dict[str, str] = field(default_factory=dict)
    truncated: list[list[str]] = field(default_factory=list)


def encode_blocks(
    tasks: Iterable[BlockTask],
    preparation: Preparation,
    *,
    on_failure: Callable[[str, str], object] = ignore,
    on_rows: Callable[[int], object] = ignore,
) -> Iterator[BlockOutput]:
    """Encode blocks one after the other, preparing the next while one is encoded.

    Parameters
    ----------
    tasks : iterable of BlockTask
        Taken as needed.
    preparation : Preparation
        With the encoders.
    on_failure : callable
        Called with item_id and reason as soon as an item fails; what it raises ends the job.
    on_rows : callable
        Called with the number of vectors that a batch has added.

    Yields
    ------
    BlockOutput
        In the order of the tasks.
    """
    block: _Block | None = None
    under_way: deque[_Block] = deque()

    def done(most: int) -> Iterator[BlockOutput]:
        while under_way and (len(under_way) > most or under_way[0].encoded()):
            yield under_way.popleft().finish()

    def flushed(block: _Block) -> Iterator[BlockOutput]:
        for _ in block.flush():
            yield from done(1)
        under_way.append(block)

    for task, rows, coming in _prepared(tasks, preparation):
        if block is None or block.task is not task:
            if block is not None:
                yield from flushed(block)
            yield from done(1)
            block = _Block(task, preparation, on_failure, on_rows)
        block.add_run(rows, coming)
        yield from done(1)
    if block is not None:
        yield from flushed(block)
    yield from done(0)


class _Block:
    """A block under way."""

    def __init__(
        self,
        task: BlockTask,
        preparation: Preparation,
        on_failure: Callable[[str, str], object],
        on_rows: Callable[[int], object],
    ) -> None:
        self.task = task
        self._ids = task.items["item_id"].to_list()
        self._runners = preparation.runners
        self._preparation = preparation
        self._clock = preparation.clock
        self._under_way: deque[tuple[Future[np.ndarray], list[int], np.ndarray, list[int]]] = (
            deque()
        )
        self._batches = [Batches(runner) for runner in self._runners]
        self._on_failure, self._on_rows = on_failure, on_rows
        self._output = BlockOutput(
            task.number,
            [
                np.full((len(self._ids), runner.encoder.dim), np.nan, dtype=np.float32)
                for runner in self._runners
            ],
            truncated=[[] for _ in self._runners],
        )

    def add_run(self, rows: list[int], coming: Callable[[], Decoded] | None) -> None:
        """Begin the batches that the next items fill, once they are prepared."""
        if coming is None:
            return
        with self._clock.measure("wait"):
            found = coming()
        for place, reason in found.failures.items():
            item = self._ids[rows[place]]
            self._output.failures[item] = reason
            self._on_failure(item, reason)
        full: list[tuple[int, Batch]] = []
        for number, batches in enumerate(self._batches):
            mine, prepared = rows, found.prepared[number]
            needed = self.task.needed[number][rows]
            if not needed.all():
                mine = list(compress(rows, needed))
                prepared = list(compress(prepared, needed))
            is_truncated = getattr(self._runners[number].encoder, "is_truncated", None)
            if is_truncated is not None:
                self._output.truncated[number] += [
                    self._ids[row]
                    for row, text in zip(mine, prepared, strict=True)
                    if is_truncated(text)
                ]
            full += [(number, batch) for batch in batches.add(mine, prepared)]
        for one in self._passes(full):
            self._encode(*one)

    def flush(self) -> Iterator[None]:
        """Begin what is left, a batch at each step: there are no more items."""
        left = [(n, batch) for n, own in enumerate(self._batches) for batch in own.flush()]
        for one in self._passes(left):
            self._encode(*one)
            yield

    def _passes(
        self, batches: Iterable[tuple[int, Batch]]
    ) -> Iterable[tuple[list[int], list[int], list[Any]]]:
        """Return batches by passes: equal ones of layers of a model are one."""
        found: dict[Any, tuple[list[int], list[int], list[Any]]] = {}
        for number, (rows, prepared) in batches:
            key = self._runners[number].pass_key, tuple(rows)
            found.setdefault(key, ([], rows, prepared))[0].append(number)
        return found.values()

    def encoded(self) -> bool:
        """Say whether every batch that was begun is encoded."""
        return all(future.done() for future, *_ in self._under_way)

    def finish(self) -> BlockOutput:
        """Wait for what is under way."""
        while self._under_way:
            with self._clock.measure("forward"):
                self._under_way[0][0].exception()
            self._collect()
        return self._output

    def _encode(self, numbers: list[int], rows: list[int], prepared: list[Any]) -> None:
        good = [index for index, one in enumerate(prepared) if one is not None]
        if not good:
            self._on_rows(len(numbers) * len(rows))
            return
        # A failed slot is filled with the first good item: same shape, ignored row.
        filled = [prepared[good[0]] if one is None else one for one in prepared]
        future = self._preparation.encode(numbers, filled)
        self._under_way.append((future, numbers, np.asarray(rows), good))
        self._collect()

    def _collect(self) -> None:
        """Take what is encoded, in order."""
        while self._under_way and self._under_way[0][0].done():
            future, numbers, rows, good = self._under_way.popleft()
            encoded, start = future.result(), 0
            for number in numbers:
                own = self._output.rows[number]
                own[rows[good]] = encoded[good, start : (start := start + own.shape[1])]
                self._on_rows(len(rows))


def _prepared(tasks: Iterable[BlockTask], preparation: Preparation) -> Iterator[_Entry]:
    """Yield the items of each task as they are being prepared, some batches ahead."""
    texts = preparation.takes_texts
    usual = LOOKAHEAD * max(runner.size for runner in preparation.runners)
    queue: deque[_Entry] = deque()
    pending = 0
    for task in tasks:
        rows = np.flatnonzero(np.any(task.needed, axis=0))
        if not rows.size:
            queue.append((task, [], None))
            continue
        runs = None if texts else preparation.begin(task.items)
        if runs is not None:
            # Without the columns that say nothing, which most of an item table's do.
            said = task.items[rows].select(s.name for s in task.items if s.count())
            names, items, start = tuple(said.columns), said.rows(), 0
            for part in runs.parts(rows):
                while runs.full:
                    yield queue.popleft()
                coming = runs.submit(names, items[start : (start := start + len(part))])
                queue.append((task, part.tolist(), coming))
            continue
        prepare, every, groups = _grouped(task, rows, preparation)
        # Texts are sorted over their task: the task behind is prepared while they are encoded.
        ahead = max(usual, len(rows)) if texts else usual
        for group in groups:
            future = preparation.threads.submit(prepare, [every[row] for row in group])
            queue.append((task, group, future.result))
            pending += len(group)
            while pending > ahead:
                entry = queue.popleft()
                pending -= len(entry[1])
                yield entry
    yield from queue


def _grouped(
    task: BlockTask, rows: np.ndarray, preparation: Preparation
) -> tuple[Callable[..., Decoded], list[Any], list[list[int]]]:
    """Return what prepares items, the items, and which rows it takes at once."""
    if preparation.takes_texts:
        runs = np.split(rows, range(TEXT_RUN, len(rows), TEXT_RUN))
        texts = task.items["text"].to_list()
        return preparation.prepare_texts, texts, [run.tolist() for run in runs]
    same = groupby(rows.tolist(), task.items["uri"].to_list().__getitem__)
    return preparation.prepare, task.items.to_dicts(), [list(group) for _, group in same]


class FailureLimit:
    """Counts the items that fail, and ends the job when they are too many.

    Unless a number was asked for, images do not count that an option would take.

    Parameters
    ----------
    what : str
        Key of the set, for messages.
    total : int
        Items of the job.
    config : ExtractConfig
    before : mapping
        item_id -> reason of what failed in an interrupted attempt.
    known : int
        Items of which it is known that they may fail: those that are tried again.
    on_failure : callable, optional
        Called with each.
    """

    def __init__(
        self,
        what: str,
        total: int,
        config: ExtractConfig,
        *,
        before: Mapping[str, str],
        known: int = 0,
        on_failure: Callable[[str, str], object] = ignore,
    ) -> None:
        self._what = what
        self._total = total
        allowed = config.max_failures
        self._allowed = max(10, total // 1000, known) if allowed is None else allowed
        self._forgiven = LEFT_OUT if allowed is None else None
        self._kept = f"Finished blocks of {config.block_rows:,} rows are kept."
        self._on_failure = on_failure
        self._failed = dict(before)
        self._faults = {item: why for item, why in before.items() if self._counts(why)}

    def add(self, item: str, reason: str) -> None:
        """Count an item.

        Raises
        ------
        TooManyFailuresError
            If more failed than may, or all did.
        """
        self._failed[item] = reason
        if self._counts(reason):
            self._faults[item] = reason
        self._on_failure(item, reason)
        self.check()

    def _counts(self, reason: str) -> bool:
        return self._forgiven is None or not reason.startswith(self._forgiven)

    def check(self) -> None:
        """Look at what has failed so far, in this process or before.

        Raises
        ------
        TooManyFailuresError
            If more items failed than may, or all did.
        """
        failed, all_failed = len(self._faults), len(self._failed) == self._total
        if failed <= self._allowed and not all_failed:
            return
        first, why = next(iter((self._faults or self._failed).items()))
        what = "All" if all_failed else f"{failed:,} of {self._total:,}"
        raise TooManyFailuresError(
            f"{what} items of {self._what} failed (first {first!r}: {why.rstrip('.')}); at most "
            f"{self._allowed:,} may. Fix them, or allow more with `max_failures=`. {self._kept}"
        )

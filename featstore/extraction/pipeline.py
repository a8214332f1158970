"""Blocks through the encoders: every item is read and decoded once, whoever needs it.

Batches are fixed slots by row inside the block, for each encoder by itself; a failed item keeps
its slot, so that neither which other items are bad nor which other encoders run beside it
changes the bits of a good row. Reading, decoding and preparing run ahead in threads, across the
borders of blocks, while the encoders work. Nothing here knows about the store: a process of its
own can encode blocks as well.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from featstore.extraction.batches import Batches, batches_for
from featstore.extraction.preparation import Preparation, Slot

#: Batches that are prepared ahead of the encoders.
LOOKAHEAD = 2


@dataclass(frozen=True)
class BlockTask:
    """A block to encode.

    Attributes
    ----------
    number : int
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
    thumbnails : dict
        item_id -> WebP bytes, if asked for.
    truncated : list of list of str
        item_ids of the texts that were cut, one list an encoder.
    """

    number: int
    rows: list[np.ndarray]
    failures: dict[str, str] = field(default_factory=dict)
    thumbnails: dict[str, bytes] = field(default_factory=dict)
    truncated: list[list[str]] = field(default_factory=list)


def encode_blocks(
    tasks: Iterable[BlockTask],
    preparation: Preparation,
    *,
    on_failure: Callable[[str, str], None] | None = None,
    on_rows: Callable[[int], None] | None = None,
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
    runners = preparation.runners
    ahead = LOOKAHEAD * max(runner.size for runner in runners)
    block: _Block | None = None
    under_way: deque[_Block] = deque()
    for task, rows, future in _prepared(tasks, preparation, ahead):
        if block is None or block.task is not task:
            if block is not None:
                block.flush()
                under_way.append(block)
            while under_way and (len(under_way) > 1 or under_way[0].encoded()):
                yield under_way.popleft().finish()
            block = _Block(task, preparation, on_failure, on_rows)
        with preparation.clock.measure("wait"):
            slots = future.result() if future is not None else []
        for row, slot in zip(rows, slots, strict=True):
            block.add(row, slot)
        if under_way and under_way[0].encoded():
            yield under_way.popleft().finish()
    if block is not None:
        block.flush()
        under_way.append(block)
    for one in under_way:
        yield one.finish()


def encode_block(items: pl.DataFrame, preparation: Preparation) -> BlockOutput:
    """Encode the items of one block with every encoder of a preparation."""
    everything = np.ones(items.height, dtype=bool)
    task = BlockTask(0, items, [everything] * len(preparation.runners))
    return next(encode_blocks([task], preparation))


class _Block:
    """A block under way."""

    def __init__(
        self,
        task: BlockTask,
        preparation: Preparation,
        on_failure: Callable[[str, str], None] | None,
        on_rows: Callable[[int], None] | None,
    ) -> None:
        self.task = task
        self._ids = task.items["item_id"].to_list()
        self._runners = preparation.runners
        self._preparation = preparation
        self._clock = preparation.clock
        self._under_way: deque[tuple[Future[np.ndarray], int, list[int], list[int]]] = deque()
        self._batches: list[Batches] = [
            batches_for(runner.encoder, runner.size) for runner in self._runners
        ]
        self._on_failure, self._on_rows = on_failure, on_rows
        self._output = BlockOutput(
            task.number,
            [
                np.full((len(self._ids), runner.encoder.dim), np.nan, dtype=np.float32)
                for runner in self._runners
            ],
            truncated=[[] for _ in self._runners],
        )

    def add(self, row: int, slot: Slot) -> None:
        """Take one item, and encode the batches that it fills."""
        if slot.reason:
            self._output.failures[self._ids[row]] = slot.reason
            if self._on_failure is not None:
                self._on_failure(self._ids[row], slot.reason)
        elif slot.thumbnail is not None:
            self._output.thumbnails[self._ids[row]] = slot.thumbnail
        for number, batches in enumerate(self._batches):
            if not self.task.needed[number][row]:
                continue
            prepared = None if slot.reason else slot.prepared[number]
            is_truncated = getattr(self._runners[number].encoder, "is_truncated", None)
            if is_truncated is not None and prepared is not None and is_truncated(prepared):
                self._output.truncated[number].append(self._ids[row])
            for batch in batches.add(row, prepared):
                self._encode(number, *batch)

    def flush(self) -> None:
        """Begin what is left: there are no more items."""
        for number, batches in enumerate(self._batches):
            for batch in batches.flush():
                self._encode(number, *batch)

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

    def _encode(self, number: int, rows: list[int], prepared: list[Any]) -> None:
        good = [index for index, one in enumerate(prepared) if one is not None]
        if not good:
            if self._on_rows is not None:
                self._on_rows(len(rows))
            return
        # A failed slot is filled with the first good item: same shape, ignored row.
        filled = [prepared[good[0]] if one is None else one for one in prepared]
        future = self._preparation.encode(number, filled)
        self._under_way.append((future, number, rows, good))
        self._collect()

    def _collect(self) -> None:
        """Take what is encoded, in order."""
        while self._under_way and self._under_way[0][0].done():
            future, number, rows, good = self._under_way.popleft()
            encoded = future.result()
            self._output.rows[number][[rows[index] for index in good]] = encoded[good]
            if self._on_rows is not None:
                self._on_rows(len(rows))


def _prepared(
    tasks: Iterable[BlockTask], preparation: Preparation, ahead: int
) -> Iterator[tuple[BlockTask, list[int], Future[list[Slot]] | None]]:
    """Yield the items of each task as they are being prepared, at most so many ahead."""
    queue: deque[tuple[BlockTask, list[int], Future[list[Slot]] | None]] = deque()
    pending = 0
    for task in tasks:
        wanted = np.stack([np.asarray(needed, dtype=bool) for needed in task.needed])
        items = task.items.to_dicts()
        groups = _groups(items, np.flatnonzero(wanted.any(axis=0)))
        if not groups:
            queue.append((task, [], None))
        for rows in groups:
            records = [items[row] for row in rows]
            queue.append((task, rows, preparation.submit(records, wanted[:, rows])))
            pending += len(rows)
            while pending > ahead:
                entry = queue.popleft()
                pending -= len(entry[1])
                yield entry
    yield from queue


def _groups(items: list[dict[str, Any]], rows: np.ndarray) -> list[list[int]]:
    """Return the rows in runs that share an image; each text is a run by itself."""
    groups: list[list[int]] = []
    for row in rows.tolist():
        uri = items[row].get("uri")
        if groups and uri is not None and items[groups[-1][-1]]["uri"] == uri:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups

"""Runs of pictures: prepared by processes, or on a device, and heard of once a run.

What is done here for an image is done in loops of C: a process of Python can hand out ten thousand
runs a second, but not as many images as a device takes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from featstore.decoding.pool import DecodePool, decode_batch, own_stream
from featstore.decoding.worker import Decoded, Feed, Ring, Run, reason_of
from featstore.errors import is_out_of_memory
from featstore.extraction.batches import BatchRunner, on_device, use_device
from featstore.extraction.progress import StageClock
from featstore.images import MAX_PIXELS

#: Batches of an encoder that overlaps, at once: one is encoded, one waits in the device's queue,
#: one is being copied there.
IN_FLIGHT = 3

#: Batches that are prepared ahead of the encoders.
LOOKAHEAD = 2


#: Items of a run.
RUN = 32

#: Runs of a job for each process, at least, so that none is idle while another ends.
SHARES = 4


class Runs:
    """Runs of pictures that processes read, decode, resize and crop.

    Parameters
    ----------
    runners : sequence of BatchRunner
        With a geometry each; equal ones share their pixels.
    feed : Feed
    workers : int
        Processes.
    clock : StageClock
    pool : DecodePool
    """

    def __init__(
        self,
        runners: Sequence[BatchRunner],
        feed: Feed,
        workers: int,
        clock: StageClock,
        pool: DecodePool,
    ) -> None:
        assert pool.memory is not None
        self._pool = pool
        self.geometries = feed.geometries
        self.shapes = [self.geometries.index(runner.geometry) for runner in runners]
        self._workers, self._clock = workers, clock
        size = max(runner.size for runner in runners)
        # A run at work and one that waits for each process; the runs of a batch, which are short
        # where `parts` shares a block out, for each that is encoded, waits, or is being made.
        of_batch = max(-(-size // RUN), min(size, SHARES * workers)) + 1
        self._ring = Ring.make(
            pool.memory,
            RUN,
            [geometry.shape for geometry in self.geometries],
            flying=2 * workers + LOOKAHEAD,
            spare=(IN_FLIGHT + 1) * of_batch,
        )
        pool.take_runs(feed, self._ring)

    @property
    def full(self) -> bool:
        """Whether a run must be taken before the next one is submitted."""
        return self._ring.full

    def parts(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Yield rows of a block run by run."""
        length = min(RUN, max(1, -(-len(rows) // (SHARES * self._workers))))
        for start in range(0, len(rows), length):
            yield rows[start : start + length]

    def submit(self, names: tuple[str, ...], items: list[tuple[Any, ...]]) -> Coming:
        """Prepare items; there must be room."""
        slot = self._ring.take()
        decoded = self._pool.submit_run(Run(slot, names, items))
        return Coming(lambda: self._taken(slot, len(items), decoded.result()))

    def close(self) -> None:
        """End the processes."""
        self._pool.close()

    def _taken(self, slot: int, count: int, decoded: Decoded) -> Pixels:
        self._count(decoded)
        lent = self._ring.lend(slot, count)
        for rows in lent:
            for place in decoded.failures:
                rows[place] = None
        return Pixels([lent[shape] for shape in self.shapes], decoded)

    def _count(self, decoded: Decoded) -> None:
        for stage, seconds in zip(("read", "decode", "prepare"), decoded.seconds, strict=True):
            self._clock.add(stage, seconds)


class DeviceRuns(Runs):
    """Runs of pictures that are decoded, resized and cropped on a device, on a stream of its own.

    Parameters
    ----------
    runners : sequence of BatchRunner
        With a geometry each.
    feed : Feed
    device : str
    accepted : mapping
        ``formats`` and ``max_pixels`` of `featstore.images.decode_image`.
    workers, clock
        As of `Runs`: threads that read.
    """

    def __init__(
        self,
        runners: Sequence[BatchRunner],
        feed: Feed,
        device: str,
        accepted: Mapping[str, Any],
        workers: int,
        clock: StageClock,
    ) -> None:
        self.geometries = feed.geometries
        self.shapes = [self.geometries.index(runner.geometry) for runner in runners]
        self._workers, self._clock = workers, clock
        self._there = [bool(getattr(runner.encoder, "overlaps", False)) for runner in runners]
        self._feed, self._device, self._accepted = feed, device, accepted
        self._readers = ThreadPoolExecutor(workers, thread_name_prefix="prepare")
        self._decoding = ThreadPoolExecutor(1, "prepare", use_device, (device,))
        self._flying = 0

    @property
    def full(self) -> bool:
        """Whether a run must be taken before the next one is submitted."""
        return self._flying >= IN_FLIGHT + LOOKAHEAD

    def submit(self, names: tuple[str, ...], items: list[tuple[Any, ...]]) -> Coming:
        """Prepare items; there must be room."""
        self._flying += 1
        records = [dict(zip(names, values, strict=True)) for values in items]
        files = [self._readers.submit(self._read, record) for record in records]
        found = self._decoding.submit(self._decode, files)
        return Coming(lambda: self._landed(found.result()))

    def close(self) -> None:
        """End the threads."""
        for threads in (self._readers, self._decoding):
            threads.shutdown(wait=True, cancel_futures=True)

    def _read(self, record: Mapping[str, Any]) -> bytes | str:
        try:
            with self._clock.measure("read"):
                return self._feed.reader.read(record) if self._feed.reader else ""
        except OSError as err:
            return str(err)

    def _landed(self, found: Pixels) -> Pixels:
        self._flying -= 1
        self._count(found.decoded)
        return found

    def _decode(self, files: list[Future[bytes | str]]) -> Pixels:
        """Decode the files, and make of each what the encoders see."""
        data, decoded, begun = [file.result() for file in files], Decoded(), time.perf_counter()
        rows: list[list[Any]] = [[None] * len(data) for _ in self.geometries]
        with on_device(self._device), own_stream(self._device):
            pictures = decode_batch(data, self._device, **self._accepted)
            ended = time.perf_counter()
            for place, picture in enumerate(pictures):
                if isinstance(picture, str):
                    decoded.failures[place] = picture
                    continue
                try:
                    made = [geometry.on_tensor(picture) for geometry in self.geometries]
                except RuntimeError as err:
                    sizes = [one.resized(*picture.shape[1::-1]) for one in self.geometries]
                    # A picture long and thin may be too large once it is as high as the others.
                    if is_out_of_memory(err) and max(map(prod, sizes)) <= MAX_PIXELS:
                        raise
                    decoded.failures[place] = reason_of(err)
                    continue
                for row, one in zip(rows, made, strict=True):
                    row[place] = one
        decoded.seconds = [0.0, ended - begun, time.perf_counter() - ended]
        prepared = [
            [one if one is None or there else one.cpu().numpy() for one in rows[shape]]
            for shape, there in zip(self.shapes, self._there, strict=True)
        ]
        return Pixels(prepared, decoded)


@dataclass(frozen=True)
class Coming:
    """A run that is being prepared; `result` waits for it."""

    result: Callable[[], Pixels]


@dataclass(frozen=True)
class Pixels:
    """The items of a run, prepared: for each encoder a list, None where an item failed."""

    prepared: list[list[Any]]
    decoded: Decoded

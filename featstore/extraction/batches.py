"""Batches of a job, what a device does with them, how fast, and the runs of pictures in them.

Runs are prepared by processes, or on a device, and heard of once a run. What is done here for an
image is done in loops of C: a process of Python can hand out ten thousand runs a second, but not as
many images as a device takes.
"""

from __future__ import annotations

import gc
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from math import prod
from typing import Any

import numpy as np

from featstore.decoding import Decoded, DecodePool, Feed, Ring, Run, reason_of
from featstore.encoders.base import TEXT_KINDS, Encoder, text_batches
from featstore.errors import DeviceError, is_out_of_memory
from featstore.extraction.options import Progress, Step
from featstore.images import MAX_PIXELS, Geometry, decode_batch, own_stream

logger = logging.getLogger(__name__)

#: Stages that run in worker threads, ...
IN_WORKERS = ("read", "decode", "prepare")

#: ... and those of the thread that runs the encoders, one after the other.
IN_TURN = ("wait", "forward", "write")

#: What is counted: seconds of each stage, and those in which a batch was at an encoder; items that
#: were prepared; rows that are done, and those that were encoded, in so many batches.
COUNTED = (*IN_WORKERS, *IN_TURN, "encode", "prepared", "rows", "encoded", "batches")

#: Batches of each encoder after which its speed is known.
FIRST_BATCHES = 8

#: A side limits where every other one is at least so many times as fast.
APART = 1.25


class StageClock:
    """Adds up what is `COUNTED`, over threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counted = dict.fromkeys(COUNTED, 0.0)
        self._at_work = 0
        self._since = 0.0

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the time of the block to a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - started)

    def add(self, name: str, amount: float) -> None:
        """Add seconds to a stage, or to another count."""
        with self._lock:
            self._counted[name] += amount

    def at_work(self, change: int) -> None:
        """Note that a batch goes to an encoder (1), or has come back (-1)."""
        now = time.perf_counter()
        with self._lock:
            if self._at_work:
                self._counted["encode"] += now - self._since
            self._since = now
            self._at_work += change

    def counted(self) -> dict[str, float]:
        """Return what was counted so far."""
        with self._lock:
            return dict(self._counted)


class Tracker:
    """Tells the progress: of one process, or of all workers of a job.

    Parameters
    ----------
    clock : StageClock
    rows_total, rows_done : int
        Over every set of the job; `rows_done` were there before.
    encoders, workers : int
        How many there are; workers are threads or processes that decode.
    device : str
        Of the encoders.
    processes : int
        How many run the encoders.

    Attributes
    ----------
    failures : set of str
        Items without an embedding so far.
    """

    def __init__(
        self,
        clock: StageClock,
        *,
        rows_total: int,
        rows_done: int,
        encoders: int,
        workers: int,
        device: str,
        processes: int = 1,
    ) -> None:
        self.clock = clock
        self.rows_total, self._rows_before = rows_total, rows_done
        self.failures: set[str] = set()
        self._encoders, self._device = max(1, encoders), device
        self._workers, self._processes = max(1, workers), processes
        self._started = time.monotonic()
        self._told = Step(clock.counted(), frozenset())

    def advance(self, rows: int, *, encoded: bool) -> None:
        """Count rows that are done, `encoded` ones, a batch of them, for the speed as well."""
        self.clock.add("rows", rows)
        if encoded:
            self.clock.add("batches", 1)
            self.clock.add("encoded", rows)

    def step(self) -> Step:
        """Return what was done since the last call, for `take` of another process."""
        told, now = self._told, Step(self.clock.counted(), frozenset(self.failures))
        self._told = now
        return Step(
            {name: amount - told.counted[name] for name, amount in now.counted.items()},
            now.failures - told.failures,
        )

    def take(self, step: Step) -> None:
        """Count what a worker has done."""
        self.failures |= step.failures
        for name, amount in step.counted.items():
            self.clock.add(name, amount)

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._started

    def progress(self) -> Progress:
        """Return where the job stands."""
        counted = self.clock.counted()
        speed = counted["encoded"] / max(self.elapsed, 1e-9)
        # Rows of a part that is done again come twice.
        done = min(self.rows_total, self._rows_before + int(counted["rows"]))
        return Progress(
            rows_done=done,
            rows_total=self.rows_total,
            failed=len(self.failures),
            per_second=speed / self._encoders,
            eta_seconds=(self.rows_total - done) / speed if speed else None,
            shares=self.shares(),
            bottleneck=self.bottleneck(),
        )

    def shares(self) -> dict[str, float]:
        """Return the share of each stage in the elapsed time."""
        elapsed, counted = max(self.elapsed, 1e-9), self.clock.counted()
        capacity = dict.fromkeys(IN_WORKERS, self._workers) | dict.fromkeys(
            IN_TURN, self._processes
        )
        return {
            stage: round(min(1.0, counted[stage] / (elapsed * many)), 4)
            for stage, many in capacity.items()
        }

    def first_bottleneck(self) -> str:
        """Return what limits once a few batches are encoded, and at no other time."""
        first = self.clock.counted()["batches"] == FIRST_BATCHES * self._encoders * self._processes
        return self.bottleneck() if first else ""

    def bottleneck(self) -> str:
        """Return in one sentence what limits, where something does, by what each side could do.

        Of workers that is what they have done in the time that they took, of the encoders in the
        time in which a batch was there.
        """
        counted = self.clock.counted()
        preparing = sum(counted[stage] for stage in IN_WORKERS)
        encoded = self._processes * counted["encoded"] / self._encoders
        sides = {
            "encoder": (encoded, counted["encode"]),
            "preparing": (self._workers * counted["prepared"], preparing),
            "writing to the store": (encoded, counted["write"]),
        }
        rates = {side: done / taken for side, (done, taken) in sides.items() if done and taken}
        if "encoder" not in rates:
            return "Nothing was encoded."
        slowest, *others = sorted(rates, key=lambda side: rates[side])
        said = [f"{side} {float(f'{rate:.2g}'):,.0f}" for side, rate in rates.items()]
        line = f"items/s by {self._device} and {self._workers} workers: {', '.join(said)}"
        if others and rates[others[0]] < APART * rates[slowest]:
            return f"No bottleneck; {line}."
        return f"Bottleneck: {slowest}; {line}."


#: A batch: rows of the task, and what was prepared for each; None for an item that failed.
Batch = tuple[list[int], list[Any]]


class Batches:
    """Collects the prepared items of a block into batches.

    Pictures are taken in the order of the rows, and one that failed keeps its slot. Texts are
    sorted by length, so their batches begin when all are there.

    Parameters
    ----------
    runner : BatchRunner
        With the encoder, and the items of a full batch.
    """

    def __init__(self, runner: BatchRunner) -> None:
        self._size, self._encoder = runner.size, runner.encoder
        self._rows: list[int] = []
        self._prepared: list[Any] = []

    def add(self, rows: Sequence[int], prepared: Sequence[Any]) -> list[Batch]:
        """Take the next items, None for one that failed; return the batches that are full now."""
        self._rows += rows
        self._prepared += prepared
        if TEXT_KINDS & self._encoder.kinds:
            return []
        full = len(self._rows) // self._size * self._size
        batches = [
            (self._rows[at : at + self._size], self._prepared[at : at + self._size])
            for at in range(0, full, self._size)
        ]
        del self._rows[:full], self._prepared[:full]
        return batches

    def flush(self) -> list[Batch]:
        """Return what is left at the end of the block."""
        rows, prepared = self._rows, self._prepared
        self._rows, self._prepared = [], []
        return [
            ([rows[place] for place in places], [prepared[place] for place in places])
            for places in text_batches(self._encoder, prepared, self._size)
        ]


class BatchRunner:
    """Runs one encoder on batches, in parts where a batch does not fit into memory.

    Parameters
    ----------
    encoder : Encoder
    size : int
        Items of a full batch.
    device : str
        Of the encoder.
    halve : bool
        Whether a batch that does not fit is run in parts.
    threads : int, optional
        Threads of torch: their number decides the last bits of a sum.

    Attributes
    ----------
    limit : int
        The largest part that is tried: `size`, or what was left of it.
    """

    def __init__(
        self,
        encoder: Encoder,
        size: int,
        *,
        device: str,
        halve: bool,
        threads: int | None = None,
    ) -> None:
        self.encoder = encoder
        #: What prepares items: encoders that share it take the same prepared ones.
        self.trunk = getattr(encoder, "trunk", encoder)
        #: What `prepare` does with a picture, if that is all that it does.
        geometry = getattr(encoder, "geometry", None)
        self.geometry = geometry if isinstance(geometry, Geometry) else None
        self.size = size
        self.limit = size
        self.device = device
        self._halve = halve
        #: Whether the next batches are copied to the device while one is encoded.
        self.overlaps = bool(getattr(encoder, "overlaps", False))
        # The number of threads is the process's: several that encode would set it in turn.
        self._threads = None if self.overlaps else threads

    def encode(self, batch: Sequence[Any], layers: Sequence[Any] = ()) -> np.ndarray:
        """Return (b, d) float32 of a batch in which nothing failed; or of `layers`, side by side.

        Raises
        ------
        DeviceError
            If it does not fit into memory and may not be halved, or one item alone does not.
        """
        parts = []
        start = 0
        while start < len(batch):
            part = batch[start : start + self.limit]
            encoded = self._try(part, layers)
            if encoded is None:
                continue  # with a smaller limit
            parts.append(encoded)
            start += len(part)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _try(self, part: Sequence[Any], layers: Sequence[Any]) -> np.ndarray | None:
        encoder: Any = self.encoder
        call = partial(encoder.encode_layers, layers) if layers else encoder.encode
        try:
            with torch_threads(self._threads):
                return np.asarray(call(part), dtype=np.float32)
        except (RuntimeError, MemoryError) as err:
            if not is_out_of_memory(err):
                raise
            if not self._halve or len(part) == 1:
                raise DeviceError(
                    f"{self.encoder.name} ran out of memory on {self.device} with "
                    f"{len(part):,} items at once. Take a smaller `batch_size=`."
                ) from err
        # What a failed forward pass has left is given back.
        gc.collect()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.limit = max(1, len(part) // 2)
        logger.warning(
            "%s ran out of memory with %d items; going on with %d.",
            self.encoder.name,
            len(part),
            self.limit,
        )
        return None


@contextmanager
def torch_threads(threads: int | None) -> Iterator[None]:
    """Compute the block with so many threads of torch, and leave the process's setting as it was.

    The number of threads decides how sums are split, and so the last bits of a result. None changes
    nothing, and does not load torch.
    """
    if threads is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def on_device(device: str | None) -> Iterator[None]:
    """Say in the block that preparing pictures ran out of memory: that is no fault of a picture.

    Raises
    ------
    DeviceError
        If it did.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as err:
        if not is_out_of_memory(err):
            raise
        raise DeviceError(
            f"Decoding ran out of memory on {device or 'cpu'}. Take a smaller `batch_size=`, or "
            "-s decode=cpu, which makes another embedding space."
        ) from err


def use_device(device: str | None) -> None:
    """Make a GPU the current device of this thread.

    Every thread begins on the first GPU. Waiting for an event there would make the process a
    context on it, some hundred megabytes, whichever GPU it computes on.
    """
    if device is None or not device.startswith("cuda"):
        return
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_device(torch.device(device).index or 0)


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
        # A run at work and one that waits for each process, and some for the encoders.
        shapes = [geometry.shape for geometry in self.geometries]
        self._ring = Ring.make(pool.memory, 2 * workers + LOOKAHEAD, RUN, shapes)
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

    def submit(self, names: tuple[str, ...], items: list[tuple[Any, ...]]) -> Callable[[], Decoded]:
        """Begin to prepare items; return what waits for them. There must be room."""
        slot = self._ring.take()
        decoded = self._pool.submit_run(Run(slot, names, items))
        return lambda: self._taken(slot, len(items), decoded.result())

    def close(self) -> None:
        """End the processes."""
        self._pool.close()

    def _taken(self, slot: int, count: int, decoded: Decoded) -> Decoded:
        self._count(decoded)
        found = self._ring.rows(slot, count)
        for rows in found:
            for place in decoded.failures:
                rows[place] = None
        decoded.prepared = [found[shape] for shape in self.shapes]
        return decoded

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

    def submit(self, names: tuple[str, ...], items: list[tuple[Any, ...]]) -> Callable[[], Decoded]:
        """Begin to prepare items; return what waits for them. There must be room."""
        self._flying += 1
        records = [dict(zip(names, values, strict=True)) for values in items]
        files = [self._readers.submit(self._read, record) for record in records]
        found = self._decoding.submit(self._decode, files)
        return lambda: self._landed(found.result())

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

    def _landed(self, found: Decoded) -> Decoded:
        self._flying -= 1
        self._count(found)
        return found

    def _decode(self, files: list[Future[bytes | str]]) -> Decoded:
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
        decoded.prepared = [
            [one if one is None or there else one.cpu().numpy() for one in rows[shape]]
            for shape, there in zip(self.shapes, self._there, strict=True)
        ]
        return decoded

"""Batches of a job, what a device does with them, how fast, and the runs of pictures in them.

Runs are prepared by processes, and heard of once a run. What is done here for an
image is done in loops of C: a process of Python can hand out ten thousand runs a second, but not as
many images as a device takes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from featstore.decoding import Decoded, DecodePool, Feed, Ring, Run
from featstore.encoders.base import TEXT_KINDS, Encoder, text_batches
from featstore.errors import DeviceError, is_out_of_memory
from featstore.extraction.options import Progress
from featstore.images import Geometry

#: What the thread that runs the encoders spends its time on, in words of a bottleneck.
STAGES = {"wait": "preparing items", "forward": "the encoder", "write": "writing to the store"}

#: What is counted: seconds of each stage, rows that are done, and those that were encoded.
COUNTED = (*STAGES, "rows", "encoded")

#: Rows a set after which the speed is known.
FIRST_ROWS = 256

#: Share of the time from which a stage is what limits.
MOST = 0.6


class StageClock:
    """Adds up what is `COUNTED`, of the thread that runs the encoders."""

    def __init__(self) -> None:
        self.counted = dict.fromkeys(COUNTED, 0.0)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the time of the block to a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.counted[stage] += time.perf_counter() - started


class Tracker:
    """Tells the progress: of one process, or of all workers of a job.

    Parameters
    ----------
    clock : StageClock
    rows_total, rows_done : int
        Over every set of the job; `rows_done` were there before.
    encoders : int
        How many there are.

    Attributes
    ----------
    failures : set of str
        Items without an embedding so far.
    """

    def __init__(
        self, clock: StageClock, *, rows_total: int, rows_done: int, encoders: int
    ) -> None:
        self.clock = clock
        self.rows_total, self._rows_before = rows_total, rows_done
        self.failures: set[str] = set()
        self._encoders = max(1, encoders)
        self._started = time.monotonic()
        self._said = False

    def advance(self, rows: int, *, encoded: bool) -> None:
        """Count rows that are done, `encoded` ones for the speed as well."""
        self.take({"rows": rows, "encoded": rows * encoded})

    def take(self, counted: Mapping[str, float], failures: Iterable[str] = ()) -> None:
        """Count what was done, here or by a worker."""
        self.failures.update(failures)
        for name, amount in counted.items():
            self.clock.counted[name] += amount

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._started

    def progress(self) -> Progress:
        """Return where the job stands."""
        counted = self.clock.counted
        speed = counted["encoded"] / max(self.elapsed, 1e-9)
        # Rows of a part that is done again come twice.
        done = min(self.rows_total, self._rows_before + int(counted["rows"]))
        return Progress(
            rows_done=done,
            rows_total=self.rows_total,
            failed=len(self.failures),
            per_second=speed / self._encoders,
            eta_seconds=(self.rows_total - done) / speed if speed else None,
            bottleneck=self.bottleneck(),
        )

    def first_bottleneck(self) -> str:
        """Return what limits once some rows are encoded, and at no other time."""
        if self._said or self.clock.counted["encoded"] < FIRST_ROWS * self._encoders:
            return ""
        self._said = True
        return self.bottleneck()

    def bottleneck(self) -> str:
        """Return in one sentence what takes most of the time, or nothing if nothing does.

        Items are prepared and, on a GPU, encoded meanwhile: what the thread waits for is slower
        than the rest.
        """
        spent = {stage: self.clock.counted[stage] for stage in STAGES}
        slowest, whole = max(spent, key=lambda stage: spent[stage]), sum(spent.values())
        if not whole or spent[slowest] < MOST * whole:
            return ""
        return f"Bottleneck: {STAGES[slowest]}, {spent[slowest] / whole:.0%} of the time."


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
    """Runs one encoder on batches.

    Parameters
    ----------
    encoder : Encoder
    size : int
        Items of a full batch.
    device : str
        Of the encoder.
    threads : int, optional
        Threads of torch: their number decides the last bits of a sum.
    """

    def __init__(
        self,
        encoder: Encoder,
        size: int,
        *,
        device: str,
        threads: int | None = None,
    ) -> None:
        self.encoder = encoder
        #: What encoders share that one pass serves: they take the same prepared items.
        self.pass_key = getattr(encoder, "pass_key", id(encoder))
        #: What `prepare` does with a picture, if that is all that it does.
        geometry = getattr(encoder, "geometry", None)
        self.geometry = geometry if isinstance(geometry, Geometry) else None
        self.size = size
        self.device = device
        #: Whether the next batches are copied to the device while one is encoded.
        self.overlaps = bool(getattr(encoder, "overlaps", False))
        # The number of threads is the process's: several that encode would set it in turn.
        self._threads = None if self.overlaps else threads

    def encode(self, batch: Sequence[Any], layers: Sequence[Any] = ()) -> np.ndarray:
        """Return (b, d) float32 of a batch in which nothing failed; or of `layers`, side by side.

        Raises
        ------
        DeviceError
            If it does not fit into memory.
        """
        encoder: Any = self.encoder
        call = partial(encoder.encode_layers, layers) if layers else encoder.encode
        try:
            with torch_threads(self._threads):
                return np.asarray(call(batch), dtype=np.float32)
        except (RuntimeError, MemoryError) as err:
            if not is_out_of_memory(err):
                raise
            raise DeviceError(
                f"{encoder.name} ran out of memory on {self.device} with {len(batch):,} items at "
                "once. Take a smaller `batch_size=`."
            ) from err


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
    pool : DecodePool
    """

    def __init__(
        self,
        runners: Sequence[BatchRunner],
        feed: Feed,
        workers: int,
        pool: DecodePool,
    ) -> None:
        assert pool.memory is not None
        self._pool = pool
        self.shapes = [feed.geometries.index(runner.geometry) for runner in runners]
        self._workers = workers
        # A run at work and one that waits for each process, and some for the encoders.
        shapes = [geometry.shape for geometry in feed.geometries]
        self._ring = Ring(pool.memory, 2 * workers + LOOKAHEAD, RUN, shapes)
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

    def _taken(self, slot: int, count: int, decoded: Decoded) -> Decoded:
        found = self._ring.rows(slot, count)
        for rows in found:
            for place in decoded.failures:
                rows[place] = None
        decoded.prepared = [found[shape] for shape in self.shapes]
        return decoded

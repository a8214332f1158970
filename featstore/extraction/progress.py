"""Progress of a job: what happened, how fast, and how long it will take."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

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


def ignore(*_: object) -> None:
    """Ignore a report: the default of every callback."""


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


@dataclass(frozen=True)
class Progress:
    """Where a job stands.

    Attributes
    ----------
    rows_done, rows_total : int
        Rows that are encoded, copied or were there, and all; over every set of the job.
    failed : int
        Items without an embedding so far.
    per_second : float
        Items a second since the beginning; an item is done when every encoder asked for has its
        row.
    eta_seconds : float or None
        What is left, at that speed; None while it is unknown.
    shares : dict
        Stage -> share of the elapsed time. Reading, decoding and preparing happen in worker
        threads: theirs is the mean over the workers, and they overlap with the rest.
    bottleneck : str
        One sentence about it, see `Tracker.bottleneck`.
    """

    rows_done: int
    rows_total: int
    failed: int
    per_second: float
    eta_seconds: float | None
    shares: dict[str, float]
    bottleneck: str


@dataclass(frozen=True)
class Step:
    """What a worker has done since its last step.

    Attributes
    ----------
    counted : dict
        See `COUNTED`.
    failures : frozenset of str
        Items without an embedding.
    """

    counted: dict[str, float]
    failures: frozenset[str]


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

    def first_bottleneck(self, resizing: Callable[[], float] | None = None) -> str:
        """Return what limits once a few batches are encoded, and at no other time.

        Parameters
        ----------
        resizing : callable, optional
            Returns how many times as fast torchvision would resize; called where that may help.
        """
        first = self.clock.counted()["batches"] == FIRST_BATCHES * self._encoders * self._processes
        return self.bottleneck(resizing) if first else ""

    def bottleneck(self, resizing: Callable[[], float] | None = None) -> str:
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
        if slowest == "preparing" and resizing is not None:
            saved = counted["prepare"] * (1 - 1 / resizing())
            faster = rates[slowest] * preparing / (preparing - saved)
            if faster > APART * rates[slowest]:
                line += f"; `-s resize=torchvision`, another space, gives {faster:,.0f}"
        return f"Bottleneck: {slowest}; {line}."


@dataclass(frozen=True)
class BlockDone:
    """A block is safely on disk; rows are counted over the whole set."""

    key: str
    rows_done: int
    rows_total: int
    failed: int


@dataclass(frozen=True)
class ExtractResult:
    """What became of one set.

    Attributes
    ----------
    key : str
        ``dataset/kind/encoder`` with the full directory name.
    reused, new : int
        Rows that were there already, in this set or in another of the same space, and rows
        that this call encoded.
    failed : int
        Items of the set without an embedding, whenever they failed.
    failures : dict
        item_id -> reason, for the items that failed.
    truncated : int
        Texts longer than the encoder's context, cut by its tokenizer in this call.
    copied : int
        Of the reused rows, those copied from another set, where an item has the same content.
    truncated_items : list of str
        item_ids of the truncated texts.
    blocks_left : int
        Of a part (``--shard``) only: blocks of the set that no process has done yet. The set is
        published when there are none, and has no revision before.

    Examples
    --------
    >>> done = ExtractResult("birds/image/toy", reused=2, new=3, failed=0, revision_id="5f1c")
    >>> done.reused + done.new
    5
    """

    key: str
    reused: int
    new: int
    failed: int
    revision_id: str
    failures: dict[str, str] = field(default_factory=dict)
    truncated: int = 0
    copied: int = 0
    truncated_items: list[str] = field(default_factory=list)
    blocks_left: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return what ``headstock extract --json`` prints."""
        return dict(vars(self))

"""Progress of a job: what happened, how fast, how long it will take, and its log."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featstore.errors import StoreWriteError

#: Stages that run in worker threads, ...
IN_WORKERS = ("read", "decode", "prepare")

#: ... and those of the thread that runs the encoders, one after the other.
IN_TURN = ("wait", "forward", "write")

#: Seconds over which the speed is taken.
WINDOW = 30.0

#: Share of the time from which on a stage is called the limit.
LIMITING = 0.2


def ignore(*_: object) -> None:
    """Ignore a report: the default of every callback."""


class StageClock:
    """Seconds spent in each stage, added up over threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds = dict.fromkeys((*IN_WORKERS, *IN_TURN), 0.0)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the time of the block to a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - started)

    def add(self, stage: str, seconds: float) -> None:
        """Add seconds to a stage."""
        with self._lock:
            self._seconds[stage] += seconds

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each stage so far."""
        with self._lock:
            return dict(self._seconds)


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
        Items a second over the last half minute; an item is done when every encoder asked for
        has its row.
    eta_seconds : float or None
        What is left, at that speed; None while it is unknown.
    shares : dict
        Stage -> share of the elapsed time. Reading, decoding and preparing happen in worker
        threads: theirs is the mean over the workers, and they overlap with the rest.
    bottleneck : str
        One sentence about them.
    """

    rows_done: int
    rows_total: int
    failed: int
    per_second: float
    eta_seconds: float | None
    shares: dict[str, float]
    bottleneck: str

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return dict(vars(self))


@dataclass(frozen=True)
class Step:
    """What a worker has done since its last step.

    Attributes
    ----------
    rows, encoded : int
        Rows that are done now, and how many of them it has encoded.
    failures : frozenset of str
        Items without an embedding.
    seconds : dict
        Stage -> seconds spent in it.
    """

    rows: int
    encoded: int
    failures: frozenset[str]
    seconds: dict[str, float]


class Tracker:
    """Counts rows and tells the progress: of one process, or of all workers of a job.

    Parameters
    ----------
    clock : StageClock
    rows_total, rows_done : int
        Over every set of the job; `rows_done` were there before.
    encoders, workers : int
        How many there are; workers are threads or processes that decode.
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
        processes: int = 1,
    ) -> None:
        self.clock = clock
        self.rows_total = rows_total
        self.rows_done = rows_done
        self.encoded = 0
        self.failures: set[str] = set()
        self._encoders = max(1, encoders)
        self._workers, self._processes = max(1, workers), processes
        self._started = time.monotonic()
        self._recent: deque[tuple[float, int]] = deque([(self._started, 0)])
        self._told = Step(rows_done, 0, frozenset(), clock.seconds())

    def advance(self, rows: int, *, encoded: bool) -> None:
        """Count rows that are done, `encoded` ones for the speed as well."""
        self.rows_done += rows
        if not encoded:
            return
        self.encoded += rows
        now = time.monotonic()
        self._recent.append((now, self.encoded))
        while len(self._recent) > 2 and now - self._recent[0][0] > WINDOW:
            self._recent.popleft()

    def step(self) -> Step:
        """Return what was done since the last call, for `take` of another process."""
        told, seconds = self._told, self.clock.seconds()
        self._told = Step(self.rows_done, self.encoded, frozenset(self.failures), seconds)
        return Step(
            self.rows_done - told.rows,
            self.encoded - told.encoded,
            self._told.failures - told.failures,
            {stage: spent - told.seconds[stage] for stage, spent in seconds.items()},
        )

    def take(self, step: Step) -> None:
        """Count what a worker has done."""
        self.failures |= step.failures
        for stage, spent in step.seconds.items():
            self.clock.add(stage, spent)
        self.advance(step.encoded, encoded=True)
        self.advance(step.rows - step.encoded, encoded=False)
        # Rows of a part that is done again come twice.
        self.rows_done = min(self.rows_done, self.rows_total)

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._started

    def progress(self) -> Progress:
        """Return where the job stands."""
        (begin, before), (end, after) = self._recent[0], self._recent[-1]
        speed = (after - before) / (end - begin) if end > begin else 0.0
        left = max(0, self.rows_total - self.rows_done)
        shares = self.shares()
        return Progress(
            rows_done=self.rows_done,
            rows_total=self.rows_total,
            failed=len(self.failures),
            per_second=speed / self._encoders,
            eta_seconds=left / speed if speed else None,
            shares=shares,
            bottleneck=bottleneck(shares),
        )

    def shares(self) -> dict[str, float]:
        """Return the share of each stage in the elapsed time."""
        elapsed = max(self.elapsed, 1e-9)
        found = {}
        for stage, seconds in self.clock.seconds().items():
            capacity = elapsed * (self._workers if stage in IN_WORKERS else self._processes)
            found[stage] = round(min(1.0, seconds / capacity), 4)
        return found


def bottleneck(shares: dict[str, float]) -> str:
    """Return one sentence on what limits the speed.

    Examples
    --------
    >>> bottleneck({"read": 0.0, "decode": 0.2, "prepare": 0.1, "wait": 0.01, "forward": 0.97,
    ...             "write": 0.01})
    'Bottleneck: encoder (decoders idle 70 % of the time).'
    """
    if not any(shares.values()):
        return "Nothing was encoded."
    working = sum(shares[stage] for stage in IN_WORKERS)
    if shares["write"] >= LIMITING and shares["write"] >= shares["wait"]:
        return f"Bottleneck: writing to the store ({_percent(shares['write'])} of the time)."
    if shares["wait"] >= LIMITING:
        names = {"read": "reading", "decode": "decoding", "prepare": "preparing (resizing)"}
        slowest = max(IN_WORKERS, key=lambda stage: shares[stage])
        return (
            f"Bottleneck: {names[slowest]} (encoder idle {_percent(shares['wait'])} of the time). "
            "More --jobs may help if cores are idle."
        )
    idle = max(0.0, 1.0 - working)
    return f"Bottleneck: encoder (decoders idle {_percent(idle)} of the time)."


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


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


class JobLog:
    """Appends one JSON object a line; several processes may write to one file.

    Parameters
    ----------
    path : str or Path, optional
        None writes nothing.

    Raises
    ------
    StoreWriteError
        If the file cannot be opened, or is a link, pipe or device.
    """

    def __init__(self, path: str | Path | None) -> None:
        from featstore.store.files import IrregularFileError, open_descriptor

        self._handle = -1
        if path is None:
            return
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = open_descriptor(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        except (OSError, IrregularFileError) as err:
            what = getattr(err, "strerror", None) or "it is no regular file"
            raise StoreWriteError(
                f"Cannot write the log {path}: {what}. Name another file with --log, or do without "
                "(--log none)."
            ) from err

    def write(self, event: str, **facts: Any) -> None:
        """Append an event: ``time`` (UTC), ``event``, and what is known of it."""
        import json

        if self._handle < 0:
            return
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
        row = {"time": f"{stamp}.{int(now * 1000) % 1000:03d}Z", "event": event, **facts}
        # One write a line: lines of two processes do not mix.
        # A log that cannot be written is no reason to lose a job.
        with contextlib.suppress(OSError):
            os.write(self._handle, json.dumps(row, ensure_ascii=False).encode() + b"\n")

    def close(self) -> None:
        """Close the file."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

"""How far a job is, how fast, and what it waits for: measured in the pipeline itself."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

#: Stages that run in worker threads, ...
IN_WORKERS = ("read", "decode", "prepare")

#: ... and those of the thread that runs the encoders, one after the other.
IN_TURN = ("wait", "transfer", "forward", "write")

#: Seconds over which the speed is taken.
WINDOW = 30.0

#: Share of the time from which on a stage is called the limit.
LIMITING = 0.2


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
        return asdict(self)


class Tracker:
    """Counts rows and tells the progress.

    Parameters
    ----------
    clock : StageClock
    rows_total, rows_done : int
        Over every set of the job; `rows_done` were there before.
    encoders, workers : int
        How many there are.
    """

    def __init__(
        self, clock: StageClock, *, rows_total: int, rows_done: int, encoders: int, workers: int
    ) -> None:
        self.clock = clock
        self.rows_total = rows_total
        self.rows_done = rows_done
        self.encoded = 0
        self.failed = 0
        self._encoders = max(1, encoders)
        self._workers = max(1, workers)
        self._started = time.monotonic()
        self._recent: deque[tuple[float, int]] = deque([(self._started, 0)])

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
            failed=self.failed,
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
            capacity = elapsed * (self._workers if stage in IN_WORKERS else 1)
            found[stage] = round(min(1.0, seconds / capacity), 4)
        return found


def bottleneck(shares: dict[str, float]) -> str:
    """Return one sentence on what limits the speed.

    Examples
    --------
    >>> bottleneck({"read": 0.0, "decode": 0.2, "prepare": 0.1, "wait": 0.01, "transfer": 0.0,
    ...             "forward": 0.97, "write": 0.01})
    'The forward pass is the limit: decoding waits 70 % of the time.'
    """
    if not any(shares.values()):
        return "Nothing was encoded."
    working = sum(shares[stage] for stage in IN_WORKERS)
    if shares["write"] >= LIMITING and shares["write"] >= shares["wait"]:
        return f"Writing to the store is the limit: it takes {_percent(shares['write'])}."
    if shares["wait"] >= LIMITING:
        names = {"read": "Reading", "decode": "Decoding", "prepare": "Preparing (resizing)"}
        slowest = max(IN_WORKERS, key=lambda stage: shares[stage])
        return (
            f"{names[slowest]} is the limit: the encoder waits {_percent(shares['wait'])} of the "
            "time. More --workers may help if cores are idle."
        )
    if shares["transfer"] > shares["forward"]:
        return f"Copying to the device is the limit: it takes {_percent(shares['transfer'])}."
    idle = max(0.0, 1.0 - working)
    return f"The forward pass is the limit: decoding waits {_percent(idle)} of the time."


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"

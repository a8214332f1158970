"""Comparisons: two sides timed alternately in one run, and the interval of their ratio's median.

A ratio is the floor's or peer's time over ours: higher is better. The machine is shared, so an
absolute time means little; both sides of a pair meet the same neighbours, and each side goes first
every other time.
"""

from __future__ import annotations

import functools
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

#: Pairs of a figure, at least. Cheap figures take more.
PAIRS = 9

#: name of a figure -> the ratio that it should reach; None where being measured is the goal.
GOALS: dict[str, float | None] = json.loads((Path(__file__).parent / "goals.json").read_text())


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    Attributes
    ----------
    ratio, low, high : float
        Median of `n` pairs with its interval (see `median_interval`); None if not measured.
    against : str
        The floor or peer, and the part of the data that both sides read; or why there is none.
    holds : bool
        Whether the median reaches the goal.
    cpu : str
        Processor and its number of cores.
    cpu_seconds : float
        Processor time of this process for both sides, warm-up left out.
    """

    name: str
    ratio: float | None
    low: float | None
    high: float | None
    against: str
    goal: float | None
    holds: bool
    cpu: str
    cpu_seconds: float
    n: int


def nothing() -> None:
    """Prepare nothing."""


def compare(
    name: str,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    *,
    against: str,
    before: Callable[[], object] = nothing,
    pairs: int = PAIRS,
    scale: float = 1.0,
    clock: Callable[[], float] = time.perf_counter,
) -> Figure:
    """Time both sides alternately and return the ratio of theirs to ours.

    Parameters
    ----------
    before : callable
        Runs before each side, untimed.
    scale : float
        How many times the measured part of their work the whole of it is.
    clock : callable
        Returns seconds: ``time.process_time`` compares processor time.
    """
    for side in (ours, theirs):
        before()
        side()
    ratios = []
    cpu = 0.0
    for pair in range(pairs):
        seconds = {}
        for side in (ours, theirs) if pair % 2 == 0 else (theirs, ours):
            before()
            cpu -= time.process_time()
            started = clock()
            side()
            seconds[side] = clock() - started
            cpu += time.process_time()
        ratios.append(scale * seconds[theirs] / seconds[ours])
    return figure_of(name, ratios, against=against, cpu_seconds=cpu)


def figure_of(
    name: str, ratios: Sequence[float], *, against: str, cpu_seconds: float = 0.0
) -> Figure:
    """Return the line of these ratios, held against the goal of their name."""
    ratio, (low, high), goal = statistics.median(ratios), median_interval(ratios), GOALS[name]
    return Figure(
        name=name,
        ratio=round(ratio, 3),
        low=round(low, 3),
        high=round(high, 3),
        against=against,
        goal=goal,
        holds=goal is None or ratio >= goal,
        cpu=processor(),
        cpu_seconds=round(cpu_seconds, 2),
        n=len(ratios),
    )


def one_run(name: str, ratio: float, *, against: str, cpu_seconds: float) -> Figure:
    """Return the line of what takes minutes and was run once: it has no interval."""
    goal, ratio = GOALS[name], round(ratio, 3)
    holds = goal is None or ratio >= goal
    cpu = processor()
    return Figure(name, ratio, None, None, against, goal, holds, cpu, round(cpu_seconds, 2), 1)


def not_measured(name: str, why: str) -> Figure:
    """Return the line of a figure that could not be had: it fails the run."""
    return Figure(name, None, None, None, why, GOALS[name], False, processor(), 0.0, 0)


def median_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Return the interval of the median from order statistics: no distribution is assumed.

    The k-th smallest and k-th largest of n values enclose the median of what they are drawn
    from with probability 1 - 2 P(B < k), B binomial (n, 1/2): the largest k that keeps
    `confidence` is taken. Of 9 values those are the 2nd and the 8th (96 %).
    """
    ordered = sorted(values)
    n, tail, k = len(ordered), 0.0, 0
    while 1 - 2 * (tail + math.comb(n, k) / 2**n) >= confidence:
        tail += math.comb(n, k) / 2**n
        k += 1
    if k == 0:
        msg = f"{n} values are too few for a {confidence:.0%} interval of their median."
        raise ValueError(msg)
    return ordered[k - 1], ordered[n - k]


@functools.cache
def processor() -> str:
    """Return the model of the processor and how many cores of it are ours."""
    model = platform.processor() or platform.machine()
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        for line in facts.read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    return f"{model}, {os.cpu_count()} cores"

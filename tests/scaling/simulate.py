"""Blocks on many workers that are slow, fail and are taken away: who should do which, and when.

A simulation by events, not a measurement. What is done is counted by block: each is done at least
once, and published once, by whoever reports it first.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Policy = Literal["static", "queue", "duplicates"]

POLICIES: dict[Policy, str] = {
    "static": "an equal share each, given out at the beginning",
    "queue": "parts are given to whoever is idle; what a lost worker left goes back",
    "duplicates": "a queue; once it is empty, idle workers repeat what has run longest",
}

#: Copies of a part that may run at once under the policy ``duplicates``.
COPIES = 2


@dataclass(frozen=True)
class Cluster:
    """Workers, and what happens to them.

    Attributes
    ----------
    workers : int
    block_seconds : float
        Of one block on a worker of speed 1.
    spread : float
        Standard deviation of the logarithm of a worker's speed.
    slow, slowness : float
        Share of workers that are slow, and by which factor.
    mean_up : float
        Mean seconds until a worker fails or is preempted, exponential; inf: never.
    away : float
        Seconds until it is back.
    hand_over : float
        Seconds to begin a part.
    """

    workers: int
    block_seconds: float = 1.0
    spread: float = 0.0
    slow: float = 0.0
    slowness: float = 1.0
    mean_up: float = float("inf")
    away: float = 0.0
    hand_over: float = 0.0

    def speeds(self, rng: np.random.Generator) -> np.ndarray:
        """Draw the speed of each worker; of a share of them exactly, which ones by chance."""
        speeds = np.exp(self.spread * rng.standard_normal(self.workers))
        chosen = rng.permutation(self.workers)[: round(self.slow * self.workers)]
        speeds[chosen] /= self.slowness
        return speeds


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes
    ----------
    makespan : float
        Seconds until the last block was published.
    ideal : float
        Seconds if all speeds together worked without a pause on whole and broken blocks.
    done, published : ndarray of int, shape (n_blocks,)
        How often each block was computed to its end, and published.
    parts, losses : int
        Parts that were begun, and times that a worker was lost.
    wasted : float
        Worker seconds spent on what was lost, repeated or handed over, over all that were spent.
    """

    makespan: float
    ideal: float
    done: np.ndarray
    published: np.ndarray
    parts: int
    losses: int
    wasted: float


@dataclass(eq=False)
class _Running:
    """A part on its way; `copies` are the workers at it."""

    blocks: np.ndarray
    began: float
    copies: set[int] = field(default_factory=set)


def simulate(
    n_blocks: int, cluster: Cluster, policy: Policy, part_blocks: int, rng: np.random.Generator
) -> Outcome:
    """Run `n_blocks` blocks to their end.

    Parameters
    ----------
    n_blocks : int
    cluster : Cluster
    policy : {"static", "queue", "duplicates"}
    part_blocks : int
        Blocks given out at once; not used by ``static``.
    rng : numpy.random.Generator
        Draws speeds and failures.
    """
    return _Run(n_blocks, cluster, policy, part_blocks, rng).outcome()


class _Run:
    """One run: a heap of events, each for a worker at a time."""

    def __init__(
        self, n_blocks: int, cluster: Cluster, policy: Policy, part_blocks: int,
        rng: np.random.Generator,
    ) -> None:  # fmt: skip
        self.cluster, self.policy, self.rng = cluster, policy, rng
        self.speeds = cluster.speeds(rng)
        self.done = np.zeros(n_blocks, dtype=np.int64)
        self.published = np.zeros(n_blocks, dtype=np.int64)
        self.left, self.parts, self.losses = n_blocks, 0, 0
        self.spent = self.useful = 0.0
        blocks = np.arange(n_blocks)
        self.own: list[deque[np.ndarray]] = [deque() for _ in range(cluster.workers)]
        self.queue: deque[np.ndarray] = deque()
        if policy == "static":
            for share, mine in zip(np.array_split(blocks, cluster.workers), self.own, strict=True):
                mine.extend([share] if share.size else [])
        else:
            self.queue.extend(np.split(blocks, range(part_blocks, n_blocks, part_blocks)))
        self.work: list[_Running | None] = [None] * cluster.workers
        self.began = [0.0] * cluster.workers
        self.idle: deque[int] = deque()
        # An event of an earlier turn of a worker means nothing any more.
        self.turn = [0] * cluster.workers
        self.events: list[tuple[float, int, str, int, int]] = []
        self.numbers = iter(range(2**62))

    def outcome(self) -> Outcome:
        now = 0.0
        for worker in range(self.cluster.workers):
            self._come(worker, now)
        while self.left:
            now, _, what, worker, turn = heapq.heappop(self.events)
            if what == "back":
                self._come(worker, now)
            elif what == "lost":
                self._lose(worker, now)
            elif turn == self.turn[worker]:
                self._stop(worker, now)
                self._begin(worker, now)
        for worker in range(self.cluster.workers):
            self._stop(worker, now)
        ideal = self.done.size * self.cluster.block_seconds / float(self.speeds.sum())
        wasted = 1 - self.useful / self.spent if self.spent else 0.0
        return Outcome(now, ideal, self.done, self.published, self.parts, self.losses, wasted)

    def _at(self, time: float, what: str, worker: int) -> None:
        heapq.heappush(self.events, (time, next(self.numbers), what, worker, self.turn[worker]))

    def _come(self, worker: int, now: float) -> None:
        """Let a worker begin, and draw when it is lost."""
        if np.isfinite(self.cluster.mean_up):
            self._at(now + self.rng.exponential(self.cluster.mean_up), "lost", worker)
        self._begin(worker, now)

    def _lose(self, worker: int, now: float) -> None:
        self.losses += 1
        self._stop(worker, now)
        if worker in self.idle:
            self.idle.remove(worker)
        self._at(now + self.cluster.away, "back", worker)
        self._wake(now)

    def _begin(self, worker: int, now: float) -> None:
        """Give a worker its next part, or a copy of another's, or nothing."""
        if not self.left:
            return
        waiting = self.own[worker] if self.policy == "static" else self.queue
        running = _Running(waiting.popleft(), now) if waiting else None
        if running is None and self.policy == "duplicates":
            others = {id(one): one for one in self.work if one and len(one.copies) < COPIES}
            running = min(others.values(), key=lambda one: one.began, default=None)
        if running is None:
            self.idle.append(worker)
            return
        self.parts += 1
        running.copies.add(worker)
        self.work[worker], self.began[worker] = running, now
        seconds = running.blocks.size * self._seconds(worker)
        self._at(now + self.cluster.hand_over + seconds, "end", worker)

    def _stop(self, worker: int, now: float) -> None:
        """Take a worker from its part: publish what is done, give back what nobody else does."""
        running, self.work[worker] = self.work[worker], None
        self.turn[worker] += 1
        if running is None:
            return
        spent = now - self.began[worker]
        self.spent += spent
        # The last block ends by an event at the same sum of seconds: rounding must not undo it.
        count = int((spent - self.cluster.hand_over) / self._seconds(worker) + 1e-9)
        finished = running.blocks[: max(0, count)]
        self.done[finished] += 1
        new = finished[self.published[finished] == 0]
        self.published[new] += 1
        self.useful += new.size * self._seconds(worker)
        self.left -= new.size
        running.copies.discard(worker)
        rest = running.blocks[self.published[running.blocks] == 0]
        if rest.size == 0:
            for other in sorted(running.copies):
                self._stop(other, now)
                self._begin(other, now)
        elif not running.copies:
            (self.own[worker] if self.policy == "static" else self.queue).appendleft(rest)

    def _wake(self, now: float) -> None:
        """Let idle workers look for work again."""
        for worker in [self.idle.popleft() for _ in range(len(self.idle))]:
            self._begin(worker, now)

    def _seconds(self, worker: int) -> float:
        return self.cluster.block_seconds / float(self.speeds[worker])

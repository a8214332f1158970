"""Hand out the parts of a job to workers, whatever they are; then gather."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from featstore.errors import WorkerDiedError
from featstore.extraction.engines.progress import SummedProgress
from featstore.extraction.engines.worker import SharedPlan, merge_results
from featstore.extraction.events import BlockDone, ExtractResult
from featstore.extraction.progress import Progress

logger = logging.getLogger(__name__)

#: Parts a worker, at least and at most: a slow device takes fewer. Simulated in docs/scaling.md: of
#: 256 workers one in 20 slow, a job takes 1.8 times as long as it could with 4, 1.2 with 16.
PARTS_PER_WORKER = (4, 16)

#: Beyond the fewest, parts have so many blocks: to begin one costs seconds.
BLOCKS_OF_A_PART = 8

#: Workers that one part may cost before the job gives up: it is probably the part's fault.
DEATHS_OF_A_PART = 3


@dataclass(frozen=True)
class Answer:
    """A worker has done what it was told."""

    worker: int
    value: Any


@dataclass(frozen=True)
class Death:
    """A worker's process is gone."""

    worker: int
    reason: str


@dataclass(frozen=True)
class News:
    """A worker reports how far it is with a part, -1 while it gathers."""

    worker: int
    part: int
    report: BlockDone | Progress


class Crew(Protocol):
    """Workers in processes of their own, numbered from 0."""

    def living(self) -> set[int]:
        """Return the workers that can be told to do something."""

    def tell(self, worker: int, task: str, *arguments: Any) -> None:
        """Let a worker that is idle run a method of `Worker`."""

    def events(self) -> Iterable[Answer | Death | News]:
        """Wait until something has happened; return it.

        What a task raised is raised here.
        """


def conduct(
    crew: Crew,
    *,
    encoders: int,
    on_block: Callable[[BlockDone], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> list[ExtractResult]:
    """Settle the plan, have every part done, and publish; return one result an encoder.

    Raises
    ------
    FeatstoreError
        What a worker raised; the same as `extract`.
    WorkerDiedError
        If workers died again and again.
    """
    plan: SharedPlan = _alone(crew, "settle")
    summed = SummedProgress(plan, encoders, on_block=on_block, on_progress=on_progress)
    parts: list[list[ExtractResult]] = []
    if plan.rows_left:
        parts = _all_parts(crew, plan, summed)
    last: list[ExtractResult] = _alone(crew, "gather", plan.pinned, summed=summed)
    return merge_results(parts, last)


def parts_of(blocks: int, workers: int) -> int:
    """Return into how many parts a job is cut."""
    fewest, most = (parts * workers for parts in PARTS_PER_WORKER)
    return min(blocks, max(fewest, min(most, blocks // BLOCKS_OF_A_PART)))


def _all_parts(crew: Crew, plan: SharedPlan, summed: SummedProgress) -> list[list[ExtractResult]]:
    """Have every part done by whoever is idle; return their results."""
    world_size = parts_of(plan.blocks, len(crew.living()))
    waiting, working = deque(range(world_size)), dict[int, int]()
    deaths: Counter[int] = Counter()
    results: dict[int, list[ExtractResult]] = {}
    while len(results) < world_size:
        for worker in sorted(crew.living() - working.keys()):
            if waiting:
                working[worker] = waiting.popleft()
                crew.tell(worker, "run_part", working[worker], world_size, plan.pinned)
        if not working:
            raise _nobody_left()
        for event in crew.events():
            if isinstance(event, News):
                summed.take(event.worker, event.part, event.report)
                continue
            summed.ended(event.worker)
            part = working.pop(event.worker, -1)
            if isinstance(event, Answer):
                results[part] = event.value
            elif part >= 0:
                deaths[part] += 1
                logger.warning("%s Its part is done again.", event.reason)
                waiting.appendleft(part)
                if deaths[part] == DEATHS_OF_A_PART:
                    msg = (
                        f"Part {part} of {world_size} cost {deaths[part]} workers; the last one: "
                        f"{event.reason} Finished blocks are kept; run the same command again "
                        "once the cause is mended."
                    )
                    raise WorkerDiedError(msg)
    return [results[part] for part in range(world_size)]


def _alone(crew: Crew, task: str, *arguments: Any, summed: SummedProgress | None = None) -> Any:
    """Have one worker do a task, another one if it dies."""
    for _ in range(DEATHS_OF_A_PART):
        if not crew.living():
            raise _nobody_left()
        worker = min(crew.living())
        crew.tell(worker, task, *arguments)
        reason = ""
        while not reason:
            for event in crew.events():
                if isinstance(event, News):
                    if summed is not None:
                        summed.take(event.worker, event.part, event.report)
                elif event.worker == worker:
                    if isinstance(event, Answer):
                        return event.value
                    reason = event.reason
        logger.warning("%s Another one goes on.", reason)
    msg = f"The last step ({task}) cost {DEATHS_OF_A_PART} workers; the last one: {reason}"
    raise WorkerDiedError(msg)


def _nobody_left() -> WorkerDiedError:
    msg = (
        "Every worker has died. Finished blocks are kept; run the same command again once the "
        "cause is mended (memory: fewer devices on one machine, or a smaller --batch-size)."
    )
    return WorkerDiedError(msg)

"""Who runs tasks that do not depend on one another: processes of this machine, or Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, TypeVar

from bench.errors import EngineError

Task = TypeVar("Task")
Answer = TypeVar("Answer")

Engine = Literal["processes", "ray"]
ENGINES: tuple[Engine, ...] = ("processes", "ray")


def run_tasks(
    work: Callable[[Task], Answer], tasks: Sequence[Task], *, jobs: int, engine: str
) -> Iterator[Answer]:
    """Yield the answer of every task as soon as it is there, in no fixed order.

    Parameters
    ----------
    work : callable
        Runs one task; must be picklable. Every worker computes with a single thread.
    tasks : sequence
    jobs : int
        Workers at once.
    engine : {"processes", "ray"}

    Raises
    ------
    EngineError
        If there is no such engine, or Ray is not installed.
    Exception
        Whatever a task raises; the others are given up.
    """
    if engine == "processes":
        from bench.engines.processes import run_in_processes

        return run_in_processes(work, tasks, jobs)
    if engine == "ray":
        from bench.engines.on_ray import run_on_ray

        return run_on_ray(work, tasks, jobs)
    msg = f"No engine named {engine!r}. Known engines: {', '.join(ENGINES)}."
    raise EngineError(msg)

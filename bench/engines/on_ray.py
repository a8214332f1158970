"""Tasks on Ray, on this machine or on a cluster; retries of lost workers are Ray's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from bench.errors import EngineError
from featstore import parallel

Task = TypeVar("Task")
Answer = TypeVar("Answer")


def run_on_ray(
    work: Callable[[Task], Answer], tasks: Sequence[Task], jobs: int
) -> Iterator[Answer]:
    """Yield the answers of `tasks` as Ray gives them; see `bench.engines.run_tasks`.

    A Ray that this process is connected to, or that RAY_ADDRESS names, is used; else one is
    started here with `jobs` cores and stopped at the end.

    Raises
    ------
    MissingPackageError
        If Ray is not installed.
    EngineError
        If Ray gave a worker up.
    """
    # Results go from the tasks to the folder: what comes back is small.
    with parallel.connected(None, cores=jobs) as ray:
        for _, reference in parallel.run_tasks(ray, work, tasks, jobs):
            yield parallel.answer_of(ray, reference, EngineError)

"""Tasks in processes of this machine."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

from featstore.parallel import end_with_parent, single_thread

Task = TypeVar("Task")
Answer = TypeVar("Answer")


def run_in_processes(
    work: Callable[[Task], Answer], tasks: Sequence[Task], jobs: int
) -> Iterator[Answer]:
    """Yield the answers of `tasks` from `jobs` processes; see `bench.engines.run_tasks`."""
    # Threads of polars and BLAS do not survive a fork; a spawned process starts clean.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin) as pool:
        futures = [pool.submit(work, task) for task in tasks]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            # Waiting lets the tasks that run end whole: nothing half-written stays behind.
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _begin() -> None:
    single_thread()
    end_with_parent()

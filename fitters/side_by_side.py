"""Many small pieces of linear algebra at once: one to a thread, each with one thread of BLAS.

A decomposition of a few hundred columns, or a product with Python around it, gains little from a
second core; several of them beside one another do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

Task = TypeVar("Task")
Result = TypeVar("Result")

MOST_THREADS = 8
"""Each piece holds memory: of a decomposition, a dozen matrices of the size of a gram."""


def side_by_side(function: Callable[[Task], Result], tasks: Sequence[Task]) -> list[Result]:
    """Return `function` of each task, in order.

    As many run at a time as BLAS has threads, so that who limits those limits these. BLAS itself is
    limited for the whole process meanwhile, and as before afterwards.
    """
    if len(tasks) < 2:
        # To look for the libraries of BLAS takes milliseconds.
        return [function(task) for task in tasks]
    blas = ThreadpoolController().select(user_api="blas")
    allowed = max((library["num_threads"] for library in blas.info()), default=1)
    threads = min(len(tasks), allowed, MOST_THREADS)
    if threads < 2:
        return [function(task) for task in tasks]
    with blas.limit(limits=1), ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, tasks))

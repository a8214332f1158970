"""Threads that convert and write beside the thread that hashes.

NumPy's conversions, ``hashlib`` and ``os.write`` all release the interpreter lock. The threads
are kept: one that is started anew for every block shares its parent's core until the system
moves it, and a block is done by then.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

T = TypeVar("T")

N_THREADS = os.cpu_count() or 1


@functools.cache
def workers() -> ThreadPoolExecutor:
    """Return this process's threads, one for each core; they are started when first needed."""
    return ThreadPoolExecutor(N_THREADS, thread_name_prefix="featstore")


def run_beside(work: Callable[[], object], longest: Callable[[], T]) -> T:
    """Return what `longest` returns here, while `work` runs in another thread.

    Both have ended on return, whatever they raise; an error of `work` is raised here. The part
    that takes longest belongs here, where nothing has to wake up for it to begin or end.
    """
    beside = workers().submit(work)
    try:
        found = longest()
    finally:
        wait([beside])
    beside.result()
    return found


# A forked child has none of its parent's threads.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=workers.cache_clear)

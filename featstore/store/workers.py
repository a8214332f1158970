"""Threads that hash and convert beside the thread that writes.

NumPy's conversions, ``hashlib`` and ``os.write`` all release the interpreter lock. The threads
are kept: one that is started anew for every block shares its parent's core until the system
moves it, and a block is done by then.
"""

from __future__ import annotations

import functools
import os
from concurrent.futures import ThreadPoolExecutor

N_THREADS = os.cpu_count() or 1


@functools.cache
def workers() -> ThreadPoolExecutor:
    """Return this process's threads, one for each core; they are started when first needed."""
    return ThreadPoolExecutor(N_THREADS, thread_name_prefix="featstore")


# A forked child has none of its parent's threads.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=workers.cache_clear)

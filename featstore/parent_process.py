"""Processes that do not outlive the process that started them."""

from __future__ import annotations

import multiprocessing
import os
import threading


def end_with_parent() -> None:
    """End this process when its parent is gone, however that ended.

    A parent that is killed tells its workers nothing; they would wait for work for ever, and hold
    memory, claims and cores. In a process that `multiprocessing` did not start, nothing happens.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()

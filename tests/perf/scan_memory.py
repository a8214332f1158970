"""Print the bytes of memory by which a full scan of a set makes this process grow.

Counted is anonymous memory (``RssAnon`` of ``/proc/self/status``), read every millisecond, above
what there was once the modules were imported: opening the set is counted too. Pages of mapped
files are the page cache's; the system takes them back when others need memory.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np  # noqa: F401  imported before the baseline, as everything the reader uses

from featstore import open_store


def anonymous_bytes() -> int:
    """Return the anonymous memory of this process that is in use now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    msg = "This system does not say how much anonymous memory a process uses."
    raise OSError(msg)


@contextmanager
def sampled(every: float = 0.001, of: Callable[[], int] = anonymous_bytes) -> Iterator[list[int]]:
    """Yield the memory of this process, or another number, now and every so many seconds."""
    done, seen = threading.Event(), [of()]

    def sample() -> None:
        while not done.wait(every):
            seen.append(of())

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield seen
    finally:
        done.set()
        sampler.join()
        seen.append(of())


def main() -> None:
    """Scan a set as a user would, in the default dtype, and print the growth."""
    with sampled() as seen:
        view = open_store(sys.argv[1]).view(sys.argv[2])
        total = sum(len(batch) for batch in view.batches())
    assert total > 0
    print(max(1, max(seen) - seen[0]))


if __name__ == "__main__":
    main()

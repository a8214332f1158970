"""Print the bytes of memory by which a full scan of a set makes this process grow.

Counted is anonymous memory (``RssAnon`` of ``/proc/self/status``), read every millisecond, above
what there was once the modules were imported: opening the set is counted too. Pages of mapped
files are the page cache's; the system takes them back when others need memory.
"""

from __future__ import annotations

import sys
import threading
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


def main() -> None:
    """Scan a set as a user would, in the default dtype, and print the growth."""
    store, key = sys.argv[1:]
    done = threading.Event()
    base = anonymous_bytes()
    seen = [base + 1]

    def sample() -> None:
        while not done.wait(0.001):
            seen.append(anonymous_bytes())

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        total = sum(len(batch) for batch in open_store(store).view(key).batches())
    finally:
        done.set()
        sampler.join()
    assert total > 0
    print(max(seen) - base)


if __name__ == "__main__":
    main()

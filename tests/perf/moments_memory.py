"""Print the bytes of memory by which accumulating moments of n pairs in folds makes this grow.

Counted as in `scan_memory`; the rows are the same few blocks over and over, so that what grows is
the accumulation and not its input.
"""

from __future__ import annotations

import sys
import threading

import numpy as np

from tests.perf.scan_memory import anonymous_bytes
from tests.perf.stream import Stream
from tests.shorthand import accumulate_folds


def main() -> None:
    """Accumulate n pairs of 768 → 768 in five folds, and print the growth."""
    n = int(sys.argv[1])
    stream = Stream(768, 768)
    folds = np.arange(n) % 5
    done = threading.Event()
    base = anonymous_bytes()
    seen = [base + 1]

    def sample() -> None:
        while not done.wait(0.001):
            seen.append(anonymous_bytes())

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        moments = accumulate_folds(stream.batches(n), folds)
    finally:
        done.set()
        sampler.join()
    assert sum(part.n for part in moments) == n
    print(max(seen) - base)


if __name__ == "__main__":
    main()

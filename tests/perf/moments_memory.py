"""Print the bytes of memory by which accumulating moments of n pairs in folds makes this grow.

Counted as in `scan_memory`; the rows are the same few blocks over and over, so that what grows is
the accumulation and not its input.
"""

from __future__ import annotations

import sys

import numpy as np

from tests.perf.scan_memory import sampled
from tests.perf.stream import Stream
from tests.shorthand import accumulate_folds


def main() -> None:
    """Accumulate n pairs of 768 → 768 in five folds, and print the growth."""
    n = int(sys.argv[1])
    stream = Stream(768, 768)
    folds = np.arange(n) % 5
    with sampled() as seen:
        moments = accumulate_folds(stream.batches(n), folds)
    assert sum(part.n for part in moments) == n
    print(max(1, max(seen) - seen[0]))


if __name__ == "__main__":
    main()

"""Writing: a whole set, published, against the same bytes in one file with one fsync."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from featstore.store.gc import remove_set
from tests.perf.engine import Figure, compare
from tests.perf.sample import N, Sample, write_plain, write_set

#: More than elsewhere: where the system takes its pages from changes the time of either side.
PAIRS = 15


def figures(sample: Sample) -> Iterator[Figure]:
    """Yield the lines of writing."""
    store, path = sample.root / "written", sample.root / "written.bin"
    half = sample.block.astype(np.float16)
    item_table = next(sample.array.parent.parent.glob("items-*.parquet")).read_bytes()
    written: list[str] = []

    def write(block: np.ndarray) -> None:
        written.append(write_set(store, sample.items, block))

    def remove() -> None:
        while written:
            remove_set(store, written.pop())
        path.unlink(missing_ok=True)

    def floor() -> None:
        write_plain(path, half, item_table)

    yield compare(
        "store.write",
        lambda: write(half),
        floor,
        against=f"one sequential file with fsync; both are given {N:,} rows of float16",
        before=remove,
        pairs=PAIRS,
    )
    yield compare(
        "store.write_cast",
        lambda: write(sample.block),
        floor,
        against="the same floor, given float16; ours is given float32",
        before=remove,
        pairs=PAIRS,
    )
    remove()

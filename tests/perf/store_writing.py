"""Writing: a whole set, published, against the same bytes in one file with one fsync."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from featstore.store.gc import make_store, remove_set
from tests.perf.engine import Figure, compare
from tests.perf.sample import N, Sample, write_plain, write_set

#: More than elsewhere: where the system takes its pages from changes the time of either side.
PAIRS = 15


def figures(sample: Sample) -> Iterator[Figure]:
    """Yield the lines of writing."""
    path = sample.root / "written.bin"
    stores = {name: sample.root / f"written-{name}" for name in ("blake3", "sha256")}
    for name, store in stores.items():
        make_store(store, hash_name=name)
    half = sample.block.astype(np.float16)
    item_table = next(sample.array.parent.parent.glob("items-*.parquet")).read_bytes()
    written: list[tuple[Path, str]] = []

    def write(block: np.ndarray, name: str = "blake3") -> None:
        written.append((stores[name], write_set(stores[name], sample.items, block)))

    def remove() -> None:
        while written:
            remove_set(*written.pop())
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
    yield compare(
        "store.write/sha256",
        lambda: write(half, "sha256"),
        floor,
        against="the same floor; ours in a store of the hash that is named by nobody: sha256",
        before=remove,
    )
    remove()

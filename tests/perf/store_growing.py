"""Sets that grow: what an append costs, and what a thousand leave; and filters on a fresh store.

Both against Lance, which appends fragments as we append parts; after the appends, against the same
rows as one part.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count, product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from featstore import open_store
from featstore.store.layout import SetSpec
from featstore.store.writer import SetWriter
from tests.perf.engine import Figure, compare, figure_of, not_measured
from tests.perf.sample import BLOCK, DIM, Sample, write_set

#: Rows before the appends, rows of each, and appends.
START, ADDED, APPENDS = 100_000, 100, 1_000

#: What an append may write beyond a tenth more than Lance does.
FREE_BYTES = 64 * 2**10

#: Items that are filtered by one of so many classes.
ITEMS, CLASSES = (100_000, 1_000_000), 1_000


def figures(sample: Sample) -> Iterator[Figure]:
    """Yield the lines of appends, of filters, and of reading after all appends."""
    half = sample.block.astype(np.float16)
    grown = partial(write_set, sample.store, block=half, name="timm:grown")
    key, sizes = grown(sample.items.head(START)), count(START + ADDED, ADDED)

    def ours() -> None:
        append(sample.store, sample.items.head(next(sizes)), half[:ADDED])

    yield from _beside_lance(
        ("store.append", "store.append_bytes"), lambda: append_figures(sample, half, ours)
    )
    names = [f"store.filter_fresh/{ids}-{n}" for ids, n in product(("regular", "random"), ITEMS)]
    for name in names:
        yield from _beside_lance((name,), partial(filter_figures, sample, name))
    for _ in range(APPENDS):
        ours()
    yield from after_figures(sample, key, half)


def _beside_lance(
    names: tuple[str, ...], measure: Callable[[], Iterator[Figure]]
) -> Iterator[Figure]:
    try:
        yield from measure()
    except ImportError as err:
        yield from (not_measured(name, f"{err.name} is not installed") for name in names)


def append(store: Path, items: pl.DataFrame, rows: np.ndarray) -> None:
    """Append the rows of the last items to the set that grows."""
    spec = SetSpec("d", "image", "timm:grown", {"name": "timm:grown"}, "float16")
    with SetWriter(store, spec, items, DIM) as writer:
        for block in writer.pending():
            writer.write_block(block, rows)
        writer.finish()


def append_figures(sample: Sample, half: np.ndarray, ours: Callable[[], None]) -> Iterator[Figure]:
    """Compare processor time, and bytes, of 100 rows that are appended to 100,000."""
    import lance
    import pyarrow as pa

    def table(ids: pl.DataFrame, rows: np.ndarray) -> Any:
        values = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), DIM)
        return ids.to_arrow().append_column("x", values)

    path = str(sample.root / "grown.lance")
    for start in range(0, START, BLOCK):
        ids = sample.items[start : min(start + BLOCK, START)]
        mode = "append" if start else "create"
        lance.write_dataset(table(ids, half[: ids.height]), path, mode=mode)
    more = table(sample.items[START : START + ADDED], half[:ADDED])

    def theirs() -> None:
        lance.write_dataset(more, path, mode="append")

    against = f"Lance; {ADDED} × {DIM} float16 rows to {START:,}"
    yield compare(
        "store.append", ours, theirs, against=f"{against}; processor time",
        clock=time.process_time,
    )  # fmt: skip
    ratios = [(1.1 * written(theirs) + FREE_BYTES) / written(ours) for _ in range(6)]
    bound = f"{against}; bytes written, of 1.1 × theirs and {FREE_BYTES:,} more"
    yield figure_of("store.append_bytes", ratios, against=bound)


def written(run: Callable[[], None]) -> int:
    """Return the bytes that this process hands to the system while it runs something."""
    before = _bytes_out()
    run()
    return _bytes_out() - before


def _bytes_out() -> int:
    found = re.search(r"wchar: (\d+)", Path("/proc/self/io").read_text())
    assert found is not None
    return int(found[1])


def filter_figures(sample: Sample, name: str) -> Iterator[Figure]:
    """Compare opening and filtering by one column."""
    import lance

    ids, n = name.rpartition("/")[2].split("-")
    numbers = np.random.default_rng(2).permutation(int(n))
    items = pl.DataFrame({
        "item_id": [f"i/{i}" for i in range(int(n))] if ids == "regular"
        else [f"{one * 2654435761 % 2**64:016x}" for one in numbers.tolist()],
        "kind": ["image"] * int(n),
        "class_id": [f"c{one % CLASSES}" for one in numbers.tolist()],
    })  # fmt: skip
    rows = np.zeros((BLOCK, 4), np.float16)
    key = write_set(sample.store, items, rows, f"timm:filtered-{ids}-{n}")
    path = str(sample.root / f"{ids}-{n}.lance")
    lance.write_dataset(items.to_arrow(), path)

    def ours() -> int:
        return len(open_store(sample.store).view(key).where(class_id="c3"))

    def theirs() -> int:
        chosen = {"columns": ["class_id"], "filter": "class_id = 'c3'", "with_row_id": True}
        return int(lance.dataset(path).to_table(**chosen).num_rows)

    assert ours() == theirs() == int(n) // CLASSES
    against = f"Lance, opened anew; one of {CLASSES:,} classes of {int(n):,} items with {ids} ids"
    yield compare(name, ours, theirs, against=against)


def after_figures(sample: Sample, key: str, half: np.ndarray) -> Iterator[Figure]:
    """Compare the set after all appends with the same rows as one part."""
    n = open_store(sample.store).info(key).commit.n
    fresh = write_set(sample.store, sample.items.head(n), half, "timm:fresh")
    views = [open_store(sample.store).view(one).astype(np.float16) for one in (key, fresh)]
    chosen = np.random.default_rng(0).integers(0, n, BLOCK)
    against = f"the same {n:,} rows as one part, not {APPENDS:,} appends"

    def scan(view: Any) -> None:
        for _ in view.batches(BLOCK, reuse=True):
            pass

    for name, read in (
        ("scan", scan),
        ("gather", lambda view: view.source.read(chosen)),
    ):
        ours, theirs = (partial(read, view) for view in views)
        yield compare(f"store.after_appends/{name}", ours, theirs, against=against)

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
from featstore.store.gc import compact_set
from featstore.store.layout import SetKey, SetSpec
from featstore.store.writer import SetWriter
from tests.perf.engine import Figure, compare, figure_of, not_measured, one_run
from tests.perf.sample import BLOCK, DIM, Sample, write_set
from tests.perf.store_opening import make_sets

#: Rows before the appends, rows of each, and appends.
START, ADDED, APPENDS = 100_000, 100, 1_000

#: What an append may write beyond a tenth more than Lance does.
FREE_BYTES = 64 * 2**10

#: Pairs of scans and gathers.
READING_PAIRS = 15

#: Items that are filtered by one of so many classes.
ITEMS, CLASSES = (100_000, 1_000_000), 1_000


def figures(sample: Sample) -> Iterator[Figure]:
    """Yield the lines of appends, of filters, and of reading after all appends."""
    half = sample.block.astype(np.float16)
    many = sample.root / "many"
    make_sets(many, sample, 1_000)
    for store, among in ((sample.root / "grown", ""), (many, "/among-1000")):
        key, sizes = _set_of(store, sample, START, half), count(START + ADDED, ADDED)

        def ours(store: Path = store, sizes: Iterator[int] = sizes) -> None:
            append(store, sample.items.head(next(sizes)), half[:ADDED])

        names = f"store.append{among}", f"store.append_bytes{among}"
        yield from _beside_lance(names, partial(append_figures, sample, half, ours, names))
        if not among:
            for _ in range(APPENDS):
                ours()
            yield from after_figures(sample, store, key, half)
    names = [f"store.filter_fresh/{ids}-{n}" for ids, n in product(("regular", "random"), ITEMS)]
    for name in names:
        yield from _beside_lance((name,), partial(filter_figures, sample, name))


def _set_of(store: Path, sample: Sample, n: int, half: np.ndarray) -> str:
    """Write n rows as one part, and return the key of the set."""
    return write_set(store, sample.items.head(n), half, "timm:grown")


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


def append_figures(
    sample: Sample, half: np.ndarray, ours: Callable[[], None], names: tuple[str, str]
) -> Iterator[Figure]:
    """Compare processor time, and bytes, of 100 rows that are appended to 100,000."""
    import lance
    import pyarrow as pa

    def table(ids: pl.DataFrame, rows: np.ndarray) -> Any:
        values = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), DIM)
        return ids.to_arrow().append_column("x", values)

    path = str(sample.root / "grown.lance")
    for start in range(0, START, BLOCK):
        ids = sample.items[start : min(start + BLOCK, START)]
        mode = "append" if start else "overwrite"
        lance.write_dataset(table(ids, half[: ids.height]), path, mode=mode)
    more = table(sample.items[START : START + ADDED], half[:ADDED])

    def theirs() -> None:
        lance.write_dataset(more, path, mode="append")

    against = f"Lance; {ADDED} × {DIM} float16 rows to {START:,}"
    yield compare(
        names[0], ours, theirs, against=f"{against}; processor time",
        clock=time.process_time,
    )  # fmt: skip
    ratios = [(1.1 * written(theirs) + FREE_BYTES) / written(ours) for _ in range(6)]
    bound = f"{against}; bytes written, of 1.1 × theirs and {FREE_BYTES:,} more"
    yield figure_of(names[1], ratios, against=bound)


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


def after_figures(sample: Sample, store: Path, key: str, half: np.ndarray) -> Iterator[Figure]:
    """Compare the set after all appends, and once compacted, with the same rows as one part."""
    n = open_store(store).info(key).commit.n
    other = sample.root / "fresh"
    _set_of(other, sample, n, half)
    rows = f"the same {n:,} rows as one part"
    ratio = 1.3 * disk_bytes(other) / disk_bytes(store)
    yield one_run("store.after_appends/disk", ratio, against=f"1.3 × {rows}", cpu_seconds=0.0)
    yield from _reading("store.after_appends", (store, other), key, f"{rows}, not {APPENDS:,}")
    compact_set(store, SetKey(*key.split("/")))
    yield from _reading("store.after_compact", (store, other), key, rows)


def _reading(name: str, stores: tuple[Path, Path], key: str, against: str) -> Iterator[Figure]:
    """Compare scans, and gathers of scattered rows, of the set in two stores."""
    views = [open_store(store).view(key).astype(np.float16) for store in stores]
    chosen = np.random.default_rng(0).integers(0, len(views[0]), BLOCK)

    def scan(view: Any) -> None:
        for _ in view.batches(BLOCK, reuse=True):
            pass

    def gather(view: Any) -> None:
        view.source.read(chosen)

    for read in (scan, gather):
        ours, theirs = (partial(read, view) for view in views)
        yield compare(f"{name}/{read.__name__}", ours, theirs, against=against, pairs=READING_PAIRS)


def disk_bytes(store: Path) -> int:
    """Return what a store takes of its disk."""
    return sum(path.lstat().st_blocks * 512 for path in store.rglob("*"))

"""The feed: a whole job whose encoder costs nothing, against decoding and resizing alone."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from PIL import Image

from featstore.extraction.job import extract
from featstore.images import Geometry
from featstore.manifest import Manifest, write_manifest
from featstore.parallel import available_cores
from tests.perf.engine import Figure, figure_of, one_run
from tests.perf.scan_memory import sampled

#: Files, and items that name them again and again.
FILES, ITEMS, TINY_ITEMS = 200, 2_000, 20_000
PAIRS = 6

#: What the parent may spend on an image, and the threads that a worker may have.
PARENT_SECONDS, THREADS = 3e-5, 3


class Free:
    """An encoder that costs nothing: of few pixels of a batch, the means of their columns."""

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry

    def encode(self, batch: np.ndarray) -> np.ndarray:
        """Return (b, 3) values."""
        return batch[:, ::56, 0].mean(axis=1, dtype=np.float32) + np.float32(1)


def figures(root: Path) -> Iterator[Figure]:
    """Yield the lines of the feed."""
    geometry = Geometry((256,), (224, 224), "BICUBIC")
    usual = make_jpegs(root / "feed", (500, 375), ITEMS)
    tiny = make_jpegs(root / "tiny", (20, 16), TINY_ITEMS)
    paths = [usual.root / uri for uri in usual.tables["image"]["uri"].unique().sort()]
    workers = available_cores()
    with sampled(0.05, count_threads) as seen:  # and what is imported once
        job(usual, geometry)
    most = max(seen) - seen[0] - 1
    start = float(np.median([seconds(lambda: job(usual, geometry, limit=1)) for _ in range(PAIRS)]))
    ratios, total = [], 0.0
    # As many loops at once as the job has processes: alone, each would have the core to itself.
    every = paths * (ITEMS // FILES)
    shares = [every[number::workers] for number in range(workers)]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as loops:
        for _ in range(PAIRS):
            floor, cost = sum(loops.map(bare, shares)), seconds(lambda: job(usual, geometry))
            ratios.append(floor / (cost - start))
            total += floor + cost
    yield figure_of(
        "extract.feed", ratios, cpu_seconds=total,
        against=f"Pillow's decode + resize + crop in loops, CPU seconds; start {start:.2f} apart",
    )  # fmt: skip
    spent = []
    for _ in range(PAIRS):
        before = time.process_time()
        job(tiny, Geometry((32,), (32, 32), "BICUBIC"))
        spent.append((time.process_time() - before) / TINY_ITEMS)
    ms = 1e3 * float(np.median(spent))
    yield figure_of(
        "extract.feed_parent", [PARENT_SECONDS / one for one in spent],
        against=f"0.03 ms of this process an image; of {TINY_ITEMS:,} tiny ones {ms:.4f}",
        cpu_seconds=sum(spent) * TINY_ITEMS,
    )  # fmt: skip
    yield one_run(
        "extract.feed_threads", THREADS * workers / most, cpu_seconds=0.0,
        against=f"3 OS threads a worker; {most} for {workers}, those of this process included",
    )  # fmt: skip
    for manifest in (usual, tiny):
        shutil.rmtree(manifest.root)


def count_threads() -> int:
    """Return the threads of this process and of its children."""
    count = 0
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # a thread or a process that has just ended
            count += 1
            for child in (task / "children").read_text().split():
                count += len([*(Path("/proc") / child / "task").iterdir()])
    return count


def bare(paths: list[Path]) -> float:
    """Return the processor seconds in which Pillow decodes, resizes and crops pictures."""
    before = time.process_time()
    for path in paths:
        with Image.open(path) as image:
            large = image.convert("RGB").resize((341, 256), Image.Resampling.BICUBIC)
            large.crop((58, 16, 282, 240)).tobytes()
    return time.process_time() - before


def job(manifest: Manifest, geometry: Geometry, limit: int | None = None) -> None:
    """Extract into a new store."""
    store = manifest.root / "store"
    encoder: Any = Free(geometry)
    extract(manifest, kind="image", encoder=encoder, space={"name": "free"}, store=store,
            limit=limit)  # fmt: skip
    shutil.rmtree(store)


def seconds(call: Callable[[], object]) -> float:
    """Return the processor seconds of a call, with those of processes that ended."""
    before = os.times()
    call()
    return sum(os.times()[:4]) - sum(before[:4])


def make_jpegs(folder: Path, size: tuple[int, int], count: int) -> Manifest:
    """Write JPEGs with as much detail as photographs, and a manifest of so many items."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    width, height = size
    for number in range(FILES):
        noise = rng.integers(0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
        image = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
        image.save(folder / "images" / f"{number:03}.jpg", quality=90)
    items = pl.DataFrame(
        {
            "item_id": [f"{number:06}" for number in range(count)],
            "uri": [f"images/{number % FILES:03}.jpg" for number in range(count)],
        }
    )
    return write_manifest(folder, facts={"name": folder.name}, tables={"image": items})

"""Reading: scans and gathers against a memory map; what checking costs, and memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np

from tests.perf.engine import PAIRS, Figure, compare, figure_of
from tests.perf.sample import BLOCK, DIM, N, Sample

MANY_PAIRS = 31
GATHERED = 4096
#: Extra memory that a scan may take.
MEMORY_BYTES = 64 * 2**20


def figures(sample: Sample) -> Iterator[Figure]:
    """Yield the lines of reading."""
    yield from warm_figures(sample)
    yield shuffled_figure(sample)
    yield first_touch_figure(sample)
    yield cold_figure(sample)
    yield memory_figure(sample)


def scan_plain(plain: np.ndarray) -> None:
    """Copy the rows of an array, a block at a time, into memory that the caller would own."""
    buffer = np.empty((BLOCK, DIM), plain.dtype)
    for start in range(0, len(plain), BLOCK):
        rows = plain[start : start + BLOCK]
        np.copyto(buffer[: len(rows)], rows)


def warm_figures(sample: Sample) -> Iterator[Figure]:
    """Compare reading from the page cache."""
    view, plain = sample.view(), sample.plain()

    def scan() -> None:
        for _ in view.batches(BLOCK, reuse=True):
            pass

    yield compare(
        "store.scan",
        scan,
        lambda: scan_plain(plain),
        against=f"np.memmap, {N:,} rows copied {BLOCK:,} at a time",
        pairs=MANY_PAIRS,
    )
    chosen = np.random.default_rng(0).permutation(N)[:GATHERED]
    # Not `view.take`: choosing items is no part of reading their rows.
    yield compare(
        "store.gather",
        lambda: view.source.read(chosen),
        lambda: plain[chosen],
        against=f"np.memmap, {GATHERED:,} random rows",
        pairs=MANY_PAIRS,
    )


def shuffled_figure(sample: Sample) -> Figure:
    """Compare an epoch of shuffled batches with the same order of a memory map's rows."""
    view, plain = sample.view(), sample.plain()

    def ours() -> None:
        for _ in view.batches(BLOCK, shuffle=np.random.default_rng(0)):
            pass

    def theirs() -> None:
        order = np.random.default_rng(0).permutation(N)
        for start in range(0, N, BLOCK):
            _ = plain[order[start : start + BLOCK]]

    return compare(
        "store.batches",
        ours,
        theirs,
        against=f"np.memmap, {N:,} rows shuffled, {BLOCK:,} at a time",
    )


def first_touch_figure(sample: Sample) -> Figure:
    """Compare a scan that hashes every block once with a scan of a memory map that hashes none."""
    n = 8 * BLOCK
    plain = sample.plain()[:n]

    def ours() -> None:
        for _ in sample.view("first-touch").take(np.arange(n)).batches(BLOCK, reuse=True):
            pass

    return compare(
        "store.first_touch",
        ours,
        lambda: scan_plain(plain),
        against=f"np.memmap, nothing checked, {n:,} rows",
    )


def cold_figure(sample: Sample) -> Figure:
    """Compare gathers of rows that are in no page cache; each gather opens its files anew."""
    files = [path for path in sample.array.rglob("c/*/0") if path.is_file()]
    chosen = np.random.default_rng(0).permutation(N)[:GATHERED]

    def forget() -> None:
        for path in (*files, sample.plain_path):
            with path.open("rb") as handle:
                os.fsync(handle.fileno())  # only clean pages can be dropped
                os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    return compare(
        "store.gather_cold",
        lambda: sample.view().source.read(chosen),
        lambda: sample.plain()[chosen],
        against=f"np.memmap, {GATHERED:,} random rows, page cache dropped",
        before=forget,
    )


def memory_figure(sample: Sample) -> Figure:
    """Compare the memory that a full scan takes with the 64 MiB that it may take."""
    command = [sys.executable, "-m", "tests.perf.scan_memory", str(sample.store), sample.key]
    extra = [int(subprocess.check_output(command)) for _ in range(PAIRS)]
    return figure_of(
        "store.scan_memory",
        [MEMORY_BYTES / one for one in extra],
        against=f"64 MiB; RssAnon rose by {max(extra) / 2**20:.1f} MiB at most ({PAIRS} processes)",
    )

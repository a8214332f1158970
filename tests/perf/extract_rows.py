"""Rows and parts: what a job costs that encodes next to nothing, by its number of items.

    python -m tests.perf.extract_rows build/rows 100000 1000000 10000000

prints a row for each number of captions: rows a processor second and bytes an item. Each job is a
fresh process that reads the manifest, which no cache knows yet, and extracts its captions with an
object of 8 dimensions, in batches of the default size. Memory is counted as in `scan_memory`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from featstore.extraction.engines import open_on, run_part, settle
from featstore.extraction.job import extract
from featstore.extraction.options import EncoderSpec
from featstore.extraction.targets import Job
from featstore.manifest import read_manifest, write_manifest
from tests.perf.engine import Figure, one_run
from tests.perf.scan_memory import sampled

FEW, MANY = 100_000, 1_000_000

#: Goals: rows a processor second, bytes an item, seconds a part.
ROWS, BYTES, PART = 100_000, 300, 0.005

#: The same blocks in so many parts: the difference is what parts cost.
PARTS = (40, 240)


class Nothing:
    """An encoder of texts that costs nothing."""

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return (b, 8) ones."""
        return np.ones((len(texts), 8), np.float32)


def figures(root: Path) -> Iterator[Figure]:
    """Yield the lines of the group ``extract`` that are about rows and parts."""
    few, many = measured(root, FEW), measured(root, MANY)
    speed = many["rows"] / many["seconds"]
    yield one_run(
        "extract.rows", speed / ROWS, against=f"{ROWS:,} captions a CPU second, of {MANY:,}",
        cpu_seconds=many["seconds"],
    )  # fmt: skip
    yield one_run(
        "extract.rows_growth", speed / (few["rows"] / few["seconds"]),
        against=f"captions a CPU second of {FEW:,}", cpu_seconds=few["seconds"],
    )  # fmt: skip
    yield one_run(
        "extract.rows_memory", BYTES * MANY / many["bytes"],
        against=f"{BYTES} bytes an item; {many['bytes'] / MANY:.0f} were taken at most",
        cpu_seconds=many["seconds"],
    )  # fmt: skip
    seconds = [measured(root, MANY, parts=parts)["seconds"] for parts in PARTS]
    each = (seconds[1] - seconds[0]) / (PARTS[1] - PARTS[0])
    yield one_run(
        "extract.parts", PART / each, against=f"{PART * 1e3:g} ms of CPU a part of {MANY:,} items",
        cpu_seconds=sum(seconds),
    )  # fmt: skip
    shutil.rmtree(root)


def measured(root: Path, count: int, *, parts: int = 0) -> dict[str, float]:
    """Return rows, processor seconds and bytes of a job in a process of its own."""
    folder = root / f"captions{count}"
    if not (folder / "dataset.toml").exists():
        make_captions(folder, count)
    shutil.rmtree(root / "cache", ignore_errors=True)
    shutil.rmtree(root / "store", ignore_errors=True)
    done = subprocess.run(
        [sys.executable, "-c", _JOB, str(folder), str(root / "store"), str(parts)],
        check=True, capture_output=True, text=True,
        env={**os.environ, "XDG_CACHE_HOME": str((root / "cache").absolute())},
    )  # fmt: skip
    found: dict[str, float] = json.loads(done.stdout)
    return found


_JOB = "from tests.perf.extract_rows import job; job()"


def job() -> None:
    """Run a job in this process, whole or in parts, and print what it took."""
    folder, store, parts = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    started = time.process_time()
    with sampled(0.005) as seen:
        rows = run_parts(folder, store, parts) if parts else run_whole(folder, store)
    seconds = time.process_time() - started
    print(json.dumps({"rows": rows, "seconds": seconds, "bytes": max(seen) - seen[0]}))


def run_whole(folder: Path, store: Path) -> int:
    """Extract all captions; return how many."""
    return extract(
        folder, kind="caption", encoder=Nothing(), space={"name": "nothing"}, store=store
    ).new


def run_parts(folder: Path, store: Path, parts: int) -> int:
    """Extract them in parts, as a worker is given them; return how many."""
    choice = EncoderSpec(Nothing(), space={"name": "nothing"})
    job = open_on(Job(read_manifest(folder), "caption", [choice], store), "cpu")
    pinned = settle(job)[0]
    return sum(run_part(job, (part, parts), pinned)[0].new for part in range(parts))


def make_captions(folder: Path, count: int) -> None:
    """Write a manifest of captions."""
    number = pl.col("number").cast(pl.String)
    captions = pl.DataFrame({"number": pl.int_range(count, eager=True)}).select(
        item_id=pl.concat_str(pl.lit("caption/"), number),
        text=pl.concat_str(pl.lit("a photograph of thing number "), number, pl.lit(" by a river")),
        split=pl.lit("train"),
    )
    write_manifest(folder, facts={"name": "captions"}, tables={"caption": captions})


def main() -> None:
    """Print the rows of a table."""
    root = Path(sys.argv[1])
    print("| captions | rows / CPU s | bytes an item |\n|---|---|---|")
    for count in map(int, sys.argv[2:]):
        found = measured(root, count)
        speed = found["rows"] / found["seconds"]
        print(f"| {count:,} | {speed:,.0f} | {found['bytes'] / count:.0f} |", flush=True)


if __name__ == "__main__":
    main()

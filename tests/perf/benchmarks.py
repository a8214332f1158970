"""Benchmarks: rank counting in both directions against bare products, a peer, and a gigabyte."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.perf import sweeping
from tests.perf.engine import Figure, compare, figure_of, not_measured

IMAGES, CAPTIONS, DIM = 5_000, 25_000, 512
#: Standard deviation of the noise between an image and its captions, per column: R@1 is about one
#: half in both directions, so that neither good nor bad alignment makes counting cheap.
NOISE = 7.0
PEER_PAIRS = 6
REPEATS = 6
GIGABYTE = 1_000_000_000


def figures(folder: Path) -> Iterator[Figure]:
    """Yield the lines of the group ``bench``."""
    from bench.metrics.ranks import Relevance, rank_relevant

    rng = np.random.default_rng(0)
    images = rng.standard_normal((IMAGES, DIM), dtype=np.float32)
    texts = np.repeat(images, CAPTIONS // IMAGES, axis=0)
    texts += NOISE * rng.standard_normal(texts.shape, dtype=np.float32)
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    of_image = np.arange(IMAGES)
    of_text = np.repeat(of_image, CAPTIONS // IMAGES)

    def ours() -> None:
        to_text = Relevance.build(of_image, of_text)
        to_image = Relevance.build(of_text, of_image)
        rank_relevant(images, texts, to_text)
        rank_relevant(texts, images, to_image)

    def bare() -> None:
        _ = (images @ texts.T, texts @ images.T)

    yield compare("bench.retrieval", ours, bare, against="the two bare products, 5k × 25k × 512")

    def faiss() -> None:
        import faiss as library

        for queries, gallery in ((images, texts), (texts, images)):
            library.knn(queries, gallery, 10, metric=library.METRIC_INNER_PRODUCT)

    try:
        yield compare(
            "bench.retrieval/faiss", ours, faiss, against="faiss knn twice, k = 10",
            pairs=PEER_PAIRS,
        )  # fmt: skip
    except ImportError as err:
        yield not_measured("bench.retrieval/faiss", f"{err.name} is not installed")
    yield _memory("bench.retrieval_memory", "20k × 100k × 512", "dense", "20000", "100000")
    yield _memory(
        "bench.retrieval_memory_sparse", "2k × 5k in 100k anchors", "sparse", "2000", "5000",
        "100000",
    )  # fmt: skip
    yield from sweeping.figures(folder)


def _memory(name: str, what: str, *arguments: str) -> Figure:
    """Return how many times the growth of a process that ranks, its input included, fits in 1 GB.

    Six times, the fewest that an interval needs.
    """
    command = [sys.executable, "-m", "tests.perf.ranks_memory", *arguments]
    grown = [
        int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        for _ in range(REPEATS)
    ]
    return figure_of(name, [GIGABYTE / bytes_ for bytes_ in grown], against=f"1 GB, {what}")

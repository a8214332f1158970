"""Benchmarks: rank counting in both directions against the bare matrix products."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.perf.engine import Figure, compare


def figures(_: Path) -> Iterator[Figure]:
    """Yield the lines of the group ``bench``."""
    from bench.metrics import rank_projections

    rng = np.random.default_rng(0)
    images = rng.standard_normal((2000, 512)).astype(np.float32)
    texts = np.repeat(images, 5, axis=0) + rng.standard_normal((10_000, 512)).astype(np.float32)
    of_image, of_text = np.arange(2000), np.repeat(np.arange(2000), 5)

    def ours() -> None:
        rank_projections(images, texts, of_image, of_text)
        rank_projections(texts, images, of_text, of_image)

    def bare() -> None:
        _ = (images @ texts.T, texts @ images.T)

    yield compare("bench.retrieval", ours, bare, against="the two bare products")

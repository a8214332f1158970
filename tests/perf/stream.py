"""Pairs of rows without end, from a few blocks that stay in memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

BLOCK, BLOCKS = 4096, 8


class Stream:
    """Blocks of 4096 paired float32 rows, y a noisy linear image of x, over and over."""

    def __init__(self, p: int, q: int) -> None:
        rng = np.random.default_rng(0)
        rows = BLOCK * BLOCKS
        self.x = rng.standard_normal((rows, p), dtype=np.float32)
        plant = rng.standard_normal((p, q), dtype=np.float32) / np.float32(p**0.5)
        self.y = self.x @ plant + rng.standard_normal((rows, q), dtype=np.float32)

    def batches(self, n: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield n pairs."""
        for start in range(0, n, BLOCK):
            at = start % len(self.x)
            stop = at + min(BLOCK, n - start)
            yield self.x[at:stop], self.y[at:stop]

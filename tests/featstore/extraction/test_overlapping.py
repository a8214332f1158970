"""Batches that are encoded by several threads give what one thread gives, in order."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl
import pytest

from featstore import Manifest
from featstore.extraction.batches import BatchRunner
from featstore.extraction.pipeline import IN_FLIGHT, BlockTask, Preparation, encode_blocks
from tests.assertions import ends_what_it_starts


class Slow:
    """Takes longer for early batches, and notes how many are under way."""

    name, kinds, dim, batch_size = "slow", frozenset({"image"}), 2, 2
    overlaps = True

    def __init__(self, refused: float | None = None) -> None:
        self.refused = refused
        self.lock = threading.Lock()
        self.now = self.most = self.begun = 0

    def prepare(self, item: Any) -> float:
        return float(item.width)

    def encode(self, batch: list[float]) -> np.ndarray:
        with self.lock:
            self.begun += 1
            self.now += 1
            self.most = max(self.most, self.now)
            pause = 0.05 if self.begun % 3 == 1 else 0.0
        time.sleep(pause)
        with self.lock:
            self.now -= 1
        if self.refused in batch:
            msg = "no such width"
            raise ValueError(msg)
        return np.array([[width, -width] for width in batch], dtype=np.float32)


class Files:
    def __init__(self, manifest: Manifest) -> None:
        self._root = manifest.root

    def read(self, item: Any) -> bytes:
        return (self._root / item["uri"]).read_bytes()


def _tasks(items: pl.DataFrame, rows: int = 4) -> Iterator[BlockTask]:
    for number, start in enumerate(range(0, items.height, rows)):
        part = items[start : start + rows]
        yield BlockTask(number, part, [np.ones(part.height, dtype=bool)])


def _encode(manifest: Manifest, encoder: Any, **options: Any) -> list[Any]:
    runner = BatchRunner(encoder, 2, device="cpu", halve=False)
    with Preparation(Files(manifest), [runner], workers=2) as preparation:
        tasks = _tasks(manifest.tables["image"])
        return list(encode_blocks(tasks, preparation, **options))


def test_blocks_come_in_order_and_whole_while_batches_overlap(manifest):
    encoder = Slow()
    counted: list[int] = []
    outputs = _encode(manifest, encoder, on_rows=counted.append)
    assert [output.number for output in outputs] == [0, 1, 2]
    rows = np.concatenate([output.rows[0] for output in outputs])
    widths = np.arange(4, 15, dtype=np.float32)  # what the fixture's pictures have
    assert rows.tolist() == np.stack([widths, -widths], axis=1).tolist()
    assert 1 < encoder.most <= IN_FLIGHT
    assert sorted(counted) == [1, 2, 2, 2, 2, 2]  # of batches as they end, in any order


def test_an_error_of_a_batch_ends_the_job_and_its_threads(manifest):
    encoder = Slow(refused=9.0)
    ends = ends_what_it_starts("encode", "prepare")
    with ends, pytest.raises(ValueError, match="no such width"):
        _encode(manifest, encoder)

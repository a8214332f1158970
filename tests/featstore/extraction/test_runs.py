"""Runs of pictures and batches under way: the same bytes as one after the other."""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

import featstore
from featstore import EncoderSpec, ExtractConfig, Manifest
from featstore.decoding import DecodePool, Feed, Ring, shared_memory
from featstore.extraction import batches as runs
from featstore.extraction import targets
from featstore.extraction.batches import BatchRunner
from featstore.extraction.job import extract, extract_many
from featstore.extraction.pipeline import IN_FLIGHT, BlockTask, Preparation, encode_blocks
from featstore.extraction.progress import StageClock
from featstore.images import Geometry, decode_image
from featstore.manifest import write_manifest
from featstore.sources.reader import ByteReader
from tests.assertions import ends_what_it_starts
from tests.damage import lasting


class Square:
    """Means of columns of the picture that its geometry makes, to be computed by hand."""

    def __init__(self, side: int, *, keep: bool = False) -> None:
        self.geometry = Geometry((side,), (side, side), "BICUBIC")
        self.kept: list[np.ndarray] | None = [] if keep else None

    def encode(self, batch: np.ndarray) -> np.ndarray:
        assert batch.dtype == np.uint8
        assert batch.shape[1:] == self.geometry.shape
        if self.kept is not None:
            self.kept.append(batch)
        return batch.mean(axis=(1, 3), dtype=np.float32)


def spec(encoder: Square) -> EncoderSpec:
    return EncoderSpec(encoder, space={"name": f"square-{encoder.geometry.crop[0]}"})


def rows_of(store: Path, key: str) -> np.ndarray:
    return featstore.open_store(store).view(key).numpy()


@pytest.fixture
def short_runs(monkeypatch):
    monkeypatch.setattr(runs, "RUN", 3)


@pytest.mark.usefixtures("short_runs")
@pytest.mark.parametrize("lost", [[], [0, 5, 10], [3, 4]])
@pytest.mark.parametrize("batch", [1, 4, 11])
def test_runs_and_threads_write_the_same_store(manifest, tmp_path, lost, batch):
    for number in lost:
        (manifest.root / "images" / f"{number:02}.png").write_bytes(b"no picture")
    unchecked = {kind: table.drop("content_sha256") for kind, table in manifest.tables.items()}
    manifest = write_manifest(manifest.root, facts={"name": "toy"}, tables=unchecked)
    stores = {}
    for name, timeout in (("runs", 30.0), ("threads", 0.0)):
        config = ExtractConfig(
            batch_size=batch, decode_timeout=timeout, block_rows=4, thumbnails=True, jobs=2
        )
        encoders = [spec(Square(6, keep=True)), spec(Square(6)), spec(Square(9))]
        encoders[1] = EncoderSpec(encoders[1].encoder, space={"name": "another"})
        found = extract_many(
            manifest, kind="image", encoders=encoders, store=tmp_path / name, config=config
        )
        assert [set(done.failures) for done in found] == [{f"toy/{n:02}" for n in lost}] * 3
        # What an encoder keeps does not change under it.
        kept = encoders[0].encoder.kept
        assert kept is not None
        stores[name] = (lasting(tmp_path / name), [one.tobytes() for one in kept])
    assert stores["runs"] == stores["threads"]
    # By hand, without either.
    rows = rows_of(tmp_path / "runs", "toy/image/object:square-9")
    good = [number for number in range(11) if number not in lost]
    pictures = [decode_image(manifest.root / "images" / f"{n:02}.png") for n in good]
    expected = [Square(9).geometry.pixels(picture).mean(axis=(0, 2)) for picture in pictures]
    np.testing.assert_allclose(rows, np.array(expected), rtol=1e-3)


def test_a_crash_and_a_hang_cost_an_item_each(manifest, tmp_path, monkeypatch):
    decoder = "tests.featstore.extraction.conftest:decode_or_die"
    monkeypatch.setattr(targets, "DecodePool", functools.partial(DecodePool, decoder=decoder))
    for name, width in (("03.png", 666), ("07.png", 667)):
        Image.new("RGB", (width, 2)).save(manifest.root / "images" / name)
    unchecked = {kind: table.drop("content_sha256") for kind, table in manifest.tables.items()}
    nasty = write_manifest(manifest.root, facts={"name": "toy"}, tables=unchecked)
    result = extract(
        nasty, kind="image", encoder=spec(Square(5)), store=tmp_path / "store",
        decode_timeout=1.0, jobs=1,
    )  # fmt: skip
    assert set(result.failures) == {"toy/03", "toy/07"}
    assert "crashed" in result.failures["toy/03"]
    assert "took longer" in result.failures["toy/07"]
    assert result.new == 9


def test_a_picture_that_a_device_cannot_resize_costs_itself(manifest, monkeypatch):
    def on_tensor(self: Geometry, picture: torch.Tensor) -> torch.Tensor:
        if self.crop == (9, 9) and picture.shape[1] == 6:
            msg = "The size of a picture\nmust be positive."
            raise RuntimeError(msg)
        return resize(self, picture)

    resize = Geometry.on_tensor
    monkeypatch.setattr(Geometry, "on_tensor", on_tensor)
    runners = [BatchRunner(Square(side), 4, device="cpu", halve=False) for side in (5, 9)]
    reader = ByteReader(manifest.root)
    feed = Feed(reader, (Square(5).geometry, Square(9).geometry))
    made = runs.DeviceRuns(runners, feed, "cpu", {}, 1, StageClock())
    items = [(f"images/{number:02}.png",) for number in range(4)]  # from 4 pixels wide to 7
    found = made.submit(("uri",), items)()
    made.close()
    reason = "RuntimeError: The size of a picture must be positive."
    assert found.failures == {2: f"Cannot decode the image: {reason}"}
    for rows in found.prepared:
        assert [row is None for row in rows] == [False, False, True, False]


@hypothesis.given(workers=st.integers(1, 200), size=st.integers(1, 600), block=st.integers(1, 5000))
@hypothesis.settings(deadline=None)
def test_the_ring_holds_the_batches_that_are_under_way(workers, size, block):
    runner = BatchRunner(Square(1), size, device="cpu", halve=False)
    pool: Any = SimpleNamespace(memory=shared_memory(), take_runs=lambda _, ring: made.append(ring))
    made: list[Ring] = []
    found = runs.Runs(
        [runner], Feed(None, (runner.geometry or Square(1).geometry,)), workers, StageClock(),
        pool,
    )  # fmt: skip
    batches: dict[int, set[int]] = {}
    for number, part in enumerate(found.parts(np.arange(block))):
        for row in part.tolist():
            batches.setdefault(row // size, set()).add(number)
    (ring,) = made
    os.close(ring.handle)
    assert (runs.IN_FLIGHT + 1) * max(map(len, batches.values())) <= ring.slots - ring.flying


def test_the_geometry_of_an_object_is_part_of_its_space(manifest, tmp_path):
    for side in (4, 5):
        extract(
            manifest, kind="image", encoder=EncoderSpec(Square(side), space={"name": "x"}),
            store=tmp_path,
        )  # fmt: skip
    assert len(featstore.open_store(tmp_path).sets()) == 2


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

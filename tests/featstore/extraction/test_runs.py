"""Runs of pictures and batches under way: the same bytes as one after the other."""

from __future__ import annotations

import functools
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import featstore
from featstore import EncoderSpec, ExtractConfig, Manifest
from featstore.decoding import DecodePool
from featstore.extraction import batches as runs
from featstore.extraction import targets
from featstore.extraction.batches import BatchRunner
from featstore.extraction.job import extract, extract_many
from featstore.extraction.pipeline import IN_FLIGHT, BlockTask, Preparation, encode_blocks
from featstore.images import Geometry, decode_image
from featstore.manifest import write_manifest
from featstore.sources.reader import ByteReader
from tests.assertions import ends_what_it_starts
from tests.damage import lasting
from tests.featstore.extraction.conftest import Bare


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


@pytest.mark.parametrize(("lost", "batch"), [([], 4), ([0, 5, 10], 1), ([3, 4], 4), ([3, 4], 11)])
def test_runs_and_threads_write_the_same_store(manifest, tmp_path, lost, batch, monkeypatch):
    monkeypatch.setattr(runs, "RUN", 3)
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


def test_the_geometry_of_an_object_is_part_of_its_space(manifest, tmp_path):
    for side in (4, 5):
        extract(
            manifest, kind="image", encoder=EncoderSpec(Square(side), space={"name": "x"}),
            store=tmp_path / "store",
        )  # fmt: skip
    assert len(featstore.open_store(tmp_path / "store").sets()) == 2


class Slow(Bare):
    """Takes longer for early batches, and notes how many are under way."""

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


def _encode(manifest: Manifest, encoder: Any, **options: Any) -> list[Any]:
    runner = BatchRunner(encoder, 2, device="cpu")
    items = manifest.tables["image"]
    tasks = [
        BlockTask(number, items[start : start + 4], [np.ones(len(items[start : start + 4]), bool)])
        for number, start in enumerate(range(0, len(items), 4))
    ]
    with Preparation(ByteReader(manifest.root), [runner], workers=2) as preparation:
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

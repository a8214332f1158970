"""Several encoders in one pass, views, batch sizes, and texts sorted by length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import featstore
from featstore import EncoderSpec, ExtractConfig, Manifest, extract_many
from featstore.errors import EncoderError
from featstore.extraction import pipeline
from featstore.extraction.batches import BatchRunner
from featstore.extraction.pipeline import BlockTask, Preparation, encode_blocks
from featstore.images import decode_image, draw_view, view_items
from featstore.sources.reader import ByteReader
from tests.damage import lasting
from tests.featstore.extraction.conftest import (
    SPACE,
    Bare,
    MeanColour,
    Stop,
    expected_row,
    extract_toy,
    stop_after,
)

OPTIONS = ExtractConfig(batch_size=2, block_rows=4, dtype="float32", decode_timeout=None)
OTHER = {"name": "width-first"}


class WidthFirst(MeanColour):
    def encode(self, items: list[Any]) -> np.ndarray:
        return super().encode(items)[:, ::-1]


class Small(MeanColour):
    """Runs out of memory above three items."""

    def encode(self, items: list[Any]) -> np.ndarray:
        if len(items) > 3:
            msg = "CUDA out of memory. Tried to allocate 20.00 MiB."
            raise torch.OutOfMemoryError(msg)
        return super().encode(items)


class PositionDependent(Bare):
    """Every row says which slot of which batch size it was computed in."""

    def encode(self, batch: Any) -> np.ndarray:
        return np.array([[slot, len(batch)] for slot in range(len(batch))], np.float32)


def _choices() -> list[EncoderSpec]:
    return [EncoderSpec(MeanColour(), space=SPACE), EncoderSpec(WidthFirst(), space=OTHER)]


def test_one_decode_feeds_every_encoder(manifest, store, monkeypatch):
    decoded: list[int] = []

    def count(data: bytes, **options: Any) -> Image.Image:
        decoded.append(len(data))
        return decode_image(data, **options)

    monkeypatch.setattr(pipeline, "decode_image", count)
    results = extract_many(manifest, kind="image", encoders=_choices(), store=store, config=OPTIONS)
    assert [(r.new, r.failed) for r in results] == [(11, 0), (11, 0)]
    assert len(decoded) == 11
    alone = store.with_name("alone")
    extract_toy(manifest, alone)
    extract_toy(manifest, alone, encoder=WidthFirst(), space=OTHER)
    assert lasting(store) == lasting(alone)


def test_an_encoder_that_has_its_rows_is_not_run_again(manifest, store):
    extract_toy(manifest, store, limit=6)
    first, second = _choices()
    results = extract_many(
        manifest, kind="image", encoders=[first, second], store=store, config=OPTIONS
    )
    assert [(r.reused, r.new) for r in results] == [(6, 5), (0, 11)]
    assert sum(first.encoder.batches) == 1 + 4 + 5
    view = featstore.open_store(store).view(results[1].key)
    expected = [expected_row(manifest.root / uri)[::-1] for uri in view.items["uri"]]
    np.testing.assert_allclose(view.numpy(), expected, rtol=1e-6)


def _encoded(
    manifest: Manifest, encoder: Any, size: int, needed: list[np.ndarray], rows: int
) -> list[np.ndarray]:
    """Encode the images in blocks of so many rows; return the rows of the first encoder."""
    items = manifest.tables["image"]
    others = [BatchRunner(PositionDependent(), 5, device="cpu")] * (len(needed) - 1)
    runners = [BatchRunner(encoder, size, device="cpu"), *others]
    with ByteReader(manifest.root) as reader, Preparation(reader, runners, workers=2) as pipeline:
        tasks = [
            BlockTask(start, items[start : start + rows], [n[start : start + rows] for n in needed])
            for start in range(0, items.height, rows)
        ]
        return [output.rows[0] for output in encode_blocks(tasks, pipeline)]


def test_slots_do_not_depend_on_other_encoders_or_failures(manifest):
    mine = np.ones(11, dtype=bool)
    mine[[0, 5]] = False
    other = ~mine
    alone = _encoded(manifest, PositionDependent(), 3, [mine], 6)
    beside = _encoded(manifest, PositionDependent(), 3, [mine, other], 6)
    # By hand: rows 1-3 fill a batch of three, row 4 is alone; then 6-8 and 9-10.
    table = [None, (0, 3), (1, 3), (2, 3), (0, 1), None, (0, 3), (1, 3), (2, 3), (0, 2), (1, 2)]
    expected = np.array([(np.nan, np.nan) if row is None else row for row in table])
    np.testing.assert_array_equal(np.concatenate(alone), expected)
    np.testing.assert_array_equal(np.concatenate(beside), expected)
    (manifest.root / "images" / "02.png").unlink()
    expected[2] = np.nan
    lost = _encoded(manifest, PositionDependent(), 3, [mine], 6)
    np.testing.assert_array_equal(np.concatenate(lost), expected)


class InOrder(Bare):
    """A text encoder without lengths, which notes its batches: they are slots by row."""

    kinds, dim = frozenset({"caption"}), 1

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def encode(self, batch: Any) -> np.ndarray:
        self.batches.append([int(text) for text in batch])
        return np.array([[int(text)] for text in batch], np.float32)


@given(st.data())
def test_texts_in_runs_meet_in_the_slots_of_their_rows(data):
    n = data.draw(st.integers(1, 40))
    masks = st.lists(st.booleans(), min_size=n, max_size=n)
    needed = [np.array(data.draw(masks)) for _ in range(2)]
    sizes = [data.draw(st.integers(1, 9)) for _ in range(2)]
    items = pl.DataFrame({"item_id": [f"i{row}" for row in range(n)], "text": map(str, range(n))})
    encoders = [InOrder(), InOrder()]
    runners = [
        BatchRunner(encoder, size, device="cpu")
        for encoder, size in zip(encoders, sizes, strict=True)
    ]
    with (
        pytest.MonkeyPatch.context() as patch,
        Preparation(ByteReader(Path()), runners, workers=2) as preparation,
    ):
        patch.setattr(pipeline, "TEXT_RUN", data.draw(st.integers(1, 12)))
        (output,) = encode_blocks([BlockTask(0, items, needed)], preparation)
    for encoder, size, mask, rows in zip(encoders, sizes, needed, output.rows, strict=True):
        wanted = np.flatnonzero(mask).tolist()
        slots = [wanted[start : start + size] for start in range(0, len(wanted), size)]
        assert encoder.batches == slots
        np.testing.assert_array_equal(rows[:, 0], np.where(mask, np.arange(n), np.nan))


def test_a_fixed_batch_that_does_not_fit_says_what_to_do(manifest, store):
    with pytest.raises(EncoderError, match=r"with 8 items at once.*smaller `batch_size=`"):
        extract_toy(manifest, store, encoder=Small(), batch_size=8, block_rows=11)


def test_a_resumed_job_takes_the_batch_it_was_begun_with(manifest, store):
    with pytest.raises(Stop):
        extract_toy(manifest, store, batch_size=3, on_block=stop_after(1))
    encoder = MeanColour()
    result = extract_toy(manifest, store, encoder=encoder, batch_size=None)
    assert (result.reused, result.new) == (4, 7)
    # The encoder's own size is 32: the blocks of four rows are 3 + 1 and the last one 3.
    assert encoder.batches == [1, 3, 1, 3, 4]


def test_views_are_seeded_and_belong_to_their_image(manifest, store):
    first = extract_toy(manifest, store, views=3, seed=7, block_rows=5)
    assert (first.key.split("/")[0], first.new) == ("toy.views3-seed7", 33)
    view = featstore.open_store(store).view(first.key)
    images = manifest.tables["image"]
    assert view.items["parent_id"].to_list() == [i for i in images["item_id"] for _ in range(3)]
    assert view.items["view_id"].to_list() == [0, 1, 2] * 11
    assert view.items["content_sha256"].n_unique() == 33
    # Another process, batch and block size: the same bits.
    again = extract_toy(manifest, store.with_name("again"), views=3, seed=7, batch_size=1)
    same = featstore.open_store(store.with_name("again")).view(again.key)
    assert same.numpy().tobytes() == view.numpy().tobytes()
    # More views of the same seed begin with these: they are known.
    more = extract_toy(manifest, store, views=4, seed=7)
    assert (more.copied, more.new) == (33, 11)
    assert extract_toy(manifest, store, views=3, seed=8).copied == 0


def test_a_view_is_a_part_of_its_image_of_the_stated_size():
    y, x = np.mgrid[0:100, 0:200]
    image = Image.fromarray(np.stack([x, y, x * 0], axis=-1).astype(np.uint8))
    images = pl.DataFrame({"item_id": ["a"], "uri": ["a"], "content_sha256": ["0" * 64]})
    flipped = 0
    for item in view_items(images, views=200, seed=1).iter_rows(named=True):
        pixels = np.asarray(draw_view(image, item)).astype(int)
        height, width = pixels.shape[:2]
        assert 0.45 <= height * width / 20_000 <= 1.0
        assert 0.7 <= (width / height) / 2 <= 1.4
        step = pixels[0, 1, 0] - pixels[0, 0, 0]
        flipped += step == -1
        assert abs(step) == 1
        left = pixels[0, :, 0].min()
        assert np.array_equal(np.sort(pixels[0, :, 0]), np.arange(left, left + width))
    assert 70 < flipped < 130

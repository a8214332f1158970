"""Images above the limit of pixels: skipped and listed, taken where asked for.

The files are real: an image of 10,001 × 10,001 constant pixels takes 12 kB.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from featstore import EncoderSpec
from featstore.errors import TooManyFailuresError
from featstore.extraction.job import extract, repair_set
from featstore.extraction.options import ExtractConfig
from featstore.extraction.pipeline import FailureLimit
from featstore.images import LEFT_OUT, Geometry, ImageError, decode_image
from featstore.sources.making import make_manifest
from featstore.store import open_store
from tests.damage import flip
from tests.featstore.nasty_images import encoded

LARGE = 10_001
TAKEN = LARGE * LARGE

#: More than fail by default before a job stops.
MANY = 12


class Means:
    """Means of the pictures, which decoding processes prepare in runs."""

    geometry = Geometry((8,), (8, 8), "BICUBIC")

    def encode(self, batch: np.ndarray) -> np.ndarray:
        return batch.reshape(len(batch), -1, 3).mean(axis=1) + 1.0


class Sizes:
    """Sizes of the pictures, which come one by one."""

    def encode(self, batch: list[Image.Image]) -> np.ndarray:
        return np.array([[*image.size, 1.0] for image in batch])


def spec(kind: type) -> EncoderSpec:
    return EncoderSpec(kind(), space={"name": kind.__name__})


@pytest.fixture(scope="module")
def large() -> bytes:
    return encoded(Image.new("1", (LARGE, LARGE), 1))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory, large: bytes) -> Path:
    """Twelve large images among sixteen."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(4):
        Image.new("RGB", (9 + number, 8), (10 * number, 0, 0)).save(folder / f"{number}.png")
    for number in range(MANY):
        (folder / f"large-{number:02d}.png").write_bytes(large)
    made = tmp_path_factory.mktemp("made") / "photos"
    make_manifest("folder", folder, made)
    return made


@pytest.mark.parametrize("kind", [Means, Sizes], ids=["runs", "one by one"])
@pytest.mark.parametrize("timeout", [60, 0], ids=["processes", "threads"])
def test_they_are_skipped_and_listed(
    manifest: Path, tmp_path: Path, kind: type, timeout: int
) -> None:
    done = extract(
        manifest, kind="image", encoder=spec(kind), store=tmp_path, jobs=1, decode_timeout=timeout
    )
    assert (done.new, done.failed) == (4, MANY)
    for item, reason in done.failures.items():
        assert "large" in item
        assert reason.startswith(LEFT_OUT)
        assert (
            "10,001 × 10,001 pixels, more than the limit of 100,000,000 (-s max_pixels=N)" in reason
        )
    assert np.isfinite(open_store(tmp_path).view(done.key).numpy()).all(axis=1).sum() == 4


def test_one_is_taken_where_the_option_allows_it_and_a_repair_takes_it_again(
    tmp_path: Path, large: bytes
) -> None:
    photos, store = tmp_path / "photos", tmp_path / "store"
    photos.mkdir()
    Image.new("RGB", (9, 8)).save(photos / "a.png")
    (photos / "b.png").write_bytes(large)
    manifest = make_manifest("folder", photos, tmp_path / "made")
    run = partial(
        extract, manifest, kind="image", encoder=spec(Sizes), store=store, jobs=1, dtype="float32"
    )
    assert run().failed == 1
    assert run(retry_failed=True, max_pixels=TAKEN - 1).failed == 1
    done = run(retry_failed=True, max_pixels=TAKEN)
    assert (done.new, done.failed) == (1, 0)
    assert open_store(store).view(done.key).numpy()[1].tolist() == [LARGE, LARGE, 1.0]
    file = open_store(store).info(done.key).commit.layout.files[0]
    flip(store / done.key / file.path, file.part.padding + 16)  # a value of the second row
    (command,) = repair_set(store, done.key).commands[1:]
    assert "repair=True" in command
    with pytest.raises(TooManyFailuresError, match="at most 0 may"):
        run(repair=True)
    repaired = run(repair=True, max_pixels=TAKEN)
    assert (repaired.revision_id, repaired.failed) == (done.revision_id, 0)


def test_only_faults_count_unless_a_number_was_asked_for() -> None:
    left_out = {
        f"large {n}": f"{LEFT_OUT} 'a' with many pixels (-s max_pixels=N)." for n in range(50)
    }

    def limit(**options: Any) -> FailureLimit:
        return FailureLimit("toy/image/x", 1000, ExtractConfig(**options), before={})

    usual = limit()
    for item, reason in left_out.items():
        usual.add(item, reason)
    for number in range(10):
        usual.add(f"broken {number}", "Cannot decode it.")
    usual.check()
    with pytest.raises(
        TooManyFailuresError,
        match=r"11 of 1,000 items .*first 'broken 0'.*at most 10 may.*4,096 rows are kept",
    ):
        usual.add("broken 10", "Cannot decode it.")
    counting = limit(max_failures=2)
    for item in ("large 0", "large 1"):
        counting.add(item, left_out[item])
    with pytest.raises(TooManyFailuresError, match="3 of 1,000 items"):
        counting.add("large 2", left_out["large 2"])
    with pytest.raises(TooManyFailuresError, match="All items"):
        FailureLimit("x", 50, ExtractConfig(), before=left_out).check()
    with pytest.raises(TooManyFailuresError, match=r"1 of 1,000 .*at most 0"):
        limit(max_failures=0).add("large 0", left_out["large 0"])


def test_the_limit_stands_in_the_place_of_pillows_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # twice as many are Pillow's limit
    data = encoded(Image.new("RGB", (100, 100), (9, 8, 7)), "JPEG")
    assert decode_image(data, max_pixels=10_000).size == (100, 100)
    with pytest.raises(ImageError, match=f"^{LEFT_OUT} .*100 × 100 pixels"):
        decode_image(data, max_pixels=9_999)
    assert Image.MAX_IMAGE_PIXELS == 1000

"""Other pixels than the default's: other spaces."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from PIL import Image

import featstore
from featstore import EncoderSpec
from featstore.errors import EncoderError
from featstore.extraction.job import extract
from featstore.extraction.opening import with_pixels
from featstore.extraction.options import ExtractConfig
from featstore.images import Geometry
from featstore.manifest import write_manifest


class Means:
    """Means of a grid over the picture."""

    def __init__(self, resize: int = 32) -> None:
        self.geometry = Geometry((resize,), (24, 24), "BICUBIC")

    def encode(self, batch: np.ndarray) -> np.ndarray:
        return batch.reshape(len(batch), 6, 4, 6, 4, 3).mean(axis=(2, 4)).reshape(len(batch), -1)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    for number, size in enumerate([(1100, 1030), (40, 60), (90, 50)]):
        small = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        large = small.resize(size, Image.Resampling.BICUBIC)
        large.save(folder / "images" / f"{number}.jpg", quality=90)
    Image.new("RGB", (20, 30), (9, 8, 7)).save(folder / "images" / "3.png")
    (folder / "images" / "4.jpg").write_bytes(b"\xff\xd8 broken \xff\xd9")
    names = ["0.jpg", "1.jpg", "2.jpg", "3.png", "4.jpg", "gone.jpg"]
    (folder / "images" / "gone.jpg").write_bytes(b"x")
    items = pl.DataFrame({"item_id": names, "uri": [f"images/{name}" for name in names]})
    made = write_manifest(folder, facts={"name": "photographs"}, tables={"image": items})
    (folder / "images" / "gone.jpg").unlink()
    return made


SCALED = "large JPEG scaled by its transform, to at least 512"


def test_other_pixels_are_another_space(photographs, tmp_path):
    spec = EncoderSpec(Means(), space={"name": "means"})
    config = ExtractConfig(jobs=1, max_failures=9)
    usual, other = (
        extract(photographs, kind="image", encoder=spec, store=tmp_path, config=config, **given)
        for given in ({}, {"decode": "scaled"})
    )
    assert usual.key != other.key
    assert set(usual.failures) == set(other.failures) == {"4.jpg", "gone.jpg"}
    opened = featstore.open_store(tmp_path)
    views = [opened.view(done.key) for done in (usual, other)]
    spaces = [opened.info(done.key).attributes for done in (usual, other)]
    assert spaces[1]["space"]["preprocessing"] == {"decode": {"jpeg": SCALED}}
    assert "preprocessing" not in str(spaces[0])
    rows = [view.numpy().astype(np.float64) for view in views]
    cosines = (rows[0] * rows[1]).sum(axis=1)
    cosines /= np.linalg.norm(rows[0], axis=1) * np.linalg.norm(rows[1], axis=1)
    assert cosines.min() > 0.999
    assert (rows[0] != rows[1]).any()


def test_an_encoder_is_refused_where_the_option_would_not_hold():
    large = Means(640)
    large.name = "large"  # type: ignore[attr-defined]
    with pytest.raises(EncoderError, match="large sees pictures of 640 pixels"):
        with_pixels(large, ExtractConfig(decode="scaled"))

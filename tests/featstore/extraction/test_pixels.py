"""Other pixels than the default's: other spaces; and decoding on a device."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

import featstore
from featstore import EncoderSpec, Manifest
from featstore.errors import DeviceError, EncoderError
from featstore.extraction.batches import BatchRunner
from featstore.extraction.job import extract
from featstore.extraction.opening import with_pixels
from featstore.extraction.options import ExtractConfig
from featstore.extraction.pipeline import Preparation
from featstore.images import Geometry, decode_image
from featstore.manifest import write_manifest
from featstore.sources.reader import ByteReader
from tests.featstore.extraction.conftest import encode_block


class Means:
    """Means of a grid over the picture."""

    def __init__(self, resize: int = 32) -> None:
        self.geometry = Geometry((resize,), (24, 24), "BICUBIC")

    def encode(self, batch: np.ndarray) -> np.ndarray:
        return batch.reshape(len(batch), 6, 4, 6, 4, 3).mean(axis=(2, 4)).reshape(len(batch), -1)


class Kept(Means):
    """An encoder of ours, resizing with torchvision."""

    name, kinds, dim, batch_size = "kept", frozenset({"image"}), 108, 2

    def __init__(self, resize: int = 32) -> None:
        super().__init__()
        self.geometry = Geometry((resize,), (24, 24), "BICUBIC", "torchvision")
        self.space: dict[str, Any] = {}

    def prepare(self, item: Image.Image) -> np.ndarray:
        return self.geometry.pixels(item)

    def encode(self, batch: Any) -> np.ndarray:
        return super().encode(np.stack(batch))


class Own(Kept):
    """An encoder with a transform of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.geometry = None  # type: ignore[assignment]

    def prepare(self, item: Image.Image) -> np.ndarray:
        return np.asarray(item.resize((24, 24)))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    sizes = [(1100, 1030), (40, 60), (90, 50)]
    for number, size in enumerate(sizes):
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


def _on_a_device(photographs: Manifest, *encoders: Any) -> Any:
    """Encode the photographs by the path of a GPU, on the CPU; return the output."""
    runners = [BatchRunner(encoder, 2, device="cpu") for encoder in encoders]
    with (
        ByteReader(photographs.root) as reader,
        Preparation(reader, runners, workers=2, gpu="cpu") as preparation,
    ):
        return encode_block(photographs.tables["image"], preparation)


def test_decoding_on_a_device_gives_what_torchvision_makes_of_the_picture(photographs):
    """The path of a GPU, on the CPU's decoder: nobody has run it on a GPU."""
    encoder: Any = Kept()
    output = _on_a_device(photographs, encoder, encoder)
    assert set(output.failures) == {"4.jpg", "gone.jpg"}
    np.testing.assert_array_equal(output.rows[0], output.rows[1])
    uris = photographs.tables["image"]["uri"].to_list()[:4]
    pictures = [decode_image(photographs.root / uri) for uri in uris]
    expected = encoder.encode([encoder.prepare(picture) for picture in pictures])
    # Two decoders of JPEG round differently; a PNG is the same picture.
    np.testing.assert_allclose(output.rows[0][:4], expected, atol=2)
    np.testing.assert_array_equal(output.rows[0][3], expected[3].astype(np.float32))
    assert np.isnan(output.rows[0][4:]).all()


OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize("kind", [Kept, Own], ids=["runs", "one by one"])
@pytest.mark.parametrize("step", ["decode", "resize"])
def test_a_device_without_memory_ends_the_job_and_blames_no_picture(
    photographs, monkeypatch, kind, step
):
    """The error is injected where a GPU raises it; all else runs as it does there."""

    def fails(*_: object, **__: object) -> Any:
        raise OUT_OF_MEMORY

    if step == "decode":
        monkeypatch.setattr("torchvision.io.decode_jpeg", fails)
    else:
        monkeypatch.setattr(Geometry, "on_tensor", fails)
        monkeypatch.setattr(Own, "prepare", fails)
    with pytest.raises(DeviceError, match=r"Decoding ran out of memory on cpu.*batch_size="):
        _on_a_device(photographs, kind())


@pytest.mark.parametrize(
    ("error", "size"),
    [(RuntimeError("no such\nfilter"), (90, 50)), (OUT_OF_MEMORY, (100_000, 1))],
    ids=["another error", "long and thin"],
)
def test_what_is_the_fault_of_a_picture_is_still_listed(photographs, monkeypatch, error, size):
    """It costs the picture its rows, of every encoder, and no other picture."""
    usual = Geometry.on_tensor

    def on_tensor(self: Geometry, picture: torch.Tensor) -> torch.Tensor:
        if self.resize == (40,) and (picture.shape[1], picture.shape[0]) == size:
            raise error
        return usual(self, picture)

    monkeypatch.setattr(Geometry, "on_tensor", on_tensor)
    path = photographs.root / "images/2.jpg"
    before = path.read_bytes()
    Image.new("RGB", size, (9, 8, 7)).save(path, "PNG")
    try:
        items = photographs.tables["image"].with_columns(content_sha256=None)
        changed = replace(photographs, tables={"image": items})
        output = _on_a_device(changed, Kept(), Kept(40))
    finally:
        path.write_bytes(before)
    assert set(output.failures) == {"2.jpg", "4.jpg", "gone.jpg"}
    assert str(error).replace("\n", " ") in output.failures["2.jpg"]
    for rows in output.rows:
        assert np.isfinite(rows).all(axis=1).tolist() == [True, True, False, True, False, False]

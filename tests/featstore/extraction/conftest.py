"""A small manifest of real PNG files and an encoder that can be computed by hand."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from featstore.manifest.io import write_manifest
from featstore.manifest.manifest import Manifest

SPACE = {"name": "mean-colour"}


class MeanColour:
    """Maps an image to its mean RGB and its width; a text to letter counts."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def encode(self, items: list[Any]) -> np.ndarray:
        self.batches.append(len(items))
        if items and isinstance(items[0], str):
            return np.array([[len(t), t.count("a"), t.count("e")] for t in items], np.float32)
        return np.array(
            [[*np.asarray(image, np.float32).mean((0, 1)), image.width] for image in items],
            np.float32,
        )


def expected_row(path: Path) -> list[float]:
    """Return what MeanColour says, from the file."""
    with Image.open(path) as image:
        return [*np.asarray(image.convert("RGB"), np.float32).mean((0, 1)), image.width]


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """Eleven images, a caption for each."""
    root = tmp_path / "manifest"
    rng = np.random.default_rng(3)
    (root / "images").mkdir(parents=True)
    for i in range(11):
        pixels = rng.integers(0, 255, (8, 4 + i, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{i:02d}.png")
    images = pl.DataFrame(
        {
            "item_id": [f"toy/{i:02d}" for i in range(11)],
            "uri": [f"images/{i:02d}.png" for i in range(11)],
            "split": ["train"] * 8 + ["test"] * 3,
        }
    )
    captions = pl.DataFrame(
        {
            "item_id": [f"toy/{i:02d}#en" for i in range(11)],
            "text": [f"an apple number {i}" for i in range(11)],
            "parent_id": [f"toy/{i:02d}" for i in range(11)],
        }
    )
    return write_manifest(
        root,
        facts={"name": "toy", "revision": "1"},
        tables={"image": images, "caption": captions},
    )


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def decode_or_die(data: bytes, **options: Any) -> Image.Image:
    """Decode, but crash over a picture 666 wide and hang over one of 667."""
    from featstore.images import decode_image

    image = decode_image(data, **options)
    if image.width == 666:
        os.abort()
    if image.width == 667:
        time.sleep(60)
    return image

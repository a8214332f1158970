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

import featstore
from featstore import ExtractResult, Manifest
from featstore.extraction.pipeline import BlockOutput, BlockTask, Preparation, encode_blocks
from featstore.testing import toy_manifest

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


def extract_toy(manifest: Manifest, store: Path, **changes: Any) -> ExtractResult:
    """Extract images by the encoder that can be computed by hand, in blocks of four rows."""
    options = {
        "kind": "image", "encoder": MeanColour(), "space": SPACE, "store": store,
        "batch_size": 2, "block_rows": 4, "dtype": "float32", "decode_timeout": None,
    }  # fmt: skip
    return featstore.extract(manifest, **{**options, **changes})


def encode_block(items: pl.DataFrame, preparation: Preparation) -> BlockOutput:
    """Encode the items of one block with every encoder of a preparation."""
    everything = np.ones(items.height, dtype=bool)
    task = BlockTask(0, items, [everything] * len(preparation.runners))
    return next(encode_blocks([task], preparation))


def expected_row(path: Path) -> list[float]:
    """Return what MeanColour says, from the file."""
    with Image.open(path) as image:
        return [*np.asarray(image.convert("RGB"), np.float32).mean((0, 1)), image.width]


@pytest.fixture
def manifest(tmp_path):
    """Eleven images, a caption for each."""
    sizes = [(4 + i, 8) for i in range(11)]
    return toy_manifest(tmp_path / "manifest", 11, sizes=sizes, captions=True, seed=3)


@pytest.fixture
def store(tmp_path):
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

"""A small manifest of real PNG files and an encoder that can be computed by hand."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pytest
from PIL import Image

import featstore
from featstore import ExtractResult, Manifest
from featstore.extraction.pipeline import BlockOutput, BlockTask, Preparation, encode_blocks
from featstore.testing import toy_manifest
from tests.typed import headstock

SPACE = {"name": "mean-colour"}

#: The rows of a small set, below its folder.
DATA = "embedding/c/0/0"


class Stop(Exception):
    """A job broke off."""


def stop_after(blocks: int) -> Callable[[Any], None]:
    """Return an ``on_block`` that breaks a job off after so many blocks."""
    seen: list[Any] = []

    def stop(done: Any) -> None:
        seen.append(done)
        if len(seen) == blocks:
            raise Stop

    return stop


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


class Bare:
    """As little as an encoder is to a pipeline."""

    name, kinds, dim, batch_size = "object:bare", frozenset({"image"}), 2, 3
    space: ClassVar[dict[str, Any]] = {"name": "bare", "family": "object"}
    facts: ClassVar[dict[str, Any]] = {}

    def prepare(self, item: Any) -> Any:
        return item


def extract_toy(manifest: Manifest, store: Path, **changes: Any) -> ExtractResult:
    """Extract images by the encoder that can be computed by hand, in blocks of four rows."""
    options = {
        "kind": "image", "encoder": MeanColour(), "space": SPACE, "store": store,
        "batch_size": 2, "block_rows": 4, "dtype": "float32", "decode_timeout": None,
    }  # fmt: skip
    return featstore.extract(manifest, **{**options, **changes})


def encode_block(items: pl.DataFrame, preparation: Preparation) -> BlockOutput:
    """Encode the items of one block with every encoder of a preparation."""
    task = BlockTask(0, items, [np.ones(items.height, dtype=bool)] * len(preparation.runners))
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


@pytest.fixture(scope="session")
def label_set(tmp_path_factory):
    """The folder of the manifest of ImageNet's classes."""
    out = tmp_path_factory.mktemp("imagenet1k") / "imagenet1k"
    assert headstock("data", "build", "imagenet1k", "-o", out) == 0
    return out


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """Weights of the smallest transformer that timm has, drawn with a seed."""
    import timm
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(0)
    state = {
        name: torch.empty_like(value).normal_(0.0, 0.1, generator=generator)
        for name, value in timm.create_model("test_vit").state_dict().items()
    }
    path = tmp_path_factory.mktemp("weights") / "vit.safetensors"
    save_file(state, path)
    return str(path)


def decode_or_die(data: bytes, **options: Any) -> Image.Image:
    """Decode, but crash over a picture 666 wide and hang over one of 667."""
    from featstore.images import decode_image

    image = decode_image(data, **options)
    if image.width == 666:
        os.abort()
    if image.width == 667:
        time.sleep(60)
    return image

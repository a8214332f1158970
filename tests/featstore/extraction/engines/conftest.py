"""Encoders of a tiny vision transformer, and a few dozen pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import featstore
from featstore import EncoderSpec, ExtractConfig, extract_many
from featstore.plugins import use_plugins
from featstore.testing import toy_manifest
from tests.damage import lasting

#: 11 blocks of 4 rows, the last of 3; the second picture of block 5 is none.
IMAGES, BLOCK_ROWS, BAD = 43, 4, 21

MODEL = "timm:test_vit"


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    return toy_manifest(root, IMAGES, name="p", sizes=[(36, 40)], broken=[BAD], seed=5)


@pytest.fixture(scope="session")
def choices(weights):
    """Return two encoders: what is decoded once feeds both."""
    return [EncoderSpec(MODEL, weights=weights), EncoderSpec(MODEL, weights=weights, pool="cls")]


def settled(**changes: Any) -> ExtractConfig:
    """Return options under which any number of processes gives the same bits on a CPU."""
    chosen: dict[str, Any] = {"threads": 1, "jobs": 1, "batch_size": 3, "decode_timeout": None}
    return ExtractConfig(**{**chosen, "block_rows": BLOCK_ROWS, **changes})


@pytest.fixture(scope="session")
def whole(tmp_path_factory, pictures, choices):
    """The store as one process leaves it."""
    store = tmp_path_factory.mktemp("whole") / "store"
    results = extract_many(pictures, kind="image", encoders=choices, store=store, config=settled())
    assert [(result.new, result.failed) for result in results] == [(IMAGES - 1, 1)] * 2
    assert featstore.open_store(store, verify="first-touch").sets()
    return lasting(store)


def journalled(store: Path) -> int:
    """Count the blocks that unpublished work has written down so far."""
    journals = store.glob("*/*/*/.staging/**/journal*")
    return sum(path.read_bytes().count(b'"block":') for path in journals if path.is_file())


#: An encoder of a plugin: on the devices that its name lists it raises once it is warm.
FICKLE = """
import numpy as np
import headstock as hs


@hs.register("encoder", "fickle")
class Fickle:
    kinds = frozenset({"image"})
    dim, batch_size = 3, 3

    def __init__(self, name, options):
        self.name, self.facts = name, {}
        self.space = {"family": "fickle", "version": 1}
        self._broken = options.device in name.partition("/")[2].split("+")
        self._calls = 0

    def prepare(self, item):
        return np.asarray(item, dtype=np.float32).mean(axis=(0, 1))

    def encode(self, batch):
        self._calls += 1
        if self._broken and self._calls > 4:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return np.stack(batch)
"""


@pytest.fixture
def fickle(no_plugins, tmp_path):
    """Return what makes an encoder that raises on some devices, as ``cpu:1+cpu:2`` names them."""
    module = tmp_path / "fickle.py"
    module.write_text(FICKLE)
    use_plugins([module])
    return lambda devices: EncoderSpec(f"fickle:v1/{devices}")

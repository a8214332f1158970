"""A set whose last bits depend on its batches, damage to it, and its repair."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import featstore
import featstore.encoders.registry
from featstore import Manifest
from featstore.extraction.options import ExtractResult
from tests.featstore.extraction.conftest import SPACE, MeanColour

DATA = "embedding/c/0/0"


class BatchSensitive(MeanColour):
    """Its last bits depend on how many items a batch has, as those of real models do."""

    def encode(self, items: list[Any]) -> np.ndarray:
        return super().encode(items) + np.float32(len(items)) * np.float32(2**-16)


class Other(MeanColour):
    """Another library version: the same, but for last bits."""

    def encode(self, items: list[Any]) -> np.ndarray:
        return super().encode(items) * np.float32(1 + 2**-20)


def extract(manifest: Manifest, store: Path, **changes: Any) -> str:
    options = {
        "kind": "image", "encoder": BatchSensitive(), "space": SPACE, "store": store,
        "batch_size": 2, "block_rows": 4, "dtype": "float32",
    }  # fmt: skip
    return featstore.extract(manifest, **{**options, **changes}).key


def repair(
    manifest: Manifest, store: Path, encoder: Any = None, **changes: Any
) -> tuple[ExtractResult, Any]:
    """Encode again what is damaged: batch size and blocks are those of the set."""
    encoder = encoder or BatchSensitive()
    options = {"kind": "image", "space": SPACE, "dtype": "float32", "repair": True}
    return featstore.extract(manifest, store, encoder=encoder, **{**options, **changes}), encoder

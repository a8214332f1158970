"""A set whose last bits depend on its batches, damage to it, and its repair."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import featstore
import featstore.encoders.object_encoder
from featstore import Manifest
from featstore.extraction.repair import repair_set
from featstore.store.repair import Repair
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


def repair(store: Path, key: str, manifest: Manifest, encoder: Any = None) -> tuple[Repair, Any]:
    encoder = encoder or BatchSensitive()
    done = repair_set(store, key, manifest=manifest, encoder=encoder)
    return done, encoder

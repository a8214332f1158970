"""Small stores, written by the real writer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from featstore.store.writer import SetWriter
from tests.damage import unseal

SCHEMA = {
    "item_id": pl.String,
    "kind": pl.String,
    "uri": pl.String,
    "text": pl.String,
    "parent_id": pl.String,
    "class_id": pl.String,
    "variant": pl.String,
    "template_id": pl.String,
    "split": pl.String,
}


def item_table(rows: list[dict[str, Any]]) -> pl.DataFrame:
    """Return an item table with null where a row says nothing."""
    return pl.DataFrame(rows, schema=SCHEMA)


def write_set(
    root: Path,
    rows: np.ndarray,
    items: pl.DataFrame,
    *,
    dataset: str = "birds",
    kind: str = "image",
    encoder: str = "timm:toy",
    space: dict[str, Any] | None = None,
    dtype: str = "float32",
    bias: np.ndarray | None = None,
    failures: dict[str, str] | None = None,
    **layout: int,
) -> str:
    """Write `rows` as one set that may be damaged, and return its full key."""
    with SetWriter(
        root,
        dataset=dataset,
        kind=kind,
        encoder=encoder,
        space=space or {"name": encoder},
        items=items,
        dim=rows.shape[1],
        dtype=dtype,
        **layout,
    ) as writer:
        for block in writer.pending():
            where = writer.layout.block_slice(block)
            ids = items["item_id"][where.start : where.stop].to_list()
            here = {item: why for item, why in (failures or {}).items() if item in ids}
            writer.write_block(block, rows[where], here)
        writer.finish(bias=bias, run={"note": "test"})
    unseal(root)
    return str(writer.key)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20260521)


@pytest.fixture
def images(rng: np.random.Generator) -> tuple[np.ndarray, pl.DataFrame]:
    """Twelve images of three classes in two splits."""
    items = item_table(
        [
            {
                "item_id": f"birds/{i:02d}",
                "kind": "image",
                "uri": f"images/{i:02d}.png",
                "class_id": f"birds/{'abc'[i % 3]}",
                "split": "train" if i < 8 else "test",
            }
            for i in range(12)
        ]
    )
    return rng.standard_normal((12, 6)).astype(np.float32), items


@pytest.fixture
def store_path(tmp_path: Path, images: tuple[np.ndarray, pl.DataFrame]) -> Path:
    """A store with one image set."""
    write_set(tmp_path / "store", *images)
    return tmp_path / "store"


@pytest.fixture
def make_set() -> Callable[..., str]:
    return write_set

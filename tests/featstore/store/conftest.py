"""Small stores, written by the real writer."""

import numpy as np
import polars as pl
import pytest

from featstore.store import EmbeddingsView, ItemTable
from featstore.store.rows import MemoryRows
from featstore.testing import item_table, write_set


def view_of(rows: np.ndarray) -> EmbeddingsView:
    """Return a view of rows in memory, whose ids are i0, i1, …"""
    items = pl.DataFrame({"item_id": [f"i{i}" for i in range(len(rows))]})
    return EmbeddingsView(
        source=MemoryRows(rows), rows=np.arange(len(rows)), table=ItemTable(None, items),
        key="d/image/x", encoder="x", space_id="s", set_id="s", revision_id="r",
    )  # fmt: skip


@pytest.fixture
def rng():
    return np.random.default_rng(20260521)


@pytest.fixture
def images(rng):
    """Twelve images of three classes in two splits."""
    items = item_table(
        [f"birds/{i:02d}" for i in range(12)],
        uri=[f"images/{i:02d}.png" for i in range(12)],
        class_id=[f"birds/{'abc'[i % 3]}" for i in range(12)],
        split=["train"] * 8 + ["test"] * 4,
    )
    return rng.standard_normal((12, 6)).astype(np.float32), items


@pytest.fixture
def store_path(tmp_path, images):
    """A store with one image set."""
    write_set(tmp_path / "store", *images)
    return tmp_path / "store"


@pytest.fixture
def make_set():
    return write_set

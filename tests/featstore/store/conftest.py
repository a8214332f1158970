"""Small stores, written by the real writer."""

import numpy as np
import pytest

from featstore.testing import item_table, write_set


@pytest.fixture
def rng():
    return np.random.default_rng(20260521)


@pytest.fixture
def images(rng):
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
def store_path(tmp_path, images):
    """A store with one image set."""
    write_set(tmp_path / "store", *images)
    return tmp_path / "store"


@pytest.fixture
def make_set():
    return write_set

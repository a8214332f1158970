"""Views: the right rows, in the right order, or an error that says what there is."""

import numpy as np
import polars as pl
import pytest

from featstore import open_store
from featstore.errors import EmptySelectionError, MisalignedItemsError, UnknownColumnError

KEY = "birds/image/timm:toy"


def test_where_takes_values_lists_and_expressions(store_path, images):
    rows, _ = images
    view = open_store(store_path).view(KEY)
    test = view.where(split="test")
    assert test.shape == (4, 6)
    assert test.numpy().tobytes() == rows[8:].tobytes()
    two = view.where(class_id=["birds/a", "birds/c"], split="train")
    assert two.items["item_id"].to_list() == [f"birds/{i:02d}" for i in (0, 2, 3, 5, 6)]
    assert view.where(pl.col("item_id") >= "birds/10").numpy().tobytes() == rows[10:].tobytes()


def test_take_keeps_order_and_checks_bounds(store_path, images):
    view = open_store(store_path).view(KEY)
    assert view.take([5, 5, 1]).numpy().tobytes() == images[0][[5, 5, 1]].tobytes()
    assert view.take([-1]).numpy().tobytes() == images[0][11:].tobytes()
    for bad in ([12], [-13]):
        with pytest.raises(IndexError, match="are not all among 12"):
            view.take(bad)


def test_numpy_returns_memory_that_the_caller_owns(store_path):
    view = open_store(store_path).view(KEY)
    mine = view.numpy()
    mine[:] = 0
    assert view.numpy().any()


def test_spaces_must_agree(store_path, images, make_set):
    make_set(store_path, *images, encoder="timm:other")
    store = open_store(store_path)
    x, other = store.view(KEY), store.view("birds/image/other")
    x.require_same_space(store.view(KEY))
    with pytest.raises(MisalignedItemsError, match=r"different embedding spaces.*same model"):
        x.require_same_space(other)


def test_take_accepts_a_mask_and_nothing_vague(store_path, images):
    view = open_store(store_path).view(KEY)
    mask = np.arange(12) % 3 == 1
    assert view.take(mask).numpy().tobytes() == images[0][mask].tobytes()
    for bad in (mask[:5], np.array([0.5, 1.0]), np.array([[1, 2]])):
        with pytest.raises(IndexError, match="ids or a mask of 12 booleans"):
            view.take(bad)
    assert len(view.take([])) == 0


def test_where_takes_any_collection_and_null(store_path):
    view = open_store(store_path).view(KEY)
    for values in (["test"], {"test"}, ("test",), np.array(["test"]), pl.Series(["test"])):
        assert len(view.where(split=values)) == 4
    assert len(view.where(parent_id=None)) == 12
    assert len(view.where(split=["test", None])) == 4
    with pytest.raises(EmptySelectionError, match="split=3"):
        view.where(split=3)
    with pytest.raises(UnknownColumnError, match="lack a column"):
        view.where(pl.col("spilt") == "test")

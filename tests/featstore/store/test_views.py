"""Views: the right rows, in the right order, or an error that says what there is."""

import numpy as np
import polars as pl
import pytest

from featstore import open_store
from featstore.errors import EmptySelectionError, MisalignedItemsError, UnknownColumnError

KEY = "birds/image/timm:toy"


def test_spaces_must_agree(store_path, images, make_set):
    make_set(store_path, *images, encoder="timm:other")
    store = open_store(store_path)
    x, other = store.view(KEY), store.view("birds/image/other")
    x.require_same_space(store.view(KEY))
    with pytest.raises(MisalignedItemsError, match=r"different embedding spaces.*same model"):
        x.require_same_space(other)


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

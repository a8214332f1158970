"""How a view hands out its rows: dtypes, reused memory, tensors, transforms, laziness."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import featstore.store.tables as tables
from featstore import open_store
from featstore.errors import EmptySelectionError, MisalignedItemsError, UnknownColumnError
from featstore.store import DTYPES
from featstore.store.layout import INTEGERS
from featstore.testing import item_table, write_set
from tests.assertions import assert_close, assert_same

KEY = "birds/image/timm:toy"


@pytest.fixture
def view(store_path):
    return open_store(store_path).view(KEY)


@settings(deadline=None, max_examples=40)
@given(
    dtype=st.sampled_from(sorted(DTYPES)),
    out=st.sampled_from(["float16", "float32", "float64"]),
    unit=st.booleans(),
    size=st.integers(1, 40),
    shuffled=st.booleans(),
)
def test_batches_equal_plain_numpy(tmp_path_factory, dtype, out, unit, size, shuffled):
    rng = np.random.default_rng(size)
    rows = rng.integers(1, 100, (30, 5)).astype(np.float64)
    if dtype not in INTEGERS:
        rows /= 7
    root = tmp_path_factory.mktemp("store")
    items = item_table([{"item_id": f"i/{i}", "kind": "image"} for i in range(30)])
    key = write_set(root, rows, items, dtype=dtype, block_rows=8)
    view = open_store(root).view(key)
    stored = rows.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    order = rng.permutation(30) if shuffled else np.arange(30)
    expected = stored[order].astype(np.float64)
    chosen = view.take(order).astype(out)
    if unit:
        chosen = chosen.normalized()
        expected = np.array([row / np.sqrt(sum(row**2)) for row in expected])
    found = chosen.numpy()
    assert found.dtype == out
    # What is not stored as float64 is normalised in float32 unless float64 is asked for.
    exact = "float64" if out == "float64" else "float32"
    assert_close(found, expected, "float16" if out == "float16" else exact)
    fresh = list(chosen.batches(size))
    assert_same(np.concatenate(fresh), found)
    reused = [batch.copy() for batch in chosen.batches(size, reuse=True)]
    assert_same(np.concatenate(reused), found)


@pytest.mark.parametrize("shuffled", [False, True])
def test_only_reused_batches_share_memory(view, shuffled):
    chosen = view.take([5, 1, 3, 2, 0, 4]) if shuffled else view
    fresh = list(chosen.batches(2))
    assert not np.shares_memory(fresh[0], fresh[1])
    fresh[0][:] = 0  # and the caller owns them
    reused = list(chosen.batches(2, reuse=True))
    assert np.shares_memory(reused[0], reused[1])
    reused[0][:] = 0
    assert view.numpy().all(axis=1).all()


def test_a_row_of_zeros_cannot_be_normalised(tmp_path):
    key = write_set(tmp_path, np.diag([1.0, 1, 0]), item_table(["i/0", "i/1", "i/2"]))
    with pytest.raises(MisalignedItemsError, match=r"Row 2 .* is zero"):
        open_store(tmp_path).view(key).normalized().numpy()


def test_fingerprints_follow_how_rows_are_chosen_and_read(view):
    forms = [
        view,
        view.normalized(),
        view.astype(np.float64),
        view.where(split="test"),
        view.take([1]),
    ]
    assert len({form.fingerprint for form in forms}) == len(forms)
    assert view.astype("float32").fingerprint == view.fingerprint


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_tensors_are_the_callers(tmp_path, rng, dtype):
    rows = rng.integers(0, 100, (12, 6)).astype(np.float64)
    items = item_table([{"item_id": f"i/{i}", "kind": "image"} for i in range(12)])
    key = write_set(tmp_path, rows, items, dtype=dtype)
    view = open_store(tmp_path).view(key)
    tensor = view.torch(getattr(torch, dtype))
    assert tensor.dtype is getattr(torch, dtype)
    assert tensor.tolist() == rows.tolist()
    part = view.take([3, 4, 5]).torch(getattr(torch, dtype))
    assert part.tolist() == rows[3:6].tolist()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    part.zero_()  # would end the process, if the memory were the store's
    assert not part.any()
    assert tensor.tolist() == view.numpy().tolist() == rows.tolist()
    assert {path: path.read_bytes() for path in before} == before
    picked = view.take([5, 1]).torch(getattr(torch, dtype))
    assert picked.tolist() == rows[[5, 1]].tolist()
    # Asked for nothing, the view's dtype: float32.
    assert view.torch().dtype is torch.float32
    assert view.torch().tolist() == rows.tolist()
    assert view.astype("float64").torch().dtype is torch.float64
    del view
    assert tensor.tolist() == rows.tolist()


def test_items_are_read_when_asked_for(store_path, images, monkeypatch):
    calls = []
    real = tables.read_items

    def read(files: list[Any], **asked: Any) -> pl.DataFrame:
        calls.append(len(files))
        return real(files, **asked)

    monkeypatch.setattr(tables, "read_items", read)
    view = open_store(store_path).view(KEY)
    chosen = view.take([4, 2]).normalized().take([1])
    assert chosen.numpy().shape == (1, 6)
    assert view.numpy().shape == (12, 6)
    assert len(view.fingerprint) == 64
    assert calls == []
    assert chosen.items["item_id"].to_list() == [f"birds/{chosen.rows[0]:02d}"]
    assert view.items.equals(images[1])
    assert repr(view)
    assert len(calls) == 1


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

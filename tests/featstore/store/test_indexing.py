"""Views in brackets, loops, NumPy, torch, polars and Arrow: as the array that they are of."""

from __future__ import annotations

import pickle
from typing import Any

import ml_dtypes
import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch.utils.data import BatchSampler, DataLoader

from featstore import open_store, write
from featstore.errors import (
    AmbiguousSetError,
    CorruptStoreError,
    EmptySelectionError,
    MisalignedItemsError,
    UnknownColumnError,
    UnknownItemError,
    UnknownSetError,
)
from featstore.store import DTYPES
from featstore.store.layout import INTEGERS
from featstore.store.pairs import EmbeddingsView
from featstore.testing import item_table, toy_store, write_set
from tests.assertions import assert_close, assert_same
from tests.damage import tree

N, DIM = 12, 3
ROWS = np.random.default_rng(0).standard_normal((N, DIM)).astype(np.float32)
IDS = [f"b/{i:02d}" for i in range(N)]


@pytest.fixture(scope="module")
def view(tmp_path_factory):
    root = tmp_path_factory.mktemp("store")
    return write(root, dataset="b", kind="image", encoder="timm:toy", rows=ROWS, ids=IDS,
                 items={"split": ["train", "test"] * (N // 2)})  # fmt: skip


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    root = tmp_path_factory.mktemp("toy")
    toy_store(root)
    return open_store(root)


@pytest.fixture(scope="module")
def pairs(toy):
    # Every image has its caption, and the first has it twice.
    captions = toy["toy/caption"]
    return toy["toy/image"].pair_by("parent_id", captions.take([*range(len(captions)), 39]))


INDICES = st.one_of(
    st.integers(-N - 2, N + 1),
    st.integers(-N, N - 1).map(np.int16),
    st.slices(N),
    st.lists(st.integers(-N - 1, N), max_size=9),
    hnp.arrays(st.sampled_from([np.int32, np.int64]), st.integers(0, 9),
               elements=st.integers(-N, N - 1)),
    hnp.arrays(np.uint8, st.integers(0, 9), elements=st.integers(0, N - 1)),
    st.lists(st.booleans(), min_size=N, max_size=N),
    hnp.arrays(bool, st.integers(N - 1, N + 1)),
    st.just(slice(None, None, -2)),
)  # fmt: skip


@given(index=INDICES)
def test_brackets_mean_what_they_do_in_numpy(view, index):
    array = np.asarray(index, dtype=int) if isinstance(index, list) and not index else index
    try:
        expected = ROWS[array]
    except IndexError:
        with pytest.raises(IndexError):
            view[index]
        return
    found = view[index]
    assert isinstance(found, np.ndarray if expected.ndim == 1 else EmbeddingsView)
    np.testing.assert_array_equal(found, expected)
    if not isinstance(found, np.ndarray):
        numbers = np.arange(N)[array]
        assert found.items["item_id"].to_list() == [IDS[number] for number in numbers]


@given(numbers=st.lists(st.integers(0, N - 1), max_size=6), how=st.sampled_from(
    [list, np.array, pl.Series, lambda ids: np.array(ids, dtype=object)]
))  # fmt: skip
def test_ids_are_rows_in_the_order_asked_for(view, numbers, how):
    ids = [IDS[number] for number in numbers]
    np.testing.assert_array_equal(view[how(ids)] if ids else view[[]], ROWS[numbers])
    for number in numbers:
        np.testing.assert_array_equal(view[::-1][IDS[number]], ROWS[number])


def test_an_unknown_id_names_the_closest(view):
    with pytest.raises(UnknownItemError, match=r"has no item 'b/7'. The closest id is 'b/07'"):
        view["b/7"]
    with pytest.raises(UnknownItemError, match="has no item 'x', 'y'"):
        view[["x", "b/01", "y"]]
    several = view[[3, 5, 3]]  # of an item with several rows the first is meant
    np.testing.assert_array_equal(several["b/03"], several[0])
    assert "b/03" in view
    assert "b/3" not in view
    assert 3 not in view
    assert "b/01" not in view.where(split="train")


def test_numpy_takes_a_view_as_an_array(view):
    assert np.asarray(view, dtype=np.float64).dtype == np.float64
    np.testing.assert_array_equal(np.asarray(view.astype(np.float16)), ROWS.astype(np.float16))
    np.testing.assert_allclose(view[2:] @ ROWS.T, ROWS[2:] @ ROWS.T, rtol=1e-6)
    with pytest.raises(ValueError, match="copy=False fails"):
        np.asarray(view, copy=False)
    with pytest.raises(ValueError, match="would be cut off"):
        np.asarray(view, dtype=np.int64)


@given(seed=st.integers(0, 99), size=st.integers(1, N + 1), reuse=st.booleans())
def test_shuffled_batches_hold_every_row_once_and_follow_the_seed(view, seed, size, reuse):
    def shuffled() -> list[np.ndarray]:
        rng = np.random.default_rng(seed)
        return [rows.copy() for rows in view.batches(size, shuffle=rng, reuse=reuse)]

    rows = np.concatenate(shuffled())
    assert [len(batch) for batch in shuffled()][:-1] == [size] * (len(shuffled()) - 1)
    np.testing.assert_array_equal(rows, ROWS[np.random.default_rng(seed).permutation(N)])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_pairs_stay_pairs_in_batches_tensors_and_the_workers_of_a_loader(pairs):
    xs, ys = pairs.numpy()
    order = np.random.default_rng(0).permutation(len(pairs))
    found = zip(*pairs.take(order).batches(7), strict=True)
    for one, whole in zip(found, (xs, ys, pairs.weight), strict=True):
        np.testing.assert_array_equal(np.concatenate(one), whole[order])
    dataset = pairs.torch_dataset()
    assert len(pickle.dumps(dataset)) < 4000  # without its rows
    dataset[2:5][0].zero_()  # is the caller's
    sampler = BatchSampler(order.tolist(), 8, drop_last=False)
    loader: Any = DataLoader(
        dataset, batch_size=None, sampler=sampler, num_workers=2, multiprocessing_context="fork"
    )
    joined = [torch.cat(parts) for parts in zip(*loader, strict=True)]
    loader = DataLoader(dataset, batch_size=8)
    plain = [torch.cat(parts) for parts in zip(*loader, strict=True)]
    every = np.arange(len(pairs))
    for (x, y), rows in (
        (dataset[:], every), (pickle.loads(pickle.dumps(dataset))[:], every), (plain, every),
        (joined, order),
    ):  # fmt: skip
        assert torch.equal(x, torch.from_numpy(xs[rows]))
        assert torch.equal(y, torch.from_numpy(ys[rows]))


def test_a_store_in_brackets(toy):
    keys = list(toy)
    assert keys == [str(info.key) for info in toy.sets()]
    assert len(toy) == len(keys) == 4
    for name in (keys[0], "labels/class_name", "toy/image/timm:toy", "toy/image/toy"):
        assert name in toy
        assert toy[name].key.startswith(name[:8])
    with pytest.raises(AmbiguousSetError, match=r"'labels/' fits several.*class_name.*head_weight"):
        toy["labels/"]
    with pytest.raises(UnknownSetError, match=r"Did you mean 'toy/image/timm.toy'"):
        toy["toy/imag/timm.toy"]
    assert "toy/" not in toy
    assert "tyo" not in toy
    assert 3 not in toy
    with pytest.raises(TypeError, match="is a text"):
        toy[0]  # type: ignore[index]


def test_a_table_holds_items_and_rows(view, toy):
    part = view.where(split="test")
    for table in (part.to_polars(), pl.DataFrame(part.to_arrow())):
        assert table.drop("embedding").equals(part.items)
        np.testing.assert_array_equal(table["embedding"].to_numpy(), ROWS[1::2])
        assert table.schema["embedding"] == pl.Array(pl.Float32, DIM)
    head = toy["labels/head_weight"]
    for table in (head.to_polars(), pl.DataFrame(head.to_arrow())):
        np.testing.assert_array_equal(table["bias"].to_numpy(), head.bias)


def test_arrow_shares_the_memory_of_the_store_where_nothing_changes(view):
    address = view.source.read(np.arange(N)).ctypes.data
    flat = view[2:9].to_arrow()["embedding"].chunk(0).flatten()
    assert flat.buffers()[1].address == address + 2 * 4 * DIM
    for changed in (view[2:9].normalized(), view[2:9].astype(np.float64), view[[4, 2]]):
        copied = changed.to_arrow()["embedding"].chunk(0).flatten()
        assert not address <= copied.buffers()[1].address < address + 4 * DIM * N
        np.testing.assert_array_equal(copied.to_numpy().reshape(-1, DIM), changed)


def test_a_dataset_of_hugging_face_there_and_back(view, tmp_path):
    datasets = pytest.importorskip("datasets")
    there = datasets.Dataset(view.to_arrow())
    assert there[3]["item_id"] == "b/03"
    some = there.filter(lambda row: row["split"] == "test", load_from_cache_file=False)
    back = write(tmp_path, dataset="b", kind="image", encoder="timm:toy", rows=some)
    assert back.items.equals(view.where(split="test").items)
    np.testing.assert_array_equal(back, ROWS[1::2])


KEY = "birds/image/timm:toy"


@pytest.fixture
def birds(store_path):
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
    items = item_table([f"i/{i}" for i in range(30)])
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


@pytest.mark.parametrize("rows", [range(6), [5, 1, 3, 2, 0, 4]])
def test_only_reused_batches_share_memory(birds, rows):
    chosen = birds.take([*rows])
    fresh = list(chosen.batches(2))
    assert not np.shares_memory(fresh[0], fresh[1])
    fresh[0][:] = 0  # and the caller owns them
    reused = list(chosen.batches(2, reuse=True))
    assert np.shares_memory(reused[0], reused[1])
    reused[0][:] = 0
    assert birds.numpy().all(axis=1).all()


def test_a_row_of_zeros_cannot_be_normalised(tmp_path):
    key = write_set(tmp_path, np.diag([1.0, 1, 0]), item_table(["i/0", "i/1", "i/2"]))
    with pytest.raises(MisalignedItemsError, match=r"Row 2 .* is zero"):
        open_store(tmp_path).view(key).normalized().numpy()


def test_fingerprints_follow_how_rows_are_chosen_and_read(view):
    chosen = [view.where(split="test"), view.take([1])]
    forms = [view, view.normalized(), view.astype(np.float64), *chosen]
    assert len({form.fingerprint for form in forms}) == len(forms)
    assert view.astype("float32").fingerprint == view.fingerprint


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_tensors_are_the_callers(tmp_path, rng, dtype):
    rows = rng.integers(0, 100, (12, 6)).astype(np.float64)
    items = item_table([f"i/{i}" for i in range(12)])
    key = write_set(tmp_path, rows, items, dtype=dtype)
    view = open_store(tmp_path).view(key)
    wanted = getattr(torch, dtype)
    tensor = view.torch(wanted)
    assert tensor.dtype is wanted
    before = tree(tmp_path)
    for numbers in ([3, 4, 5], [5, 1]):
        part = view.take(numbers).torch(wanted)
        assert part.tolist() == rows[numbers].tolist()
        part.zero_()  # would end the process, if the memory were the store's
        assert not part.any()
    assert tree(tmp_path) == before
    # Asked for nothing, the view's dtype: float32.
    assert view.torch().dtype is torch.float32
    assert view.torch().tolist() == view.numpy().tolist() == rows.tolist()
    assert view.astype("float64").torch().dtype is torch.float64
    del view
    assert tensor.tolist() == rows.tolist()


def test_items_are_read_when_asked_for(store_path, images, tmp_path):
    view = open_store(store_path).view(KEY)
    (table,) = (store_path / "birds/image").glob("items-*.parquet")
    table.rename(tmp_path / "away")
    chosen = view.take([4, 2]).normalized().take([1])
    assert chosen.numpy().shape == (1, 6)
    assert view.numpy().shape == (12, 6)
    assert len(view.fingerprint) == 64
    with pytest.raises(CorruptStoreError, match="items-"):
        _ = view.items
    (tmp_path / "away").rename(table)
    assert chosen.items["item_id"].to_list() == [f"birds/{chosen.rows[0]:02d}"]
    table.unlink()  # it was read once, for both views
    assert view.items.equals(images[1])
    assert repr(view)


def test_spaces_must_agree(store_path, images, make_set):
    make_set(store_path, *images, encoder="timm:other")
    store = open_store(store_path)
    x, other = store.view(KEY), store.view("birds/image/other")
    x.require_same_space(store.view(KEY))
    with pytest.raises(MisalignedItemsError, match=r"different embedding spaces.*same model"):
        x.require_same_space(other)


def test_where_takes_any_collection_and_null(birds):
    for values in (["test"], {"test"}, ("test",), np.array(["test"]), pl.Series(["test"])):
        assert len(birds.where(split=values)) == 4
    assert len(birds.where(parent_id=None)) == 12
    assert len(birds.where(split=["test", None])) == 4
    with pytest.raises(EmptySelectionError, match="split=3"):
        birds.where(split=3)
    with pytest.raises(UnknownColumnError, match="lack a column"):
        birds.where(pl.col("spilt") == "test")

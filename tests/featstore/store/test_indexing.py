"""Views in brackets, in loops, in NumPy, torch, polars and Arrow: as the array that they are of."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from featstore import open_store, write
from featstore.errors import AmbiguousSetError, UnknownItemError, UnknownSetError
from featstore.store.pairs import EmbeddingsView
from featstore.testing import toy_store

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
    loader = DataLoader(dataset, batch_size=8, num_workers=2, multiprocessing_context="fork")
    joined = [torch.cat(parts) for parts in zip(*loader, strict=True)]
    for x, y in (dataset[:], pickle.loads(pickle.dumps(dataset))[:], joined):
        assert torch.equal(x, torch.from_numpy(xs))
        assert torch.equal(y, torch.from_numpy(ys))


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


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_workers_of_a_loader_read_the_rows_and_tensors_are_the_callers(view):
    dataset = view.torch_dataset()
    dataset[2:5].zero_()
    generator = torch.Generator().manual_seed(0)
    order = list(RandomSampler(dataset, generator=generator.clone_state()))
    sampler = BatchSampler(RandomSampler(dataset, generator=generator), 5, drop_last=False)
    loader: Any = DataLoader(
        dataset, batch_size=None, sampler=sampler, num_workers=2, multiprocessing_context="fork"
    )
    assert torch.equal(torch.cat(list(loader)), torch.from_numpy(ROWS[order]))


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

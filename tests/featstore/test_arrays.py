"""Rows of arrays become a set that holds the same rows, whatever library they are of."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from featstore import open_store, write
from featstore.errors import FeatstoreError, ManifestError, NonFiniteEmbeddingError, StoreWriteError
from featstore.store import BLOCK_ROWS
from featstore.store.layout import LayoutError
from featstore.store.verify import verify_store
from featstore.store.writer import SetWriter
from featstore.testing import item_table, write_set
from tests.damage import tree

SET: dict[str, Any] = {"dataset": "birds", "kind": "image", "encoder": "timm:toy"}


def _lists(rows: np.ndarray) -> Any:
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])


def _blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), 3):
        yield rows[start : start + 3]


#: Name -> how rows are given, and whether they come with ids of their own.
CONTAINERS: dict[str, Callable[[np.ndarray], Any]] = {
    "numpy": lambda rows: rows,
    "fortran": np.asfortranarray,
    "big-endian": lambda rows: rows.astype(rows.dtype.newbyteorder(">")),
    "torch": torch.from_numpy,
    "polars array": lambda rows: pl.Series(rows),
    "polars list": lambda rows: pl.Series(rows).arr.to_list(),
    "arrow slice": lambda rows: _lists(np.concatenate([rows[:1], rows]))[1:],
    "arrow list": lambda rows: _lists(rows).cast(pa.list_(pa.from_numpy_dtype(rows.dtype))),
    "arrow chunked": lambda rows: pa.chunked_array([_lists(rows[:1]), _lists(rows[1:])]),
    "pandas": lambda rows: pd.Series(list(rows)),
    "list of rows": list,
    "blocks": lambda rows: list(_blocks(rows)),
    "iterator of tensors": lambda rows: map(torch.from_numpy, _blocks(rows)),
    "polars table": lambda rows: pl.DataFrame({"embedding": rows}),
    "arrow table": lambda rows: pa.table({"embedding": _lists(rows)}),
    "pandas table": lambda rows: pd.DataFrame({"embedding": list(rows)}),
}


@pytest.mark.parametrize("how", CONTAINERS)
@settings(deadline=None, max_examples=5)
@given(data=st.data())
def test_rows_of_any_container_are_read_back(tmp_path_factory, how, data):
    dtype = data.draw(st.sampled_from(["float16", "float32", "float64"]))
    shape = data.draw(st.tuples(st.integers(2, 9), st.integers(1, 4)))
    values = hnp.from_dtype(np.dtype(dtype), allow_nan=False, allow_infinity=False)
    rows = data.draw(hnp.arrays(dtype, shape, elements=values))
    ids = [f"b{i}" for i in range(len(rows))]
    root = tmp_path_factory.mktemp("store")
    view = write(root, rows=CONTAINERS[how](rows), ids=ids, **SET)
    assert view.source.dtype == dtype
    assert view.items["item_id"].to_list() == ids
    np.testing.assert_array_equal(view.astype(dtype), rows)
    assert not verify_store(root).problems


@pytest.mark.parametrize("bits", [
    torch.tensor([[1.0, -2.5]], dtype=torch.bfloat16, requires_grad=True),
    np.array([[1.0, -2.5]], ml_dtypes.bfloat16),
], ids=["torch", "ml_dtypes"])  # fmt: skip
def test_bfloat16_stays_bfloat16(tmp_path, bits):
    view = write(tmp_path, rows=bits, **SET)
    assert view.source.dtype == "bfloat16"
    np.testing.assert_array_equal(view, [[1.0, -2.5]])


def test_a_view_is_written_as_rows_and_whole_numbers_are_ids_as_text(tmp_path):
    rows = np.random.default_rng(0).standard_normal((3, 3)).astype(np.float32)
    one = write(tmp_path / "a", rows=rows, ids=np.array([7, 3, 5]), **SET)
    assert one.items["item_id"].to_list() == ["7", "3", "5"]
    assert one["3"].tolist() == rows[1].tolist()
    unit = write(tmp_path / "b", rows=one.normalized(), items=one.items, **SET)
    np.testing.assert_array_equal(unit, one.normalized())


def test_further_ids_are_a_new_revision_that_keeps_the_rows(tmp_path):
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((11_000, 3)).astype(np.float32)
    ids, splits = [f"b{i}" for i in range(11_000)], ["train"] * 5000 + ["test"] * 4000
    one = write(tmp_path, rows=rows[:5000], ids=ids[:5000], items={"split": splits[:5000]}, **SET)
    # Rows that are there may come again among the others.
    new = slice(4990, 9000)
    two = write(tmp_path, rows=rows[new], ids=ids[new], items={"split": splits[new]}, **SET)
    assert write(tmp_path, rows=rows[:9], ids=ids[:9], **SET).revision_id == two.revision_id
    three = write(open_store(tmp_path), rows=_blocks(rows[9000:]), ids=ids[9000:], **SET)
    assert three.items["item_id"].to_list() == ids
    assert three.items["split"].to_list() == splits + [None] * 2000
    np.testing.assert_array_equal(three, rows)
    store = open_store(tmp_path)
    history = [info.commit.revision_id for info in store.revisions(three.key)]
    assert history == [view.revision_id for view in (one, two, three)]
    np.testing.assert_array_equal(store.view(one.key, revision=one.revision_id), rows[:5000])
    assert not verify_store(tmp_path).problems


@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_any_writes_in_any_blocks_leave_the_rows_in_the_order_of_their_ids(tmp_path_factory, data):
    """A dictionary says what the set must hold; the set has blocks of four rows, eight a file."""
    root, rng = tmp_path_factory.mktemp("store"), np.random.default_rng(0)
    rows = rng.standard_normal((40, 2)).astype(np.float32)
    held = {str(i): rows[i] for i in range(data.draw(st.integers(1, 12)))}
    space = {"name": SET["encoder"], "provenance": "imported"}
    write_set(root, rows[: len(held)], item_table(list(held)), facts={"provenance": "imported"},
              space=space, block_rows=4, plain_bytes=0, shard_bytes=64)  # fmt: skip
    for _ in range(data.draw(st.integers(1, 3))):
        ids = data.draw(st.lists(st.integers(0, 39), unique=True, min_size=1, max_size=20))
        cuts = sorted(data.draw(st.sets(st.integers(1, len(ids)), max_size=3)) | {0, len(ids)})
        parts = (rows[ids[a:b]] for a, b in itertools.pairwise(cuts))
        view = write(root, rows=parts, ids=ids, **SET)
        held |= {str(i): rows[i] for i in ids if str(i) not in held}
        assert view.items["item_id"].to_list() == list(held)
        np.testing.assert_array_equal(view, list(held.values()))
    assert not verify_store(root).problems


@pytest.mark.parametrize(("change", "said"), [
    ({"rows": np.eye(3) + 1}, "3 ids are in birds/image/.* with other rows: '0', '1', '2'"),
    ({"items": {"split": ["a", "b", "b"]}}, "1 ids are in .* with another split: '2'"),
    ({"rows": np.ones((1, 4)), "ids": ["x"], "items": None}, "has 3 columns; got rows of 4"),
    ({"bias": [1, 2, 4]}, "another bias"),
    ({"rows": np.eye(4)[:, :3], "items": None}, "written whole, and never extended"),
])  # fmt: skip
def test_what_a_set_has_is_not_changed(tmp_path, change, said):
    same: dict[str, Any] = {"rows": np.eye(3), "items": {"split": ["a", "b", "c"]}}
    if "never extended" in said:
        same["items"] = None
    one = write(tmp_path, bias=[1, 2, 3], **same, **SET)
    before = tree(tmp_path)
    with pytest.raises(FeatstoreError, match=said):
        write(tmp_path, **{"bias": [1, 2, 3], **same, **SET, **change})
    assert tree(tmp_path) == before
    assert write(tmp_path, bias=[1, 2, 3], **same, **SET).revision_id == one.revision_id


MASKED = np.ma.masked_array(np.ones((3, 2)), mask=[[0, 0], [0, 1], [0, 0]])

BAD = np.ones((9, 2))
BAD[[2, 5], 1] = [np.nan, np.inf]


@pytest.mark.parametrize(("given", "error", "said"), [
    ({"rows": BAD}, NonFiniteEmbeddingError, r"2 rows .*: rows 2, 5 \(ids '2', '5'\)"),
    ({"rows": _blocks(BAD), "ids": list("abcdefghi")}, NonFiniteEmbeddingError,
     r"1 rows have NaN or Inf: row 2 \(ids 'c'\)"),
    ({"rows": np.full((2, 1), 1e6), "dtype": "float16"}, NonFiniteEmbeddingError, "too large"),
    ({"rows": np.eye(3), "ids": ["a", "b", "a"]}, ManifestError, r"'a' \(rows 0, 2\)"),
    ({"rows": np.eye(7), "ids": ["a", None, "", "c", "d", "e", None]}, ManifestError,
     "3 rows have no id: rows 1, 2, 6"),
    ({"rows": np.eye(2), "items": {"split": ["a"] * 3}}, ManifestError, "2 rows, 2 ids, 3 items"),
    ({"rows": np.eye(2), "ids": "idd", "items": {"id": [1, 2]}}, ManifestError,
     "No column named 'idd' in the items.*Did you mean 'id'"),
    ({"rows": np.eye(2), "items": {"bias": [1, 2]}}, ManifestError, "cannot have a column 'bias'"),
    ({"rows": [[1.0, 2.0], [3.0], [4.0, 5.0]]}, ManifestError, "2 columns of most: row 1 has 1"),
    ({"rows": pl.Series([[1.0], [None]])}, NonFiniteEmbeddingError, "row 1"),
    ({"rows": [np.eye(2), np.ones((1, 3))]}, ManifestError, "rows 2 to 2 has 3 columns"),
    ({"rows": iter([])}, ManifestError, "no block"),
    ({"rows": iter([np.eye(2)]), "ids": [1, 2, 3]}, ManifestError, "hold 2 rows; there are 3"),
    ({"rows": np.ones((0, 3))}, ManifestError, "matrix"),
    ({"rows": [[1, 2]], "dtype": "int64"}, LayoutError, "int64, which a store cannot hold. Say"),
    ({"rows": np.array([{}, None])}, ManifestError, "rows must be vectors; got"),
    ({"rows": torch.eye(3).to_sparse()}, ManifestError, "to_dense"),
    ({"rows": list(MASKED)}, ManifestError, "rows must have no masked values; got 1"),
    ({"rows": np.eye(3), "bias": MASKED[:, 1]}, ManifestError, "bias must have no masked"),
    ({"rows": np.eye(2), "dataset": "a/b"}, LayoutError, "not a name"),
    ({"rows": np.eye(2), "store": "s3://bucket/store"}, StoreWriteError, "remote"),
])  # fmt: skip
def test_what_does_not_fit_is_named_and_nothing_is_written(tmp_path, given, error, said):
    with pytest.raises(error, match=said):
        write(**{"store": tmp_path / "s", **SET, **given})
    assert not (tmp_path / "s").exists() or not list(open_store(tmp_path / "s"))


def test_whole_numbers_are_float32_as_rows_and_texts_as_items(tmp_path):
    view = write(tmp_path, rows=[[1, 2], [3, 4]], items={"class_id": np.arange(2)}, **SET)
    np.testing.assert_array_equal(view.where(class_id=1), np.float32([[3, 4]]))
    assert len(view.where(class_id=[0, "1", 2])) == 2


def test_an_interrupted_stream_leaves_no_set_and_is_written_again(tmp_path):
    rows = np.random.default_rng(0).standard_normal((9000, 2)).astype(np.float32)
    ids = list(range(9000))

    def breaks() -> Iterator[np.ndarray]:
        yield -rows[:8000]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "a", rows=breaks(), ids=ids, **SET)
    assert list(open_store(tmp_path / "a")) == []
    np.testing.assert_array_equal(write(tmp_path / "a", rows=rows, **SET), rows)
    write(tmp_path / "b", rows=rows, **SET)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_rows_that_another_process_wrote_meanwhile(tmp_path, monkeypatch):
    """They are held against those given, and of two that are written at once both are there."""
    n = BLOCK_ROWS + 3
    rows, ids = np.arange(n, dtype=np.float32)[:, None], [f"{i:05d}" for i in range(n)]
    write(tmp_path, **SET, rows=rows[: n - 4], ids=ids[: n - 4])

    class Late(SetWriter):
        def __enter__(self) -> SetWriter:
            monkeypatch.undo()
            write(tmp_path, **SET, rows=rows[: n - 2], ids=ids[: n - 2])
            return super().__enter__()

    monkeypatch.setattr("featstore.arrays.SetWriter", Late)
    view = write(tmp_path, **SET, rows=rows, ids=ids)
    assert view.items["item_id"].to_list() == ids
    np.testing.assert_array_equal(view.numpy(), rows)


def test_rows_are_not_added_to_what_an_encoder_extracted(tmp_path):
    write_set(tmp_path, np.eye(2, dtype=np.float32), item_table(["a", "b"]))
    view = open_store(tmp_path)["birds/image/"]
    with pytest.raises(ManifestError, match="was extracted"):
        write(tmp_path, rows=np.eye(2, dtype=np.float32), ids=["c", "d"], space=view, **SET)


def test_a_head_may_lie_in_the_space_of_stored_images(tmp_path):
    write_set(tmp_path, np.eye(2, dtype=np.float32), item_table(["a", "b"]), space={"of": "model"})
    images = open_store(tmp_path)["birds"]
    head = write(
        tmp_path, dataset="labels", kind="head_weight", encoder="mine:probe", rows=np.eye(2),
        items={"class_id": ["x", "y"]}, bias=[1, 2], space=images,
    )  # fmt: skip
    images.require_same_space(head)
    assert head.bias is not None
    assert head.bias.tolist() == [1, 2]

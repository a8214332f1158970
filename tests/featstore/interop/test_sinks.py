"""What Ray Data writes is what `featstore.write` makes of the same rows."""

from __future__ import annotations

import functools
import logging
import os
import pickle
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featstore import write
from featstore.errors import (
    AddressError,
    CorruptStoreError,
    EmptySelectionError,
    ManifestError,
    NonFiniteEmbeddingError,
    StoreWriteError,
)
from featstore.interop.sinks import RowSink, ray_sink
from featstore.store.gc import collect_garbage
from featstore.store.layout import SetSpec
from featstore.store.verify import verify_store
from featstore.store.writer import SetWriter
from featstore.testing import item_table, toy_manifest
from tests.damage import lasting

pa = pytest.importorskip("pyarrow", reason="needs the extra `sources`")

SET: dict[str, Any] = {"dataset": "birds", "kind": "caption", "encoder": "mine:v1"}
N, DIM = 37, 5


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(0).normal(size=(N, DIM)).astype(np.float16)


IDS = [f"c{number:02d}" for number in range(N)]
TEXTS = [f"bird {number}" for number in range(N)]


def _table(rows: np.ndarray, numbers: Iterable[int]) -> Any:
    chosen = list(numbers)
    flat = pa.array(rows[chosen].reshape(-1))
    return pa.table(
        {
            "id": [IDS[number] for number in chosen],
            "embedding": pa.FixedSizeListArray.from_arrays(flat, DIM),
            "text": [TEXTS[number] for number in chosen],
            "source": ["web"] * len(chosen),
            "pixels": [b"not kept"] * len(chosen),
        }
    )


@pytest.fixture(scope="module")
def whole(rows, tmp_path_factory):
    """The store as `write` leaves it: ids in order."""
    store = tmp_path_factory.mktemp("whole")
    write(store, **SET, rows=rows, ids=IDS, items={"text": TEXTS, "source": ["web"] * N})
    return lasting(store)


@settings(max_examples=15)
@given(seed=st.integers(0, 2**20), cuts=st.lists(st.integers(0, N), max_size=6))
def test_rows_in_any_order_from_any_tasks_are_the_same_set(
    rows, whole, tmp_path_factory, seed, cuts
):
    store = tmp_path_factory.mktemp("store")
    order = np.random.default_rng(seed).permutation(N)
    sink = RowSink(store, **SET, columns=["source"])
    staged = []
    for part in np.split(order, sorted(cuts)):
        worker = pickle.loads(pickle.dumps(sink))
        # A table a block; what an attempt left that was lost stands beside.
        worker.stage([_table(rows, part[:2])])
        staged.append(worker.stage([_table(rows, part[:3]), _table(rows, part[3:])]))
    view = sink.commit(reversed(staged))
    assert lasting(store) == whole
    assert np.array_equal(view["c07"], rows[7])


def test_the_items_of_a_manifest_give_the_order_and_what_is_known(rows, tmp_path, caplog):
    manifest = toy_manifest(tmp_path / "m", 6, captions=True)
    items = manifest.items("caption")
    ids = items["item_id"].to_list()
    missing = ids.pop(2)
    there = items.filter(pl.col("item_id") != missing)
    write(tmp_path / "a", **SET, rows=rows[: len(ids)], items=there)
    sink = RowSink(tmp_path / "b", **SET, items=manifest)
    worker = pickle.loads(pickle.dumps(sink))
    table = pa.table({"id": ids[::-1], "embedding": list(rows[: len(ids)][::-1])})
    with caplog.at_level(logging.WARNING):
        view = sink.commit([worker.stage([table])])
    assert f"1 of {len(items)} items have no row and are left out: {missing!r}" in caplog.text
    assert view.items["item_id"].to_list() == ids
    assert lasting(tmp_path / "a") == lasting(tmp_path / "b")
    sink = RowSink(tmp_path / "c", **SET, items=items.head(2))
    with pytest.raises(ManifestError, match=rf"{len(ids) - 2} of {len(ids)} rows have ids that"):
        sink.commit([sink.stage([table])])


def test_a_job_that_died_leaves_the_store_as_it_was_and_can_be_run_again(rows, whole, tmp_path):
    dead = RowSink(tmp_path, **SET, columns=["source"])
    staged = dead.stage([_table(rows, range(9))])
    assert staged is not None
    assert [path.name for path in tmp_path.iterdir()] == [staged]
    sink = RowSink(tmp_path, **SET, columns=["source"])
    sink.commit([sink.stage([_table(rows, range(N))])])
    assert lasting(tmp_path).items() - whole.items() == {(staged, (tmp_path / staged).read_bytes())}
    report = verify_store(tmp_path)
    assert report.ok
    assert [one.path for one in report.notes] == [staged]
    assert [one.path for one in collect_garbage(tmp_path, grace=0.0)] == [staged]
    assert lasting(tmp_path) == whole


def test_what_a_commit_could_not_write_is_kept_for_the_next(rows, whole, tmp_path, monkeypatch):
    monkeypatch.setattr("featstore.arrays.PATIENCE", 0.1)
    sink = RowSink(tmp_path, **SET, columns=["source"])
    staged = [sink.stage([_table(rows, range(N))])]
    space = {"name": "mine:v1", "provenance": "imported"}
    spec = SetSpec("birds", "caption", "mine:v1", space, "float16")
    with SetWriter(tmp_path, spec, item_table(["a"], "caption"), dim=DIM):
        with pytest.raises(StoreWriteError, match="is being written by") as raised:
            sink.commit(staged)
        assert "call commit() of this sink" in raised.value.__notes__[0]
    sink.commit()
    assert lasting(tmp_path) == whole


def test_staged_rows_that_the_driver_does_not_see_are_named(rows, tmp_path):
    sink = RowSink(tmp_path, **SET)
    staged = [sink.stage([_table(rows, range(4))]), sink.stage([_table(rows, range(4, 9))])]
    assert staged[1] is not None
    os.truncate(tmp_path / staged[1], 5 * DIM * 2)
    with pytest.raises(CorruptStoreError, match=rf"1 of 2 files .*{staged[1]}'\. Every worker"):
        sink.commit(staged)
    assert not (tmp_path / "birds").exists()


def test_what_is_no_row_is_refused(rows, tmp_path):
    sink = RowSink(tmp_path / "store", **SET)
    table = _table(rows, range(3))
    with pytest.raises(ManifestError, match=r"No column named 'id'.*columns: embedding, text"):
        sink.stage([table.drop_columns(["id"])])
    with pytest.raises(ManifestError, match="1 of 2 vectors do not have the 2 columns"):
        sink.stage([pa.table({"id": ["a", "b"], "embedding": [[1.0, 2.0], [1.0]]})])
    array = pa.FixedShapeTensorArray.from_numpy_ndarray(np.ones((2, 2, 3)))
    with pytest.raises(ManifestError, match=r"vectors; got tensors of shape \(2, 3\)"):
        sink.stage([pa.table({"id": ["a", "b"], "embedding": array})])
    with pytest.raises(NonFiniteEmbeddingError, match=r"1 rows have NaN or Inf: row 1 \(ids 'b'\)"):
        sink.stage([pa.table({"id": ["a", "b"], "embedding": [[1.0], [np.nan]]})])
    with pytest.raises(EmptySelectionError, match="No row came"):
        sink.commit([sink.stage([table.slice(0, 0)])])
    assert not (tmp_path / "store").exists()
    twice = [sink.stage([table]), sink.stage([table.slice(1, 1)])]
    with pytest.raises(ManifestError, match=r"1 ids stand in several rows: 'c01' \(rows 1, 2\)"):
        sink.commit(twice)
    narrow = pa.table({"id": ["z"], "embedding": [[1.0]]})
    with pytest.raises(ManifestError, match=r"those of the tasks have \[1, 5\]"):
        sink.commit([twice[0], sink.stage([narrow])])
    with pytest.raises(ManifestError, match="No kind named 'picture'"):
        RowSink(tmp_path, **SET | {"kind": "picture"})
    with pytest.raises(AddressError):
        RowSink("s3://team/features", **SET)


def _encode(batch: dict[str, Any], rows: np.ndarray, broken: int | None = None) -> dict[str, Any]:
    """Return what an encoder in the engine makes of a batch."""
    numbers = batch.pop("number")
    if broken in numbers:
        raise OSError("the picture is not there")
    return {**batch, "embedding": rows[numbers]}


def _die_once(stage: Callable[..., Any], marker: Path, tables: Iterable[Any]) -> Any:
    """Stage rows; the first process to do so is killed right behind it."""
    staged = stage(tables)
    if not marker.exists():
        marker.touch()
        os._exit(1)
    return staged


@pytest.mark.filterwarnings("ignore:.*`use_.*is deprecated:DeprecationWarning")
def test_ray_data_writes_the_set_whatever_dies(ray_cluster, rows, whole, tmp_path):
    store, marker = tmp_path / "store", tmp_path / "died"
    numbers = np.random.default_rng(1).permutation(N).tolist()
    source = ray_cluster.data.from_items(
        [
            {"id": IDS[one], "text": TEXTS[one], "source": "web", "pixels": b"", "number": one}
            for one in numbers
        ],
        override_num_blocks=3,
    )
    broken = source.map_batches(_encode, fn_kwargs={"rows": rows, "broken": numbers[-1]})
    with pytest.raises(Exception, match="the picture is not there"):
        broken.write_datasink(ray_sink(store, **SET))
    assert not store.exists() or not list(store.iterdir())
    sink = ray_sink(store, **SET, columns=["source"])
    sink.stage = functools.partial(_die_once, sink.stage, marker)
    source.map_batches(_encode, fn_kwargs={"rows": rows}, batch_size=5).write_datasink(sink)
    assert marker.exists()
    assert lasting(store) == whole
    assert str(sink.view.key) == "birds/caption/mine.v1-309b42d5"

"""The writer: what it refuses, and what it takes over. Faults and kills: tests/faults."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from featstore import open_store
from featstore.errors import IncompleteEmbeddingsError, NonFiniteEmbeddingError, StoreWriteError
from featstore.store import LayoutLimits, SetSpec, SetWriter

TOY = SetSpec("birds", "image", "timm:toy", {"name": "toy"}, "float16")


def _writer(
    root: Path, items: pl.DataFrame, spec: SetSpec = TOY, block_rows: int = 5, **facts: Any
) -> SetWriter:
    return SetWriter(root, spec, items, 6, limits=LayoutLimits(block_rows), **facts)


def test_an_interrupted_set_resumes_and_is_named_incomplete(tmp_path, images):
    rows, items = images
    with _writer(tmp_path, items) as writer:
        assert writer.pending() == [0, 1, 2]
        writer.write_block(0, rows[:5])
    store = open_store(tmp_path)
    assert store.sets() == []
    assert [str(key) for key in store.unfinished()] == [str(writer.key)]
    with pytest.raises(IncompleteEmbeddingsError, match=r"Run `headstock extract` again"):
        store.view("birds/image/timm:toy")
    with _writer(tmp_path, items) as writer:
        assert writer.pending() == [1, 2]
        writer.write_block(1, rows[5:10])
        writer.write_block(2, rows[10:])
        writer.finish()
    assert not writer.staging.exists()
    found = open_store(tmp_path).view("birds/image/timm:toy").numpy(np.float16)
    assert found.tobytes() == rows.astype(np.float16).tobytes()


def test_a_flipped_staged_block_is_done_again(tmp_path, images):
    rows, items = images
    with _writer(tmp_path, items) as writer:
        writer.write_block(0, rows[:5])
        writer.write_block(1, rows[5:10])
    path = next(writer.staging.glob("w*/data-000000.bin"))
    data = bytearray(path.read_bytes())
    data[5 * 6 * 2 + 3] ^= 1
    path.write_bytes(data)
    with _writer(tmp_path, items) as writer:
        assert writer.pending() == [1, 2]


def test_another_plan_drops_what_is_staged(tmp_path, images):
    rows, items = images
    with _writer(tmp_path, items, plan={"batch": 2}) as writer:
        writer.write_block(0, rows[:5])
    with _writer(tmp_path, items, plan={"batch": 3}) as writer:
        assert writer.pending() == [0, 1, 2]


def test_a_second_writer_is_refused_and_told_who_writes(tmp_path, images):
    items = images[1]
    with (
        _writer(tmp_path, items),
        pytest.raises(StoreWriteError, match=r"being written by process \d+ on .+\. Wait"),
        _writer(tmp_path, items),
    ):
        pass
    with _writer(tmp_path, items) as writer:
        assert writer.pending() == [0, 1, 2]


def test_unfinished_blocks_cannot_be_published(tmp_path, images):
    with (
        _writer(tmp_path, images[1]) as writer,
        pytest.raises(StoreWriteError, match="lacks 3 of 3 blocks"),
    ):
        writer.finish()
    assert open_store(tmp_path).sets() == []


def test_nan_is_an_error_unless_the_item_failed(tmp_path, images):
    rows, items = images
    rows[1, 0] = np.nan
    with _writer(tmp_path, items) as writer:
        with pytest.raises(NonFiniteEmbeddingError, match=r"NaN or Inf for 1 of 5 items.*birds/01"):
            writer.write_block(0, rows[:5])
        writer.write_block(0, rows[:5], {"birds/01": "truncated file"})
        writer.write_block(1, rows[5:10])
        writer.write_block(2, rows[10:])
        writer.finish()
    store = open_store(tmp_path)
    view = store.view("birds/image/toy")
    assert len(view) == 11
    assert view.n_failed == 1
    assert "birds/01" not in view.items["item_id"].to_list()
    assert store.failures("birds/image/toy").rows() == [("birds/01", "truncated file")]


def test_ids_change_with_what_they_identify(tmp_path, images):
    items = images[1]
    assert _writer(tmp_path, items).spec is TOY
    assert replace(TOY, space={"name": "toy", "size": 2}).space_id != TOY.space_id
    changes: list[dict[str, Any]] = [
        {"space": {"name": "other"}},
        {"dataset": "fish"},
        {"kind": "caption"},
        {"dtype": "float32"},
        {"precision": "bfloat16"},
    ]
    for change in changes:
        changed = replace(TOY, **change)
        assert changed.set_id != TOY.set_id, change
        assert _writer(tmp_path, items, changed).directory != TOY.directory(tmp_path), change
    # A name is how a person finds the set; what it computed is in the space.
    assert replace(TOY, encoder="timm:other").set_id == TOY.set_id
    for same in ({"plan": {"batch": 9}}, {"facts": {"a": 1}}, {"block_rows": 3}):
        assert _writer(tmp_path, items, **same).directory == TOY.directory(tmp_path), same

"""The writer: what it refuses, and what it takes over. Faults and kills: tests/faults."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featstore import open_store
from featstore.errors import IncompleteEmbeddingsError, NonFiniteEmbeddingError, StoreWriteError
from featstore.store import (
    LayoutLimits,
    SetSpec,
    SetWriter,
    WriteOptions,
    collect_garbage,
    make_store,
    verify_store,
)
from featstore.store.lock import is_claimed
from featstore.testing import item_table
from tests.damage import flip, tree

N, DIM = 43, 6
ROWS = np.random.default_rng(1).standard_normal((N, DIM)).astype(np.float32)
ITEMS = item_table([f"i/{i:02d}" for i in range(N)])
TOY = SetSpec("birds", "image", "timm:toy", {"name": "toy"}, "float32")
KEY = "birds/image/timm:toy"

#: A writer of a whole set, and one of a share of its blocks.
PARTS = [None, (0, 2)]


def _writer(
    root: Path, part: tuple[int, int] | None = None, spec: SetSpec = TOY, block_rows: int = 4,
    **facts: Any,
) -> SetWriter:  # fmt: skip
    limits = LayoutLimits(block_rows, plain_bytes=0, shard_bytes=1)
    options = WriteOptions(part=part)
    return SetWriter(root, spec, ITEMS, DIM, options=options, limits=limits, **facts)


def _fill(writer: SetWriter, blocks: list[int]) -> None:
    for block in blocks:
        failed = {"i/05": "bad"} if block == 1 else {}
        writer.write_block(block, ROWS[writer.layout.block_slice(block)], failed)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The store as a single writer leaves it."""
    root = tmp_path_factory.mktemp("whole")
    with _writer(root) as writer:
        _fill(writer, writer.pending())
        writer.finish()
    return tree(root)


def test_an_interrupted_set_resumes_and_is_named_incomplete(tmp_path, whole):
    with _writer(tmp_path) as writer:
        assert writer.pending() == [*range(11)]
        _fill(writer, [0])
        with pytest.raises(StoreWriteError, match="lacks 10 of 11 blocks"):
            writer.finish()
    store = open_store(tmp_path)
    assert store.sets() == []
    assert [str(key) for key in store.unfinished()] == [str(writer.key)]
    with pytest.raises(IncompleteEmbeddingsError, match=r"Run `headstock extract` again"):
        store.view(KEY)
    with _writer(tmp_path) as writer:
        assert writer.pending() == [*range(1, 11)]
        _fill(writer, writer.pending())
        writer.finish()
    assert not writer.staging.exists()
    assert tree(tmp_path) == whole


def test_neither_a_folder_of_other_things_nor_a_tag_is_made_a_store(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"x")
    make_store(tmp_path / "new")
    for root in (tmp_path, tmp_path / "new@v1"):
        with pytest.raises(StoreWriteError, match=r"other things|at a tag"), _writer(root):
            pass
    assert {path.name for path in tmp_path.iterdir()} == {"new", "photo.jpg"}


@pytest.mark.parametrize("world_size", [1, 3, 20])
def test_any_number_of_parts_gives_the_same_bytes(tmp_path, whole, world_size):
    writers = [_writer(tmp_path, (rank, world_size)) for rank in range(world_size)]
    seen: list[int] = []
    for writer in writers:  # all open at once
        writer.__enter__()
    for writer in writers:
        seen += writer.pending()
        _fill(writer, writer.pending())
        with pytest.raises(StoreWriteError, match="cannot be published"):
            writer.finish()
        writer.__exit__()
    assert sorted(seen) == list(range(11))
    assert verify_store(tmp_path).problems == []
    with _writer(tmp_path) as writer:
        assert writer.pending() == []
        writer.finish()
    assert tree(tmp_path) == whole


@pytest.mark.parametrize("part", [None, (0, 1)])
def test_a_flipped_staged_block_is_done_again(tmp_path, whole, part):
    with _writer(tmp_path, part) as writer:
        _fill(writer, writer.pending())
    (data,) = writer.staging.rglob("data-000000.bin")
    flip(data, 4 * 4 * DIM)
    with _writer(tmp_path) as writer:
        assert writer.pending() == [1]
        _fill(writer, [1])
        writer.finish()
    assert tree(tmp_path) == whole


@pytest.mark.parametrize("part", PARTS)
def test_another_plan_drops_what_is_staged(tmp_path, part):
    with _writer(tmp_path, part, plan={"batch": 2}) as writer:
        _fill(writer, writer.pending()[:2])
    with _writer(tmp_path, plan={"batch": 3}) as writer:
        assert writer.pending() == list(range(11))


@pytest.mark.parametrize("part", PARTS)
def test_a_second_writer_is_refused_and_told_who_writes(tmp_path, part):
    with _writer(tmp_path, part) as writer:
        assert is_claimed(writer.directory)
        assert collect_garbage(tmp_path, grace=-1) == []
        with (
            pytest.raises(StoreWriteError, match=r"being written by process \d+ on .+\. Wait"),
            _writer(tmp_path, part),
        ):
            pass
    # Nothing was written: nothing is left.
    assert not writer.directory.exists()


def test_nan_is_an_error_unless_the_item_failed(tmp_path):
    rows = ROWS[:4].copy()
    rows[1, 0] = np.nan
    with _writer(tmp_path) as writer:
        with pytest.raises(NonFiniteEmbeddingError, match=r"NaN or Inf for 1 of 4 items.*i/01"):
            writer.write_block(0, rows)
        writer.write_block(0, rows, {"i/01": "truncated file"})
        _fill(writer, [*range(1, 11)])
        writer.finish()
    store = open_store(tmp_path)
    view = store.view(KEY)
    assert (len(view), view.n_failed) == (41, 2)
    assert "i/01" not in view.items["item_id"].to_list()
    assert store.failures(KEY).rows() == [("i/01", "truncated file"), ("i/05", "bad")]


def test_ids_change_with_what_they_identify(tmp_path):
    assert _writer(tmp_path).spec is TOY
    assert replace(TOY, space={"name": "toy", "size": 2}).space_id != TOY.space_id
    changes: list[dict[str, Any]] = [
        {"space": {"name": "other"}},
        {"dataset": "fish"},
        {"kind": "caption"},
        {"dtype": "float16"},
        {"precision": "bfloat16"},
    ]
    for change in changes:
        changed = replace(TOY, **change)
        assert changed.set_id != TOY.set_id, change
        assert _writer(tmp_path, spec=changed).directory != TOY.directory(tmp_path), change
    # A name is how a person finds the set; what it computed is in the space.
    assert replace(TOY, encoder="timm:other").set_id == TOY.set_id
    for same in ({"plan": {"batch": 9}}, {"facts": {"a": 1}}, {"block_rows": 3}):
        assert _writer(tmp_path, **same).directory == TOY.directory(tmp_path), same

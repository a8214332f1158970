"""Several processes share the blocks of one set; whoever comes last publishes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from featstore.errors import StoreWriteError
from featstore.manifest import conform_items
from featstore.store import (
    LayoutLimits,
    SetSpec,
    SetWriter,
    WriteOptions,
    collect_garbage,
    verify_store,
)
from featstore.store.lock import is_claimed
from tests.damage import tree

N, DIM = 43, 6
ROWS = np.random.default_rng(1).standard_normal((N, DIM)).astype(np.float32)


def _writer(
    root: Path, n: int = N, part: tuple[int, int] | None = None, **changes: Any
) -> SetWriter:
    items = conform_items(pl.DataFrame({"item_id": [f"i/{i:02d}" for i in range(n)]}), "image")
    return SetWriter(
        root, SetSpec("d", "image", "timm:toy", {"name": "toy"}, "float32"), items, DIM,
        options=WriteOptions(part=part),
        limits=LayoutLimits(4, plain_bytes=0, shard_bytes=1), **changes,
    )  # fmt: skip


def _fill(writer: SetWriter, blocks: list[int]) -> None:
    for block in blocks:
        where = writer.layout.block_slice(block)
        failed = {"i/05": "bad"} if block == 1 else {}
        writer.write_block(block, ROWS[where], failed)


@pytest.fixture
def whole(tmp_path: Path) -> dict[str, bytes]:
    """The store as a single writer leaves it."""
    with _writer(tmp_path / "whole") as writer:
        _fill(writer, writer.pending())
        writer.finish()
    return tree(tmp_path / "whole")


@pytest.mark.parametrize("world_size", [1, 2, 3, 20])
def test_any_number_of_parts_gives_the_same_bytes(tmp_path, whole, world_size):
    root = tmp_path / "parts"
    writers = [_writer(root, part=(rank, world_size)) for rank in range(world_size)]
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
    assert verify_store(root).problems == []
    with _writer(root) as writer:
        assert writer.pending() == []
        writer.finish()
    assert tree(root) == whole


def test_a_flipped_block_of_a_part_is_done_again(tmp_path, whole):
    root = tmp_path / "parts"
    with _writer(root, part=(0, 1)) as writer:
        _fill(writer, writer.pending())
    data = next(root.glob("d/image/*/.staging/part-*/w*/data-000000.bin"))
    flipped = bytearray(data.read_bytes())
    flipped[4 * 4 * DIM] ^= 1
    data.write_bytes(flipped)
    with _writer(root) as writer:
        assert writer.pending() == [1]
        _fill(writer, [1])
        writer.finish()
    assert tree(root) == whole


def test_parts_of_another_plan_are_not_mixed_in(tmp_path):
    with _writer(tmp_path, part=(0, 2), plan={"batch": 8}) as writer:
        _fill(writer, writer.pending())
    with _writer(tmp_path, plan={"batch": 16}) as writer:
        assert writer.pending() == list(range(11))


def test_a_living_part_is_not_collected_and_one_rank_runs_once(tmp_path):
    with _writer(tmp_path, part=(0, 2)) as writer:
        assert is_claimed(writer.directory)
        assert collect_garbage(tmp_path, grace=-1) == []
        with (
            pytest.raises(StoreWriteError, match="is being written by process"),
            _writer(tmp_path, part=(0, 2)),
        ):
            pass
    # Nothing was written: nothing is left.
    assert not writer.directory.exists()

"""Layout: sizes and indices by hand, invariants by property, foreign metadata refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featstore.store import DTYPES, LayoutError, LayoutLimits, SetKey, plan_array
from featstore.store.layout import PLAIN_BYTES, SHARD_BYTES, SetLayout, is_shard, shard_index

SHAPES = {
    "n": st.integers(1, 2_000_000),
    "dim": st.integers(1, 4096),
    "dtype": st.sampled_from(sorted(DTYPES)),
    "block_rows": st.sampled_from([1, 16, 100, 4096]),
}


@given(**SHAPES)
def test_every_row_is_in_exactly_one_block_and_one_file(n, dim, dtype, block_rows):
    n = min(n, 1000 * block_rows)
    first = plan_array(n, dim, dtype, LayoutLimits(block_rows))
    layout = SetLayout((first, plan_array(n, dim, dtype, LayoutLimits(block_rows), start=n)))
    blocks = [layout.block_slice(block) for block in range(layout.n_blocks)]
    for slices in (blocks, [file.rows for file in layout.files]):
        assert [0, *(one.stop for one in slices)] == [*(one.start for one in slices), 2 * n]
    assert all(0 < one.stop - one.start <= block_rows for one in blocks)
    assert [b for file in layout.files for b in file.blocks] == [*range(layout.n_blocks)]
    for file in layout.files:
        start, size = file.place_of(file.blocks[-1])
        assert start + size + len(file.tail()) == file.size
        if file.part.shard_rows:
            assert (file.rows.start * first.row_bytes - file.part.padding) % 65_536 == 0
    rows = np.arange(0, 2 * n, max(1, n // 100))
    for row, block in zip(rows.tolist(), layout.blocks_of(rows).tolist(), strict=True):
        assert blocks[block].start <= row < blocks[block].stop


@settings(deadline=None, max_examples=50)
@given(**SHAPES, shard_bytes=st.integers(1, SHARD_BYTES))
def test_a_commit_may_state_the_shards_that_a_writer_makes_and_no_others(
    n, dim, dtype, block_rows, shard_bytes
):
    for plain_bytes in (0, PLAIN_BYTES):
        limits = LayoutLimits(block_rows, plain_bytes=plain_bytes, shard_bytes=shard_bytes)
        rows = plan_array(n, dim, dtype, limits).shard_rows
        assert is_shard(dim, dtype, block_rows, rows)
        assert not is_shard(dim, dtype, block_rows, rows + 1) or block_rows == 1
        assert not is_shard(dim, dtype, block_rows, 2**40 * block_rows)


def test_the_documented_case_by_hand():
    # 1,000,000 × 768 float16: 1,536 bytes a row; 65,536 / gcd(65,536, 1,536) = 128 rows, so the
    # unit is 4,096 rows = 6 MiB, and 42 of them fit in 256 MiB.
    layout = plan_array(1_000_000, 768, "float16")
    assert layout.shard_rows == 42 * 4096
    assert len(SetLayout((layout,)).files) == 6
    assert layout.blocks_per_file == 42
    files = SetLayout((layout,)).files
    assert files[0].size == 42 * 4096 * 1536 + 42 * 16 + 4
    # 1,000,000 - 5 × 172,032 = 139,840 rows: 35 blocks, the last padded.
    assert files[5].size == 35 * 4096 * 1536 + 42 * 16 + 4


def test_a_shard_index_by_hand():
    layout = plan_array(5, 2, "float32", LayoutLimits(2, plain_bytes=0, shard_bytes=1))
    index = shard_index(layout, 3)
    assert index.shape == (layout.blocks_per_file, 2)
    assert index[:3].tolist() == [[0, 16], [16, 16], [32, 16]]
    assert (index[3:] == 2**64 - 1).all()


@pytest.mark.parametrize(
    "name", ["..", "a/b", "", "/abs", "C:", "a\x00b", ".hidden", "x" * 129, "naïve", "a b"]
)
def test_names_that_could_leave_the_store_are_refused(name):
    with pytest.raises(LayoutError, match="not a name that a store can hold"):
        SetKey(name, "image", "e")

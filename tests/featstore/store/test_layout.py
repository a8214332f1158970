"""Layout and what lies in it: sizes and indices by hand, casts against ml_dtypes and NumPy."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from featstore import open_store
from featstore.errors import NonFiniteEmbeddingError
from featstore.matrices import from_bfloat16
from featstore.store import DTYPES, LayoutError, LayoutLimits, SetKey, plan_array
from featstore.store.layout import (
    PLAIN_BYTES,
    SHARD_BYTES,
    SetLayout,
    convert_rows,
    decode,
    finite_rows,
    is_shard,
    shard_index,
    to_bfloat16,
)
from featstore.testing import item_table, write_set

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
    files = SetLayout((layout,)).files
    assert (layout.shard_rows, layout.blocks_per_file, len(files)) == (42 * 4096, 42, 6)
    assert files[0].size == 42 * 4096 * 1536 + 42 * 16 + 4
    # 1,000,000 - 5 × 172,032 = 139,840 rows: 35 blocks, the last padded.
    assert files[5].size == 35 * 4096 * 1536 + 42 * 16 + 4
    # And a shard's index.
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


@given(arrays(np.float32, st.integers(1, 50), elements=st.floats(width=32)))
def test_bfloat16_rounds_as_ml_dtypes_does(values):
    with np.errstate(over="ignore"):
        expected = values.astype(ml_dtypes.bfloat16)
    found = from_bfloat16(to_bfloat16(values))
    np.testing.assert_array_equal(found, expected.astype(np.float32), strict=True)


def test_every_bfloat16_is_read_as_ml_dtypes_reads_it():
    bits = np.arange(2**16, dtype=np.uint16)
    expected = bits.view(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(from_bfloat16(bits), expected, strict=True)
    out = np.empty(2**16, np.float32)
    assert from_bfloat16(bits, out) is out
    np.testing.assert_array_equal(out, expected, strict=True)


def _cast(rows: list[list[float]], dtype: str, failed: tuple[str, ...] = ()) -> np.ndarray:
    array = np.array(rows)
    layout = plan_array(len(rows), array.shape[1], dtype)
    ids = [f"i/{i}" for i in range(len(rows))]
    data, check = convert_rows(array, ids, failed=failed, layout=layout, where="here")
    check()
    return data


@pytest.mark.parametrize(("dtype", "row", "message"), [
    ("int8", [0, 128], "no whole numbers of -128 to 127"),
    ("int8", [-129, 0], "no whole numbers of -128 to 127"),
    ("uint8", [-1, 0], "no whole numbers of 0 to 255"),
    ("uint8", [256, 0], "no whole numbers of 0 to 255"),
    ("uint8", [0.5, 0], "no whole numbers of 0 to 255"),
    ("int8", [np.nan, 0], "NaN or Inf"),
    ("float16", [65_520, 0], "too large for float16"),
    ("bfloat16", [3.3999e38, 0], "too large for bfloat16"),
    ("bfloat16", [0, np.inf], "NaN or Inf"),
    ("float32", [1e39, 0], "too large for float32"),
    ("float64", [0, np.nan], "NaN or Inf"),
])  # fmt: skip
def test_what_a_dtype_cannot_hold_is_an_error(dtype, row, message):
    with pytest.raises(NonFiniteEmbeddingError, match=f"{message} for 1 of 2 items, first 'i/1'"):
        _cast([[0, 0], row], dtype)
    found = _cast([[1, 2], row], dtype, failed=("i/1",))
    blank = {"int8": 0, "uint8": 0, "bfloat16": 0x7FC0}.get(dtype, np.nan)
    assert found[0].any()
    np.testing.assert_array_equal(found[1], [blank, blank])
    # What a dtype just holds is held.
    for name, held in (("int8", [-128, 127]), ("uint8", [0, 255]), ("float16", [65_504, -65_504])):
        assert _cast([held], name).tolist() == [held]


@pytest.mark.parametrize(("dtype", "raw", "floats"), [
    ("float16", np.uint16, np.float16),
    ("bfloat16", np.uint16, ml_dtypes.bfloat16),
    ("float32", np.uint32, np.float32),
    ("float64", np.uint64, np.float64),
])  # fmt: skip
@given(data=st.data())
def test_finiteness_is_what_isfinite_says(dtype, raw, floats, data):
    # Any bits at all: every NaN, infinity and subnormal can come.
    bits = data.draw(arrays(raw, data.draw(array_shapes(min_dims=2, max_dims=2, max_side=40))))
    stored = bits if dtype == "bfloat16" else bits.view(floats)
    with np.errstate(invalid="ignore"):  # ml_dtypes reads signalling NaNs as NumPy does not
        expected = np.isfinite(bits.view(floats)).all(axis=1)
    np.testing.assert_array_equal(finite_rows(stored, dtype), expected, strict=True)


def _hard_to_round() -> np.ndarray:
    """All float16 values and what lies half-way between two, one float32 up and down: (n, 64)."""
    values = np.arange(2**16, dtype="<u2").view("<f2")
    values = values[np.isfinite(values)]
    with np.errstate(over="ignore"):
        above = np.nextafter(values, np.float16(np.inf)).astype(np.float32)
    above[np.isinf(above)] = 2.0**16  # 65,520, half-way to it, is the least that becomes Inf
    bits = np.concatenate([values.astype(np.float32), (values + above) / 2]).view("<u4")
    return np.concatenate([bits, bits - 1, bits + 1, np.arange(64)]).astype("<u4").view("<f4")


def test_numkong_converts_to_the_bits_of_numpy(rng):
    """All 2**32 values of float32 were compared once: only signalling NaN come out otherwise."""
    pytest.importorskip("numkong", reason="needs numkong, of the extra `cast`")
    drawn = rng.integers(0, 2**32, 2**20, np.uint32).view(np.float32)
    special = np.array([np.inf, -np.inf, 0.0, -0.0, np.nan, 65_519.996, 65_520.0], np.float32)
    halves = np.arange(2**16, dtype="<u2").view("<f2")[:, None]
    back = decode(halves, "float16", np.empty(halves.shape, np.float32))
    np.testing.assert_array_equal(back, halves.astype(np.float32), strict=True)
    for values in (_hard_to_round(), drawn, special):
        rows = values.reshape(-1, 1)
        layout = plan_array(*rows.shape, "float16")
        found = convert_rows(rows, range(len(rows)), failed=(), layout=layout, where="")[0]  # type: ignore[arg-type]
        with np.errstate(over="ignore", invalid="ignore"):
            expected = rows.astype("<f2")
        numbers = ~np.isnan(rows)
        np.testing.assert_array_equal(
            found.view("<u2")[numbers], expected.view("<u2")[numbers], strict=True
        )
        assert np.isnan(found[~numbers]).all()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_rows_as_they_are_stored_are_not_copied_nor_changed(dtype):
    rows = np.ones((2, 3), dtype)
    layout = plan_array(2, 3, dtype)
    ids = ["i/0", "i/1"]
    assert convert_rows(rows, ids, failed=("other",), layout=layout, where="here")[0] is rows
    blanked = convert_rows(rows, ids, failed=("i/1",), layout=layout, where="here")[0]
    np.testing.assert_array_equal(blanked, [[1, 1, 1], [np.nan] * 3])
    assert (rows == 1).all()
    mirrored = rows[:, ::-1]
    assert convert_rows(mirrored, ids, failed=(), layout=layout, where="here")[0].flags.c_contiguous


@pytest.mark.parametrize("ask", ["numpy", "torch"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_no_dtype_cuts_rows_off(tmp_path, ask, dtype):
    library = pytest.importorskip(ask)
    rows = np.array([[1.0, 3.0], [-4.0, 6.0]])
    key = write_set(tmp_path, rows, item_table(["a", "b"]), dtype=dtype)
    view = open_store(tmp_path).view(key)
    for name in ("float64", "int32", "uint8", "bool"):
        wanted = np.dtype(name) if library is np else getattr(library, name)
        if name == "float64" or (dtype, name) == ("int8", "int32"):
            assert np.asarray(getattr(view, ask)(wanted)).tolist() == rows.tolist()
            continue
        with pytest.raises(ValueError, match=f"are {dtype}; as {name} they would be cut off"):
            getattr(view, ask)(wanted)
    with pytest.raises(ValueError, match="would be cut off"):
        getattr(view.normalized(), ask)(library.int32)

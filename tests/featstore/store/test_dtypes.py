"""Casting to what is stored, and bfloat16 as bits: against ml_dtypes and by hand."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from featstore import open_store
from featstore.errors import NonFiniteEmbeddingError
from featstore.matrices import from_bfloat16
from featstore.store import plan_array
from featstore.store.layout import cast_rows, convert_rows, decode, finite_rows, to_bfloat16
from featstore.testing import item_table, write_set


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
    return cast_rows(array, ids, failed=failed, layout=layout, where="here")


@pytest.mark.parametrize(
    ("dtype", "row", "message"),
    [
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
    ],
)
def test_what_a_dtype_cannot_hold_is_an_error(dtype, row, message):
    with pytest.raises(NonFiniteEmbeddingError, match=f"{message} for 1 of 2 items, first 'i/1'"):
        _cast([[0, 0], row], dtype)
    found = _cast([[1, 2], row], dtype, failed=("i/1",))
    blank = {"int8": 0, "uint8": 0, "bfloat16": 0x7FC0}.get(dtype, np.nan)
    assert found[0].any()
    np.testing.assert_array_equal(found[1], [blank, blank])


@pytest.mark.parametrize(
    ("dtype", "row"), [("int8", [-128, 127]), ("uint8", [0, 255]), ("float16", [65_504, -65_504])]
)
def test_what_a_dtype_just_holds_is_held(dtype, row):
    assert _cast([row], dtype).tolist() == [row]


@pytest.mark.parametrize(
    ("dtype", "raw", "floats"),
    [
        ("float16", np.uint16, np.float16),
        ("bfloat16", np.uint16, ml_dtypes.bfloat16),
        ("float32", np.uint32, np.float32),
        ("float64", np.uint64, np.float64),
    ],
)
@given(data=st.data())
def test_finiteness_is_what_isfinite_says(dtype, raw, floats, data):
    # Any bits at all: every NaN, infinity and subnormal can come.
    shape = data.draw(array_shapes(min_dims=2, max_dims=2, max_side=40))
    bits = data.draw(arrays(raw, shape))
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
    assert cast_rows(rows, ids, failed=("other",), layout=layout, where="here") is rows
    blanked = cast_rows(rows, ids, failed=("i/1",), layout=layout, where="here")
    np.testing.assert_array_equal(blanked, [[1, 1, 1], [np.nan] * 3])
    assert (rows == 1).all()
    mirrored = rows[:, ::-1]
    assert cast_rows(mirrored, ids, failed=(), layout=layout, where="here").flags.c_contiguous


@pytest.mark.parametrize("ask", ["numpy", "torch"])
def test_no_dtype_cuts_rows_off(tmp_path, ask):
    library = pytest.importorskip(ask)
    items = item_table([{"item_id": f"b/{i}"} for i in range(2)])
    rows = np.array([[0.5, 1.5], [-2.0, 3.0]])
    for dtype, values in (("float32", rows), ("bfloat16", rows), ("int8", rows * 2)):
        root = tmp_path / dtype
        key = write_set(root, values, items, dtype=dtype)
        view = open_store(root).view(key)
        read = getattr(view, ask)
        for whole in ("int32", "uint8", "bool"):
            if dtype == "int8" and whole == "int32":
                assert np.asarray(read(library.int32)).tolist() == values.tolist()
                continue
            with pytest.raises(ValueError, match=f"are {dtype}; as {whole} they would be cut off"):
                read(getattr(library, whole))
            with pytest.raises(ValueError, match="would be cut off"):
                getattr(view.normalized(), ask)(library.int32)
        assert np.asarray(read(library.float64)).tolist() == values.tolist()

"""What was written is what every Zarr reader reads, bit for bit."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import ml_dtypes
import numpy as np
import tensorstore as ts
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from featstore import open_store
from featstore.store import DTYPES, MODES
from featstore.store.layout import INTEGERS
from featstore.testing import item_table, write_set


def some_rows(rng: np.random.Generator, n: int, dim: int, dtype: str) -> np.ndarray:
    """Return rows that the dtype can hold, as an encoder would give them."""
    if dtype in INTEGERS:
        bounds = np.iinfo(dtype)
        return rng.integers(bounds.min, bounds.max, (n, dim), endpoint=True).astype(np.float32)
    return rng.standard_normal((n, dim)).astype(np.float64 if dtype == "float64" else np.float32)


def as_stored(rows: np.ndarray, dtype: str) -> np.ndarray:
    """Return the rows as their dtype stores them; bfloat16 as ml_dtypes rounds it."""
    if dtype == "bfloat16":
        return rows.astype(ml_dtypes.bfloat16).view(np.uint16)
    return rows.astype(dtype)


@settings(deadline=None)
@given(
    n=st.integers(1, 200),
    dim=st.integers(1, 9),
    dtype=st.sampled_from(sorted(DTYPES)),
    block_rows=st.integers(1, 64),
    sharded=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_shape_dtype_and_chunking(n, dim, dtype, block_rows, sharded, seed):
    rng = np.random.default_rng(seed)
    rows, chosen = some_rows(rng, n, dim, dtype), rng.integers(0, n, rng.integers(0, 2 * n))
    items = item_table([{"item_id": f"i/{i}", "kind": "image"} for i in range(n)])
    limits = {"plain_bytes": 0, "shard_bytes": 1} if sharded else {}
    with tempfile.TemporaryDirectory() as folder:
        key = write_set(Path(folder), rows, items, dtype=dtype, block_rows=block_rows, **limits)
        path = str(Path(folder, key, "embedding"))
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": path}}
        read = {
            **{mode: open_store(folder, mode=mode).view(key).source.read(chosen) for mode in MODES},
            "zarr": np.asarray(zarr.open_array(path, mode="r")[:]),
            "tensorstore": ts.open(spec, read=True).result().read().result(),
        }
    expected = as_stored(rows, dtype)
    for reader, found in read.items():
        assert found.dtype == expected.dtype, reader
        own = expected[chosen] if reader in MODES else expected
        assert found.tobytes() == own.tobytes(), reader


def test_zarr_walks_the_whole_store(tmp_path, rng):
    rows = rng.standard_normal((4, 3)).astype(np.float32)
    items = item_table([{"item_id": f"i/{i}", "kind": "head_weight"} for i in range(4)])
    key = write_set(tmp_path, rows, items, kind="head_weight", bias=np.arange(4.0))
    group = zarr.open_group(str(tmp_path), mode="r")
    with warnings.catch_warnings():
        # zarr says that Parquet and revisions are not its own, which is so.
        warnings.simplefilter("ignore")
        found = {name for name, _ in group.members(max_depth=None)}
    assert {key, f"{key}/embedding", f"{key}/bias"} <= found
    assert zarr.open_array(str(tmp_path / key / "bias"), mode="r")[:].tolist() == [0, 1, 2, 3]

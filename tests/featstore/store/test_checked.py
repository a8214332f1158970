"""Verification while reading: a flipped byte is found when its block is touched, or at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from featstore import open_store
from featstore.errors import CorruptStoreError
from featstore.store import MODES, Mode
from featstore.testing import item_table, write_set
from tests.damage import flip

N, BLOCK = 1200, 16


@pytest.fixture
def rows(rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal((N, 32)).astype(np.float32)


@pytest.fixture
def key(tmp_path: Path, rows: np.ndarray) -> str:
    items = item_table([{"item_id": f"i/{i}", "kind": "image"} for i in range(N)])
    return write_set(tmp_path, rows, items, block_rows=BLOCK, plain_bytes=0, shard_bytes=1)


def _flip(root: Path, key: str, row: int) -> None:
    """Flip one bit of a row; a shard holds 512 rows of 128 bytes."""
    path = root / key / "embedding" / "c" / str(row // 512) / "0"
    flip(path, (row % 512) * 128 + 5, 0x10)


@pytest.mark.parametrize("mode", MODES)
def test_a_flipped_bit_is_found_in_every_mode(
    tmp_path: Path, key: str, rows: np.ndarray, mode: Mode
) -> None:
    _flip(tmp_path, key, 700)
    served = open_store(tmp_path, mode=mode).view(key).numpy()
    assert np.flatnonzero((served != rows).any(axis=1)).tolist() == [700]
    view = open_store(tmp_path, mode=mode, verify="first-touch").view(key)
    # Row 700 lies in block 43, rows 688 to 703, of the second file.
    around = [*range(600, 688), *range(704, 800)]
    assert view.take(around).numpy().tobytes() == rows[around].tobytes()
    for _ in range(2):
        with pytest.raises(CorruptStoreError, match=r"c/1/0: block 43 \(rows 688 to 703\)"):
            view.take([3, 690, 5]).numpy()
    with pytest.raises(CorruptStoreError, match="block 43"):
        next(iter(view.batches(N)))
    with pytest.raises(CorruptStoreError, match=r"c/1/0: block 43 \(rows 688 to 703\)"):
        open_store(tmp_path, mode=mode, verify="full").view(key)


def test_a_block_is_checked_once(tmp_path: Path, key: str, rows: np.ndarray) -> None:
    view = open_store(tmp_path, verify="first-touch").view(key)
    assert view.take([0]).numpy().tobytes() == rows[[0]].tobytes()
    _flip(tmp_path, key, 1)
    # Its block was checked before; the next one is not.
    assert view.take([1]).numpy().shape == (1, 32)
    _flip(tmp_path, key, BLOCK)
    with pytest.raises(CorruptStoreError, match="block 1 "):
        view.take([BLOCK]).numpy()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "int8"])
def test_an_intact_set_passes(tmp_path: Path, dtype: str) -> None:
    rows = np.arange(100 * 3).reshape(100, 3) % 100
    items = item_table([{"item_id": f"i/{i}", "kind": "image"} for i in range(100)])
    key = write_set(tmp_path, rows, items, dtype=dtype, block_rows=7)
    for verify in ("first-touch", "full"):
        found = open_store(tmp_path, verify=verify).view(key)
        assert found.shape == (100, 3)
        np.testing.assert_array_equal(found.numpy(), rows)


def test_full_reads_the_items_too(tmp_path: Path, key: str) -> None:
    (path,) = (tmp_path / key).parent.glob("items-*.parquet")
    flip(path, path.stat().st_size // 2)
    view = open_store(tmp_path, verify="first-touch").view(key)
    assert view.numpy().shape == (N, 32)
    with pytest.raises(CorruptStoreError, match="items-"):
        _ = view.items
    with pytest.raises(CorruptStoreError, match="items-"):
        open_store(tmp_path, verify="full").view(key)

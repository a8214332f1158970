"""Verification while reading, and reading in processes of others."""

from __future__ import annotations

import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest

from featstore import open_store
from featstore.errors import CorruptStoreError
from featstore.store import MODES
from featstore.testing import item_table, write_set
from tests.damage import flip

N, BLOCK = 1200, 16


@pytest.fixture
def rows(rng):
    return rng.standard_normal((N, 32)).astype(np.float32)


@pytest.fixture
def key(tmp_path, rows):
    items = item_table([{"item_id": f"i/{i}", "kind": "image"} for i in range(N)])
    return write_set(tmp_path, rows, items, block_rows=BLOCK, plain_bytes=0, shard_bytes=1)


def _flip(root: Path, key: str, row: int) -> None:
    """Flip one bit of a row; a shard holds 512 rows of 128 bytes."""
    path = root / key / "embedding" / "c" / str(row // 512) / "0"
    flip(path, (row % 512) * 128 + 5, 0x10)


@pytest.mark.parametrize("mode", MODES)
def test_a_flipped_bit_is_found_in_every_mode(tmp_path, key, rows, mode):
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


def test_full_reads_the_items_too(tmp_path, key):
    (path,) = (tmp_path / key).parent.glob("items-*.parquet")
    flip(path, path.stat().st_size // 2)
    view = open_store(tmp_path, verify="first-touch").view(key)
    assert view.numpy().shape == (N, 32)
    with pytest.raises(CorruptStoreError, match="items-"):
        _ = view.items
    with pytest.raises(CorruptStoreError, match="items-"):
        open_store(tmp_path, verify="full").view(key)


def _read(view: object) -> tuple[np.ndarray, list[str], str]:
    return view.numpy(), view.items["item_id"].to_list(), view.fingerprint  # type: ignore[attr-defined]


def test_rows_items_and_fingerprint_are_the_same_elsewhere(store_path, monkeypatch, forked):
    monkeypatch.chdir(store_path.parent)
    whole = open_store("store", verify="full").view("birds/image/toy")
    some = whole.where(split="train").take([5, 3, 3, 0]).normalized().astype(np.float64)
    views = [whole, some]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        monkeypatch.chdir("/")
        found = pool.map(_read, views)
    for view, (rows, ids, fingerprint) in zip(views, found, strict=True):
        np.testing.assert_array_equal(rows, view.numpy())
        assert rows.dtype == view.numpy().dtype
        assert (ids, fingerprint) == (view.items["item_id"].to_list(), view.fingerprint)


def test_rows_in_memory_do_not_travel(tmp_path):
    items = item_table(
        [{"item_id": f"c/{i}", "kind": "class_name", "class_id": f"c/{i}", "variant": "name",
          "template_id": "none", "text": "t"} for i in range(3)]
    )  # fmt: skip
    write_set(tmp_path, np.eye(3, dtype=np.float32), items, dataset="c", kind="class_name")
    texts = open_store(tmp_path).view("c/class_name/toy").class_texts()
    with pytest.raises(TypeError, match="rows in memory"):
        pickle.dumps(texts)

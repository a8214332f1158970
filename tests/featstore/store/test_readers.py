"""Two ways to read, one result; one address range, given back; damage found in every way."""

from __future__ import annotations

import gc
import multiprocessing
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import featstore.store.rows as readers
from featstore import EmbeddingsView, open_store
from featstore.errors import CorruptStoreError
from featstore.store import MODES, LayoutLimits, open_rows, plan_array
from featstore.store.layout import SetLayout
from featstore.store.rows import MappingUnavailableError, map_rows
from featstore.testing import item_table, write_set
from tests.damage import flip

SHARDED = {"block_rows": 16, "plain_bytes": 0, "shard_bytes": 1}


def _layout(*sizes: int) -> SetLayout:
    """Return parts of so many rows of 32 float32; the first is in shards of 512 rows."""
    limits, starts = LayoutLimits(**SHARDED), np.cumsum([0, *sizes]).tolist()
    placed = zip(sizes, starts[:-1], strict=True)
    parts = [plan_array(n, 32, "float32", limits, start=at) for n, at in placed]
    return SetLayout(tuple(replace(one, path=f"e/{i}") for i, one in enumerate(parts)))


def _write_array(directory: Path, data: np.ndarray, layout: SetLayout) -> None:
    """Write the data files of a set, without anything around them; no padding is as it should."""
    for file in layout.files:
        path = directory / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        padding = b"\xff" * file.part.padding
        path.write_bytes(padding + data[file.rows].tobytes() + file.tail().replace(b"\0", b"\xff"))


@settings(deadline=None, max_examples=40)
@given(
    sizes=st.lists(
        st.integers(1, 1000) | st.sampled_from([1, 16, 512, 1024]), min_size=1, max_size=5
    ),
    chosen=st.lists(st.integers(0, 2999), max_size=400),
    gap=st.sampled_from([1, 128, 2**14]),
    most=st.sampled_from([1, 1000, 2**23]),
    cold=st.booleans(),
)
def test_any_rows_of_any_parts_in_any_order(sizes, chosen, gap, most, cold):
    n = sum(sizes)
    rows = np.array([row % n for row in chosen], dtype=np.int64)
    data = np.random.default_rng(n).standard_normal((n, 32)).astype(np.float32)
    layout = _layout(*sizes)
    tuned = {
        "GAP_BYTES": gap, "READ_BYTES": most, "COLD_ROWS": 16, "COLD_SECONDS": 0 if cold else 1e9,
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        for name, value in tuned.items():
            patch.setattr(readers, name, value)
        _write_array(Path(folder), data, layout)
        for mode in ("map", "pread"):
            source, buffer = open_rows(Path(folder), layout, mode), np.empty_like(data[rows])
            for found in (source.read(rows), source.read(rows, buffer)):
                assert found.tobytes() == data[rows].tobytes(), mode
            with pytest.raises(IndexError, match=f"outside 0 to {n - 1:,}"):
                source.read(np.array([0, n]))


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_one_read_only_array_whose_addresses_go_with_its_last_view(tmp_path, rng):
    data = rng.standard_normal((3000, 32)).astype(np.float32)
    layout, maps = _layout(3000), Path("/proc/self/maps")
    assert len(layout.files) == 6
    _write_array(tmp_path, data, layout)
    array = map_rows(tmp_path, layout).array
    assert array.tobytes() == data.tobytes()
    assert array.flags.c_contiguous
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 0
    with pytest.raises(ValueError, match="WRITEABLE"):
        array.flags.writeable = True
    part = array[700:900, ::2]
    del array
    gc.collect()
    assert part.tobytes() == data[700:900, ::2].tobytes()
    assert maps.read_text().count(str(tmp_path)) == len(layout.files)
    del part
    gc.collect()
    assert str(tmp_path) not in maps.read_text()
    source = open_rows(tmp_path, layout, "map")
    assert np.shares_memory(source.read(np.arange(400, 2600)), source.read(np.arange(3000)))


def test_where_one_range_is_impossible(tmp_path, rng, monkeypatch):
    data = rng.standard_normal((3000, 32)).astype(np.float32)
    layout = _layout(2000, 10, 990)
    _write_array(tmp_path, data, layout)
    monkeypatch.setattr("featstore.store.rows.COPIED_BYTES", 2**10)
    with pytest.raises(MappingUnavailableError, match="share a page"):
        open_rows(tmp_path, layout, "map")
    source = open_rows(tmp_path, layout, "auto")
    monkeypatch.undo()
    assert isinstance(source, readers.PreadRows)
    rows = rng.permutation(3000)
    assert source.read(rows).tobytes() == data[rows].tobytes()


N = 1200


@pytest.fixture
def rows(rng):
    return rng.standard_normal((N, 32)).astype(np.float32)


@pytest.fixture
def key(tmp_path, rows):
    """A set in blocks of 16 rows, of which the second file, c/1/0, begins with row 512."""
    return write_set(tmp_path, rows, item_table([f"i/{i}" for i in range(N)]), **SHARDED)


@pytest.mark.parametrize("mode", ["map", "pread"])
@pytest.mark.parametrize("damage", ["missing", "short", "long", "link", "folder", "short later"])
def test_damaged_files_are_named_before_a_row_is_served(tmp_path, key, mode, damage):
    path = tmp_path / key / "embedding" / "c" / "1" / "0"
    data = path.read_bytes()
    if damage == "short later":
        view = open_store(tmp_path, mode="pread").view(key)
        path.write_bytes(data[:-100])
        with pytest.raises(CorruptStoreError, match=r"c/1/0 .*truncated or replaced"):
            view.numpy()
    path.unlink()
    if damage in ("short", "long", "short later"):
        path.write_bytes(data + b"x" if damage == "long" else data[:-1])
    elif damage == "link":
        (tmp_path / "elsewhere").write_bytes(data)
        path.symlink_to(tmp_path / "elsewhere")
    elif damage == "folder":
        path.mkdir()
    with pytest.raises(
        CorruptStoreError, match=r"c/1/0 .*(extract or fetch it again|is a symbolic link)"
    ):
        open_store(tmp_path, mode=mode).view(key)


@pytest.mark.parametrize("mode", MODES)
def test_a_flipped_bit_is_found_in_every_mode(tmp_path, key, rows, mode):
    flip(tmp_path / key / "embedding" / "c" / "1" / "0", (700 - 512) * 128 + 5, 0x10)
    served = open_store(tmp_path, mode=mode).view(key).numpy()
    assert np.flatnonzero((served != rows).any(axis=1)).tolist() == [700]
    view = open_store(tmp_path, mode=mode, verify="first-touch").view(key)
    # Row 700 lies in block 43, rows 688 to 703, of the second file.
    around = [*range(600, 688), *range(704, 800)]
    assert view.take(around).numpy().tobytes() == rows[around].tobytes()
    said = r"c/1/0: block 43 \(rows 688 to 703\)"
    for _ in range(2):
        with pytest.raises(CorruptStoreError, match=said):
            view.take([3, 690, 5]).numpy()
    with pytest.raises(CorruptStoreError, match=said):
        next(iter(view.batches(N)))


def _read(view: EmbeddingsView) -> tuple[np.ndarray, list[str], str]:
    return view.numpy(), view.items["item_id"].to_list(), view.fingerprint


def test_rows_items_and_fingerprint_are_the_same_elsewhere(store_path, monkeypatch, forked):
    monkeypatch.chdir(store_path.parent)
    whole = open_store("store", verify="first-touch").view("birds/image/toy")
    assert len(whole.items) == len(whole)  # read where the store is
    some = whole.where(split="train").take([5, 3, 3, 0]).normalized().astype(np.float64)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        monkeypatch.chdir("/")
        found = pool.map(_read, [whole, some])
    for view, (rows, *others) in zip([whole, some], found, strict=True):
        np.testing.assert_array_equal(rows, view.numpy(), strict=True)
        assert others == [view.items["item_id"].to_list(), view.fingerprint]

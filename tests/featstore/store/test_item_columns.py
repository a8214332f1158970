"""Columns of an item table, read one by one: checked, and no other looked at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from featstore import open_store
from featstore.errors import CorruptStoreError, UnknownColumnError
from featstore.store import tables, verify_store
from featstore.store.parquet_guard import column_chunks, footer_start
from featstore.testing import item_table, write_set

N = 70


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store whose item table has three row groups."""
    monkeypatch.setattr(tables, "GROUP_ROWS", 32)
    rng = np.random.default_rng(5)
    items = item_table(
        [
            {"item_id": f"i/{i}", "class_id": f"c/{rng.integers(5)}", "split": "ab"[i % 2]}
            for i in range(N)
        ]
    )
    write_set(tmp_path / "store", rng.standard_normal((N, 4)).astype(np.float32), items)
    return tmp_path / "store"


def test_the_columns_are_those_of_the_whole_table(store: Path) -> None:
    views = [open_store(store).view("birds/image/toy") for _ in range(2)]
    whole = views[0].items
    chosen = views[1].where(pl.col("class_id") > pl.col("split"), split=["a"])
    again = views[1].where(pl.any_horizontal(pl.all() == "c/3"), class_id="c/3")
    assert chosen.items.equals(whole.filter(split="a"))
    assert again.items.equals(whole.filter(class_id="c/3"))
    assert again.where(split="b").items.equals(whole.filter(class_id="c/3", split="b"))
    with pytest.raises(UnknownColumnError, match=r"No column named 'spilt'.*'split'"):
        open_store(store).view("birds/image/toy").where(spilt="a")


def test_a_flipped_byte_is_found_with_its_column_and_no_other(store: Path) -> None:
    (path,) = store.rglob("items-*.parquet")
    path.chmod(0o644)
    data = path.read_bytes()
    start = footer_start(len(data), data[-8:])
    chunks = column_chunks(data[start:], start)
    assert [name for name, _ in chunks[:1]] == ["item_id"]
    assert len(chunks) % 3 == 0
    for name, place in [*chunks, ("", slice(start, len(data)))]:
        for at in (place.start, (place.start + place.stop) // 2, place.stop - 1):
            path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
            assert any(path.name in one.path for one in verify_store(store).problems), at
            for column, value in (("split", "a"), ("class_id", "c/3")):
                view = open_store(store).view("birds/image/toy")
                if name in (column, ""):
                    with pytest.raises(CorruptStoreError, match=f"{path.name} differs from"):
                        view.where(**{column: value})
                else:
                    assert len(view.where(**{column: value})) > 3

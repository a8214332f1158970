"""A view that is pickled is the same rows in another process, whatever happens to the set."""

from __future__ import annotations

import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest

from featstore import open_store
from featstore.testing import item_table, write_set

N = 50


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    items = item_table(
        [{"item_id": f"b/{i:02d}", "kind": "image", "split": "train" if i % 3 else "test"}
         for i in range(N)]
    )  # fmt: skip
    rows = np.random.default_rng(0).standard_normal((N, 6)).astype(np.float32)
    rows[4] = np.nan
    write_set(tmp_path / "s", rows, items, failures={"b/04": "broken"})
    return tmp_path / "s"


def _read(view: object) -> tuple[np.ndarray, list[str], str]:
    return view.numpy(), view.items["item_id"].to_list(), view.fingerprint  # type: ignore[attr-defined]


def test_rows_items_and_fingerprint_are_the_same_elsewhere(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    whole = open_store("s", verify="full").view("birds/image/toy")
    some = whole.where(split="train").take([20, 3, 3, 0]).normalized().astype(np.float64)
    views = [whole, some, some.centered(np.arange(6.0))]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        monkeypatch.chdir("/")
        found = pool.map(_read, views)
    for view, (rows, ids, fingerprint) in zip(views, found, strict=True):
        np.testing.assert_array_equal(rows, view.numpy())
        assert rows.dtype == view.numpy().dtype
        assert (ids, fingerprint) == (view.items["item_id"].to_list(), view.fingerprint)


def test_it_says_little_and_opens_a_set_once(folder: Path) -> None:
    view = open_store(folder).view("birds/image/toy").take([1])
    assert len(pickle.dumps(view)) < 1200
    one, two = (pickle.loads(pickle.dumps(view)) for _ in range(2))
    assert one.source is two.source
    assert view.origin is not None
    assert view.origin.address == str(folder)


def test_rows_in_memory_do_not_travel(folder: Path) -> None:
    items = item_table(
        [{"item_id": f"c/{i}", "kind": "class_name", "class_id": f"c/{i}", "variant": "name",
          "template_id": "none", "text": "t"} for i in range(3)]
    )  # fmt: skip
    write_set(folder, np.eye(3, dtype=np.float32), items, dataset="c", kind="class_name")
    texts = open_store(folder).view("c/class_name/toy").class_texts()
    with pytest.raises(TypeError, match="rows in memory"):
        pickle.dumps(texts)

"""What featstore.testing promises to other projects' tests."""

import numpy as np

from featstore import open_store
from featstore.store import verify_store
from featstore.testing import item_table, toy_store, write_set
from tests.damage import lasting


def test_the_toy_store_is_the_same_every_time_and_whole(tmp_path):
    keys = toy_store(tmp_path / "a")
    assert toy_store(tmp_path / "b") == keys
    assert lasting(tmp_path / "a") == lasting(tmp_path / "b")
    assert toy_store(tmp_path / "c", seed=2) == keys
    assert lasting(tmp_path / "a") != lasting(tmp_path / "c")
    assert verify_store(tmp_path / "a").problems == []


def test_a_set_has_its_failures_and_can_be_damaged_unless_sealed(tmp_path):
    items = item_table(["a", "b", "c"])
    rows = np.arange(6.0).reshape(3, 2)
    key = write_set(
        tmp_path / "open", rows, items, failures={"b": "torn"}, dtype="float16", block_rows=2
    )
    view = open_store(tmp_path / "open").view(key)
    assert view.items["item_id"].to_list() == ["a", "c"]
    np.testing.assert_array_equal(view.numpy(), rows[[0, 2]])
    sealed = write_set(tmp_path / "sealed", rows, items, sealed=True)
    for root, where, writable in (
        (tmp_path / "open", key, True), (tmp_path / "sealed", sealed, False),
    ):  # fmt: skip
        data = [path for path in (root / where / "embedding").rglob("*") if path.is_file()]
        assert {bool(path.stat().st_mode & 0o200) for path in data} == {writable}

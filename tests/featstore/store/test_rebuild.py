"""Repair: what follows from the commit comes back byte for byte; the rest is said, not touched."""

from __future__ import annotations

import pytest

from featstore.errors import StoreWriteError
from featstore.store import SetKey, rebuild_set
from featstore.store.lock import claim_set
from tests.damage import flip, tree


@pytest.fixture
def store(tmp_path, images, make_set):
    root = tmp_path / "store"
    return root, make_set(root, *images, block_rows=5, plain_bytes=0, shard_bytes=1)


def test_what_follows_from_the_commit_comes_back(store):
    root, key = store
    before = tree(root)
    data = f"{key}/embedding/c/0/0"
    flip(root / data, -1)  # the index checksum
    flip(root / data, 12 * 6 * 4)  # the padding
    names = ["birds/zarr.json", "birds/image/zarr.json", f"{key}/embedding/zarr.json"]
    for name in names:
        (root / name).unlink()
    (root / "log.json").write_bytes(b"{}")
    (root / "zarr.json").write_bytes(b"{}")
    done = rebuild_set(root, key)
    assert set(done.rebuilt) == {data, *names, "log.json", "zarr.json"}
    assert done.left == []
    assert tree(root) == before


def test_a_set_that_is_being_written_is_not_repaired(store):
    root, key = store
    flip(root / key / "embedding" / "c" / "0" / "0", -1)
    claim = claim_set(root / key, SetKey(*key.split("/")))
    with pytest.raises(StoreWriteError, match="is being written by"):
        rebuild_set(root, key)
    claim.release()

"""A store of a few sets, served by real servers of this machine."""

from __future__ import annotations

import itertools
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from featstore import open_store
from featstore.testing import item_table, write_set
from tests.featstore.remote.buckets import environment, make_bucket
from tests.featstore.remote.proxy import proxy
from tests.featstore.remote.s3_server import s3_server
from tests.featstore.remote.static import static_server

#: Rows of the sharded set, which has 4 files of 4 blocks.
N, DIM, BLOCK = 1000, 256, 64

IMAGES = "birds/image/toy"

NUMBERS = itertools.count()


def make_rows(n: int = N, dim: int = DIM, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)


def make_store(root: Path) -> Path:
    """Write a sharded set with failures and a small plain one."""
    items = item_table([{"item_id": f"b/{i:04d}", "kind": "image"} for i in range(N)])
    rows = make_rows()
    rows[7] = np.nan
    write_set(root, rows, items, failures={"b/0007": "broken"}, block_rows=BLOCK, plain_bytes=0,
              shard_bytes=256 * 1024, golden={"vectors": [[1.0]]})  # fmt: skip
    texts = item_table([{"item_id": f"t/{i}", "kind": "caption"} for i in range(20)])
    write_set(root, make_rows(20, 8), texts, kind="caption", encoder="st:toy")
    return root


def assert_same_rows(url: str, folder: Path, name: str = IMAGES) -> None:
    """Open a store, and compare a set with that of the folder that it is a copy of."""
    found, local = open_store(url).view(name), open_store(folder).view(name)
    assert found.items.equals(local.items)
    assert found.fingerprint == local.fingerprint
    np.testing.assert_array_equal(found.numpy(), local.numpy())


@pytest.fixture(scope="session")
def store_folder(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("served") / "store")


@pytest.fixture(autouse=True)
def cache_home(tmp_path, monkeypatch):
    """Every test has a cache of its own, and no pause between attempts."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("featstore.remote.PAUSE", 0.001)
    monkeypatch.setattr("featstore.remote.servers.UPDATE", timedelta(seconds=0.005))
    return tmp_path / "cache" / "headstock" / "remote"


@pytest.fixture
def served(store_folder):
    """The store on a plain web server, behind a proxy that does no harm yet."""
    with static_server(store_folder) as upstream, proxy(upstream) as state:
        yield state


@pytest.fixture
def server(monkeypatch):
    """An empty S3 of our own, to which the environment leads."""
    with s3_server() as state:
        for name, value in environment(state.url).items():
            monkeypatch.setenv(name, value)
        yield state


@pytest.fixture
def bucket(moto, monkeypatch):
    """An empty bucket ``team``N behind a proxy; `url` is the store's address."""
    with proxy(moto) as state:
        for name, value in environment(state.url).items():
            monkeypatch.setenv(name, value)
        name = f"team-{next(NUMBERS)}"
        make_bucket(state.url, name)
        state.requests.clear()
        state.address = f"s3://{name}/store"
        yield state

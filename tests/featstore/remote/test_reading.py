"""Reading a remote store: the same rows, fetched once, then without the server."""

from __future__ import annotations

import multiprocessing
import os
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featstore import open_store
from featstore.errors import AddressError, CacheFullError, RemoteStoreError
from featstore.remote.cache import CachedShard, shard_name, user_cache
from featstore.testing import item_table, write_set
from tests.featstore.remote.conftest import BLOCK, IMAGES, N, assert_same_rows, make_rows
from tests.featstore.remote.proxy import Answer, Proxy, proxy
from tests.featstore.remote.static import static_server

TEXTS = "birds/caption/toy"


@pytest.mark.parametrize("mode", ["auto", "map", "pread"])
@pytest.mark.parametrize("sizes", [(10, 13, 30), (30,)], ids=["parts", "shards"])
def test_files_that_share_pages_are_read_in_part_and_whole(tmp_path, sizes, mode):
    """Shared pages are copied where files are mapped: perhaps before they are there."""
    rows = make_rows(30, 8)
    for n in sizes:
        items = item_table([f"b/{i:02d}" for i in range(n)])
        write_set(tmp_path / "store", rows[:n], items, block_rows=4, plain_bytes=0, shard_bytes=256)
    with static_server(tmp_path / "store") as upstream, proxy(upstream) as served:
        view = open_store(served.url, mode=mode, verify="never").view(IMAGES)
        for number in (29, 0, 12, 9, 10, 13, 28):
            np.testing.assert_array_equal(view.take([number]).numpy(), rows[[number]])
        np.testing.assert_array_equal(view.numpy(), rows)
        whole = open_store(served.url, mode=mode, verify="never").view(IMAGES)
        np.testing.assert_array_equal(whole.numpy(), rows)


def test_a_shard_is_fetched_once_and_read_without_the_server(served, store_folder):
    open_store(served.url).prefetch(IMAGES)
    assert served.count("embedding/c/") == 4  # one request a file
    assert_same_rows(served.url, store_folder)
    assert served.count("embedding/c/") == 4
    served.down = True
    with pytest.warns(UserWarning, match="cannot be reached"):
        offline = open_store(served.url)
    local = open_store(store_folder).view(IMAGES)
    np.testing.assert_array_equal(offline.view(IMAGES).numpy(), local.numpy())
    with pytest.raises(RemoteStoreError, match="not in the cache"):
        offline.view(TEXTS)


def test_offline_by_the_environment_asks_nothing(served, monkeypatch):
    monkeypatch.setenv("HEADSTOCK_OFFLINE", "1")
    with pytest.raises(AddressError):
        open_store(served.url)
    assert not served.requests


@pytest.mark.parametrize("mode", ["map", "pread"])
def test_a_file_of_the_cache_that_is_made_anew_is_not_taken_for_the_old_one(
    served, store_folder, mode
):
    """Its number may be that of the file that was removed, and it is empty."""
    local = open_store(store_folder).view(IMAGES).numpy()
    view = open_store(served.url, mode=mode).view(IMAGES)
    some = np.arange(3 * BLOCK)
    view.take(some).numpy()
    user_cache().trim(limit=0)
    open_store(served.url).view(IMAGES).take([4 * BLOCK - 1]).numpy()
    np.testing.assert_array_equal(view.take(some).numpy(), local[some])


def test_files_that_are_removed_while_others_are_fetched_ahead(served, store_folder):
    """What still comes for a removed file counts for that file alone."""
    local = open_store(store_folder).view(IMAGES).numpy()
    view = open_store(served.url, mode="pread").view(IMAGES)
    files = [shard.path for shard in view.source._state.shards]
    gone = threading.Event()

    def harm(path: str, number: int, answer: Answer) -> None:
        if "embedding/c/2" in path and not gone.is_set():
            for file in files:
                file.unlink(missing_ok=True)
            gone.set()

    served.harm = harm
    batches = view.batches(10)
    rows = [next(batches)]
    assert gone.wait(20)
    np.testing.assert_array_equal(np.concatenate([*rows, *batches]), local)


def test_a_server_without_ranges(store_folder):
    with static_server(store_folder, ranges=False) as upstream, proxy(upstream) as state:
        view = open_store(state.url).view(IMAGES)
        local = open_store(store_folder).view(IMAGES)
        for row in (500, 501, 900):
            np.testing.assert_array_equal(view.take([row]).numpy(), local.take([row]).numpy())
        assert_same_rows(state.url, store_folder)
        assert state.count("embedding/c/") <= 5  # the first range, then whole files


def _read_all(url: str, cache: str, seed: int) -> int:
    os.environ["XDG_CACHE_HOME"] = cache
    view = open_store(url).view(IMAGES)
    order = np.random.default_rng(seed).permutation(len(view))
    out = np.empty(view.shape, np.float32)
    for part in np.array_split(order, 20):
        out[part] = view.take(part).numpy()
    return zlib.crc32(out.tobytes())


def test_many_processes_share_one_cache(served, store_folder, cache_home, forked):
    cache = str(cache_home.parent.parent)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        found = pool.starmap(_read_all, [(served.url, cache, seed) for seed in range(2)])
    assert found == [zlib.crc32(open_store(store_folder).view(IMAGES).numpy().tobytes())] * 2


def test_marks_of_an_earlier_start_are_not_believed(served, store_folder, cache_home, monkeypatch):
    open_store(served.url).view(IMAGES).take(np.arange(2 * BLOCK)).numpy()
    (part,) = [path for path in cache_home.glob("shards/*/*") if path.stat().st_blocks]
    with part.open("r+b") as file:
        file.write(b"lost")  # what a loss of power makes of data that was not durable
    monkeypatch.setattr("featstore.remote.cache.boot_id", lambda: "another start")
    before = served.count("embedding/c/")
    assert_same_rows(served.url, store_folder)
    assert served.count("embedding/c/") > before


def test_the_least_recently_used_shards_go_first(served, cache_home):
    store = open_store(served.url)
    store.prefetch(IMAGES)
    store.prefetch(TEXTS)
    cache = user_cache()
    entries = cache.shards()
    for age, entry in enumerate(entries):
        os.utime(entry.path, (1e9 - age, 1e9 - age))
    removed = cache.trim(limit=sum(entry.bytes for entry in entries[:2]))
    assert [entry.path for entry in removed] == [entry.path for entry in entries[2:]]
    assert {entry.path for entry in cache.shards()} == {entry.path for entry in entries[:2]}


def test_more_rows_than_the_cache_may_hold(served, store_folder, monkeypatch):
    monkeypatch.setenv("HEADSTOCK_CACHE_SIZE", str(5 * BLOCK * 1024))
    view = open_store(served.url).view(IMAGES)
    np.testing.assert_array_equal(
        view.take([5]).numpy(), open_store(store_folder).view(IMAGES).take([5]).numpy()
    )
    with pytest.raises(CacheFullError, match="HEADSTOCK_CACHE_SIZE"):
        view.numpy()


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_rows_in_any_order(served: Proxy, store_folder: Path, data: st.DataObject) -> None:
    rows = np.array(data.draw(st.lists(st.integers(0, N - 2), min_size=1, max_size=30)))
    if data.draw(st.booleans()):
        user_cache().trim(limit=0)
    found = open_store(served.url).view(IMAGES).take(rows).numpy()
    np.testing.assert_array_equal(found, open_store(store_folder).view(IMAGES).take(rows).numpy())


def test_no_mark_of_another_start_is_believed(served, store_folder):
    """Each value that a byte can have marks blocks whose rows were lost: none counts."""
    info = open_store(served.url).info(IMAGES)
    layout = open_store(store_folder).info(IMAGES).commit.layout
    n_blocks = len(layout.files[1].blocks)
    path = user_cache().shard(shard_name(layout.files[1], info.commit.blocks))
    path.parent.mkdir(parents=True, exist_ok=True)
    for value in (1, 64, 128, 255):
        path.write_bytes(bytes(layout.files[1].size) + bytes([value]) * 16 * n_blocks)
        shard = CachedShard(path, layout.files[1])
        with shard.opened() as descriptor:
            assert not shard.settle(descriptor, info.commit).any(), value
    assert_same_rows(served.url, store_folder)

"""Stores in datasets of the hub: pushed in one commit, read, and what may go wrong."""

from __future__ import annotations

import logging
import shutil
import threading
import time
import types
from typing import Any

import numpy as np
import pytest
from obstore.store import HTTPStore

from featstore import copy_sets, open_store
from featstore.errors import RemoteStoreError, UnreachableError
from featstore.remote import Pace
from featstore.share import make_tag
from featstore.store import verify_store
from featstore.testing import item_table, write_set
from tests.damage import flip, unseal
from tests.featstore.remote.conftest import N, make_rows
from tests.featstore.remote.hub_server import SECRET, TOKEN, Hub, files_below, hub_server
from tests.featstore.remote.proxy import proxy
from tests.featstore.remote.static import static_server
from tests.featstore.remote.test_buckets import (
    IMAGES,
    assert_same_store,
    assert_zarr_reads,
    extend,
    vary,
)
from tests.typed import headstock

# huggingface_hub 2.4 hands httpx2 an upload in a way that this deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")

ADDRESS = "hf://datasets/team/birds"
KEY, CAPTIONS = "birds/image/timm.toy-3ad3c869", "birds/caption/"


@pytest.fixture
def hub(monkeypatch):
    """An empty dataset, a token that may write to it, and no pauses between attempts."""
    hf_http = pytest.importorskip("huggingface_hub.utils._http")
    from huggingface_hub import constants

    with hub_server(None, "team/birds") as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        server.slept = []
        monkeypatch.setattr(hf_http, "time", types.SimpleNamespace(sleep=server.slept.append))
        yield server


def shards_sent(hub: Hub) -> int:
    return hub.count("PUT", "/signed/")


def test_push_read_and_push_again(hub, store_folder, tmp_path):
    hub.commit({".gitattributes": b"*.parquet filter=lfs"})
    parent = hub.branches["main"]
    report = copy_sets(store_folder, ADDRESS)
    assert set(report.sets.values()) == {"new"}
    assert not report.failed
    assert report.address == f"{ADDRESS}@{hub.branches['main']}"
    assert hub.count("POST", "/commit/main") == 1
    hub.requests.clear()
    assert_same_store(ADDRESS, store_folder)
    # A token is not sent on to the host of large files.
    seen = {("/signed/" in path, signed) for _, path, signed in hub.requests}
    assert seen == {(False, True), (True, False)}
    # One commit: a reader of the parent sees no store, a reader of the commit all of it.
    assert set(hub.commits[parent]) == {".gitattributes"}
    there = hub.files()
    for name, data in files_below(store_folder).items():
        if name != "log.json":  # which lists the card, too
            assert there[name] == data
    assert {*there} - {*files_below(store_folder)} == {".gitattributes", "README.md"}
    hub.requests.clear()
    again = copy_sets(store_folder, ADDRESS)
    assert set(again.sets.values()) == {"same"}
    assert hub.count("POST", "/commit/") == shards_sent(hub) == 0
    assert again.address == report.address
    # What was pulled from it is the store that was pushed.
    copy_sets(report.address, tmp_path / "pulled")
    assert_same_store(tmp_path / "pulled", store_folder)
    assert verify_store(tmp_path / "pulled").problems == []


def test_an_extended_set_sends_its_new_shards(hub, store_folder, tmp_path):
    own = shutil.copytree(store_folder, tmp_path / "own")
    first = copy_sets(own, ADDRESS)
    vary(own)
    make_tag(own, "paper-v1")
    before = set(hub.large)
    hub.requests.clear()
    assert copy_sets(own, ADDRESS).sets[KEY] == "behind"
    assert (
        shards_sent(hub) == len({digest for digest in hub.large if digest not in before}) == 2
    )  # those of the new part
    assert_same_store(ADDRESS, own)
    plain = f"{hub.url}/datasets/team/birds/resolve/main"
    assert_zarr_reads(HTTPStore(plain, client_options={"allow_http": True}), own)
    assert_same_store(first.address, store_folder)  # a commit stays what it was
    assert open_store(ADDRESS, revision="paper-v1").info(IMAGES).commit.n == 1300


def overtaken(hub: Hub, *arguments: Any, **keywords: Any) -> None:
    """Before the next commit another publishes, whole: `copy_sets` of these arguments."""

    def race(method: str, path: str) -> None:
        if "/commit/" in path:
            hub.harm = None
            hub.lock.release()
            try:
                thread = threading.Thread(target=copy_sets, args=arguments, kwargs=keywords)
                thread.start()
                thread.join()
            finally:
                hub.lock.acquire()

    hub.harm = race


def test_two_publishers_at_once(hub, store_folder, tmp_path):
    """Both read the same parent. Who is second takes the other's sets, or is refused."""
    ours, theirs = (shutil.copytree(store_folder, tmp_path / name) for name in ("ours", "theirs"))
    copy_sets(store_folder, ADDRESS)
    extend(ours, 30, seed=1)
    extend(theirs, 30, seed=2)

    overtaken(hub, theirs, ADDRESS)
    report = copy_sets(ours, ADDRESS)
    assert open_store(theirs).info(IMAGES).commit.revision_id[:12] in report.failed[KEY]
    assert "extend that" in report.failed[KEY]
    assert_same_store(ADDRESS, theirs)


def test_publishers_of_different_sets_both_end_up_there(hub, store_folder):
    overtaken(hub, store_folder, ADDRESS, select=["*/caption/*"], licences={"birds": "CC0-1.0"})
    report = copy_sets(store_folder, ADDRESS, select=["*/image/*"])
    assert hub.harm is None
    assert not report.failed
    assert shards_sent(hub) == len({*hub.large})  # nothing was sent twice
    assert_same_store(ADDRESS, store_folder)
    card = hub.files()["README.md"].decode()
    assert 'item_licences: {"birds": "CC0-1.0"}' in card
    assert CAPTIONS in card
    assert KEY in card


PARTS = ("/revision/", "/tree/", "/signed/", "/preupload/", "/commit/", "/batch", "/verify")


@pytest.mark.parametrize(
    "harm", ["cut", (500, {}), (503, {}), (429, {"Retry-After": "7"})], ids=str
)
def test_faults_that_pass_are_overcome(hub, store_folder, harm, monkeypatch):
    """Each kind of request fails once."""
    waited: list[float] = []
    monkeypatch.setattr(Pace, "pause", lambda pace, attempt, asked: waited.append(asked))
    left = set(PARTS)

    def once(method: str, path: str) -> Any:
        for part in left:
            if part in path:
                left.remove(part)
                return harm
        return None

    hub.harm = once
    assert not copy_sets(store_folder, ADDRESS).failed
    assert not left
    assert_same_store(ADDRESS, store_folder)
    if harm[0] == 429:
        assert 7 in waited
        assert 8 in hub.slept  # the library adds one


def test_the_lost_answer_to_a_commit_makes_no_second_one(hub, store_folder):
    hub.harm = lambda method, path: "lost" if "/commit/" in path else None
    report = copy_sets(store_folder, ADDRESS)
    assert hub.count("POST", "/commit/") == 1
    assert report.address.endswith(hub.branches["main"])
    assert_same_store(ADDRESS, store_folder)


def test_what_arrived_before_a_push_broke_off_is_not_sent_again(hub, store_folder):
    hub.harm = lambda method, path: (503, {}) if "/commit/" in path else None
    with pytest.raises(UnreachableError, match="the hub said 503"):
        copy_sets(store_folder, ADDRESS)
    assert hub.files() == {}
    sent = shards_sent(hub)
    assert sent > 1
    hub.harm = None
    copy_sets(store_folder, ADDRESS)
    assert shards_sent(hub) == sent
    assert_same_store(ADDRESS, store_folder)


@pytest.mark.parametrize("token", ["hf_aTokenOfNobody", ""])
def test_a_token_that_may_not_write(hub, store_folder, token, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    status = 401 if token else 403
    with pytest.raises(RemoteStoreError, match=f"the hub said {status}.*hf auth whoami") as caught:
        copy_sets(store_folder, ADDRESS)
    assert "hf_aToken" not in str(caught.value)
    assert hub.files() == {}


def test_secrets_stay_out_of_errors_and_logs(hub, store_folder, caplog):
    hub.harm = lambda method, path: (503, {}) if "/signed/" in path else None
    with caplog.at_level(logging.DEBUG), pytest.raises(UnreachableError) as caught:
        copy_sets(store_folder, ADDRESS)
    chain: BaseException | None = caught.value
    while chain is not None:
        assert SECRET not in str(chain)
        chain = chain.__cause__
    ours = [r.getMessage() for r in caplog.records if r.name == "huggingface_hub.utils._http"]
    assert any("503" in line for line in ours)
    assert not any(SECRET in line or TOKEN in line for line in ours)
    assert "Push again" in str(caught.value)


def test_a_push_from_an_address_through_a_small_cache(hub, tmp_path, monkeypatch):
    """Files of one set stay in the cache until they were sent; those of the next come then."""
    root = tmp_path / "two"
    for seed in (1, 2):
        items = item_table([{"item_id": f"b/{i}", "kind": "image"} for i in range(N)])
        write_set(root, make_rows(seed=seed), items, dataset=f"birds-{seed}", block_rows=64,
                  plain_bytes=0, shard_bytes=256 * 1024)  # fmt: skip
    monkeypatch.setenv("HEADSTOCK_CACHE_SIZE", str(1100 * 1024))  # a set, and hardly more
    hub.latency = lambda _: time.sleep(0.05)
    (last,) = root.glob("birds-1/image/*/embedding/c/3/0")
    with static_server(root) as upstream, proxy(upstream) as source:
        for damaged in (1, 0):  # what was put of a set that is given up is sent before it may go
            unseal(root)
            flip(last, 5)
            assert len(copy_sets(source.url, ADDRESS).failed) == damaged
            assert len(open_store(ADDRESS)) == 2 - damaged
    hub.latency = None
    assert_same_store(ADDRESS, root)


def test_the_card(hub, store_folder, capsys):
    line = ["store", "push", str(store_folder), ADDRESS, "--licence", "birds=CC-BY-4.0"]
    assert headstock(*line) == 0
    assert f"This state stays at {ADDRESS}@{hub.branches['main']}" in capsys.readouterr().out
    card = hub.files()["README.md"].decode()
    for part in ("license: cc-by-4.0\n", "timm:toy", "| birds | CC-BY-4.0 |", "not anonymous",
                 f'hs.open_store("{ADDRESS}")', "## Citation"):  # fmt: skip
        assert part in card
    # The next push keeps the licence, and the owner's own words are never written over.
    copy_sets(store_folder, ADDRESS)
    assert hub.files()["README.md"].decode() == card
    hub.commit({**hub.files(), "README.md": b"Our birds."})
    copy_sets(store_folder, ADDRESS)
    assert hub.files()["README.md"] == b"Our birds."


def test_offline_the_hub_is_not_asked(hub, store_folder, monkeypatch):
    there = f"{ADDRESS}/stores/one"
    copy_sets(store_folder, there)
    rows = open_store(there).view(IMAGES).numpy()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.warns(UserWarning, match="HF_HUB_OFFLINE is set"):
        store = open_store(there)
    np.testing.assert_array_equal(store.view(IMAGES).numpy(), rows)
    with pytest.raises(UnreachableError, match="HF_HUB_OFFLINE is set"):
        open_store(f"{there}-other")

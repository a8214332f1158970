"""Buckets: moto's S3 server, read and written by the real libraries."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import pytest
import zarr

from featstore import copy_sets, open_store
from featstore.address import parse_address
from featstore.errors import CorruptStoreError, RemoteStoreError
from featstore.remote import Objects, open_objects
from featstore.share import make_bucket_store
from featstore.store import SetKey, verify_store
from featstore.store.gc import compact_set
from featstore.testing import item_table, write_set
from tests.featstore.remote.buckets import plain_store
from tests.featstore.remote.conftest import BLOCK, IMAGES, make_rows
from tests.featstore.remote.proxy import Answer, Proxy, Quiet, _serving
from tests.featstore.remote.s3_server import CONDITIONS, tag_of
from tests.typed import headstock

EXTENDED = {"block_rows": BLOCK, "plain_bytes": 0, "shard_bytes": 256 * 1024}


def extend(root: Path, n: int, seed: int = 5) -> None:
    """Append rows to the sharded set, or other ones with another seed."""
    names = [*(f"b/{i:04d}" for i in range(1000)), *(f"n{seed}/{i}" for i in range(n))]
    items = item_table([{"item_id": name, "kind": "image"} for name in names])
    rows = np.concatenate([make_rows(), make_rows(n, seed=seed)])
    rows[7] = np.nan
    write_set(root, rows, items, failures={"b/0007": "broken"}, **EXTENDED)


def assert_same_store(address: Any, folder: Path) -> None:
    found, local = open_store(address), open_store(folder)
    assert [i.as_dict() for i in found.sets()] == [i.as_dict() for i in local.sets()]
    for info in local.sets():
        assert found.failures(str(info.key)).equals(local.failures(str(info.key)))
        for entry in local.revisions(str(info.key)):
            revision = entry.commit.revision_id
            one = found.view(str(info.key), revision=revision)
            other = local.view(str(info.key), revision=revision)
            assert one.items.equals(other.items)
            np.testing.assert_array_equal(one.numpy(), other.numpy())


def vary(root: Path) -> Path:
    """Give the sharded set a second part, and add a set of float16, of parts that were joined."""
    extend(root, 300)
    for n in (10, 30):
        items = item_table([f"h/{i}" for i in range(n)])
        key = write_set(root, make_rows(30, 8)[:n], items, dataset="halves", dtype="float16")
    compact_set(root, SetKey(*key.split("/")))
    return root


def assert_zarr_reads(files: Any, root: Path, prefix: str = "") -> None:
    """Compare the rows that zarr-python alone reads of a place, part by part, with a folder's."""
    there = zarr.storage.ObjectStore(files, read_only=True)
    for info in open_store(root).sets():
        paths = [f"{prefix}{info.key}/{part.path}" for part in info.commit.parts]
        if len(paths) > 1:
            paths[0] += "/c"
        parts = [zarr.open_array(there, path=path, mode="r", zarr_format=3)[:] for path in paths]
        rows = open_store(root).view(str(info.key)).source.read(np.arange(info.commit.n))
        assert np.concatenate(parts).tobytes() == rows.tobytes()


def test_zarr_python_alone_reads_every_row_of_a_bucket(bucket, store_folder, tmp_path):
    own = vary(shutil.copytree(store_folder, tmp_path / "own"))
    copy_sets(own, bucket.address)
    assert_zarr_reads(plain_store(bucket.url, bucket.address.split("/")[2]), own, "store/")


def test_nothing_travels_twice_and_of_an_extended_set_only_new_parts(
    bucket, store_folder, tmp_path
):
    own = shutil.copytree(store_folder, tmp_path / "own")
    copy_sets(own, bucket.address)
    bucket.requests.clear()
    assert set(copy_sets(own, bucket.address).sets.values()) == {"same"}
    assert not [path for method, path, _ in bucket.requests if method == "PUT"]
    assert len(bucket.requests) <= 4  # the log, thrice, and what is there
    copy_sets(bucket.address, tmp_path / "pulled")
    extend(own, 300)
    bucket.requests.clear()
    assert "behind" in copy_sets(own, bucket.address).sets.values()
    put = [path for method, path, _ in bucket.requests if method == "PUT" and path.endswith("/0")]
    assert sorted(path.split("/c/")[1] for path in put) == ["0/0", "1/0"]
    assert_same_store(bucket.address, own)
    copy_sets(bucket.address, tmp_path / "pulled")
    assert_same_store(tmp_path / "pulled", own)
    assert verify_store(tmp_path / "pulled").problems == []
    # What is older than the other side's is left alone.
    assert "newer" in copy_sets(store_folder, bucket.address).sets.values()
    assert_same_store(bucket.address, own)


def open_objects_of(bucket: Proxy) -> Objects:
    return open_objects(parse_address(bucket.address))  # type: ignore[arg-type]


def test_what_another_publisher_has_begun_is_named_and_never_replaced(bucket, store_folder):
    """Its first file has the name and the size of ours."""
    info = open_store(store_folder).info(IMAGES)
    objects, first = open_objects_of(bucket), info.commit.layout.files[0]
    name, theirs = f"{info.key}/{first.path}", bytes(first.size)
    objects.put(name, theirs)
    report = copy_sets(store_folder, bucket.address, select=["*/image/*"])
    assert name in report.failed[str(info.key)]
    assert info.commit.revision_id[:12] in report.failed[str(info.key)]
    assert objects.read(name, limit=first.size) == theirs
    assert not open_store(bucket.address).sets()
    assert [one for one, _ in objects.names(f"{info.key}/")] == [name]
    objects.delete(name)
    assert not copy_sets(store_folder, bucket.address).failed
    assert_same_store(bucket.address, store_folder)


@pytest.mark.parametrize("differ", ["rows", "reason", "golden"])
def test_of_two_publishers_of_a_first_revision_one_is_whole(differ, server, tmp_path, monkeypatch):
    """The second runs whole before each request of the first; nothing of the winner is replaced."""
    stores = [tmp_path / name for name in ("ours", "theirs")]
    items = item_table(["a", "b", "c"])
    for number, root in enumerate(stores):
        rows = np.array([[1, 2], [3, 4 + (number if differ == "rows" else 0)], [np.nan] * 2])
        why = f"broken {number if differ == 'reason' else ''}"
        golden = {"vectors": [[float(number if differ == "golden" else 0)]]}
        write_set(root, rows, items, failures={"c": why}, golden=golden)
    winners = []
    for at in range(1, 40):
        server.objects, server.before = {}, lambda _: None
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "first")
        make_bucket_store(open_objects(parse_address("s3://team/store")))
        made, late = len(server.requests), []

        def between(request: Any, at: int = made + at, late: Any = late) -> None:
            if request.number == at:
                monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
                late.append(copy_sets(stores[1], "s3://team/store"))

        server.before = between
        early = copy_sets(stores[0], "s3://team/store")
        if not late:
            break
        assert bool(early.failed) != bool(late[0].failed), at
        winners.append(int(bool(early.failed)))
        pulled = tmp_path / f"pulled {at}"
        assert not copy_sets("s3://team/store", pulled).failed
        assert verify_store(pulled).problems == []
        assert_same_store(pulled, stores[winners[-1]])
    assert len(winners) > 10
    assert winners == sorted(winners, reverse=True)
    assert {*winners} == {0, 1}


@pytest.mark.parametrize("how", ["If-Match", "If-None-Match", "one tag for all"])
def test_a_bucket_that_ignores_conditions_is_detected(how, store_folder, server):
    if how in CONDITIONS:
        server.ignores = frozenset({how})
    else:
        server.tag = lambda _: '"always"'
    with pytest.raises(RemoteStoreError, match="ignores the conditions"):
        copy_sets(store_folder, "s3://team/store")
    assert server.objects == {}
    server.ignores, server.tag = frozenset(), tag_of
    copy_sets(store_folder, "s3://team/store")
    assert_same_store("s3://team/store", store_folder)


def test_making_a_store_in_a_bucket(bucket):
    objects = open_objects_of(bucket)
    assert make_bucket_store(objects)
    assert not make_bucket_store(objects)
    assert open_store(bucket.address).sets() == []
    assert sorted(name for name, _ in objects.names()) == ["log.json", "zarr.json"]
    assert headstock("store", "init", bucket.address) == 0
    assert headstock("store", "init", bucket.address, "--shared") == 2


def test_a_listing_is_read_to_its_bound_and_believed_no_size(bucket, monkeypatch):
    objects = open_objects_of(bucket)
    make_bucket_store(objects)
    for size in (-1, 1.5, None):
        with pytest.raises(CorruptStoreError, match=f"'a' of {size} bytes"):
            list(objects.listed([("a", size)]))
    monkeypatch.setattr("featstore.remote.MOST_NAMES", 1)
    with pytest.raises(CorruptStoreError, match="lists more than 1 files"):
        list(objects.names())


@pytest.mark.parametrize("status", [409, 412])
def test_only_a_put_with_a_condition_may_come_second(bucket, status):
    objects = open_objects_of(bucket)
    bucket.harm = lambda path, number, answer: Answer(status, {}, b"")
    assert not objects.create("a", b"rows")
    assert not objects.replace("a", b"rows", "tag")
    for wrong, least, most in ((status, 1, 1), (403, 1, 1), (404, 1, 1), (503, 9, 61)):
        bucket.harm = lambda path, number, answer, status=wrong: Answer(status, {}, b"")
        bucket.requests.clear()
        with pytest.raises(RemoteStoreError, match=str(wrong)):
            objects.put("a", b"rows")
        assert least <= bucket.count() <= most


def test_publishers_of_sixteen_sets_wait_for_their_turns_at_the_log(server, tmp_path, monkeypatch):
    """As at Google's store, in a tenth of its second."""
    roots = [tmp_path / f"d{number}" for number in range(16)]
    for root in roots:
        write_set(root, make_rows(2, 2), item_table(["a", "b"]), dataset=root.name)
    monkeypatch.setattr("featstore.remote.servers.UPDATE", timedelta(seconds=0.1))
    monkeypatch.setattr("featstore.remote.PAUSE", 0.02)
    server.period = 0.1
    with ThreadPoolExecutor(16) as publishers:
        reports = publishers.map(lambda root: copy_sets(root, "s3://team/store"), roots)
        assert not any(report.failed for report in reports)
    assert len(open_store("s3://team/store")) == 16


def test_a_push_puts_back_what_a_bucket_lost(server, store_folder):
    copy_sets(store_folder, "s3://team/store")
    whole, log = dict(server.objects), "team/store/log.json"
    sets = {path: data for path, data in whole.items() if path.count("/") > 2}
    for path in sets:
        for left in ({}, {path: whole[path][:-1]}):
            server.objects = {name: whole[name] for name in whole if name != path} | left
            assert "behind" in copy_sets(store_folder, "s3://team/store").sets.values()
            assert server.objects == whole, path
    for left in ({}, {log: b""}, {log: whole[log][:-9]}):
        server.objects = {name: whole[name] for name in whole if name != log} | left
        with pytest.raises(CorruptStoreError, match=r"deletes log\.json and zarr\.json there"):
            copy_sets(store_folder, "s3://team/store")
        server.objects = dict(sets)
        copy_sets(store_folder, "s3://team/store")
        assert server.objects == whole


def test_a_push_puts_back_what_was_lost_after_its_own_copy_was_compacted(
    server, store_folder, tmp_path
):
    own = Path(shutil.copytree(store_folder, tmp_path / "own"))
    extend(own, 300)
    copy_sets(own, "s3://team/store")
    whole, key = dict(server.objects), next(key for key in open_store(own) if "/image/" in key)
    compact_set(own, SetKey(*key.split("/")))
    assert copy_sets(own, "s3://team/store").sets[key] == "same"
    for lost in (name for name in whole if f"{key}/" in name and "embedding" in name):
        server.objects = {name: data for name, data in whole.items() if name != lost}
        assert copy_sets(own, "s3://team/store").sets[key] == "behind"
        assert_same_store("s3://team/store", own)


class _Generations(Quiet):
    """One file as Google's store has it: a put may name the generation that it replaces."""

    generation = 7

    def do_GET(self) -> None:
        self._answer(b"old")

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        stale = self.headers["x-goog-if-generation-match"] != str(self.generation)
        type(self).generation += not stale
        self._answer(b"", 412 if stale else 200)

    def _answer(self, body: bytes, status: int = 200) -> None:
        self.send_response(status)
        for name, value in {
            "ETag": '"one"', "x-goog-generation": self.generation, "content-length": len(body),
            "Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT",
        }.items():  # fmt: skip
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)


def test_googles_store_replaces_by_generation(monkeypatch):
    with _serving(_Generations) as port:
        key = {
            "gcs_base_url": f"http://127.0.0.1:{port}", "disable_oauth": True,
            "client_email": "", "private_key": "", "private_key_id": "",
        }  # fmt: skip
        plain = obstore.store.GCSStore(
            "team", service_account_key=json.dumps(key), client_options={"allow_http": True}
        )
        objects = open_objects(parse_address("gs://team"))
        monkeypatch.setattr(objects, "_store", plain)
        monkeypatch.setattr(objects, "_puts", plain)
        data, tag = objects.read_tagged("pointer", limit=10)
        assert data == b"old"
        assert objects.replace("pointer", b"new", tag)
        assert not objects.replace("pointer", b"late", tag)

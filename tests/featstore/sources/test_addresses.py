"""Tars and Parquet behind an address: the rows of the folder, and never a byte of others."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featstore import extract, read_manifest, sources
from featstore import remote as remote_objects
from featstore.errors import (
    AddressError,
    CorruptStoreError,
    FeatstoreError,
    ItemReadError,
    ManifestError,
    RemoteStoreError,
)
from featstore.remote import Objects, Pace
from featstore.sources import RemoteFile
from featstore.sources.reader import check_bytes
from tests.featstore.extraction.conftest import SPACE, MeanColour
from tests.featstore.remote.buckets import environment, make_bucket, plain_store
from tests.featstore.remote.hub_server import COMMIT, CONVERTED, hub_server
from tests.featstore.remote.proxy import Answer, proxy
from tests.featstore.remote.static import static_server
from tests.featstore.sources.conftest import rows_of
from tests.small_files import picture, write, write_tar

pytest.importorskip("obstore")


@pytest.fixture
def shards(tmp_path):
    """Three tars of four pictures with captions, class names beside them."""
    root = tmp_path / "wds"
    for shard in range(3):
        members: list[tuple[str, Any]] = []
        for n in range(4):
            key = f"s{shard}{n}"
            members += [(f"{key}.png", picture(4 * shard + n)), (f"{key}.txt", f"Number {n}.")]
            members.append((f"{key}.cls", str(n % 2)))
        write_tar(root / "data" / f"{shard:03}.tar", members)
    return write(root, {"data/classnames.txt": "even\nodd\n"})


@pytest.fixture
def served(shards):
    with static_server(shards, tags=True) as upstream, proxy(upstream) as state:
        yield state


PATTERN = "data/{000..002}.tar"


PICTURES = [picture(n) for n in range(12)]


def test_tars_of_a_web_server_are_those_of_the_folder(make, shards, served):
    far = make("webdataset", f"{served.url}/{PATTERN}")
    near = make("webdataset", shards / "data")
    for kind, table in near.tables.items():
        assert far.tables[kind].equals(table)
    assert far.classes.equals(near.classes)
    assert far.facts["data_root"] == f"{served.url}/data" == str(far.root)
    assert read_manifest(Path("/") / shards.parent / "made0").root == far.root
    assert rows_of(far) == PICTURES
    check_bytes(far)


def test_tars_of_a_bucket_are_listed(make, shards, moto, monkeypatch):
    with proxy(moto) as state:
        for name, value in environment(state.url).items():
            monkeypatch.setenv(name, value)
        make_bucket(state.url, "photos")
        bucket = plain_store(state.url, "photos")
        for tar in (shards / "data").iterdir():
            bucket.put(f"split=train/a b/{tar.name}", tar)
        far = make("webdataset", "s3://photos/split=train/a b/")
        near = make("webdataset", shards / "data")
        assert far.items("image").equals(near.items("image"))
        assert far.classes.equals(near.classes)
        assert rows_of(far) == PICTURES
        assert (
            rows_of(make("webdataset", "s3://photos/split=train/a b/{001,002}.tar"))
            == (PICTURES[4:])
        )
        with pytest.raises(ManifestError, match=r"holds no \.tar file"):
            make("webdataset", "s3://photos/none")


# ---- servers that do harm ------------------------------------------------------------------


def swap(**headers: str) -> Callable[[str, int, Answer], Answer]:
    def harm(path: str, number: int, answer: Answer) -> Answer:
        return Answer(answer.status, {**answer.headers, **headers}, answer.body)

    return harm


@pytest.mark.parametrize(
    ("harm", "error", "match"),
    [
        (swap(**{"Content-Range": "bytes 0-9/10"}), FeatstoreError, "range 'bytes 0-9/10'|trunc"),
        (swap(**{"Content-Range": "bytes */*"}), RemoteStoreError, "the range .bytes \\*/\\*."),
        (swap(**{"Content-Range": f"bytes 0-0/{'9' * 5000}"}), RemoteStoreError,
         "does not say its size"),
        (lambda p, n, a: Answer(200, {"Content-Length": "9" * 5000}, a.body, cut=len(a.body)),
         RemoteStoreError, "does not say its size"),
        (swap(**{"Content-Encoding": "gzip"}), RemoteStoreError, "came compressed"),
        (lambda p, n, a: Answer(a.status, a.headers, a.body[:-1]), FeatstoreError, "attempts"),
        (lambda p, n, a: Answer(a.status, a.headers, a.body + b"x"), CorruptStoreError, "more"),
        (lambda *_: Answer(403, {}, b""), RemoteStoreError, "said 403"),
    ],
)  # fmt: skip
def test_answers_that_lie_make_no_manifest(make, served, tmp_path, harm, error, match):
    def to_tars(path: str, number: int, answer: Answer) -> Answer | None:
        return harm(path, number, answer) if path.endswith(".tar") else None

    served.harm = to_tars
    with pytest.raises(error, match=match):
        make("webdataset", f"{served.url}/data/000.tar")
    assert not (tmp_path / "made0").exists()


def test_a_tar_that_changed_since_costs_its_items_and_no_others(make, shards, served, tmp_path):
    far = make("webdataset", f"{served.url}/{PATTERN}")
    write_tar(shards / "data" / "001.tar", [(f"s1{n}.png", picture(50 + n)) for n in range(4)])
    done = extract(
        far, kind="image", encoder=MeanColour(), space=SPACE, store=tmp_path / "store",
        dtype="float32",
    )  # fmt: skip
    assert (done.new, done.failed) == (8, 4)
    assert all("differs from the manifest" in why for why in done.failures.values())
    lost = [row for row in far.items("image").to_dicts() if row["item_id"] in done.failures]
    assert {row["uri"].partition("::")[0] for row in lost} == {"001.tar"}


# ---- a file read by ranges -----------------------------------------------------------------


class Memory(Objects):
    """One file in memory, which notes what is asked for."""

    def __init__(self, data: bytes) -> None:
        super().__init__("mem://x")
        self.data = data
        self.rule = str
        self.asked: list[tuple[int, int]] = []

    @contextmanager
    def _get(
        self, name: str, span: tuple[int, int] | None, pace: Pace
    ) -> Iterator[remote_objects.Answer]:
        start, stop = span or (0, 1)
        self.asked += [] if stop <= 1 else [(start, stop)]
        pieces = (self.data[at : min(at + 7, stop)] for at in range(start, stop, 7))
        yield remote_objects.Answer(len(self.data), "", ranged=True, pieces=pieces)


@given(
    st.binary(max_size=600),
    st.lists(st.tuples(st.integers(0, 700), st.integers(0, 300)), max_size=40),
)
def test_any_part_of_a_file_is_read_by_any_thread(data, reads):
    wrong = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "BLOCK", 16)
        file = RemoteFile(Memory(data), "x")

        def read(some: list[tuple[int, int]]) -> None:
            wrong.extend((at, n) for at, n in some if file.read_at(at, n) != data[at : at + n])

        threads = [threading.Thread(target=read, args=(reads[i::3],)) for i in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


# ---- Parquet, and the hub ------------------------------------------------------------------


@pytest.fixture
def hub_files(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    root = tmp_path / "hub"
    for name, numbers in (("train", range(6)), ("test", range(6, 8))):
        table = pa.table({
            "image": [{"bytes": picture(n), "path": f"{n}.png"} for n in numbers],
            "text": [f"Number {n}." for n in numbers],
        })  # fmt: skip
        path = root / "default" / name / "0000.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(table, path, row_group_size=2)
    return root


def test_a_dataset_of_the_hub_by_its_name(make, hub_files, monkeypatch):
    with hub_server(hub_files, "team/birds") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        far = make("parquet", "hf://datasets/team/birds")
        assert str(far.root) == f"hf://datasets/team/birds@{COMMIT}"
        assert far.items("image").select("uri", "split").rows()[::5] == [
            ("default/test/0000.parquet::image.bytes#0", "test"),
            ("default/train/0000.parquet::image.bytes#3", "train"),
        ]
        assert rows_of(far) == [*PICTURES[6:8], *PICTURES[:6]]
        part = make("parquet", f"hf://datasets/team/birds@{COMMIT}/default/test/0000.parquet")
        assert rows_of(part) == PICTURES[6:8]
        for name, match in (
            ("team/none", "is no dataset of the hub"),
            ("team/birds@none", "is no dataset of the hub"),
            ("team", "is no dataset of the hub"),
        ):
            with pytest.raises(RemoteStoreError, match=match):
                make("parquet", f"hf://datasets/{name}")


def test_a_dataset_without_parquet_is_read_as_the_hub_converted_it(
    make, hub_files, tmp_path, monkeypatch
):
    write(tmp_path / "raw", {"README.md": "A script."})
    with hub_server(tmp_path / "raw", "team/birds", converted=hub_files) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        far = make("parquet", "hf://datasets/team/birds")
        assert str(far.root) == f"hf://datasets/team/birds@{CONVERTED}"
        assert rows_of(far) == [*PICTURES[6:8], *PICTURES[:6]]


def test_parquet_that_claims_gigabytes_or_holds_paths_is_refused(make, tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    (tmp_path / "in").mkdir()
    table = pa.table({"image": [bytes(80 * 2**20)]})
    pq.write_table(table, tmp_path / "in" / "bomb.parquet", compression="zstd")
    pl.DataFrame({"path": ["a.png"]}).write_parquet(tmp_path / "in" / "paths.parquet")
    with static_server(tmp_path / "in") as (host, port):
        with pytest.raises(ManifestError, match=r"would become .* in memory"):
            make("parquet", f"http://{host}:{port}/bomb.parquet")
        with pytest.raises(ManifestError, match=r"holds paths.*into the table"):
            make("parquet", f"http://{host}:{port}/paths.parquet")


# ---- addresses -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("location", "match"),
    [
        ("https://example.org/photos", "is a URL of a server that cannot list"),
        ("https://me:secret@example.org/a.tar", "holds credentials"),
        ("https://example.org/{9..1}.tar", "names 0 files"),
        ("https://example.org/{0..99999999}.tar", "1 to 1,000,000 are read"),
        (f"https://example.org/{'{a,b}' * 20}.tar", "names 1,048,576 files; 1 to 1,000,000 are"),
        ("https://example.org/{a,../b}.tar", "climbs out"),
        ("https://{a,b}.org/x.tar", r"names no \.tar file of a server\. Give the server"),
        ("https://example.tar", r"names no \.tar file of a server"),
        ("https://example.org/{a,b}.zip", r"does not end in \.tar"),
    ],
)
def test_addresses_that_are_not_read(make, location, match):
    with pytest.raises(ManifestError, match=match) as caught:
        make("webdataset", location)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("where", ["folder", "server"])
def test_a_stranger_gets_nothing_that_he_does_not_know(where, tmp_path):
    """What lies elsewhere needs a content hash, and is only returned if it has that hash."""
    write(tmp_path / "in", {"a.png": picture(1)})
    right = hashlib.sha256(picture(1)).hexdigest()
    toml = 'name = "zoo"\ndata_root = "{}"\n'
    with static_server(tmp_path / "in") as (host, port):
        root = tmp_path / "in" if where == "folder" else f"http://{host}:{port}"
        folder = write(tmp_path / "m", {"dataset.toml": toml.format(root)})
        for digest in (None, "0" * 63, "Z" * 64, "0" * 64 + "\n", "0" * 64, right):
            pl.DataFrame(
                {"item_id": ["zoo/1"], "uri": ["a.png"], "content_sha256": [digest]},
                schema_overrides={"content_sha256": pl.String},
            ).write_parquet(folder / "image.parquet")
            if digest == right:
                assert rows_of(read_manifest(folder)) == [picture(1)]
            elif digest == "0" * 64:
                with pytest.raises(ItemReadError, match="hash changed"):
                    rows_of(read_manifest(folder))
            else:
                with pytest.raises(ManifestError, match="have no content_sha256"):
                    read_manifest(folder)
    write(folder, {"dataset.toml": toml.format("http://example.org")})
    with pytest.raises(AddressError, match="in the clear"):
        read_manifest(folder)

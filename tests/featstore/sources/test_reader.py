"""The reader of items: hashes, limits, threads, and what a hostile manifest gets from it."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import polars as pl
import pytest

from featstore import read_manifest, write_manifest
from featstore.errors import ItemReadError, ManifestError
from featstore.sources.reader import ByteReader, check_bytes, open_reader
from featstore.sources.roots import LocalFile
from tests.small_files import picture, write, write_tar


def test_a_changed_file_is_never_returned(make, tmp_path):
    root = write(tmp_path / "in", {"a.png": picture(1)})
    manifest = make("folder", root)
    row = manifest.items("image").row(0, named=True)
    check_bytes(manifest)
    write(root, {"a.png": picture(2)})
    with open_reader(manifest) as reader, pytest.raises(ItemReadError, match="hash changed"):
        reader.read(row)
    with pytest.raises(ManifestError, match=r"'zoo/image/a\.png'"):
        check_bytes(manifest)


def test_a_changed_tar_is_never_returned(make, tmp_path):
    tar = write_tar(tmp_path / "x.tar", [("a.png", picture(1)), ("b.png", picture(2))])
    manifest = make("webdataset", tar)
    rows = manifest.items("image").to_dicts()
    check_bytes(manifest)
    write_tar(tar, [("b.png", picture(2)), ("a.png", picture(1))])
    with open_reader(manifest) as reader:
        for row in rows:
            with pytest.raises(ItemReadError, match="hash changed"):
                reader.read(row)
    with pytest.raises(ManifestError, match="2 image items cannot be read"):
        check_bytes(manifest)


HASH = "0" * 64


@pytest.mark.parametrize(
    ("item", "match"),
    [
        ({"uri": None}, "has no uri"),
        ({"uri": "../x"}, "climbs out"),
        ({"uri": "../x.tar::a", "content_sha256": HASH}, "climbs out"),
        ({"uri": "/etc/x.tar::a", "content_sha256": HASH}, "absolute"),
        ({"uri": "x.tar::a\0", "content_sha256": HASH}, "NUL"),
        ({"uri": "x.tar::a.png"}, "no content_sha256"),
        ({"uri": "x.tar::a.png", "content_sha256": HASH}, "no byte_offset"),
        ({"uri": "x.tar::a", "content_sha256": HASH, "byte_offset": -1, "byte_size": 1}, "no byte"),
        ({"uri": "x.tar::a", "content_sha256": HASH, "byte_offset": 0, "byte_size": 2**40},
         "1,099,511,627,776 bytes; images of at most"),
        ({"uri": "x.tar::a", "content_sha256": HASH, "byte_offset": 2**40, "byte_size": 9},
         "ends inside 'a'"),
        ({"uri": "x.tar::../../etc/passwd", "content_sha256": HASH, "byte_offset": 0,
          "byte_size": 9}, "hash changed"),
        ({"uri": "x.parquet::a#x", "content_sha256": HASH}, "is not column#row"),
        ({"uri": "x.parquet::a#1", "content_sha256": HASH}, "truncated, damaged or no table"),
        ({"uri": "x.arrow::a#1", "content_sha256": HASH}, "truncated, damaged or no table"),
        ({"uri": "gone.png"}, "No such file"),
        ({"uri": "folder"}, "Is a directory|not a regular file"),
        ({"uri": "pipe"}, "Cannot read 'pipe': it is not a regular file"),
        ({"uri": "big.png"}, "2,000 bytes; images of at most 1,000 are read"),
    ],
    ids=lambda value: str(value)[:50],
)  # fmt: skip
def test_what_is_not_read(tmp_path, item, match):
    pytest.importorskip("pyarrow")
    write_tar(tmp_path / "x.tar", [("a", b"123")])
    write(
        tmp_path, {"x.parquet": "no table", "x.arrow": b"", "big.png": bytes(2000), "folder/x": ""}
    )
    os.mkfifo(tmp_path / "pipe")
    with ByteReader(tmp_path, max_bytes=1000) as reader, pytest.raises(ItemReadError, match=match):
        reader.read({"item_id": "x", **item})


def test_threads_read_many_tars_with_few_open(make, tmp_path):
    for shard in range(7):
        members = [(f"{shard}-{n}.png", picture(10 * shard + n)) for n in range(9)]
        write_tar(tmp_path / "in" / f"{shard}.tar", members)
    manifest = make("webdataset", tmp_path / "in")
    rows = manifest.items("image").to_dicts() * 3
    with ByteReader(manifest.root, open_tars=2) as reader, ThreadPoolExecutor(8) as threads:
        read = list(threads.map(reader.read, rows))
        assert reader._tars.cache_info().currsize <= 2
    assert read == [picture(10 * shard + n) for shard in range(7) for n in range(9)] * 3


def test_a_tar_that_is_being_read_outlives_those_that_are_opened_after_it(make, tmp_path):
    """And everything that was opened is closed in the end."""
    for n in range(3):
        write_tar(tmp_path / "in" / f"{n}.tar", [(f"{n}.png", picture(n))])
    rows = make("webdataset", tmp_path / "in").items("image").to_dicts()
    reader = ByteReader(tmp_path / "in", open_tars=1)
    at_work, go_on = threading.Event(), threading.Event()

    class Slow(LocalFile):
        def read_at(self, offset, n_bytes):
            at_work.set()
            assert go_on.wait(20)
            return super().read_at(offset, n_bytes)

    handles = []

    def open_(name):
        file = (Slow if name == "0.tar" else LocalFile)(tmp_path / "in" / name)
        handles.append(file._file)
        return file

    reader._tars = lru_cache(1)(open_)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(reader.read, rows[0])
        assert at_work.wait(20)
        assert [reader.read(row) for row in rows[1:]] == [picture(1), picture(2)]
        assert [handle.closed for handle in handles] == [False, True, False]
        go_on.set()
        assert first.result() == picture(0)
    reader.close()
    assert all(handle.closed for handle in handles)


# ---- manifests that name files elsewhere ---------------------------------------------------


def external(folder, data_root, **columns):
    """Write a manifest whose data_root was put in by hand."""
    write(folder, {"a.png": picture(1), "b.tar": b"x"})
    table = pl.DataFrame({"item_id": ["zoo/1"], "uri": ["a.png"]} | columns)
    manifest = write_manifest(folder, facts={"name": "zoo"}, tables={"image": table})
    text = (folder / "dataset.toml").read_text()
    (folder / "dataset.toml").write_text(f'data_root = "{data_root}"\n{text}')
    return manifest


def test_a_relative_data_root_is_below_the_manifest(tmp_path):
    external(tmp_path / "m" / "x", "../data")
    write(tmp_path / "m" / "data", {"a.png": picture(1)})
    assert read_manifest(tmp_path / "m" / "x").root == tmp_path / "m" / "data"


def test_a_stranger_gets_no_file_whose_content_he_does_not_know(tmp_path):
    """Without a content hash nothing outside is named; with one, nothing else is returned."""
    secret = write(tmp_path / "home", {"a.png": b"secret"})
    external(tmp_path / "m", secret)
    manifest = read_manifest(tmp_path / "m")  # its hash is that of another a.png
    with open_reader(manifest) as reader, pytest.raises(ItemReadError, match="hash changed"):
        reader.read(manifest.items("image").row(0, named=True))
    for digest in ([None], ["0" * 63], ["Z" * 64], ["0" * 64 + "\n"]):
        table = manifest.items("image").with_columns(
            content_sha256=pl.Series(digest, dtype=pl.String)
        )
        table.write_parquet(tmp_path / "m" / "image.parquet")
        (tmp_path / "m" / "dataset.toml").write_text(f'name = "zoo"\ndata_root = "{secret}"\n')
        with pytest.raises(
            ManifestError, match="outside the manifest's folder but have no content"
        ):
            read_manifest(tmp_path / "m")


@pytest.mark.parametrize(
    ("root", "match"),
    [("3", "is no folder"), ("", "must be the path of a folder"), ("gone", "is no folder")],
)
def test_a_data_root_that_is_none(tmp_path, root, match):
    external(tmp_path / "m", root)
    with pytest.raises(ManifestError, match=match):
        read_manifest(tmp_path / "m")


def test_parts_of_files_need_a_hash_and_their_file(tmp_path):
    write(tmp_path, {"x.tar": b"1"})
    for uri, digest, match in (
        ("x.tar::a", None, "are parts of files or URLs but have no content_sha256"),
        ("y.tar::a", HASH, "there is no such file"),
        ("../x.tar::a", HASH, "climbs out"),
        ("x.tar::\x07", HASH, "control character"),
    ):
        table = pl.DataFrame(
            {"item_id": ["zoo/1"], "uri": [uri], "content_sha256": [digest]},
            schema_overrides={"content_sha256": pl.String},
        )
        with pytest.raises(ManifestError, match=match):
            write_manifest(tmp_path, facts={"name": "zoo"}, tables={"image": table})


def test_hashes_of_parts_are_checked_by_those_who_can_read_them(make, tmp_path):
    manifest = make("webdataset", write_tar(tmp_path / "x.tar", [("a.png", picture(1))]))
    with pytest.raises(ManifestError, match="is a part of a file"):
        manifest.file("x.tar::a.png")
    check_bytes(read_manifest(tmp_path / "made0"))

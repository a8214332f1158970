"""Pipes, devices and odd names where a source has files: an error or an item less, never a wait."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from featstore import read_manifest
from featstore.errors import FeatstoreError, ManifestError
from featstore.sources.making import make_manifest
from featstore.sources.reader import check_bytes
from tests.small_files import picture, write, write_tar

SHARD = [("s0.png", picture(1)), ("s0.txt", "A cat."), ("s0.cls", "0")]


@pytest.fixture(autouse=True)
def patience():
    """End a test that waits for a writer who never comes."""

    def end(*_: object) -> None:
        raise AssertionError("it waits for something that is no file")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(100)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


PLANTS: dict[str, Callable[[Path], None]] = {"pipe": os.mkfifo, "device": _device}


@pytest.fixture
def locations(tmp_path):
    """A location of each source that reads files, by the source's name."""
    root = tmp_path / "in"
    write(root / "folder", {"a.png": 1, "b/c.jpg": 2})
    write(root / "class-folders", {"train/cat/a.png": 1, "train/dog/b.png": 2})
    write(root / "captions", {"a.png": 1, "a.txt": "A cat.\n", "b.png": 2, "b.txt": "A dog.\n"})
    write_tar(root / "webdataset" / "train" / "0.tar", SHARD)
    write(root / "webdataset", {"classnames.txt": "cat\n"})
    rows = pl.DataFrame({"path": ["img/a.png", "img/b.png"], "caption": ["x", "y"]})
    write(root / "parquet", {"img/a.png": 1, "img/b.png": 2})
    rows.write_parquet(root / "parquet" / "rows.parquet")
    for name in ("csv", "tsv", "jsonl"):
        write(root / name, {"img/a.png": 1, "img/b.png": 2})
    rows.write_csv(root / "csv" / "x.csv")
    rows.write_csv(root / "tsv" / "x.tsv", separator="\t")
    rows.write_ndjson(root / "jsonl" / "x.jsonl")
    return {path.name: path for path in root.iterdir()}


def _refusal(call: Callable[[], object]) -> str:
    """Return what a call refuses with, or nothing."""
    try:
        call()
    except FeatstoreError as err:
        return str(err)
    return ""


def _location(root: Path) -> Path:
    return next(root.glob("x.*"), root)


@pytest.mark.parametrize("what", PLANTS)
def test_no_source_waits_for_what_is_no_file(locations, tmp_path, what):
    plant = PLANTS[what]
    tried = 0
    for source, root in locations.items():
        held, new = tmp_path / "whole" / source, tmp_path / "new"
        n = make_manifest(source, _location(root), held, name="zoo").items("image").height
        for path in sorted(root.rglob("*.*")):
            if not path.is_file():
                continue
            tried += 1
            kept = path.read_bytes()
            path.unlink()
            plant(path)
            where = f"{source}: {path.name}"
            # The manifest of before is read without waiting, too, and what is no file is told.
            told = _refusal(lambda held=held: check_bytes(read_manifest(held)))
            assert "\n" not in told, where
            assert told or path.suffix not in (".png", ".jpg", ".tar"), where
            at = _location(root)
            told = _refusal(lambda s=source, at=at, out=new: make_manifest(s, at, out, name="zoo"))
            assert "\n" not in told, where
            if told:
                assert not new.exists(), where
            else:  # a text beside an image is not needed
                assert path.name in ("a.txt", "b.txt", "classnames.txt"), where
                assert read_manifest(new).items("image").height == n, where
                shutil.rmtree(new)
            path.unlink()
            path.write_bytes(kept)
    assert tried == 22


@pytest.mark.parametrize("what", PLANTS)
@pytest.mark.parametrize("name", ["dataset.toml", "image.parquet", ".building"])
def test_the_folder_of_a_manifest_may_hold_what_is_no_file(locations, tmp_path, name, what):
    out = tmp_path / "out"
    make_manifest("folder", locations["folder"], out, name="zoo")
    (out / name).unlink(missing_ok=True)
    PLANTS[what](out / name)
    if name in ("dataset.toml", "image.parquet"):
        with pytest.raises(ManifestError):
            read_manifest(out)
    if name == "dataset.toml":
        with pytest.raises(ManifestError, match=r"Choose an|is not TOML"):
            make_manifest("folder", locations["folder"], out, name="zoo")
        return
    make_manifest("folder", locations["folder"], out, name="zoo")
    assert read_manifest(out).items("image").height == 2
    assert sorted(path.name for path in out.iterdir()) == ["dataset.toml", "image.parquet"]


def test_what_a_stranger_says_is_ready_moves_nothing_out_of_the_folder(locations, tmp_path):
    out = tmp_path / "out"
    make_manifest("folder", locations["folder"], out, name="zoo")
    (out / "link").symlink_to(tmp_path)
    write(out, {".building/dataset.toml": "", ".building/link/theirs.txt": "x"})
    with pytest.raises(ManifestError, match=r"a symbolic link leads out.*Nothing was moved"):
        make_manifest("folder", locations["folder"], out, name="zoo")
    assert not (tmp_path / "theirs.txt").exists()

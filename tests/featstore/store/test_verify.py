"""Verify: every file of a store, damaged in every way, is named, and only it; others are noted."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from featstore import durable, open_store
from featstore.errors import StoreWriteError
from featstore.share import make_tag
from featstore.store import (
    LayoutLimits,
    SetKey,
    SetSpec,
    SetWriter,
    rebuild_set,
    verify_store,
    write_thumbnails,
)
from featstore.store.lock import claim_set
from featstore.testing import item_table, write_set
from tests.damage import flip, lasting, tree, unseal
from tests.typed import headstock

#: Places of a file at which a bit is flipped; every hash is of whole pieces, so that few will do.
POSITIONS = 50 if os.environ.get("HEADSTOCK_FAULTS") == "all" else 12


def _full_store(root: Path) -> None:
    """Write a store with one of everything: plain, sharded, head, failures, golden, pictures."""
    rng = np.random.default_rng(3)
    items = item_table([{"item_id": f"b/{i:03d}", "kind": "image"} for i in range(70)])
    rows = rng.standard_normal((70, 5)).astype(np.float32)
    write_set(root, rows, items)
    write_set(
        root, rows, items, encoder="timm:big", block_rows=8, plain_bytes=0, shard_bytes=1,
        dtype="float16",
    )  # fmt: skip
    heads = item_table([{"item_id": f"h/{i}", "kind": "head_weight"} for i in range(6)])
    write_set(
        root, rows[:6], heads, dataset="labels", kind="head_weight", bias=np.arange(6.0),
        failures={"h/2": "no weight"},
    )  # fmt: skip
    texts = item_table([{"item_id": f"t/{i}", "kind": "caption", "text": "t"} for i in range(3)])
    write_set(
        root, rows[:3], texts, kind="caption", encoder="st:toy", space={"name": "t"},
        golden={"vectors": [[0.5, 1.0]]}, run={"device": "cpu"},
    )  # fmt: skip
    write_thumbnails(root / "birds" / "image", {"b/000": b"RIFF", "b/001": b"WEBP"})
    make_tag(root, "v1")
    make_tag(root, "heads", select=["labels/*"])
    unseal(root)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("verify") / "store"
    _full_store(root)
    return root


@pytest.fixture
def damaged(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "damaged")
    return tmp_path / "damaged"


def _files(root: Path) -> list[str]:
    """Every file of a store but the records of runs, which may vary."""
    return sorted(lasting(root))


def _named(root: Path, *, full: bool = True) -> list[str]:
    return [problem.path for problem in verify_store(root, full=full).problems]


def test_a_whole_store_is_right(whole):
    for full in (False, True):
        report = verify_store(whole, full=full)
        assert report.problems == report.notes == []
        assert report.n_sets == 4
        assert report.n_files == len(tree(whole))


def _flips(data: bytes) -> Iterator[bytes]:
    step = max(1, len(data) // POSITIONS)
    for position in sorted({*range(0, len(data), step), *range(max(0, len(data) - 4), len(data))}):
        flipped = bytearray(data)
        flipped[position] ^= 1 << (position % 8)
        yield bytes(flipped)


def test_every_flipped_byte_is_named(damaged):
    for name, data in tree(damaged).items():
        for flipped in _flips(data):
            (damaged / name).write_bytes(flipped)
            # What is recorded of a run may vary.
            assert _named(damaged) == ([] if "/runs/" in name else [name]), (name, flipped)
        (damaged / name).write_bytes(data)


@pytest.mark.parametrize("full", [False, True])
def test_every_truncation_and_growth_is_named(damaged, full):
    """And what is gone, or right behind a link: who owns the target may change it."""
    away = damaged.parent / "away"
    for name in _files(damaged):
        path = damaged / name
        data = path.read_bytes()
        for other in (b"", data[:-1], data[: len(data) // 2], data + b"\0", data + data):
            path.write_bytes(other)
            assert _named(damaged, full=full) == [name], (name, len(other))
        path.write_bytes(data)
        path.rename(away)
        assert _named(damaged, full=full) == [name]
        path.symlink_to(away)
        assert _named(damaged, full=full) == [name]
        path.unlink()
        away.rename(path)


def test_every_folder_behind_a_link_is_named(damaged):
    for name in [str(path.relative_to(damaged)) for path in damaged.rglob("*") if path.is_dir()]:
        away = damaged.parent / "away"
        (damaged / name).rename(away)
        (damaged / name).symlink_to(away)
        assert _named(damaged) == [name]
        (damaged / name).unlink()
        away.rename(damaged / name)


def test_every_added_file_is_noted(damaged):
    for folder in [damaged, *(path for path in damaged.rglob("*") if path.is_dir())]:
        for name in ("extra.txt", "items-00000000.parquet", ".hidden", "c0", "0.bin"):
            (folder / name).write_bytes(b"x")
            report = verify_store(damaged)
            noted = [] if folder.name == "runs" else [folder / name]
            assert [damaged / note.path for note in report.notes] == noted
            assert report.ok
            (folder / name).unlink()


def test_quick_leaves_the_rows_to_full(damaged):
    name = next(name for name in _files(damaged) if name.endswith("c/0/0"))
    flip(damaged / name, 0)
    assert _named(damaged, full=False) == []
    assert _named(damaged, full=True) == [name]


def test_an_extraction_under_way_is_noted_not_blamed(damaged, images):
    rows, items = images
    with SetWriter(
        damaged, SetSpec("birds", "image", "timm:next", {"name": "n"}, "float32"), items, 6,
        limits=LayoutLimits(block_rows=4, plain_bytes=0, shard_bytes=1),
    ) as writer:  # fmt: skip
        writer.write_block(0, rows[:4])
        (writer.directory / ".zarr.json.123.staged").write_bytes(b"half")
    report = verify_store(damaged)
    assert (report.ok, report.n_sets) == (True, 4)
    assert any("unfinished" in note.what for note in report.notes)


@pytest.mark.parametrize("full", [True, False])
def test_a_set_without_its_commit_is_named_and_comes_whole_from_a_copy(damaged, tmp_path, full):
    """Nothing says what its other files should be, until the record is there again."""
    copy = tmp_path / "copy"
    shutil.copytree(damaged, copy)
    for folder in [path.parent for path in damaged.glob("*/*/*/revisions")]:
        (commit,) = (folder / "revisions").glob("*.json")
        commit.write_bytes(commit.read_bytes().replace(b"1", b"2", 1))
        own = str(commit.relative_to(damaged))
        assert _named(damaged, full=full) == [own]
        for path in [path for path in sorted(folder.rglob("*")) if path.is_file()]:
            if path == commit or "runs" in path.parts:
                continue
            path.write_bytes(path.read_bytes()[:-1])
            assert own in _named(damaged, full=full)
            path.unlink()
            assert own in _named(damaged, full=full)
        rebuilt = rebuild_set(damaged, str(folder.relative_to(damaged)), copy=open_store(copy))
        assert rebuilt.left == []
    assert _named(damaged) == []
    names = _files(copy)
    assert [(damaged / n).read_bytes() for n in names] == [(copy / n).read_bytes() for n in names]


def test_what_is_written_about_a_store_is_told_when_it_changes(damaged):
    card = ["store", "card", str(damaged), "-o", str(damaged)]
    assert headstock(*card) == 0
    assert _named(damaged) == []
    path = damaged / "README.md"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"e", b"3", 1))
    assert _named(damaged) == [path.name]
    path.unlink()
    assert _named(damaged) == [path.name]
    assert headstock(*card) == 0
    assert (path.read_bytes(), _named(damaged)) == (whole, [])
    write_set(damaged, np.eye(2), item_table(["x/0", "x/1"]), dataset="more")
    assert _named(damaged) == []


def test_what_follows_from_the_commit_comes_back_once_nobody_writes(tmp_path, images):
    root = tmp_path / "store"
    key = write_set(root, *images, block_rows=5, plain_bytes=0, shard_bytes=1)
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
    flip(root / data, -1)
    claim = claim_set(root / key, SetKey(*key.split("/")))
    with pytest.raises(StoreWriteError, match="is being written by"):
        rebuild_set(root, key)
    claim.release()


@pytest.mark.parametrize("is_damaged", [False, True])
def test_what_is_published_between_two_reads_is_no_damage(
    tmp_path, images, monkeypatch, is_damaged
):
    """At each file that is opened, and each folder that is listed; and damage is still told."""
    rows, items = images
    cut = {"block_rows": 2, "plain_bytes": 0, "shard_bytes": 1}
    n_reads, at = 0, 0

    def publishing(read):
        def reading(*args, **options):
            nonlocal n_reads
            n_reads += 1
            if n_reads == at:
                write_set(root, rows[:3], items[:3], **cut)
                write_set(root, rows, items, encoder="timm:next", **cut)
            return read(*args, **options)

        return reading

    while at <= n_reads:
        at += 1
        root = tmp_path / str(at)
        key = write_set(root, rows[:2], items[:2], **cut)
        file = f"{key}/embedding/c/0/0"
        if is_damaged:
            flip(root / file)
        n_reads = 0
        with monkeypatch.context() as patch:
            patch.setattr(durable, "open_regular", publishing(durable.open_regular))
            patch.setattr(durable.os, "scandir", publishing(os.scandir))
            assert _named(root) == [file] * is_damaged, at
    assert at > 10

"""gc: litter goes after the grace period; commits and living writers are never touched."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from featstore.store import (
    LayoutLimits,
    SetSpec,
    SetWriter,
    collect_garbage,
    read_thumbnails,
    verify_store,
    write_thumbnails,
)
from tests.damage import tree


def _age(root: Path) -> None:
    """Make everything two days old."""
    then = time.time() - 2 * 86_400
    for path in [*root.rglob("*"), root]:
        os.utime(path, (then, then), follow_symlinks=False)


def _begin(root: Path, images: Any) -> SetWriter:
    """Begin a set of three blocks and write one."""
    rows, items = images
    writer = SetWriter(
        root, SetSpec("birds", "image", "timm:next", {"name": "next"}, "float32"), items, 6,
        limits=LayoutLimits(block_rows=4, plain_bytes=0, shard_bytes=1),
    )  # fmt: skip
    writer.__enter__()
    writer.write_block(0, rows[:4])
    return writer


def _litter(root: Path) -> set[str]:
    """Leave one of everything that a dead writer leaves beside finished sets."""
    kind, toy = "birds/image", next((root / "birds" / "image").glob("timm.toy-*"))
    names = {f"{kind}/{name}-0badcafe.parquet" for name in ("items", "thumbnails")}
    names |= {".log.json.7.staged"} | {
        f"{kind}/{toy.name}/{name}"
        for name in (
            ".zarr.json.7.staged", "embedding/c/0/.0.7.staged",
            # Of no published revision.
            "embedding/c/7/0", f"revisions/{'0' * 64}.json", "failures-0badcafe.parquet",
        )
    }  # fmt: skip
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"{}")
    return names


def test_litter_goes_and_nothing_else(store_path):
    write_thumbnails(store_path / "birds" / "image", {"birds/00": b"x"})
    before = tree(store_path)
    _age(store_path)
    assert collect_garbage(store_path, grace=0) == []
    assert tree(store_path) == before
    names = _litter(store_path)
    assert collect_garbage(store_path) == []  # younger than the grace period
    _age(store_path)
    littered = tree(store_path)
    assert {litter.path for litter in collect_garbage(store_path, dry_run=True)} == names
    assert tree(store_path) == littered
    assert {litter.path for litter in collect_garbage(store_path)} == names
    assert tree(store_path) == before
    assert verify_store(store_path).ok
    assert read_thumbnails(store_path / "birds" / "image") == {"birds/00": b"x"}


def test_a_living_writer_is_never_touched(store_path, images):
    writer = _begin(store_path, images)
    (writer.directory / ".zarr.json.9.staged").write_bytes(b"half")
    (store_path / "birds" / "image" / "items-0badcafe.parquet").write_bytes(b"its table?")
    _age(store_path)
    before = tree(store_path)
    assert collect_garbage(store_path, grace=0) == []
    assert tree(store_path) == before
    for block in writer.pending():
        writer.write_block(block, images[0][writer.layout.block_slice(block)])
    writer.finish()
    writer.__exit__()
    assert verify_store(store_path, [str(writer.key)]).ok


def test_a_dead_writer_may_resume_until_the_grace_is_over(store_path, images):
    writer = _begin(store_path, images)
    writer.__exit__()
    assert collect_garbage(store_path) == []
    again = _begin(store_path, images)
    assert again.pending() == [1, 2]
    again.__exit__()
    _age(store_path)
    (litter,) = collect_garbage(store_path)
    assert litter.path == str(writer.key)
    assert not writer.directory.exists()
    assert verify_store(store_path).ok


def test_items_of_old_commits_and_of_damaged_sets_stay(store_path, images, make_set):
    rows, items = images
    key = make_set(store_path, rows[:6], items[:6], encoder="timm:other")
    next((store_path / key / "revisions").glob("*.json")).write_bytes(b"{")
    _age(store_path)
    before = tree(store_path)
    assert collect_garbage(store_path, grace=0) == []
    assert tree(store_path) == before


def test_what_lies_behind_a_link_is_not_ours(store_path, images, tmp_path):
    writer = _begin(tmp_path / "other", images)
    writer.__exit__()
    (store_path / "birds" / "image" / "x").symlink_to(writer.directory)
    _age(tmp_path / "other")
    before = tree(tmp_path / "other")
    assert collect_garbage(store_path, grace=0) == []
    assert tree(tmp_path / "other") == before

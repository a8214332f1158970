"""The store of format 1 opens for ever, with exactly these bytes."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from featstore import SetSpec, SetWriter, WriteOptions, copy_sets, open_store
from featstore.errors import FormatVersionError
from featstore.share.copy import make_tag
from featstore.store import rebuild_set
from featstore.store.verify import verify_store
from featstore.testing import item_table, write_set
from tests.assertions import assert_same
from tests.compat.v1.write_store import KINDS, ROOT, items_of, rows_of

#: sha256 of the list of files and their hashes. If this fails, the store was changed: put it back.
DIGEST = "6281f526af105973cb9b46a1de56c201e7296da039c5bc52749ab6ebd1189833"


def test_nobody_changed_the_store() -> None:
    names = sorted(str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if path.is_file())
    lines = [
        f"{hashlib.sha256((ROOT / name).read_bytes()).hexdigest()}  ./{name}\n" for name in names
    ]
    assert hashlib.sha256("".join(lines).encode()).hexdigest() == DIGEST


def test_it_verifies() -> None:
    report = verify_store(ROOT)
    assert report.problems == []
    assert report.n_sets == len(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_it_reads_as_it_was_written(kind: str) -> None:
    view = open_store(ROOT).view(f"toy/{kind}/test:toy")
    keep = [i for i in range(len(rows_of(kind))) if (kind, i) != ("caption", 2)]
    dtype = np.float32 if kind == "head_weight" else np.float16
    assert_same(view.numpy(dtype), rows_of(kind)[keep].astype(dtype))
    assert view.items.equals(items_of(kind)[keep])
    if kind == "head_weight":
        assert view.bias is not None
        assert view.bias.tolist() == [0, 1, 2]


def test_failures_and_thumbnails() -> None:
    store = open_store(ROOT)
    assert store.failures("toy/caption/test:toy").rows() == [("toy/caption2", "unreadable")]
    assert store.thumbnails("toy") == {"toy/image0": b"not really WebP"}


@pytest.mark.parametrize("where", ["zarr.json", "set", "commit"])
def test_a_newer_format_says_what_to_upgrade_to(tmp_path: Path, where: str) -> None:
    root = tmp_path / "store"
    shutil.copytree(ROOT, root)
    folder = next((root / "toy" / "image").glob("test.toy-*"))
    path = {
        "zarr.json": root / "zarr.json",
        "set": folder / "zarr.json",
        "commit": next((folder / "revisions").glob("*.json")),
    }[where]
    document = json.loads(path.read_text())
    target = document if where == "commit" else document["attributes"]["featstore"]
    target["format"] = 3
    path.write_text(json.dumps(document))
    with pytest.raises(
        FormatVersionError, match=r"format 3; .* to format 2\. Upgrade headstock to .* format 3"
    ):
        open_store(root).view("toy/image/test:toy")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A copy of the store that may be written to."""
    shutil.copytree(ROOT, tmp_path / "old")
    return tmp_path / "old"


def _extend(root: Path) -> None:
    """Append a row to the captions, which have a failed one."""
    items, rows = items_of("caption"), rows_of("caption")
    more = pl.concat([items, items[:1].with_columns(item_id=pl.lit("toy/caption9"))])
    spec = SetSpec("toy", "caption", "test:toy", {"name": "caption"}, "float16")
    with SetWriter(root, spec, more, 3, facts={"note": "compat"}) as writer:
        for block in writer.pending():
            writer.write_block(block, np.concatenate([rows, rows[:1]]), {})
        writer.finish(golden={"vectors": [[1.0, 0.0, 0.0]]})


def _formats(root: Path) -> set[int]:
    """Return the formats that the records of a store state."""
    documents = [json.loads(path.read_text()) for path in root.rglob("*.json")]
    groups = [one["attributes"] for one in documents if one.get("node_type") == "group"]
    stated = [*documents, *(one["featstore"] for one in groups)]
    return {one["format"] for one in stated if "format" in one}


def test_it_is_extended_and_tagged_in_its_own_format(old: Path) -> None:
    before = {path.name for path in old.rglob("revisions/*.json")}
    _extend(old)
    make_tag(old, "v1")
    assert _formats(old) == {1}
    assert len({path.name for path in old.rglob("revisions/*.json")} - before) == 1
    assert set(json.loads((old / "tags" / "v1.json").read_text())) == {"format", "sets"}
    assert set(json.loads((old / "catalog.json").read_text())) == {"format", "sets", "thumbnails"}
    assert verify_store(old).problems == []
    assert len(open_store(old, revision="v1").view("toy/caption/test:toy")) == 6


def test_its_sets_go_into_a_new_store_as_they_are(old: Path, tmp_path: Path) -> None:
    make_tag(old, "v1")
    target = tmp_path / "new"
    assert not copy_sets(old, target).failed
    records = [path.relative_to(old) for path in old.rglob("revisions/*.json")]
    assert all((target / path).read_bytes() == (old / path).read_bytes() for path in records)
    assert json.loads((target / "tags" / "v1.json").read_text())["format"] == 2
    assert open_store(target).tag("v1") == open_store(old).tag("v1")
    assert verify_store(target).problems == []
    _extend(target)
    assert _formats(target) == {1, 2}
    assert verify_store(target).problems == []


def test_a_set_of_format_2_does_not_go_into_an_old_store(old: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}
    write_set(tmp_path / "new", np.eye(2), item_table(["birds/0", "birds/1"]))
    report = copy_sets(tmp_path / "new", old)
    (why,) = report.failed.values()
    assert "store format 2" in why
    assert "Copy to a new store" in why
    assert {path: path.read_bytes() for path in old.rglob("*") if path.is_file()} == before


def test_a_lost_root_is_found_again_from_the_rest(old: Path) -> None:
    for lost in (["zarr.json"], ["zarr.json", "catalog.json"]):
        whole = [(old / name).read_bytes() for name in lost]
        for name in lost:
            (old / name).unlink()
        (old / "catalog.json").touch()
        key = next(old.glob("toy/caption/test.toy-*")).relative_to(old).as_posix()
        rebuild_set(old, key)
        assert (old / "zarr.json").read_bytes() == whole[0]
        assert verify_store(old).problems == []


def test_a_repair_in_a_new_store_gives_the_same_revision(old: Path, tmp_path: Path) -> None:
    target = tmp_path / "new"
    copy_sets(old, target)
    before = {path: path.read_bytes() for path in target.rglob("*") if path.is_file()}
    file = next(target.glob("toy/class_name/*/embedding/c/0/0"))
    file.chmod(0o644)
    file.write_bytes(b"\xff" + file.read_bytes()[1:])
    assert not verify_store(target).ok
    spec = SetSpec("toy", "class_name", "test:toy", {"name": "class_name"}, "float16")
    with SetWriter(
        target, spec, items_of("class_name"), 3, facts={"note": "compat"},
        options=WriteOptions(repair=True),
    ) as writer:  # fmt: skip
        for block in writer.pending():
            writer.write_block(block, rows_of("class_name"))
        writer.finish(golden={"vectors": [[1.0, 0.0, 0.0]]})
    assert {path: path.read_bytes() for path in target.rglob("*") if path.is_file()} == before

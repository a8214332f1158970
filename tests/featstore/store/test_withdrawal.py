"""A picture is withdrawn: its bytes are nowhere in the store, and whatever else there was is."""

from __future__ import annotations

import pickle
import shutil

import ml_dtypes
import numpy as np
import pytest

import headstock as hs
from featstore import copy_sets, open_store
from featstore.errors import AlreadyFinishedError, StoreWriteError, UnknownItemError
from featstore.share import make_tag
from featstore.share.doctor import compare_stores
from featstore.store import (
    SetKey,
    SetSpec,
    SetWriter,
    WriteOptions,
    gc,
    read_thumbnails,
    verify_store,
    write_thumbnails,
)  # fmt: skip
from featstore.store.gc import compact_set, withdraw_items
from featstore.testing import item_table, write_set
from tests.damage import tree
from tests.typed import headstock

IDS = [f"birds/{i}" for i in range(9)]
ROWS = np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32)
SPEC = SetSpec("birds", "image", "timm:toy", {"name": "timm:toy"}, "float32")
CUT = {"block_rows": 2, "plain_bytes": 0, "shard_bytes": 1}
TEXTS = [{"item_id": "birds/4#0", "kind": "caption", "text": "a", "parent_id": "birds/4"}]


def _birds(root):
    """Write a set of three parts, whose first revision has a tag; birds/8 failed."""
    for n in (4, 5, 9):
        rows, failures = ROWS[:n].copy(), {"birds/8": "cannot be decoded"} if n > 8 else {}
        rows[8:] = np.nan
        key = write_set(root, rows, item_table(IDS[:n]), failures=failures,
                        **CUT)  # fmt: skip
        if n == 4:
            make_tag(root, "v0")
    write_thumbnails(root / "birds" / "image", {name: name.encode() for name in IDS[:3]})
    return SetKey(*key.split("/"))


@pytest.mark.parametrize(
    ("dtype", "ids"),
    [("float32", {"birds/2"}), ("bfloat16", {"birds/0", "birds/7"}), ("int8", {*IDS})],
)
def test_no_byte_of_a_row_stays_and_every_other_row_does(tmp_path, ids, dtype):
    root, rng = tmp_path, np.random.default_rng(1)
    rows = rng.integers(-99, 99, (9, 16))
    key = str(write_set(root, rows[:5], item_table(IDS[:5]), dtype=dtype))
    revision = open_store(root).info(key).commit.revision_id
    write_set(root, rows, item_table(IDS), dtype=dtype)
    before = open_store(root).view(key).numpy("float32")
    withdraw_items(root, SetKey(*key.split("/")), ids)
    view = open_store(root).view(key) if len(ids) < len(IDS) else None
    left = [i for i, name in enumerate(IDS) if name not in ids]
    if view is not None:
        assert view.items["item_id"].to_list() == [IDS[i] for i in left]
        np.testing.assert_array_equal(view.numpy("float32"), before[left])
    assert dict(open_store(root).failures(key).iter_rows()) == dict.fromkeys(ids, "withdrawn")
    assert set(open_store(root).failures(key, revision=revision)["item_id"]) == ids & {*IDS[:5]}
    assert verify_store(root).problems == []
    raw = b"".join(path.read_bytes() for path in root.rglob("*") if path.is_file())
    stored = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    for name in ids:
        assert before[IDS.index(name)].astype(stored).tobytes() not in raw


def test_neither_a_tag_nor_a_retry_nor_an_extension_nor_a_compaction_brings_it_back(tmp_path):
    key = _birds(tmp_path)
    assert withdraw_items(tmp_path, key, ["birds/1", "birds/8"]) == []
    assert sorted(read_thumbnails(tmp_path / "birds" / "image")) == ["birds/0", "birds/2"]
    after = tree(tmp_path)
    assert withdraw_items(tmp_path, key, ["birds/1"]) == []  # is what it is
    # An extraction of the picture, or a copy that still has it, brings its thumbnail.
    write_thumbnails(tmp_path / "birds" / "image", {"birds/1": b"birds/1"})
    assert tree(tmp_path) == after
    assert len(open_store(tmp_path, revision="v0").view(str(key))) == 3

    ids = [*IDS, "birds/9"]
    rows = np.vstack([ROWS, ROWS[:1]])
    _extract(tmp_path, ids, rows, WriteOptions(retry_failed=True))
    with pytest.raises(AlreadyFinishedError, match="no item of it failed"):
        _extract(tmp_path, ids, rows, WriteOptions(retry_failed=True))
    compact_set(tmp_path, key)
    view = open_store(tmp_path).view(str(key))
    left = [i for i in range(10) if i not in (1, 8)]
    assert view.items["item_id"].to_list() == [ids[i] for i in left]
    np.testing.assert_array_equal(view.numpy(), rows[left])
    assert verify_store(tmp_path).problems == []


def _extract(root, ids, rows, options):
    with SetWriter(root, SPEC, item_table(ids), 4, options=options) as writer:
        for block in writer.pending():
            writer.write_block(block, rows[writer.layout.block_slice(block)])
        writer.finish()


@pytest.mark.parametrize(("lost", "out"), [("embedding/**/c/*/0", {1}), ("failures-*", {1, 8})])
def test_no_repair_brings_it_back(tmp_path, lost, out):
    key = _birds(tmp_path)
    withdraw_items(tmp_path, key, ["birds/1"])
    for path in key.directory(tmp_path).glob(lost):
        path.write_bytes(bytes(path.stat().st_size))
    # Where the reasons are lost, nobody knows which of the failed rows were withdrawn.
    _extract(tmp_path, IDS, ROWS, WriteOptions(repair=True))
    left = [i for i in range(9) if i not in out]
    view = open_store(tmp_path).view(str(key))
    assert view.items["item_id"].to_list() == [IDS[i] for i in left]
    np.testing.assert_array_equal(view.numpy(), ROWS[left])
    gone = open_store(tmp_path).failures(str(key)).filter(reason="withdrawn")["item_id"]
    assert {*gone} == {IDS[i] for i in out}
    assert verify_store(tmp_path).problems == []


def test_parts_joined_meanwhile_and_damage_elsewhere_do_not_hinder_it(tmp_path, monkeypatch):
    key, blank = _birds(tmp_path), gc._blank
    other = write_set(tmp_path, ROWS, item_table(IDS), encoder="timm:other")
    next((tmp_path / other).glob("embedding/c/*/0")).write_bytes(b"")

    def late(*arguments):
        compact_set(tmp_path, key)
        blank(*arguments)

    monkeypatch.setattr(gc, "_blank", late)
    assert withdraw_items(tmp_path, key, ["birds/5"]) == [other]
    failures = open_store(tmp_path).failures(str(key))
    assert [*failures.filter(reason="withdrawn")["item_id"]] == ["birds/5"]
    assert "birds/5" not in open_store(tmp_path).view(str(key))


def test_a_view_that_was_pickled_before_names_it(tmp_path):
    key = _birds(tmp_path)
    view = open_store(tmp_path).view(str(key))
    some, all_but = pickle.dumps(view[["birds/1", "birds/3"]]), pickle.dumps(view[["birds/3"]])
    withdraw_items(tmp_path, key, ["birds/1"])
    with pytest.raises(UnknownItemError, match="pickled were withdrawn"):
        pickle.loads(some)
    np.testing.assert_array_equal(pickle.loads(all_but).numpy(), ROWS[[3]])


def test_no_older_copy_brings_it_back(tmp_path):
    own, copy = tmp_path / "own", tmp_path / "copy"
    key = _birds(own)
    copy_sets(own, copy)
    withdraw_items(own, key, ["birds/1"])
    _extract(copy, [*IDS, "birds/9"], np.vstack([ROWS, ROWS[:1]]), WriteOptions(retry_failed=True))
    (why,) = copy_sets(copy, own).failed.values()
    assert "withdrawn 1 pictures that" in why
    assert "has: 'birds/1'. Withdraw them there, too (`headstock store rm KEY" in why
    withdraw_items(copy, key, ["birds/1"])
    assert copy_sets(copy, own).sets[str(key)] == "behind"
    assert len(open_store(own).view(str(key))) == 9


def test_an_array_that_still_has_it_is_written_again_without_it(tmp_path):
    key = hs.write(tmp_path, ROWS[:5], dataset="birds", ids=IDS[:5]).key
    withdraw_items(tmp_path, SetKey(*key.split("/")), ["birds/1"])
    view = hs.write(tmp_path, ROWS, dataset="birds", ids=IDS)
    np.testing.assert_array_equal(view.numpy(), ROWS[[0, *range(2, 9)]])


def test_what_still_holds_it_is_named_and_what_cannot_be_withdrawn_changes_nothing(
    tmp_path, capsys
):
    key = _birds(tmp_path)
    texts = write_set(tmp_path, ROWS[:1], item_table(TEXTS), kind="caption", encoder="st:toy")
    before = tree(tmp_path)
    with pytest.raises(UnknownItemError, match=r"'birds/44'.*The closest .*'birds/4'"):
        withdraw_items(tmp_path, key, ["birds/4", "birds/44"])
    with SetWriter(tmp_path, SPEC, item_table([*IDS, *"abcde"]), 4) as writer:
        writer.write_block(writer.pending()[0], np.ones((2, 4), np.float32))
    with pytest.raises(StoreWriteError, match=r"unfinished.*withdraw items then"):
        withdraw_items(tmp_path, key, ["birds/4"])
    shutil.rmtree(key.directory(tmp_path) / ".staging")
    with pytest.raises(StoreWriteError, match="texts, which its item table repeats"):
        withdraw_items(tmp_path, SetKey(*texts.split("/")), ["birds/4#0"])
    assert tree(tmp_path) == before
    file = tmp_path.with_name("gone.txt")
    file.write_bytes(b"birds/4\xff")
    copy = shutil.copytree(tmp_path, tmp_path.with_name("copy"))
    words = ["store", "rm", str(tmp_path), "birds/image", "--items", str(file), "--yes"]
    assert headstock(*words) == 1
    assert "gone.txt is not UTF-8 (byte 7)" in capsys.readouterr().err
    file.write_text("\ufeffbirds/4\n\nbirds/0\n", "utf-8")
    assert headstock(*words) == 0
    assert f"{texts} has them, or texts of them, too." in capsys.readouterr().out
    (found,) = compare_stores(open_store(tmp_path), open_store(copy))
    assert (found.key, found.added, found.withdrawn) == (str(key), 0, (2, 0))
    assert found.changed_blocks == 2

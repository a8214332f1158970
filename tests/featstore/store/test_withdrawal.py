"""A picture is withdrawn: its bytes are nowhere in the store, and whatever else there was is."""

from __future__ import annotations

import shutil

import ml_dtypes
import numpy as np
import pytest

from featstore import open_store
from featstore.errors import StoreWriteError, UnknownItemError
from featstore.share import make_tag
from featstore.share.doctor import compare_stores
from featstore.store import (
    SetKey,
    SetSpec,
    SetWriter,
    WriteOptions,
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
    failures = open_store(root).failures(key)
    assert dict(failures.iter_rows()) == dict.fromkeys(ids, "withdrawn")
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
    spec = SetSpec("birds", "image", "timm:toy", {"name": "timm:toy"}, "float32")
    retry = WriteOptions(retry_failed=True)
    with SetWriter(tmp_path, spec, item_table(ids), 4, options=retry) as writer:
        for block in writer.pending():
            writer.write_block(block, rows[writer.layout.block_slice(block)])
        writer.finish()
    compact_set(tmp_path, key)
    view = open_store(tmp_path).view(str(key))
    left = [i for i in range(10) if i not in (1, 8)]
    assert view.items["item_id"].to_list() == [ids[i] for i in left]
    np.testing.assert_array_equal(view.numpy(), rows[left])
    assert verify_store(tmp_path).problems == []


def test_what_still_holds_it_is_named_and_what_cannot_be_withdrawn_changes_nothing(
    tmp_path, capsys
):
    key = _birds(tmp_path)
    texts = write_set(tmp_path, ROWS[:1], item_table(TEXTS), kind="caption", encoder="st:toy")
    before = tree(tmp_path)
    with pytest.raises(UnknownItemError, match=r"'birds/44'.*The closest .*'birds/4'"):
        withdraw_items(tmp_path, key, ["birds/4", "birds/44"])
    spec = SetSpec("birds", "image", "timm:toy", {"name": "timm:toy"}, "float32")
    with SetWriter(tmp_path, spec, item_table([*IDS, *"abcde"]), 4) as writer:
        writer.write_block(writer.pending()[0], np.ones((2, 4), np.float32))
    with pytest.raises(StoreWriteError, match=r"unfinished.*withdraw items then"):
        withdraw_items(tmp_path, key, ["birds/4"])
    shutil.rmtree(key.directory(tmp_path) / ".staging")
    with pytest.raises(StoreWriteError, match="texts, which its item table repeats"):
        withdraw_items(tmp_path, SetKey(*texts.split("/")), ["birds/4#0"])
    assert tree(tmp_path) == before
    file = tmp_path.with_name("gone.txt")
    file.write_text("birds/4\n\nbirds/0\n")
    copy = shutil.copytree(tmp_path, tmp_path.with_name("copy"))
    words = ["store", "rm", str(tmp_path), "birds/image", "--items", str(file), "--yes"]
    assert headstock(*words) == 0
    assert f"{texts} has them, or texts of them, too." in capsys.readouterr().out
    (found,) = compare_stores(open_store(tmp_path), open_store(copy))
    assert (found.key, found.added, found.withdrawn) == (str(key), 0, (2, 0))
    assert found.changed_blocks == 2

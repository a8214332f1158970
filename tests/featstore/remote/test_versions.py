"""Tags, stores opened at a revision, and what differs between two."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from featstore import copy_sets, open_store
from featstore.errors import (
    CorruptStoreError,
    FormatVersionError,
    RemoteStoreError,
    StoreWriteError,
    UnknownSetError,
)
from featstore.identity import sealed
from featstore.remote.objects import FolderObjects
from featstore.share.copy import make_tag, send_tag
from featstore.share.doctor import compare_stores
from featstore.store import verify_store
from featstore.store.files import json_bytes
from featstore.store.records import parse_tag, tag_document, tag_file
from featstore.testing import item_table, write_set
from tests.damage import relog
from tests.featstore.remote.conftest import make_rows, make_store
from tests.featstore.remote.proxy import Answer, proxy
from tests.featstore.remote.static import static_server
from tests.featstore.remote.test_buckets import extend, open_objects_of
from tests.typed import headstock

IMAGES, TEXTS = "birds/image/toy", "birds/caption/toy"


@pytest.fixture
def grown(tmp_path):
    """A store with tag ``v1``, then an extended set and a new one, then ``v2``."""
    root = make_store(tmp_path / "grown")
    make_tag(root, "v1")
    extend(root, 30)
    write_set(root, make_rows(9, 8), item_table([{"item_id": f"c/{i}", "kind": "class_name"}
              for i in range(9)]), kind="class_name", encoder="st:toy")  # fmt: skip
    make_tag(root, "v2")
    return root


def check_tags(address: str | Path, root: Path) -> None:
    old, new = open_store(address, revision="v1"), open_store(address, revision="v2")
    assert [info.key.kind for info in old.sets()] == ["caption", "image"]
    assert [info.key.kind for info in new.sets()] == ["caption", "class_name", "image"]
    assert (len(old.view(IMAGES)), len(new.view(IMAGES))) == (999, 1029)
    np.testing.assert_array_equal(old.view(IMAGES).numpy(), new.view(IMAGES).numpy()[:999])
    with pytest.raises(UnknownSetError):
        old.view("birds/class_name/toy")
    # By the id of a revision: that set alone.
    first = open_store(root).revisions(IMAGES)[0].commit.revision_id
    one = open_store(address, revision=first[:10])
    assert [info.commit.revision_id for info in one.sets()] == [first]
    for wrong in ("v3", "0" * 10):
        with pytest.raises(UnknownSetError, match="No tag named"):
            open_store(address, revision=wrong)


def test_a_store_at_a_tag(grown):
    check_tags(grown, grown)
    assert verify_store(grown).problems == []


def test_a_remote_store_at_a_tag(grown):
    with static_server(grown) as upstream, proxy(upstream) as state:
        check_tags(state.url, grown)
        state.down = True
        with pytest.warns(UserWarning, match="cannot be reached"):
            offline = open_store(state.url, revision="v1")
        assert len(offline.view(IMAGES)) == 999


@pytest.mark.parametrize(
    "document",
    [
        {},
        sealed({"format": 3, "name": "v9", "sets": {"../x/y": "0" * 64}}),
        sealed({"format": 3, "name": "v9", "sets": {"a/b/c": "0"}}),
        sealed({"format": 3, "name": "v9", "sets": {"a/image/c": "0" * 64}, "more": 1}),
        sealed({"format": 3, "name": ["v9"], "sets": {"a/image/c": "0" * 64}}),
        {"format": 1, "sets": {"a/image/c": "0" * 64}},
        {"format": True, "sets": {}},
        [],
    ],
)
def test_a_tag_of_a_stranger(document, grown):
    with pytest.raises((CorruptStoreError, FormatVersionError)):
        parse_tag(document, where="x")
    (grown / "tags" / "v9-00000000.json").write_text(json.dumps(document))
    relog(grown, tags={**open_store(grown).log.tags, "v9": "0" * 64})
    assert [one.path for one in verify_store(grown).problems] == ["tags/v9-00000000.json"]


def test_a_set_that_a_tag_names_is_kept(grown, capsys):
    """Removed and written anew, it would leave a tag that names what nobody has."""
    remove = ["store", "rm", str(grown), IMAGES, "--yes"]
    drop = [["store", "tag", str(grown), name, "--delete"] for name in ("v1", "v2")]
    assert headstock(*remove) == 1
    said = capsys.readouterr().err
    assert "is named by the tags v1, v2" in said
    assert "; ".join(f"headstock {' '.join(words)}" for words in drop) in said
    assert verify_store(grown).problems == []
    assert len(open_store(grown).view(IMAGES)) == 1029
    assert headstock(*drop[0]) == 0
    assert headstock(*remove) == 1
    assert "is named by the tag v2," in capsys.readouterr().err
    # A set that no tag names goes, whatever tags there are.
    assert headstock(*drop[1]) == 0
    make_tag(grown, "v3", select=["birds/caption/*"])
    assert headstock(*remove) == 0
    assert verify_store(grown).problems == []


def test_verify_names_a_tag_whose_revision_is_missing(grown):
    info = open_store(grown).revisions(IMAGES)[0]
    revisions = {**open_store(grown).tag("v1"), str(info.key): "0" * 64}
    with pytest.raises(StoreWriteError, match="was removed, or written anew, meanwhile"):
        send_tag(grown, "v9", revisions)
    document = tag_document("v9", revisions)
    path = tag_file("v9", document["digest"])
    FolderObjects(grown).create(path, json_bytes(document))
    relog(grown, tags={**open_store(grown).log.tags, "v9": document["digest"]})
    (problem,) = verify_store(grown).problems
    assert (problem.path, "lacks" in problem.what) == (path, True)


def test_what_differs(grown, store_folder, served):
    for before in (store_folder, served.url):
        image, name = sorted(compare_stores(open_store(before), open_store(grown)),
                             key=lambda one: one.key.split("/")[1], reverse=True)  # fmt: skip
        assert (name.state, name.revisions[0]) == ("only in B", "")
        assert (image.state, image.added, image.removed) == ("differs", 30, 0)
        assert (image.changed_items, image.changed_blocks) == (0, 0)
        assert image.failed == (1, 1)
        assert compare_stores(open_store(grown, revision="v1"), open_store(before)) == []
    assert served.count("embedding/c/") == 0


def test_a_tag_in_a_bucket_is_listed_by_the_same_call_again(bucket, grown, tmp_path):
    copy_sets(grown, bucket.address)

    def refuse(path: str, number: int, answer: Answer) -> Answer | None:
        refused = "log.json" in path and bucket.requests[-1][0] == "PUT"
        return Answer(403, {}, b"") if refused else None

    bucket.harm = refuse
    # The proxy does harm to answers: what it refuses has been put. So it is taken out again.
    before = open_objects_of(bucket).read("log.json", limit=10**6)
    with pytest.raises(RemoteStoreError):
        make_tag(bucket.address, "v3")
    bucket.harm = None
    open_objects_of(bucket).put("log.json", before)
    with pytest.raises(UnknownSetError, match="No tag named 'v3'"):
        open_store(bucket.address, revision="v3")
    assert open_store(bucket.address).tags() == ["v1", "v2"]
    make_tag(bucket.address, "v3")
    assert len(open_store(bucket.address, revision="v3").sets()) == 3
    with pytest.raises(StoreWriteError, match="never change"):
        make_tag(bucket.address, "v1")
    copy_sets(bucket.address, tmp_path / "pulled")
    assert open_store(tmp_path / "pulled").tags() == ["v1", "v2", "v3"]
    assert verify_store(tmp_path / "pulled").problems == []


@pytest.mark.parametrize(
    ("one", "other", "changed"),
    [
        ([["a"], ["b", "c"], None], [["a"], ["b"], None], 1),
        ([{"x": 1, "y": [2]}, {"x": 1, "y": []}, None], [{"x": 1, "y": [2]}] * 3, 2),
        ([b"\xff\x00", b"", None], [b"\xff\x00", b"\xfe", None], 1),
        ([datetime.date(2026, 1, 1), None, None], [datetime.date(2026, 1, 2), None, None], 1),
        ([[[1.5], []], [], None], None, 2),
    ],
    ids=["lists", "structs", "bytes", "dates", "a column that one lacks"],
)
def test_item_columns_of_any_type_are_compared(one, other, changed, tmp_path):
    for name, values in (("one", one), ("other", other)):
        facts = {} if values is None else {"more": values}
        items = item_table([{"item_id": f"t/{i}", "kind": "caption"} for i in range(3)])
        items = items.with_columns(**{key: pl.Series(facts[key]) for key in facts})
        write_set(tmp_path / name, make_rows(3, 8), items, kind="caption", encoder="st:toy")
    (found,) = compare_stores(open_store(tmp_path / "one"), open_store(tmp_path / "other"))
    assert (found.added, found.removed, found.changed_items) == (0, 0, changed)

"""Tags, stores opened at a revision, what differs between two, and signatures of remote ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from featstore import copy_sets, open_store
from featstore.durable import json_bytes
from featstore.errors import (
    CorruptStoreError,
    FormatVersionError,
    SignatureError,
    StoreWriteError,
    UnknownSetError,
)
from featstore.identity import sealed
from featstore.remote import FolderObjects
from featstore.share import make_tag, send_tag, sign_store
from featstore.share.doctor import compare_stores
from featstore.store import verify_store
from featstore.store.log import make_key
from featstore.store.records import parse_tag, tag_document, tag_file
from featstore.testing import item_table, write_set
from tests.damage import relog
from tests.featstore.remote.conftest import IMAGES, make_rows, make_store
from tests.featstore.remote.proxy import Answer, proxy
from tests.featstore.remote.static import static_server
from tests.featstore.remote.test_buckets import extend
from tests.typed import headstock


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
    named = shutil.copytree(grown, grown.parent / "grown@v2")
    make_tag(named, "v3")
    with static_server(grown.parent) as upstream, proxy(upstream) as state:
        check_tags(f"{state.url}/grown", grown)
        # The name of a store may have an @, wherever it lies.
        for place in (f"{state.url}/grown@v2", named.as_uri(), named):
            assert "v3" in open_store(place).tags()
            assert len(open_store(f"{place}@v1").sets()) == 2
        state.down = True
        with pytest.warns(UserWarning, match="cannot be reached"):
            offline = [open_store(f"{state.url}/grown@{name}") for name in ("v1", "v2")]
        assert (len(offline[0].view(IMAGES)), "v3" in offline[1].tags()) == (999, True)


@pytest.mark.parametrize("document", [
    {},
    sealed({"format": 3, "name": "v9", "sets": {"../x/y": "0" * 64}}),
    sealed({"format": 3, "name": "v9", "sets": {"a/b/c": "0"}}),
    sealed({"format": 3, "name": "v9", "sets": {"a/image/c": "0" * 64}, "more": 1}),
    sealed({"format": 3, "name": ["v9"], "sets": {"a/image/c": "0" * 64}}),
    {"format": 1, "sets": {"a/image/c": "0" * 64}},
    {"format": True, "sets": {}},
    [],
])  # fmt: skip
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
    assert (headstock(*drop[0]), headstock(*remove)) == (0, 1)
    assert "is named by the tag v2," in capsys.readouterr().err
    # A set that no tag names goes, whatever tags there are.
    assert headstock(*drop[1]) == 0
    make_tag(grown, "v3", select=["birds/caption/*"])
    assert (headstock(*remove), verify_store(grown).problems) == (0, [])


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
        assert image.changed_blocks == 0
        assert compare_stores(open_store(grown, revision="v1"), open_store(before)) == []
    assert served.count("embedding/c/") == 0


# ---- signed stores: a server that shows an earlier or another state is found out -----------


@pytest.fixture
def secret(tmp_path):
    pytest.importorskip("cryptography", reason="needs cryptography, of the extra `sign`")
    make_key(tmp_path / "key.pem")
    return tmp_path / "key.pem"


def test_a_server_that_goes_back_is_found_out(tmp_path, secret):
    """Every file of the earlier state is whole, and signed by the key."""
    root = make_store(tmp_path / "now")
    make_tag(root, "v1")
    key = sign_store(root, secret).public_key
    before = shutil.copytree(root, tmp_path / "before")
    extend(root, 30)
    assert sign_store(root, secret).counter == 2

    def older(path: str, number: int, answer: Answer) -> Answer | None:
        file = before / path.lstrip("/")
        return Answer(200, {}, file.read_bytes()) if file.is_file() else Answer(404, {}, b"")

    with static_server(root) as upstream, proxy(upstream) as state:
        assert len(open_store(state.url, key=key).view(IMAGES)) == 1029
        assert len(open_store(state.url, key=key, revision="v1").view(IMAGES)) == 999
        state.harm = older
        with pytest.raises(SignatureError, match="number 1; number 2 is asked for"):
            open_store(state.url, key=key, at_least=2)
        bare = tmp_path / "bare"
        copy_sets(root, bare)
        relog(bare, signature={})
        state.harm = lambda path, number, answer: (
            Answer(200, {}, (bare / "log.json").read_bytes()) if "log.json" in path else None
        )
        with pytest.raises(SignatureError, match="is not signed"):
            open_store(state.url, key=key)
        assert len(open_store(state.url).view(IMAGES)) == 1029
        state.harm, state.down = None, True
        # Reading goes on without the server, but only with a signature that was fetched.
        with pytest.warns(UserWarning, match="cannot be reached"), pytest.raises(SignatureError):
            open_store(state.url, key=key)


def test_a_bucket_is_signed_where_it_lies_or_with_all_that_is_pushed(
    bucket, store_folder, secret, tmp_path
):
    own = shutil.copytree(store_folder, tmp_path / "own")
    key = sign_store(own, secret).public_key
    copy_sets(own, bucket.address)
    assert len(open_store(bucket.address, key=key, at_least=1).view(IMAGES)) == 999
    extend(own, 30)
    copy_sets(own, bucket.address)
    with pytest.raises(SignatureError, match="is not what its owner signed as number 1"):
        open_store(bucket.address, key=key)
    assert sign_store(bucket.address, secret).counter == 2
    assert len(open_store(bucket.address, key=key, at_least=2).view(IMAGES)) == 1029
    copy_sets(bucket.address, tmp_path / "pulled", key=key, at_least=2)
    assert len(open_store(tmp_path / "pulled", key=key, at_least=2).view(IMAGES)) == 1029

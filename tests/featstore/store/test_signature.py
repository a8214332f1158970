"""Signed stores under attack: whoever has the key is told of every change at opening."""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest

from featstore import copy_sets, open_store
from featstore.command_line import EXIT_VERIFY
from featstore.errors import CorruptStoreError, SignatureError
from featstore.share import drop_tag, make_tag, sign_store
from featstore.store import verify_store
from featstore.store.verify import repair_log
from featstore.testing import item_table, write_set
from tests.damage import flip, relog, unseal
from tests.typed import headstock

pytest.importorskip("cryptography", reason="needs cryptography, of the extra `sign`")

from featstore.store.log import MAX_COUNTER, make_key, read_log

IMAGES, TEXTS = "birds/image/timm:toy", "birds/caption/timm:toy"


def write(root: Path, kind: str, n: int) -> None:
    names = item_table([f"birds/{kind}{i}" for i in range(n)], kind)
    write_set(root, np.arange(4.0 * n).reshape(n, 4), names, kind=kind)


@pytest.fixture
def secret(tmp_path):
    make_key(tmp_path / "key.pem")
    return tmp_path / "key.pem"


@pytest.fixture
def signed(tmp_path, secret):
    """A store of two sets and a tag, signed as number 1, and the public key."""
    root = tmp_path / "store"
    write(root, "image", 2)
    write(root, "caption", 5)
    make_tag(root, "v1")
    made = sign_store(root, secret)
    assert made.counter == 1
    unseal(root)
    return root, made.public_key


@pytest.fixture
def grown(signed, secret, tmp_path):
    """The store, extended, and tagged ``v2``, signed as number 2; the key; the copy before."""
    root, key = signed
    before = shutil.copytree(root, tmp_path / "before")
    write(root, "image", 3)
    drop_tag(root, "v1")
    make_tag(root, "v1", select=["*/caption/*"])
    make_tag(root, "v2")
    assert sign_store(root, secret).counter == 2
    unseal(root)
    return root, key, before


def refused(root: Path, key: str, match: str) -> None:
    with pytest.raises(SignatureError, match=match):
        open_store(root, key=key)
    assert headstock("store", "verify", root, "--trusted-key", key) == EXIT_VERIFY


def tag_path(root: Path, name: str) -> Path:
    digest = json.loads((root / "log.json").read_text())["tags"][name]
    return root / "tags" / f"{name}-{digest[:8]}.json"


def test_what_was_signed_reads(signed, secret):
    root, key = signed
    store = open_store(root, key=key, at_least=1)
    assert [len(store.view(name)) for name in (IMAGES, TEXTS)] == [2, 5]
    assert len(open_store(root, revision="v1", key=key).sets()) == 2
    assert verify_store(root).problems == []
    assert headstock("store", "verify", root, "--trusted-key", key) == 0
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600


def test_every_flipped_byte_of_the_log_is_told(signed):
    root, key = signed
    path = root / "log.json"
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole)
        flip(path, at, 1 << (at % 7))
        with pytest.raises((SignatureError, CorruptStoreError)):
            open_store(root, key=key)
        if at % 9 == 0:
            assert [one.path for one in verify_store(root, full=False).problems] == [path.name]


@pytest.mark.parametrize("field", ["counter", "public_key", "signature"])
def test_a_forged_field_is_told(signed, field):
    """With a digest that fits, so that only the key tells."""
    root, key = signed
    stated = json.loads((root / "log.json").read_text())["signature"]
    value = stated[field]
    stated[field] = value + 1 if field == "counter" else value[::-1]
    relog(root, signature=stated)
    refused(root, key, "not what its owner" if field != "public_key" else "signed by the key")
    relog(root, signature={})
    refused(root, key, "is not signed")


def test_no_signature_follows_a_number_that_was_forged_as_the_highest(signed, secret):
    root, _ = signed
    stated = json.loads((root / "log.json").read_text())["signature"]
    relog(root, signature=stated | {"counter": MAX_COUNTER})
    with pytest.raises(SignatureError, match="the highest: somebody forged it"):
        sign_store(root, secret)
    make_key(secret.with_name("new.pem"))
    new = sign_store(root, secret.with_name("new.pem"))
    assert open_store(root, key=new.public_key).log.signature.counter == 1


def test_a_whole_state_put_back_is_told_to_who_knows_a_later_number(grown):
    root, key, before = grown
    assert len(open_store(root, key=key, at_least=2).view(IMAGES)) == 3
    assert len(open_store(before, key=key).view(IMAGES)) == 2
    with pytest.raises(SignatureError, match="number 1; number 2 is asked for"):
        open_store(before, key=key, at_least=2)
    arguments = ["store", "verify", str(before), "--trusted-key", key, "--at-least", "2"]
    assert headstock(*arguments) == EXIT_VERIFY


def test_a_replayed_revision_or_tag_is_told(grown):
    """With a log that says so too: every digest fits."""
    root, key, before = grown
    sets = json.loads((before / "log.json").read_text())["sets"]
    now = read_log(root)
    relog(root, sets=sets)
    refused(root, key, "not what its owner signed as number 2")
    assert repair_log(root) == now == read_log(root)
    path, old = tag_path(root, "v1"), tag_path(before, "v1")
    whole = path.read_bytes()
    path.write_bytes(old.read_bytes())
    with pytest.raises(CorruptStoreError, match="was replaced"):
        open_store(root, key=key, revision="v1")
    assert headstock("store", "verify", root, "--trusted-key", key) == EXIT_VERIFY
    # And in the log, whose digest fits.
    path.write_bytes(whole)
    shutil.copy(old, root / "tags" / old.name)
    tags = json.loads((root / "log.json").read_text())["tags"]
    relog(root, tags={**tags, "v1": json.loads(old.read_text())["digest"]})
    assert verify_store(root).problems == []
    refused(root, key, "not what its owner")
    relog(root, tags=tags)
    assert len(open_store(root, key=key, revision="v1").sets()) == 1


def test_another_key_is_told(signed, tmp_path):
    root, key = signed
    make_key(tmp_path / "theirs.pem")
    write(root, "image", 3)
    theirs = sign_store(root, tmp_path / "theirs.pem")
    assert open_store(root, key=theirs.public_key).info(IMAGES).commit.n == 3
    refused(root, key, f"signed by the key {theirs.public_key}, not by {key}")
    for wrong in ("0" * 63, tmp_path / "theirs.pem", bytes.fromhex(key), "é", key + "\n"):
        with pytest.raises(SignatureError, match="trusted by its 64 hexadecimal digits"):
            open_store(root, key=wrong)
    with pytest.raises(ValueError, match="give the key"):
        open_store(root, at_least=1)


def test_only_what_was_signed_is_read(grown):
    root, key, _ = grown
    store = open_store(root, key=key)
    first, last = store.revisions(IMAGES)
    # The commit names those before it, so they are signed, too.
    views = [store.view(IMAGES, revision=one.commit.revision_id[:12]) for one in (first, last)]
    write(root, "image", 4)
    assert [len(view.numpy()) for view in views] == [2, 3] == [first.commit.n, last.commit.n]
    with pytest.raises(SignatureError, match="changed since it was opened"):
        store.view(IMAGES)


def test_a_copy_is_signed_if_it_holds_what_was_signed(grown, tmp_path):
    root, key, before = grown
    assert headstock("store", "pull", root, tmp_path / "a", "--trusted-key", key) == 0
    assert len(open_store(tmp_path / "a", key=key, at_least=2).sets()) == 2
    assert verify_store(tmp_path / "a").problems == []
    # A part of it is not what was signed, nor is a store that holds more.
    copy_sets(root, tmp_path / "part", select=["*/image/*"])
    write(tmp_path / "more", "class_name", 3)
    copy_sets(root, tmp_path / "more")
    for name in ("part", "more"):
        refused(tmp_path / name, key, "is not signed")
    # An earlier signature does not replace a later one.
    copy_sets(before, tmp_path / "a")
    assert len(open_store(tmp_path / "a", key=key, at_least=2).sets()) == 2
    pull = ["store", "pull", before, tmp_path / "b", "--trusted-key", key, "--at-least", "2"]
    assert headstock(*pull) == 1
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("place", ["key.pem", "birds/image/key.pem", "of/its/own/key.pem"])
def test_a_private_key_in_a_store_is_refused(signed, secret, place, capsys):
    root, _ = signed
    before = set(root.rglob("*"))
    inside = root / place
    assert headstock("store", "tag", root, "--sign-key", inside, "--new-key") == 1
    assert f"{inside} lies in the store" in capsys.readouterr().err
    assert set(root.rglob("*")) == before  # none was written
    inside.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(secret, inside)
    linked = root.with_name("linked.pem")
    linked.symlink_to(inside)
    for wrong in (inside, linked):
        assert headstock("store", "tag", root, "--sign-key", wrong) == 1
    assert headstock("store", "tag", root, "--sign-key", secret) == 0

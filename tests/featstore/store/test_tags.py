"""Tags under attack: whatever is done to a tag's file, verify tells it and no reader takes it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from featstore import open_store
from featstore.command_line import EXIT_VERIFY, run_command
from featstore.errors import CorruptStoreError, FormatVersionError, StoreWriteError, UnknownSetError
from featstore.identity import canonical_json, sealed, sha256_hex
from featstore.share.copy import copy_sets, make_tag
from featstore.store import collect_garbage, verify_store
from featstore.store.files import json_bytes
from featstore.testing import item_table, write_set
from headstock.__main__ import cli
from tests.damage import unseal


def _write(root: Path, kind: str, n: int) -> None:
    names = item_table([f"birds/{kind}{i}" for i in range(n)], kind)
    write_set(root, np.arange(4.0 * n).reshape(n, 4), names, kind=kind)


@pytest.fixture
def tagged(tmp_path: Path) -> Path:
    """A store whose tag ``old`` names a set of two rows, and ``new`` that of three and another."""
    root = tmp_path / "store"
    _write(root, "image", 2)
    make_tag(root, "old")
    _write(root, "image", 3)
    _write(root, "caption", 5)
    make_tag(root, "new")
    unseal(root)
    return root


def test_gc_leaves_a_tag_that_is_about_to_be_linked(
    tagged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, collected = os.link, []

    def collecting(*paths: Path) -> None:
        collected.extend(collect_garbage(tagged, grace=-1))
        link(*paths)

    monkeypatch.setattr(os, "link", collecting)
    made = make_tag(tagged, "newest")
    assert collected == []
    assert open_store(tagged).tag("newest") == made
    assert sorted(path.name[:-14] for path in (tagged / "tags").iterdir()) == [
        "new", "newest", "old",
    ]  # fmt: skip


def path_of(tags: Path, name: str) -> Path:
    return next(tags.glob(f"{name}-????????.json"))


def _exchange(tags: Path) -> None:
    one, other = path_of(tags, "old"), path_of(tags, "new")
    old, new = one.read_bytes(), other.read_bytes()
    one.write_bytes(new)
    other.write_bytes(old)


def _flip_key(tags: Path) -> None:
    path = path_of(tags, "new")
    path.write_bytes(path.read_bytes().replace(b"birds/image", b"cirds/image"))


def _forge(tags: Path) -> None:
    """What ``old`` says under the name ``new``, with a digest that fits."""
    document = json.loads(path_of(tags, "old").read_text())
    path_of(tags, "new").write_bytes(json_bytes(sealed({**document, "name": "new"})))


def _downgrade(tags: Path) -> None:
    """Of another store format, and without a name."""
    sets = json.loads(path_of(tags, "old").read_text())["sets"]
    path_of(tags, "new").write_bytes(json_bytes({"format": 1, "sets": sets}))


#: What is done -> the tags that are no longer right.
ATTACKS: dict[str, tuple[Callable[[Path], object], set[str]]] = {
    "exchanged": (_exchange, {"old", "new"}),
    "a character of a key": (_flip_key, {"new"}),
    "deleted": (lambda tags: path_of(tags, "new").unlink(), {"new"}),
    "forged": (_forge, {"new"}),
    "of another format": (_downgrade, {"new"}),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_every_attack_on_a_tag_is_told(tagged: Path, attack: str) -> None:
    act, wrong = ATTACKS[attack]
    names = {f"tags/{path_of(tagged / 'tags', name).name}" for name in wrong}
    act(tagged / "tags")
    assert {problem.path for problem in verify_store(tagged).problems} == names
    assert run_command(cli, "headstock", ["store", "verify", str(tagged)]) == EXIT_VERIFY
    for name in wrong:
        with pytest.raises((CorruptStoreError, FormatVersionError), match=name):
            open_store(tagged, revision=name)
    for name in {"old", "new"} - wrong:
        assert len(open_store(tagged, revision=name).view("birds/image/timm:toy")) in (2, 3)


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_tag_that_was_attacked_is_not_copied(tagged: Path, attack: str, tmp_path: Path) -> None:
    act, wrong = ATTACKS[attack]
    act(tagged / "tags")
    target = tmp_path / "target"
    report = copy_sets(tagged, target)
    assert set(report.failed) == wrong
    assert set(open_store(target).tags()) == {"old", "new"} - wrong
    assert verify_store(target).problems == []


def test_a_tag_that_was_added_by_hand_is_none(tagged: Path) -> None:
    sets = open_store(tagged).tag("new")
    document = sealed({"format": 3, "name": "more", "sets": sets})
    path = tagged / "tags" / f"more-{document['digest'][:8]}.json"
    path.write_bytes(json_bytes(document))
    report = verify_store(tagged)
    assert (report.problems, [note.path for note in report.notes]) == ([], [f"tags/{path.name}"])
    with pytest.raises(UnknownSetError, match="No tag named 'more'"):
        open_store(tagged, revision="more")
    (tagged / "tags" / "less.json").write_bytes(json_bytes(document))
    assert [problem.path for problem in verify_store(tagged).problems] == ["tags/less.json"]
    (tagged / "tags" / "less.json").unlink()
    make_tag(tagged, "more")
    assert (verify_store(tagged).problems, verify_store(tagged).notes) == ([], [])
    assert open_store(tagged).tag("more") == sets


def test_the_same_command_mends_a_tag_that_the_log_lists(tagged: Path) -> None:
    path = path_of(tagged / "tags", "new")
    whole = path.read_bytes()
    for harm in (_flip_key, _forge, lambda tags: path.unlink()):
        harm(path.parent)
        make_tag(tagged, "new")
        assert path.read_bytes() == whole
        assert verify_store(tagged).problems == []
        unseal(tagged)
    _forge(path.parent)
    _write(tagged, "caption", 6)
    with pytest.raises(StoreWriteError, match="never change"):
        make_tag(tagged, "new")


def test_the_other_copy_mends_a_tag(tagged: Path, tmp_path: Path) -> None:
    copy_sets(tagged, tmp_path / "copy")
    _exchange(tagged / "tags")
    copy_sets(tmp_path / "copy", tagged)
    assert verify_store(tagged).problems == []


def test_a_tag_is_what_the_document_says(tagged: Path) -> None:
    """docs/store-format.md, computed by hand."""
    path = path_of(tagged / "tags", "old")
    document = json.loads(path.read_text())
    digest = document.pop("digest")
    assert path.name == f"old-{digest[:8]}.json"
    assert set(document) == {"format", "name", "sets"}
    assert digest == sha256_hex(canonical_json(document))
    assert json.loads((tagged / "log.json").read_text())["tags"]["old"] == digest
    with pytest.raises(UnknownSetError, match="No tag named 'none'"):
        open_store(tagged, revision="none")


def test_a_dropped_tag_is_gone_and_its_name_is_free(tagged: Path, capsys: object) -> None:
    drop = ["store", "tag", str(tagged), "new", "--delete"]
    path = path_of(tagged / "tags", "new")
    whole = path.read_bytes()
    for _ in range(2):  # stopped after any of its two steps, the same command ends well
        assert run_command(cli, "headstock", drop) == 0
        assert (open_store(tagged).tags(), verify_store(tagged).problems) == (["old"], [])
    path.write_bytes(whole)  # stopped between its two steps
    assert (open_store(tagged).tags(), verify_store(tagged).problems) == (["old"], [])
    assert [one.path for one in collect_garbage(tagged, grace=-1)] == [f"tags/{path.name}"]
    assert run_command(cli, "headstock", [*drop, "--select", "*"]) == 2
    _write(tagged, "caption", 6)
    make_tag(tagged, "new")
    assert verify_store(tagged).problems == []

"""The log and the tags of a store: lost, forged or exchanged, told, and made again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from featstore import open_store
from featstore.command_line import EXIT_ERROR, EXIT_USAGE, EXIT_VERIFY, run_command
from featstore.errors import (
    ClaimLostError,
    CorruptStoreError,
    FormatVersionError,
    StoreWriteError,
    UnknownSetError,
)
from featstore.identity import canonical_json, sealed, sha256_hex
from featstore.share import make_tag
from featstore.store import (
    collect_garbage,
    make_store,
    verify_store,
    write_thumbnails,
    writer,
)
from featstore.store import log as log_module
from featstore.store.files import json_bytes
from featstore.store.lock import claim_set
from featstore.store.log import Log, read_log, rebuilt_log, update_log
from featstore.testing import item_table, write_set
from headstock.__main__ import cli
from tests.damage import unseal

KEY = "birds/image/timm:toy"


def write(root: Path, n: int, dataset: str = "birds") -> str:
    items = item_table([f"birds/{i}" for i in range(n)])
    return write_set(root, np.arange(4.0 * n).reshape(n, 4), items, dataset=dataset)


@pytest.fixture
def store(tmp_path):
    """A store of a set in two revisions, another, thumbnails, a tag and a card."""
    root = tmp_path / "store"
    write(root, 2)
    make_tag(root, "v1")
    write(root, 5)
    write(root, 3, "fish")
    write_thumbnails(root / "birds" / "image", {"birds/0": b"x"})
    assert run_command(cli, "headstock", ["store", "card", str(root), "-o", str(root)]) == 0
    unseal(root)
    return root


def test_a_log_is_what_the_document_says(store):
    """docs/ref/store-format.md, computed by hand."""
    document = json.loads((store / "log.json").read_text())
    assert document.pop("digest") == sha256_hex(canonical_json(document))
    sets = {str(info.key): info.commit.revision_id for info in open_store(store).sets()}
    (tag,) = (json.loads(path.read_text()) for path in (store / "tags").iterdir())
    about = {name: sha256_hex((store / name).read_bytes()) for name in document["about"]}
    assert sorted(about) == ["README.md", "croissant.json"]
    assert document == {
        "format": 3, "hash": "sha256", "sets": sets, "tags": {"v1": tag["digest"]}, "about": about,
        "thumbnails": [path.relative_to(store).as_posix() for path in store.rglob("thumb*")],
        "signature": {},
    }  # fmt: skip


@pytest.mark.parametrize("harm", ["lost", "flipped", "truncated", "empty"])
def test_a_log_is_made_again_from_the_commits(store, harm):
    path, key = store / "log.json", str(open_store(store).info(KEY).key)
    whole = path.read_bytes()
    assert rebuilt_log(store) == read_log(store)
    for at in range(0, len(whole), 7 if harm == "flipped" else len(whole)):
        if harm == "lost":
            path.unlink()
        else:
            flipped = bytearray(whole)
            flipped[at] ^= 1 << (at % 7)
            path.write_bytes({"flipped": flipped, "truncated": whole[:-9], "empty": b""}[harm])
        with pytest.raises(CorruptStoreError, match=r"log\.json"):
            open_store(store)
        with pytest.raises(CorruptStoreError, match=r"log\.json"):
            write(store, 3, "frogs")  # nobody writes a log that lacks what was there
    assert run_command(cli, "headstock", ["store", "verify", str(store)]) == EXIT_VERIFY
    assert [problem.path for problem in verify_store(store).problems] == ["log.json"]
    named = [key] if harm == "flipped" else []  # else all sets
    assert run_command(cli, "headstock", ["store", "repair", str(store), *named]) == 0
    assert path.read_bytes() == whole
    assert [info.commit.n for info in open_store(store).revisions(KEY)] == [2, 5]
    assert verify_store(store).problems == []


def test_a_store_is_repaired_set_by_set(store, capsys):
    keys = [str(info.key) for info in open_store(store).sets()]
    for key in keys:
        (store / key / "zarr.json").unlink()
    assert (
        run_command(cli, "headstock", ["store", "repair", str(store), "--dry-run"]) == EXIT_VERIFY
    )
    assert (
        run_command(cli, "headstock", ["store", "repair", str(store), "--manifest", "m"])
        == EXIT_USAGE
    )
    capsys.readouterr()
    assert run_command(cli, "headstock", ["store", "repair", str(store), "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert {one["key"]: one["rebuilt"] for one in done} == {k: [f"{k}/zarr.json"] for k in keys}
    assert verify_store(store).problems == []
    assert run_command(cli, "headstock", ["store", "repair", str(store / "nothing")]) == EXIT_ERROR


def test_a_commit_without_its_log_is_as_good_as_published_where_the_log_is_lost(store, monkeypatch):
    """Its writer was killed between the two: all that it names is there."""
    before = read_log(store)

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(writer, "update_log", stop)
        with pytest.raises(KeyboardInterrupt):
            write(store, 7)
    assert (read_log(store), verify_store(store).problems) == (before, [])
    assert open_store(store).info(KEY).commit.n == 5
    (store / "log.json").unlink()
    assert run_command(cli, "headstock", ["store", "repair", str(store), min(before.sets)]) == 0
    view = open_store(store, verify="full").view(KEY)
    np.testing.assert_array_equal(view.numpy(), np.arange(28.0).reshape(7, 4))
    assert verify_store(store).problems == []


def test_a_store_that_is_made_while_its_log_is_looked_for(tmp_path, monkeypatch):
    read, asked = log_module.read_regular, []

    def meanwhile(path, **options):
        if path.name == "zarr.json" and not asked:
            asked.append(path)
            make_store(tmp_path)
        return read(path, **options)

    monkeypatch.setattr(log_module, "read_regular", meanwhile)
    assert read_log(tmp_path) == Log()
    assert asked
    (tmp_path / "log.json").unlink()
    with pytest.raises(CorruptStoreError, match=r"log\.json is missing"):
        read_log(tmp_path)


def test_a_change_that_is_refused_changes_nothing(store):
    def written() -> tuple[int, int, bytes]:
        log = store / "log.json"
        return log.stat().st_ino, log.stat().st_mtime_ns, log.read_bytes()

    before = written()

    def refuse(_: object) -> None:
        raise StoreWriteError("no")

    with pytest.raises(StoreWriteError, match="no"):
        update_log(store, refuse)  # type: ignore[arg-type]
    assert not update_log(store, lambda log: log)
    assert written() == before


def test_a_revision_that_another_writer_published_stays(store):
    info = open_store(store).info(KEY)
    directory, before = info.key.directory(store), read_log(store)
    claim = claim_set(directory, info.key)
    late = replace(info.commit, sequence=2, history=(), failed="")
    with pytest.raises(ClaimLostError):
        writer.publish_commit(store, info.key, claim, late, after=info.commit.history[0].id)
    claim.release()
    assert read_log(store) == before


# ---- Tags under attack: whatever is done to a tag's file, verify tells it and no ------------


def _write(root: Path, kind: str, n: int) -> None:
    names = item_table([f"birds/{kind}{i}" for i in range(n)], kind)
    write_set(root, np.arange(4.0 * n).reshape(n, 4), names, kind=kind)


@pytest.fixture
def tagged(tmp_path):
    """A store whose tag ``old`` names a set of two rows, and ``new`` that of three and another."""
    root = tmp_path / "store"
    _write(root, "image", 2)
    make_tag(root, "old")
    _write(root, "image", 3)
    _write(root, "caption", 5)
    make_tag(root, "new")
    unseal(root)
    return root


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
def test_every_attack_on_a_tag_is_told(tagged, attack):
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


def test_a_tag_that_was_added_by_hand_is_none(tagged):
    sets = open_store(tagged).tag("new")
    document = sealed({"format": 3, "name": "more", "sets": sets})
    path = tagged / "tags" / f"more-{document['digest'][:8]}.json"
    path.write_bytes(json_bytes(document))
    report = verify_store(tagged)
    assert (report.problems, [note.path for note in report.notes]) == ([], [f"tags/{path.name}"])
    with pytest.raises(UnknownSetError, match="No tag named 'more'"):
        open_store(tagged, revision="more")
    make_tag(tagged, "more")
    assert (verify_store(tagged).problems, verify_store(tagged).notes) == ([], [])
    assert open_store(tagged).tag("more") == sets


def test_the_same_command_mends_a_tag_that_the_log_lists(tagged):
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


def test_a_tag_is_what_the_document_says(tagged):
    """docs/ref/store-format.md, computed by hand."""
    path = path_of(tagged / "tags", "old")
    document = json.loads(path.read_text())
    digest = document.pop("digest")
    assert path.name == f"old-{digest[:8]}.json"
    assert set(document) == {"format", "name", "sets"}
    assert digest == sha256_hex(canonical_json(document))
    assert json.loads((tagged / "log.json").read_text())["tags"]["old"] == digest
    with pytest.raises(UnknownSetError, match="No tag named 'none'"):
        open_store(tagged, revision="none")


def test_a_dropped_tag_is_gone_and_its_name_is_free(tagged, capsys):
    drop = ["store", "tag", str(tagged), "new", "--delete"]
    path = path_of(tagged / "tags", "new")
    for _ in range(2):
        assert run_command(cli, "headstock", drop) == 0
        assert (open_store(tagged).tags(), verify_store(tagged).problems) == (["old"], [])
    assert [one.path for one in collect_garbage(tagged, grace=-1)] == [f"tags/{path.name}"]
    assert run_command(cli, "headstock", [*drop, "--select", "*"]) == 2
    _write(tagged, "caption", 6)
    make_tag(tagged, "new")
    assert verify_store(tagged).problems == []

"""The log and the tags of a store: lost, forged or exchanged, told, and made again."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from featstore import open_store
from featstore.command_line import EXIT_ERROR, EXIT_USAGE, EXIT_VERIFY
from featstore.durable import json_bytes
from featstore.errors import ClaimLostError, CorruptStoreError, StoreWriteError
from featstore.identity import canonical_json, sealed, sha256_hex
from featstore.share import make_tag
from featstore.store import collect_garbage, verify_store, write_thumbnails, writer
from featstore.store.lock import Claim, claim_set
from featstore.store.log import read_log, rebuilt_log
from featstore.testing import item_table, write_set
from tests.damage import tree, unseal
from tests.typed import headstock

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
    assert headstock("store", "card", root, "-o", root) == 0
    unseal(root)
    return root


def test_a_log_is_what_the_document_says(store):
    """docs/ref/store-format.md, computed by hand."""
    document = json.loads((store / "log.json").read_text())
    assert document.pop("digest") == sha256_hex(canonical_json(document))
    sets = {str(info.key): info.commit.revision_id for info in open_store(store).sets()}
    (tag,) = (json.loads(path.read_text()) for path in (store / "tags").iterdir())
    about = {name: sha256_hex((store / name).read_bytes()) for name in document["about"]}
    assert sorted(about) == ["README.md"]
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
        with pytest.raises(
            CorruptStoreError, match=rf"log\.json.*`headstock store repair {store}`"
        ):
            open_store(store)
        with pytest.raises(CorruptStoreError, match=r"log\.json"):
            write(store, 3, "frogs")  # nobody writes a log that lacks what was there
    assert headstock("store", "verify", store) == EXIT_VERIFY
    assert [problem.path for problem in verify_store(store).problems] == ["log.json"]
    assert headstock("store", "repair", store, *([key] if harm == "flipped" else [])) == 0
    assert path.read_bytes() == whole
    assert [info.commit.n for info in open_store(store).revisions(KEY)] == [2, 5]
    assert verify_store(store).problems == []


def test_an_older_log_that_was_put_back_is_made_again_from_the_commits(store):
    path, older = store / "log.json", []
    for n, dataset in ((7, "birds"), (2, "cats")):
        older.append(path.read_bytes())
        write(store, n, dataset)
    now = path.read_bytes()
    for before in older:
        unseal(store)
        path.write_bytes(before)
        assert [problem.path for problem in verify_store(store).problems] == ["log.json"]
        assert headstock("store", "repair", store) == 0
        assert (path.read_bytes(), verify_store(store).problems) == (now, [])


def test_a_set_that_neither_log_nor_commit_tells_of_is_named_and_kept(store, capsys):
    key, before = str(open_store(store).info(KEY).key), tree(store)
    (commit,) = (store / key / "revisions").iterdir()
    commit.unlink()
    (store / "log.json").unlink()
    for words in (["verify"], ["repair", "--dry-run"], ["repair"], ["verify"]):
        assert headstock("store", *words[:1], store, *words[1:]) == EXIT_VERIFY
        assert f"{key}/revisions holds no commit" in capsys.readouterr().out
    assert headstock("store", "gc", store, "--grace", "0") == 0
    assert before.keys() - tree(store) == {commit.relative_to(store).as_posix()}


def test_a_store_is_repaired_set_by_set(store, capsys):
    keys = [str(info.key) for info in open_store(store).sets()]
    for name in ("log.json", *(f"{key}/zarr.json" for key in keys)):
        (store / name).unlink()
    assert headstock("store", "repair", store, "--dry-run") == EXIT_VERIFY
    assert capsys.readouterr().out.count("Would rebuild log.json") == 1
    assert headstock("store", "repair", store, "--manifest", "m") == EXIT_USAGE
    capsys.readouterr()
    assert headstock("store", "repair", store, "--json") == 0
    done = json.loads(capsys.readouterr().out)
    assert [one["rebuilt"] for one in done] == [
        [f"{keys[0]}/zarr.json", "log.json"], [f"{keys[1]}/zarr.json"]
    ]  # fmt: skip
    assert verify_store(store).problems == []
    assert headstock("store", "repair", store / "nothing") == EXIT_ERROR


def _write_killed(store, n, monkeypatch):
    """Write n rows, and be killed between the commit and the log."""

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(writer, "update_log", stop)
        with pytest.raises(KeyboardInterrupt):
            write(store, n)


def test_no_log_is_made_again_of_a_commit_whose_rows_were_being_removed(store, monkeypatch):
    """One was killed behind its commit; the next, of fewer rows, while it removed what was left."""
    _write_killed(store, 9, monkeypatch)
    discard = Claim.discard
    for most in range(9):
        root = shutil.copytree(store, store.with_name(f"killed{most}"))
        left = iter(range(most))

        def killed(self: Claim, path: Path, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                self.release()  # as the system does for the dead
                raise KeyboardInterrupt
            discard(self, path)

        with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            patch.setattr(Claim, "discard", killed)
            write(root, 7)
        assert open_store(root).info(KEY).commit.n == 7
        (root / "log.json").unlink()
        assert headstock("store", "repair", root) == 0
        view = open_store(root, verify="first-touch").view(KEY)
        np.testing.assert_array_equal(view.numpy(), np.arange(4.0 * len(view)).reshape(-1, 4))
        assert (len(view) in (7, 9), verify_store(root).problems) == (True, [])


def test_a_commit_without_its_log_is_as_good_as_published_where_the_log_is_lost(store, monkeypatch):
    """Its writer was killed between the two: all that it names is there."""
    before = read_log(store)
    _write_killed(store, 7, monkeypatch)
    assert (read_log(store), verify_store(store).problems) == (before, [])
    assert open_store(store).info(KEY).commit.n == 5
    (store / "log.json").unlink()
    assert headstock("store", "repair", store, min(before.sets)) == 0
    view = open_store(store, verify="first-touch").view(KEY)
    np.testing.assert_array_equal(view.numpy(), np.arange(28.0).reshape(7, 4))
    assert verify_store(store).problems == []


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


@pytest.fixture
def tagged(store):
    """The store, whose tag ``v1`` names a set of two rows, and ``v2`` that of five and another."""
    make_tag(store, "v2")
    unseal(store)
    return store


def path_of(tags: Path, name: str) -> Path:
    return next(tags.glob(f"{name}-????????.json"))


def _exchange(tags: Path) -> None:
    one, other = path_of(tags, "v1"), path_of(tags, "v2")
    old, new = one.read_bytes(), other.read_bytes()
    one.write_bytes(new)
    other.write_bytes(old)


def _flip_key(tags: Path) -> None:
    path = path_of(tags, "v2")
    path.write_bytes(path.read_bytes().replace(b"birds/image", b"cirds/image"))


def _forge(tags: Path) -> None:
    """What ``v1`` says under the name ``v2``, with a digest that fits."""
    document = json.loads(path_of(tags, "v1").read_text())
    path_of(tags, "v2").write_bytes(json_bytes(sealed({**document, "name": "v2"})))


#: What is done -> the tags that are no longer right.
ATTACKS: dict[str, tuple[Callable[[Path], object], set[str]]] = {
    "exchanged": (_exchange, {"v1", "v2"}),
    "a character of a key": (_flip_key, {"v2"}),
    "deleted": (lambda tags: path_of(tags, "v2").unlink(), {"v2"}),
    "forged": (_forge, {"v2"}),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_every_attack_on_a_tag_is_told_and_mended_by_its_command(tagged, attack, capsys):
    (act, wrong), before = ATTACKS[attack], tree(tagged)
    names = {f"tags/{path_of(tagged / 'tags', name).name}" for name in wrong}
    act(tagged / "tags")
    assert {problem.path for problem in verify_store(tagged).problems} == names
    assert headstock("store", "verify", tagged) == EXIT_VERIFY
    for name in wrong:
        with pytest.raises(CorruptStoreError, match=name):
            open_store(tagged, revision=name)
    for name in {"v1", "v2"} - wrong:
        assert len(open_store(tagged, revision=name).view(KEY)) in (2, 5)
    capsys.readouterr()
    assert headstock("store", "repair", tagged) == EXIT_VERIFY
    said = capsys.readouterr().out
    assert said.count("`headstock store tag STORE v2` writes it again") == 1
    assert "extract" not in said
    make_tag(tagged, "v2")
    if "v1" in wrong:
        with pytest.raises(StoreWriteError, match="never change"):
            make_tag(tagged, "v1")
    else:
        assert tree(tagged) == before


def test_a_dropped_tag_is_gone_and_its_name_is_free(tagged, capsys):
    drop = ["store", "tag", tagged, "v2", "--delete"]
    path = path_of(tagged / "tags", "v2")
    for _ in range(2):
        assert headstock(*drop) == 0
        assert (open_store(tagged).tags(), verify_store(tagged).problems) == (["v1"], [])
    assert [one.path for one in collect_garbage(tagged, grace=-1)] == [f"tags/{path.name}"]
    assert headstock(*drop, "--select", "*") == 2
    write(tagged, 6)
    make_tag(tagged, "v2")
    assert verify_store(tagged).problems == []

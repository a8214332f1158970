"""The log: one file says what a store holds; lost or damaged, it is made again from the commits."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from featstore import open_store
from featstore.command_line import EXIT_ERROR, EXIT_USAGE, EXIT_VERIFY, run_command
from featstore.errors import ClaimLostError, CorruptStoreError, StoreWriteError
from featstore.identity import canonical_json, sha256_hex
from featstore.share.copy import make_tag
from featstore.store import read_log, remove_set, verify_store, write_thumbnails, writer
from featstore.store.lock import claim_set
from featstore.store.log import rebuilt_log, update_log
from featstore.testing import item_table, write_set
from headstock.__main__ import cli
from tests.damage import unseal

KEY = "birds/image/timm:toy"


def write(root: Path, n: int, dataset: str = "birds") -> str:
    items = item_table([f"birds/{i}" for i in range(n)])
    return write_set(root, np.arange(4.0 * n).reshape(n, 4), items, dataset=dataset)


@pytest.fixture
def store(tmp_path: Path) -> Path:
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


def test_a_log_is_what_the_document_says(store: Path) -> None:
    """docs/store-format.md, computed by hand."""
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
def test_a_log_is_made_again_from_the_commits(store: Path, harm: str) -> None:
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


def test_a_store_is_repaired_set_by_set(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_a_commit_without_its_log_is_as_good_as_published_where_the_log_is_lost(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_a_removed_set_does_not_come_back(store: Path) -> None:
    remove_set(store, str(open_store(store).info("fish/image/timm:toy").key))
    assert rebuilt_log(store) == read_log(store)


def test_no_change_of_many_writers_is_lost(tmp_path: Path) -> None:
    root = tmp_path / "store"
    write(root, 2)
    (store,) = read_log(root).sets.values()

    def enter(rank: int) -> None:
        for number in range(20):
            name = f"t{rank}-{number}"
            update_log(root, lambda log, name=name: replace(log, tags={**log.tags, name: store}))

    threads = [threading.Thread(target=enter, args=(rank,)) for rank in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read_log(root).tags) == 80


def test_a_change_that_is_refused_changes_nothing(store: Path) -> None:
    before = (store / "log.json").stat()

    def refuse(_: object) -> None:
        raise StoreWriteError("no")

    with pytest.raises(StoreWriteError, match="no"):
        update_log(store, refuse)  # type: ignore[arg-type]
    assert not update_log(store, lambda log: log)
    assert (store / "log.json").stat() == before


def test_a_revision_that_another_writer_published_stays(store: Path) -> None:
    info = open_store(store).info(KEY)
    directory, before = info.key.directory(store), read_log(store)
    claim = claim_set(directory, info.key)
    late = replace(info.commit, sequence=2, history=(), failed="")
    with pytest.raises(ClaimLostError):
        writer.publish_commit(store, info.key, claim, late, after=info.commit.history[0])
    claim.release()
    assert read_log(store) == before

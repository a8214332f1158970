"""Repair from another copy: what is damaged here is taken from there, block by block."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from featstore import copy_sets
from featstore.command_line import EXIT_ERROR, EXIT_VERIFY
from featstore.errors import AddressError, StoreWriteError
from featstore.extraction.job import repair_set
from featstore.store import verify_store
from tests.damage import flip, tree, unseal
from tests.featstore.remote.conftest import BLOCK, DIM
from tests.featstore.remote.test_buckets import extend
from tests.typed import headstock

#: The second data file of the sharded set: blocks 4 to 7.
DATA = "embedding/c/1/0"


def key_of(root: Path) -> str:
    (folder,) = (root / "birds" / "image").glob("timm.toy-*")
    return str(folder.relative_to(root))


@pytest.fixture
def copied(store_folder: Path, tmp_path: Path) -> Path:
    """A copy of the served store, whose files can be damaged."""
    root = tmp_path / "copied"
    shutil.copytree(store_folder, root)
    unseal(root)
    return root


def damage(root: Path) -> str:
    """Damage two of the blocks of one data file of the sharded set; return its key."""
    key = key_of(root)
    for block in (1, 3):
        flip(root / key / DATA, block * BLOCK * DIM * 4 + 5)
    assert not verify_store(root).ok
    return key


@pytest.mark.parametrize("place", ["store_folder", "served", "bucket"])
def test_two_blocks_come_from_the_copy(copied, store_folder, place, request):
    key, there, before = damage(copied), request.getfixturevalue(place), tree(store_folder)
    if place == "bucket":
        copy_sets(store_folder, there.address)
        there.requests.clear()
    address = there if place == "store_folder" else there.address or there.url
    done = repair_set(copied, key, copy=address)
    assert done.left == []
    assert done.rebuilt == [f"{key}/{DATA}"]
    assert tree(copied) == before
    if place == "bucket":
        # The bad blocks of 64 KiB, with what lies between: no other block, no other file.
        asked = [(path, part) for _, path, part in there.requests if "/embedding/c/" in path]
        assert {path.rsplit("/embedding/")[1] for path, _ in asked} == {"c/1/0"}
        assert all(int(part.split("=")[1].split("-")[0]) >= BLOCK * DIM * 4 for _, part in asked)


def test_every_file_of_a_set_comes_from_the_copy(copied, store_folder, served):
    """One file after the other is deleted, commit record and pointer too."""
    before, key = tree(store_folder), key_of(copied)
    names = [name for name in before if name.startswith(f"{key}/") and "/runs/" not in name]
    names += [name for name in before if name.startswith("birds/image/items-")]
    assert any("/revisions/" in name for name in names)
    for name in names:
        (copied / name).unlink()
        assert repair_set(copied, key, copy=served.url).left == [], name
        assert tree(copied) == before, name


def test_from_a_copy_that_has_grown(copied, store_folder, tmp_path):
    """The damaged revision is an earlier one there, its last block the beginning of another."""
    grown = tmp_path / "grown"
    shutil.copytree(store_folder, grown)
    unseal(grown)
    extend(grown, 30)
    key = key_of(copied)
    (copied / key / "embedding" / "c" / "3" / "0").unlink()
    flip(copied / key / "embedding" / "c" / "0" / "0", 0)  # a block with a failed row
    assert repair_set(copied, key, copy=grown).left == []
    assert tree(copied) == tree(store_folder)


def test_a_copy_whose_file_is_cut_has_the_rows_before_its_end(copied, store_folder, tmp_path):
    key, other = damage(copied), tmp_path / "other"
    shutil.copytree(store_folder, other)
    unseal(other)
    for left, reasons in ((3, 1), (4, 0)):  # whole blocks that the file of the copy has
        whole = (store_folder / key / DATA).read_bytes()
        (other / key / DATA).write_bytes(whole[: left * BLOCK * DIM * 4])
        done = repair_set(copied, key, copy=other)
        assert [f"{key}/{DATA} has" in reason for reason in done.reasons] == [True] * reasons
    assert tree(copied) == tree(store_folder)


def test_a_copy_with_the_same_damage_is_named(copied, tmp_path):
    key = damage(copied)
    other = tmp_path / "other"
    shutil.copytree(copied, other)
    damaged = tree(copied)
    done = repair_set(copied, key, copy=other)
    assert [problem.path for problem in done.left] == [f"{key}/{DATA}"]
    assert done.reasons[0] == f"Rows 320-383 of {key} are damaged in {other}, too."
    assert tree(copied) == damaged


def test_a_copy_of_other_rows_is_not_used(copied, tmp_path, served):
    """A set of the same name that went on otherwise lacks the revision."""
    key = damage(copied)
    extend(copied, 20, seed=9)
    damaged = tree(copied)
    done = repair_set(copied, key, copy=served.url)
    assert len(done.left) == 1
    assert f"{key} has no revision" in done.reasons[0]
    assert tree(copied) == damaged
    with pytest.raises(StoreWriteError, match="is the store that is to be repaired"):
        repair_set(copied, key, copy=copied)
    (tmp_path / "empty").mkdir()
    with pytest.raises(AddressError, match="is not a Headstock store"):
        repair_set(copied, key, copy=tmp_path / "empty")


def test_the_command(copied, store_folder, served, capsys):
    key = damage(copied)
    assert headstock("store", "repair", copied, key) == EXIT_VERIFY
    assert "--copy ADDRESS" in capsys.readouterr().out
    arguments = ["store", "repair", str(copied), key, "--copy", served.url]
    assert headstock(*arguments, "--dry-run") == EXIT_VERIFY
    assert f"Would rebuild {key}/{DATA}" in capsys.readouterr().out
    assert headstock(*arguments) == 0
    assert f"Rebuilt {key}/{DATA}" in capsys.readouterr().out
    assert tree(copied) == tree(store_folder)
    assert headstock(*arguments, "--json") == 0
    assert json.loads(capsys.readouterr().out)["rebuilt"] == []
    assert headstock("store", "repair", copied, key, "--copy", "s4://x") == EXIT_ERROR

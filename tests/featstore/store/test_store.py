"""Opening, naming and removing sets; damage is an error that names the file."""

from __future__ import annotations

import json
import shutil

import numpy as np
import polars as pl
import pytest

from featstore import FeatstoreError, open_store
from featstore.command_line import EXIT_ERROR, EXIT_USAGE
from featstore.errors import AddressError, CorruptStoreError, FormatVersionError
from featstore.store import read_thumbnails, remove_set, write_thumbnails
from featstore.testing import item_table, write_set
from tests.damage import relog, tree, unseal
from tests.typed import headstock


def test_what_is_not_a_store(tmp_path):
    with pytest.raises(AddressError, match="is not a Headstock store"):
        open_store(tmp_path)
    (tmp_path / "zarr.json").write_text('{"attributes": {"featstore": 3}}')
    with pytest.raises(CorruptStoreError, match="holds another Zarr group, no store"):
        open_store(tmp_path)


@pytest.mark.parametrize("version", [2, 4])
def test_another_format_says_what_to_do(store_path, version, capsys):
    if version == 2:  # it had no log
        path = store_path / "zarr.json"
        document = json.loads(path.read_text())
        document["attributes"]["featstore"]["format"] = version
        path.write_text(json.dumps(document))
        (store_path / "log.json").unlink()
    else:
        relog(store_path, format=version)
    before = tree(store_path)
    with pytest.raises(FormatVersionError, match=f"format {version}; .* format 3 alone. Upgrade"):
        open_store(store_path)
    with pytest.raises(FormatVersionError, match="Upgrade"):
        write_set(store_path, np.eye(2), item_table(["a", "b"]), dataset="new")
    assert tree(store_path) == before
    shutil.rmtree(store_path / "birds")
    for verb in ("ls", "show"):  # where nothing but JSON lies there
        assert headstock(verb, store_path) == EXIT_ERROR
        assert f"has store format {version}" in capsys.readouterr().err


def test_a_set_under_another_name_is_refused(store_path, images, make_set):
    other = store_path / make_set(store_path, *images, encoder="timm:other")
    mine = store_path / str(open_store(store_path).info("birds/image/toy").key)
    shutil.rmtree(mine)
    shutil.copytree(other, mine)
    log = open_store(store_path).log
    relog(store_path, sets={str(mine.relative_to(store_path)): log.sets[
        str(other.relative_to(store_path))]})  # fmt: skip
    with pytest.raises(CorruptStoreError, match="metadata of another set"):
        open_store(store_path).view("birds/image/toy")


def test_removing_keeps_what_others_use(store_path, images, make_set):
    other = make_set(store_path, *images, encoder="timm:other")
    mine = str(open_store(store_path).info("birds/image/toy").key)
    assert remove_set(store_path, mine) > 0
    assert [str(info.key) for info in open_store(store_path).sets()] == [other]
    assert len(open_store(store_path).view(other)) == 12
    remove_set(store_path, other)
    assert list((store_path / "birds" / "image").glob("items-*")) == []
    for unknown in (mine, "toy", "../x/y", "birds/image/none"):
        with pytest.raises(FeatstoreError):
            remove_set(store_path, unknown)


def test_thumbnails_merge_and_are_checked(tmp_path):
    folder = tmp_path / "birds" / "image"
    write_thumbnails(folder, {"b": b"B", "a": b"A"})
    write_thumbnails(folder, {"c": b"C"})
    assert read_thumbnails(folder) == {"a": b"A", "b": b"B", "c": b"C"}
    (path,) = folder.glob("thumbnails-*.parquet")
    before = path.stat().st_mtime_ns
    write_thumbnails(folder, {"a": b"A"})
    assert path.stat().st_mtime_ns == before
    unseal(folder)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CorruptStoreError, match="was changed after it was written"):
        read_thumbnails(folder)
    assert read_thumbnails(folder / "none") == {}


def test_bias_follows_the_selection(tmp_path, images, make_set):
    rows, items = images
    items = items.with_columns(pl.lit("head_weight").alias("kind"))
    key = make_set(tmp_path, rows, items, kind="head_weight", bias=np.arange(12.0))
    view = open_store(tmp_path).view(key)
    assert (view.bias.tolist(), view.take([7, 2]).bias.tolist()) == ([*range(12)], [7, 2])


def test_a_damaged_set_is_listed_and_can_be_removed(store_path, images, make_set, capsys):
    healthy = make_set(store_path, *images, encoder="timm:other")
    mine = str(open_store(store_path).info("birds/image/toy").key)
    for commit in (store_path / mine / "revisions").iterdir():
        commit.unlink()
    assert headstock("ls", store_path) == 4
    assert f"{mine}" in (said := capsys.readouterr().out)
    assert "damaged: " in said
    for words, why in (
        ([mine], f"{mine} would be lost to {store_path}: add --yes"),
        (["birds/image/tyo", "--yes"], "Did you mean 'birds/image/timm.toy'?"),
    ):
        assert headstock("store", "rm", store_path, *words) == EXIT_USAGE
        assert why in capsys.readouterr().err
    assert headstock("store", "rm", store_path, mine, "--yes") == 0
    assert [str(info.key) for info in open_store(store_path).sets()] == [healthy]
    assert len(open_store(store_path).view(healthy)) == 12

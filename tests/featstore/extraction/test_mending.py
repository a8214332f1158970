"""Repair from a manifest: only bad blocks are encoded, the tree is byte for byte what it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import featstore
import featstore.encoders.object_encoder
from featstore.extraction.repair import repair_set
from featstore.manifest.io import write_manifest
from featstore.manifest.manifest import Manifest
from featstore.store.verify import verify_store
from featstore.store.writer import SetWriter
from tests.featstore.extraction.conftest import SPACE, MeanColour
from tests.featstore.extraction.damage import DATA, BatchSensitive, Other, extract, flip, mend, tree


def test_a_flipped_byte_costs_one_block(manifest: Manifest, store: Path) -> None:
    key = extract(manifest, store)
    before = tree(store)
    flip(store / key / DATA, 5 * 4 * 4 + 3)
    done, encoder = mend(store, key, manifest)
    assert done.left == []
    assert done.rebuilt == [f"{key}/{DATA}"]
    assert done.encoded == [{"file": f"{key}/{DATA}", "block": 1, "rows": [4, 7]}]
    # One call measures the dimension; the block's four rows are two batches.
    assert encoder.batches == [1, 2, 2]
    assert tree(store) == before


def _shards(manifest: Manifest, store: Path) -> str:
    """Extract into several data files, which a job of so few rows would not make."""
    items = manifest.tables["image"]
    encoder = featstore.encoders.object_encoder.ObjectEncoder(BatchSensitive(), SPACE, {"image"})
    from featstore.extraction.batches import BatchRunner
    from featstore.extraction.pipeline import Preparation, encode_block
    from featstore.sources.reader import ByteReader

    runner = BatchRunner(encoder, 3, device="cpu", halve=False)

    with (
        SetWriter(
            store, dataset="toy", kind="image", encoder=encoder.name, space=encoder.space,
            items=items, dim=4, dtype="float32", block_rows=4, plain_bytes=0, shard_bytes=1,
        ) as writer,
        Preparation(
            ByteReader(manifest.root), [runner], workers=1, decode_timeout=None
        ) as preparation,
    ):  # fmt: skip
        for block in writer.pending():
            part = items[writer.layout.block_slice(block)]
            output = encode_block(part, preparation)
            writer.write_block(block, output.rows[0])
        writer.finish(run={"batch": 3, "threads": None, "device": "cpu"})
    return str(writer.key)


@pytest.mark.parametrize(
    ("damage", "rows"),
    [
        (lambda path: path.unlink(), [[0, 3], [4, 7], [8, 10]]),
        (lambda path: path.write_bytes(path.read_bytes()[:70]), [[4, 7], [8, 10]]),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), []),
        (lambda path: flip(path, 9 * 16), [[8, 10]]),
        (lambda path: flip(path, -1), []),
    ],
    ids=["deleted", "truncated", "longer", "flipped row", "flipped index"],
)
def test_damaged_shards(manifest: Manifest, store: Path, damage: Any, rows: list[Any]) -> None:
    key = _shards(manifest, store)
    before = tree(store)
    path = store / key / DATA
    path.chmod(0o644)
    damage(path)
    done, _ = mend(store, key, manifest)
    assert done.left == []
    assert [entry["rows"] for entry in done.encoded] == rows
    assert tree(store) == before


def test_each_recorded_plan_is_tried(manifest: Manifest, store: Path) -> None:
    key = extract(manifest, store, batch_size=3)
    (run,) = (store / key / "runs").glob("*.json")
    newer = run.with_name("29990101T000000-later.json")
    newer.write_text(json.dumps({**json.loads(run.read_text()), "batch": 2}))
    before = tree(store)
    flip(store / key / DATA, 3)
    done, encoder = mend(store, key, manifest)
    assert done.left == []
    assert encoder.batches == [1, 2, 2, 3, 1]
    assert tree(store) == before


@pytest.mark.parametrize("encoder", [Other(), MeanColour()], ids=["last bits", "batch"])
def test_what_comes_out_otherwise_is_not_written(
    manifest: Manifest, store: Path, encoder: Any
) -> None:
    key = extract(manifest, store, dtype="float32")
    (store / key / DATA).chmod(0o644)
    (store / key / DATA).unlink()
    damaged = tree(store)
    done, _ = mend(store, key, manifest, encoder)
    assert [problem.path for problem in done.left] == [f"{key}/{DATA}"]
    assert tree(store) == damaged
    assert done.encoded == []
    (said,) = done.reasons
    assert "rows 0-3 were made again (batch 2, all threads, cpu) and are not those" in said
    assert "Nothing was overwritten. The set must be extracted anew" in said
    assert done.commands[0] == f"featstore rm {store} {key} --yes"


def test_the_nearness_is_said_and_versions_are_named(manifest: Manifest, store: Path) -> None:
    key = extract(manifest, store)
    (run,) = (store / key / "runs").glob("*.json")
    facts = json.loads(run.read_text())
    facts["versions"]["numpy"] = "1.0"
    run.chmod(0o644)
    run.write_text(json.dumps(facts))
    # A last bit, which nothing can tell from another library's.
    flip(store / key / DATA, 0, mask=1)
    done, _ = mend(store, key, manifest, Other())
    (said,) = done.reasons
    assert "0 of 4 rows are bitwise those stored; cosine of the others" in said
    assert "median 1.000000, least 1.0" in said
    assert f"numpy 1.0 (here {np.__version__})" in said


def test_far_off_values_alone_are_replaced(manifest: Manifest, store: Path) -> None:
    """With other last bits everywhere, the one damaged value may still come out right."""
    key = extract(manifest, store, dtype="float16", encoder=MeanColour())
    before = tree(store)
    # Rounded to float16, last bits of float32 seldom show.
    flip(store / key / DATA, 1, mask=0x40)
    done, _ = mend(store, key, manifest, Other())
    assert done.left == []
    assert tree(store) == before


@pytest.mark.parametrize("name", ["items", "golden.json", "embedding/zarr.json", "zarr.json"])
@pytest.mark.parametrize("how", ["flip", "delete"])
def test_small_files_come_back(manifest: Manifest, store: Path, name: str, how: str) -> None:
    key = extract(manifest, store)
    before = tree(store)
    path = store / key / name
    if name == "items":
        (path,) = (store / "toy" / "image").glob("items-*.parquet")
    if how == "flip":
        flip(path, path.stat().st_size // 2, mask=0xFF)
    else:
        path.unlink()
    done = repair_set(store, key, manifest=manifest, encoder=BatchSensitive(), space=SPACE)
    assert done.left == [], done
    assert tree(store) == before


@pytest.mark.parametrize("failed", [False, True])
def test_a_damaged_commit_follows_from_what_it_names(
    manifest: Manifest, store: Path, *, failed: bool
) -> None:
    if failed:
        (manifest.root / "images" / "03.png").unlink()
    key = extract(manifest, store, block_rows=4096)
    before = tree(store)
    (path,) = (store / key / "revisions").glob("*.json")
    flip(path, 40)
    assert not verify_store(store).ok
    done = repair_set(store, key)
    assert done.left == []
    assert tree(store) == before
    # Together with a damaged row it does not: nothing says what was stored.
    flip(path, 40)
    flip(store / key / DATA)
    damaged = tree(store)
    done, _ = mend(store, key, manifest)
    assert len(done.left) >= 1
    assert done.commands[0].startswith("featstore rm")
    assert tree(store) == damaged


def test_failed_rows_stay_failed_and_their_reasons_come_back(
    manifest: Manifest, store: Path
) -> None:
    gone = manifest.root / "images" / "05.png"
    data = gone.read_bytes()
    gone.write_bytes(data[:40])
    key = extract(manifest, store)
    before = tree(store)
    flip(store / key / DATA, 4 * 16)
    (store / key / "failures.parquet").unlink()
    done, _ = mend(store, key, manifest)
    assert done.left == []
    assert tree(store) == before
    # Were it readable now, its row would stay as the commit has it: failed.
    gone.write_bytes(data)
    flip(store / key / DATA, 4 * 16)
    done, _ = mend(store, key, manifest)
    assert done.left == []
    assert tree(store) == before


def test_an_item_that_cannot_be_read_any_more_is_named(manifest: Manifest, store: Path) -> None:
    key = extract(manifest, store)
    (manifest.root / "images" / "06.png").unlink()
    flip(store / key / DATA, 4 * 16)
    done, _ = mend(store, key, manifest)
    assert "1 items cannot be read any more, first 'toy/06'" in done.reasons[0]
    assert len(done.left) == 1


def test_rows_of_another_set_are_a_source(manifest: Manifest, store: Path) -> None:
    key = extract(manifest, store)
    again = write_manifest(
        manifest.root, facts={"name": "copy", "revision": "1"}, tables=dict(manifest.tables)
    )
    extract(again, store)
    before = tree(store)
    flip(store / key / DATA, 2)
    done = repair_set(store, key)
    assert done.left == []
    assert done.encoded == []
    assert tree(store) == before


def test_rows_that_were_appended_are_encoded_as_they_were(manifest: Manifest, store: Path) -> None:
    """The first five rows and the rest were made by two runs, in the same block."""
    for limit in (5, None):
        key = extract(manifest, store, limit=limit, batch_size=4, block_rows=4096)
    before = tree(store)
    (store / key / DATA).unlink()  # nothing to compare with: the rows must come out right
    for path in (store / "toy" / "image").glob("items-*.parquet"):
        path.unlink()
    done, _ = mend(store, key, manifest)
    assert done.left == []
    assert tree(store) == before


def test_rows_that_were_copied_are_copied_again(manifest: Manifest, store: Path) -> None:
    """Five rows came from another dataset, where they lay in other batches."""
    table = manifest.tables["image"]
    some = write_manifest(
        manifest.root, facts={"name": "some", "revision": "1"}, tables={"image": table[3:8]}
    )
    extract(some, store, block_rows=4096)
    key = extract(manifest, store, batch_size=4, block_rows=4096)
    (run,) = (store / key / "runs").glob("*.json")
    assert json.loads(run.read_text())["copied"] == 5
    before = tree(store)
    (store / key / DATA).unlink()  # nothing to compare with: the rows must come out right
    done, encoder = mend(store, key, manifest)
    assert done.left == []
    assert encoder.batches[-2:] == [4, 2]
    assert tree(store) == before


def test_views_are_drawn_again(manifest: Manifest, store: Path) -> None:
    key = extract(manifest, store, views=2, seed=7)
    before = tree(store)
    flip(store / key / DATA, 5 * 16)
    (path,) = (store / key).parent.glob("items-*.parquet")
    path.unlink()
    done, _ = mend(store, key, manifest)
    assert done.left == []
    assert tree(store) == before

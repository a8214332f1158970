"""Options of encoders at the command line and in a file: each makes the space that it says."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import polars as pl
import pytest
import timm
from PIL import Image
from safetensors.torch import save_file

import featstore
from featstore import write_manifest
from featstore.encoders.registry import open_encoder
from featstore.extraction.job import next_commands
from featstore.identity import space_id
from tests.featstore.encoders.text_models import edit_json, save_kind
from tests.featstore.nasty_images import noise
from tests.typed import headstock


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Two pictures and two captions."""
    root = tmp_path_factory.mktemp("toy")
    for number in range(2):
        Image.fromarray(noise(40, 60, seed=number)).save(root / f"{number}.png")
    tables = {
        "image": pl.DataFrame({"item_id": ["a", "b"], "uri": ["0.png", "1.png"]}),
        "caption": pl.DataFrame(
            {"item_id": ["a#0", "b#0"], "text": ["a photo of a dog", "rain " * 20]}
        ),
    }
    write_manifest(root, facts={"name": "toy"}, tables=tables)
    return root


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tiny_text_original):
    """Weights of a family: a model with two prompts, one without a pooling, one of pictures."""
    root = tmp_path_factory.mktemp("models")
    text = Path(shutil.copytree(tiny_text_original, root / "text"))
    prompts = {"query": "query: ", "passage": "passage: "}
    named = text / "config_sentence_transformers.json"
    edit_json(named, prompts=prompts, default_prompt_name="query")
    save_file(timm.create_model("test_vit").state_dict(), root / "vit.safetensors")
    return {
        "st": text,
        "hf": save_kind("roberta", root / "roberta"),
        "timm": root / "vit.safetensors",
    }


NAMES = {"st": "st:tiny", "hf": "hf:tiny", "timm": "timm:test_vit"}
#: By family: what is typed, and the same for `open_encoder`. The first is where others differ from.
TYPED = {
    "st": [
        ([], {}),
        (["-s", "prefix=text: "], {"prefix": "text: "}),
        (["-s", "prefix="], {"prefix": ""}),
        (["-s", "prompt_name=passage"], {"prompt_name": "passage"}),
        (["-s", "max_length=8"], {"max_length": 8}),
        (["--trust-remote-code"], {"trust_remote_code": True}),
    ],
    "hf": [
        (["-s", "pool=mean"], {"pool": "mean"}),
        (["-s", "pool=cls"], {"pool": "cls"}),
        (["-s", "pool=pooler"], {"pool": "pooler"}),
        (["-s", "pool=mean", "-s", "prefix=query: "], {"pool": "mean", "prefix": "query: "}),
        (["-s", "pool=mean", "-s", "max_length=8"], {"pool": "mean", "max_length": 8}),
        (["-s", "pool=mean", "--trust-remote-code"], {"pool": "mean", "trust_remote_code": True}),
    ],
    "timm": [
        ([], {}),
        (["-s", "pool=cls"], {"pool": "cls"}),
        (["-s", "pool=patch_mean"], {"pool": "patch_mean"}),
        (["-s", "pool=cls+patch_mean"], {"pool": "cls+patch_mean"}),
        (["-s", "pool=layer:blocks.0"], {"pool": "layer:blocks.0"}),
        (["-s", "layers=blocks.1"], {"pool": "layer:blocks.1"}),
    ],
}


def job(family: str, manifest: Path, weights: Path, store: Path) -> list[object]:
    kind = "image" if family == "timm" else "caption"
    # Decoded in threads: where, is no part of a space.
    return [manifest, "--kind", kind, "--encoder", NAMES[family], "--weights", weights,
            "--store", store, "-s", "timeout=0"]  # fmt: skip


@pytest.mark.parametrize("family", TYPED)
def test_each_option_makes_the_space_that_it_says(family, manifest, folders, tmp_path, capsys):
    ids = []
    for number, (typed, options) in enumerate(TYPED[family]):
        store = tmp_path / str(number)
        what = job(family, manifest, folders[family], store)
        assert headstock("extract", *what, *typed) == 0
        (info,) = featstore.open_store(store).sets()
        kind = info.key.kind
        encoder = open_encoder(NAMES[family], kind=kind, weights=folders[family], **options)
        assert info.commit.space_id == space_id(encoder.space)
        ids.append(info.commit.space_id)
        (record,) = (store / str(info.key) / "runs").glob("*.json")
        (asked,) = json.loads(record.read_text())["settings"]["encoders"]
        recorded = {name: value for name, value in options.items() if name != "trust_remote_code"}
        assert asked == {"encoder": NAMES[family], "weights": folders[family].name, **recorded}
    assert len(set(ids)) == len(ids)
    # A dry run with the same options finds the set.
    capsys.readouterr()
    assert headstock("extract", *what, *typed, "--dry-run", "--json") == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["key"], found["state"]) == (str(info.key), "finished")


def test_each_encoder_has_its_own_settings(manifest, folders, tmp_path, capsys):
    store = tmp_path / "store"
    words = ["extract", manifest, "--kind", "caption", "--store", store, "--json"]
    for family in ("st", "st", "st", "hf"):
        words += ["--encoder", NAMES[family], "--weights", folders[family]]
    words += ["-s", "st:tiny#2.prefix=", "-s", "st:tiny#3.prompt-name=passage", "-s", "pool=cls"]
    assert headstock(*words, "-s", "hf:tiny.max_length=8") == 0
    results = json.loads(capsys.readouterr().out)
    opened = featstore.open_store(store)
    expected = [{}, {"prefix": ""}, {"prompt_name": "passage"}, {"pool": "cls", "max_length": 8}]
    for result, options in zip(results, expected, strict=True):
        family = "hf" if "pool" in options else "st"
        encoder = open_encoder(NAMES[family], weights=folders[family], **options)
        assert opened.info(result["key"]).commit.space_id == space_id(encoder.space)
    # One text is longer than 8 tokens: the model does not see all of it, and that is said.
    assert results[3]["truncated_items"] == ["b#0"]


@pytest.mark.parametrize(("family", "typed", "code", "match"), [
    ("st", "prompt_name=query prefix=x", 1, "both prompt_name='query' and pref"),
    ("st", "max_length=65", 1, "at least 1 and at most 64, the positions that it has"),
    (
        "st",
        "st:tiny.pool=cls",
        2,
        "named 'pool' of st:tiny. Known settings: prefix, prompt_name",
    ),
    ("hf", "pool=mean prompt_name=query", 2, "No setting named 'prompt_name' of hf:tiny, "),
    ("timm", "pool=layer:block.0", 2, "No module named 'block.0'.*Did you mean 'blocks"),
    ("timm", "layers=norm,block.0", 2, r"'block.0'.*\(layers: patch_embed, .*blocks.0"),
    ("timm", "--trust-remote-code", 1, "timm:test_vit takes no trust_remote_code"),
    ("timm", "--kind head_weight pool=cls", 1, "no label set"),
])  # fmt: skip
@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_value_that_does_not_go_says_what_does(
    more, family, typed, code, match, manifest, folders, tmp_path, capsys
):
    what = job(family, manifest, folders[family], tmp_path / "store")
    if "head_weight" in typed:
        what = [part for part in what if part not in ("--kind", "image")]
    words = [word for one in typed.split() for word in (["-s", one] if "=" in one else [one])]
    assert headstock("extract", *what, *words, *more) == code
    said = capsys.readouterr().err
    assert re.search(match, said)
    assert not (tmp_path / "store").exists()


def test_the_way_to_make_a_set_anew_names_its_options(manifest, folders, tmp_path):
    """The command that makes a damaged set anew makes that set, and not another."""
    store = tmp_path / "store"
    what = job("st", manifest, folders["st"], store)
    typed = ["-s", "prefix=a picture of: ", "-s", "max_length=9"]
    assert headstock("extract", *what, *typed) == 0
    (info,) = featstore.open_store(store).sets()
    _, anew = next_commands(store, info.key, {})
    assert f"--weights FOLDER/{folders['st'].name}" in anew
    anew = anew.replace("FOLDER", str(folders["st"].parent))
    for command in anew.replace("MANIFEST", str(manifest)).split(" && "):
        assert headstock(*shlex.split(command)[1:]) == 0
    (again,) = featstore.open_store(store).sets()
    assert (again.key, again.commit.revision_id) == (info.key, info.commit.revision_id)

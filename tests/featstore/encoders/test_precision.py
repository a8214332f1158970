"""Precisions: what is switched on and off around a forward pass, and float16 without a GPU."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import timm
import torch

from featstore.encoders import runtime, timm_image
from featstore.encoders.base import EncoderOptions
from featstore.encoders.golden import (
    GoldenCosine,
    golden_cosine,
    golden_images,
    golden_vectors,
)
from featstore.encoders.registry import open_encoder
from featstore.encoders.runtime import PRECISIONS, TorchEncoder, computing
from featstore.encoders.timm_image import PooledTimmEncoder, TimmEncoder
from featstore.errors import EncoderError

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


def test_no_thread_sees_tf32_while_it_computes_in_float32(switches):
    """One thread enters first and leaves first: what it puts back, the other must not see."""
    for switch in switches:
        switch.allow_tf32 = True
    entered, left = threading.Barrier(2, timeout=10), threading.Event()

    def compute_briefly():
        with computing("float32", CPU):
            entered.wait()  # the other has come in meanwhile
            entered.wait()
        left.set()

    thread = threading.Thread(target=compute_briefly)
    thread.start()
    entered.wait()
    with computing("float32", CPU):
        entered.wait()
        assert left.wait(10)
        assert [switch.allow_tf32 for switch in switches] == [False, False]
    thread.join()
    assert [switch.allow_tf32 for switch in switches] == [True, True]


class Plain(TorchEncoder):
    """The least that an encoder is."""

    kinds = frozenset({"image"})
    own_batch_size = 32
    dim = 2

    def prepare(self, item):
        return item

    def _computed(self, batch, *, exact):
        return np.ones((len(batch), 2), np.float32)


@pytest.mark.parametrize(
    ("device", "cosine", "batch", "precision", "said"),
    [
        ("cpu", 1.0, 32, "float32", "the default on cpu"),
        ("cuda", 0.9991, 256, "bfloat16", "keeps a cosine of 0.9991"),
        ("cuda:1", 0.9989, 256, "float32", "0.9989 to float32, less than 0.999"),
    ],
)
def test_precision_and_batch_by_device(device, cosine, batch, precision, said, monkeypatch):
    monkeypatch.setattr(runtime, "checked_device", torch.device)
    encoder = Plain("plain", EncoderOptions(device=device))
    looked_at = []

    def golden(of):
        looked_at.append(of.precision)
        return GoldenCosine(cosine, cosine)

    monkeypatch.setattr(runtime, "golden_cosine", golden)
    found, reason = encoder.best_precision()
    assert (encoder.batch_size, found) == (batch, precision)
    assert said in reason
    assert looked_at == ([] if device == "cpu" else ["bfloat16"])
    assert encoder.precision == "float32"
    assert encoder.precisions[:2] == ["float32", "bfloat16"]
    assert ("float16" in encoder.precisions) is (device != "cpu")


def test_a_precision_is_taken_and_recorded():
    encoder = TimmEncoder("timm:test_vit", timm.create_model("test_vit"))
    exact = golden_vectors(encoder)
    encoder.compute_in("bfloat16", "the test says so")
    assert np.abs(golden_vectors(encoder) - exact).max() > 0
    compute = encoder.facts["compute"]
    assert (compute["precision"], compute["autocast"]) == ("bfloat16", True)
    assert encoder.precision_reason == "the test says so"
    with pytest.raises(EncoderError, match="GPUs only"):
        encoder.compute_in("float16", "")


def test_only_what_is_kept_comes_to_the_host(monkeypatch):
    """The logits of 1,000 classes stay on the device unless the head is checked."""
    copied = []

    class Counted(runtime.HostCopy):
        def __init__(self, tensor):
            copied.append(tuple(tensor.shape))
            super().__init__(tensor)

    monkeypatch.setattr(timm_image, "HostCopy", Counted)
    encoder = TimmEncoder("timm:test_vit", timm.create_model("test_vit"))
    batch = [encoder.prepare(picture) for picture in golden_images()]
    encoder.encode(batch)
    assert copied == [(4, encoder.dim)]
    encoder.encode_checked(batch)
    assert copied[1:] == [(4, encoder.dim), (4, 1000)]
    copied.clear()
    pooled = PooledTimmEncoder(
        "timm:test_vit", timm.create_model("test_vit"), EncoderOptions(pool="patch_mean")
    )
    pooled.encode(batch)
    assert copied == [(4, pooled.dim)]  # reduced on the device, not its tokens


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

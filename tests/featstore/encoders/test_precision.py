"""Precisions: what is switched on and off around a forward pass, and float16 without a GPU."""

import threading

import numpy as np
import pytest
import timm
import torch

from featstore.encoders import runtime
from featstore.encoders.base import EncoderOptions
from featstore.encoders.runtime import PRECISIONS, TorchEncoder, computing
from featstore.encoders.timm import TimmEncoder
from featstore.errors import EncoderError
from tests.featstore.encoders.conftest import golden_vectors

CPU = torch.device("cpu")


B = torch.backends
SWITCHES = (
    [B.cuda.matmul, B.cudnn.conv, B.cudnn.rnn, B.mkldnn.matmul, B.mkldnn.conv, B.mkldnn.rnn]
    if hasattr(B.cudnn, "conv")  # since torch 2.9
    else []
)

#: What a program may have typed, of today's switches and of those before torch 2.9.
TYPED = {
    "default": "pass",
    "all tf32": "B.fp32_precision = 'tf32'",
    "all ieee": "B.fp32_precision = 'ieee'",
    "products tf32": "B.cuda.matmul.fp32_precision = 'tf32'",
    "convolutions ieee": "B.cudnn.conv.fp32_precision = 'ieee'",
    "cudnn tf32": "B.cudnn.fp32_precision = 'tf32'",
    "bf16 on CPUs": "B.mkldnn.matmul.fp32_precision = B.mkldnn.conv.fp32_precision = 'bf16'",
    "medium": "torch.set_float32_matmul_precision('medium')",
    "products, before 2.9": "B.cuda.matmul.allow_tf32 = True",
}


@pytest.fixture
def switches():
    """Switches of the process, put back afterwards."""
    if not SWITCHES:
        pytest.skip("needs torch 2.9")
    before = [switch.fp32_precision for switch in SWITCHES]
    whole = B.fp32_precision, B.cudnn.fp32_precision
    yield SWITCHES
    B.fp32_precision, B.cudnn.fp32_precision = whole
    torch.set_float32_matmul_precision("highest")
    for switch, value in zip(SWITCHES, before, strict=True):
        switch.fp32_precision = value


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("typed", TYPED.values(), ids=TYPED)
def test_float32_is_whole_whatever_the_process_chose_and_put_back(precision, typed, switches):
    exec(typed)
    chosen = [switch.fp32_precision for switch in switches]
    with computing(precision, CPU):
        assert {switch.fp32_precision for switch in switches} == {"ieee"}
    assert [switch.fp32_precision for switch in switches] == chosen
    with pytest.raises(ZeroDivisionError), computing(precision, CPU):
        _ = 1 / 0
    assert [switch.fp32_precision for switch in switches] == chosen


@pytest.fixture(scope="module")
def plain():
    """Encoders of products and of convolutions, and their rows where nobody chose anything."""
    models = [TimmEncoder(f"timm:{n}", timm.create_model(n)) for n in ("test_vit", "test_resnet")]
    return [(encoder, golden_vectors(encoder)) for encoder in models]


@pytest.mark.parametrize("typed", TYPED.values(), ids=TYPED)
def test_rows_are_the_same_whatever_the_process_chose(plain, typed, switches):
    """Processors with AMX multiply float32 in bfloat16 where they may: 0.27 off in 512 columns."""
    exec(typed)
    for encoder, rows in plain:
        np.testing.assert_array_equal(golden_vectors(encoder), rows)


def test_no_thread_sees_tf32_while_it_computes_in_float32(switches):
    """One thread enters first and leaves first: what it puts back, the other must not see."""
    B.fp32_precision = "tf32"
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
        assert {switch.fp32_precision for switch in switches} == {"ieee"}
    thread.join()
    assert {switch.fp32_precision for switch in switches} == {"tf32"}


class Plain(TorchEncoder):
    """The least that an encoder is."""

    kinds = frozenset({"image"})
    own_batch_size = 32
    dim = 2

    def prepare(self, item):
        return item

    def _computed(self, batch, *, exact):
        return np.ones((len(batch), 2), np.float32)


@pytest.mark.parametrize(("device", "capability", "cosine", "batch", "precision", "said"), [
    ("cpu", (8, 0), 1.0, 32, "float32", "the default on cpu"),
    ("cuda", (8, 0), 0.9991, 256, "bfloat16", "keeps a cosine of 0.9991"),
    ("cuda:1", (8, 0), 0.9989, 256, "float32", "0.9989 to float32, less than 0.999"),
    ("cuda", (7, 5), 1.0, 256, "float32", "needs compute capability 8.0, and this GPU has 7.5"),
])  # fmt: skip
def test_precision_and_batch_by_device(
    device, capability, cosine, batch, precision, said, monkeypatch
):
    """The capability is injected: no GPU is here. All else is the code that a GPU runs."""
    monkeypatch.setattr(runtime, "checked_device", torch.device)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    encoder = Plain("plain", EncoderOptions(device=device))
    looked_at = []

    def golden(of):
        looked_at.append(of.precision)
        return cosine

    monkeypatch.setattr(runtime, "golden_cosine", golden)
    found, reason = encoder.best_precision()
    assert (encoder.batch_size, found) == (batch, precision)
    assert said in reason
    assert looked_at == ([] if device == "cpu" or capability < (8, 0) else ["bfloat16"])
    assert encoder.precision == "float32"
    assert encoder.precisions[:2] == ["float32", "bfloat16"]
    assert ("float16" in encoder.precisions) is (device != "cpu")


def test_a_trial_that_raises_means_float32(monkeypatch):
    class Raises(Plain):
        encode_float32 = Plain.encode

        def _computed(self, batch, *, exact):
            assert self.precision == "bfloat16"
            raise RuntimeError('"upsample_bicubic2d" not implemented\nfor BFloat16')

    monkeypatch.setattr(runtime, "checked_device", torch.device)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    encoder = Raises("plain", EncoderOptions(device="cuda"))
    said = 'in bfloat16 the golden inputs failed: "upsample_bicubic2d" not implemented for BFloat16'
    assert encoder.best_precision() == ("float32", said)
    assert encoder.precision == "float32"


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


@pytest.mark.parametrize("precision", PRECISIONS)
def test_autocast_is_on_in_its_dtype_or_off(precision):
    a = torch.ones(2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16), computing(precision, CPU):
        assert (a @ a).dtype is getattr(torch, precision)
        assert torch.is_autocast_enabled("cpu") is (precision != "float32")
    assert (a @ a).dtype is torch.float32

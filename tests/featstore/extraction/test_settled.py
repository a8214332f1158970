"""What ``auto`` stands for: device and precision."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

import featstore
from featstore import EncoderSpec, ExtractConfig, parallel
from featstore.encoders.registry import open_encoder
from featstore.encoders.runtime import TorchEncoder
from featstore.errors import EncoderError
from featstore.extraction import engines
from featstore.extraction.engines import Rank, extract_rank, open_on, run_part, settle
from featstore.extraction.options import HeadConfig, settle_device
from featstore.extraction.targets import Job, settle_precision
from featstore.store import read_commit
from tests.featstore.extraction.conftest import SPACE, MeanColour, Stop, stop_after

NAME = "timm:test_vit"


def _config(**changes: Any) -> ExtractConfig:
    given = {"block_rows": 4, "batch_size": 2, "decode_timeout": None, "threads": 1, **changes}
    return ExtractConfig(**given)


@pytest.mark.parametrize(
    ("best", "why"),
    [("cpu", "no GPU here"), ("cuda", "can use this GPU"), ("mps", "can use this GPU")],
)
def test_the_device(best, why, monkeypatch):
    monkeypatch.setattr(parallel, "best_device", lambda: best)
    settled = settle_device(ExtractConfig(), [EncoderSpec(NAME)])
    assert settled.device == best
    assert why in settled.device_reason
    # What is asked for is taken, and an object runs where it likes.
    asked = ExtractConfig(device="cuda:3")
    assert settle_device(asked, [EncoderSpec(NAME)]) is asked
    thing = EncoderSpec(MeanColour(), space=SPACE)
    assert settle_device(ExtractConfig(), [thing]).device == "cpu"


def test_a_head_is_read_on_the_cpu():
    assert HeadConfig(device="auto").device == "cpu"
    assert HeadConfig(device="cuda").device == "cuda"


class Choosy:
    """Finds bfloat16 best, and notes what it is told to compute in."""

    precisions = ("float32", "bfloat16")

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def best_precision(self) -> tuple[str, str]:
        return "bfloat16", "best"

    def compute_in(self, precision: str, reason: str) -> None:
        self.told.append((precision, reason))


@pytest.mark.parametrize(
    ("there", "pinned", "expected"),
    [
        ((), None, ("bfloat16", "best")),
        (("float32",), None, ("float32", "the precision of the set in the store")),
        (("bfloat16",), None, ("bfloat16", "the precision of the set in the store")),
        (("float32",), {"bfloat16": {}}, ("bfloat16", "the precision of the set in the store")),
        ((), {"float32": {}}, ("float32", "the precision of the set in the store")),
    ],
)
def test_the_precision(there, pinned, expected):
    """That of the plan, else of the set that is there or begun, else the encoder's best."""

    def spec_in(precision: str) -> Any:
        return SimpleNamespace(set_id=precision)

    def is_there(spec: Any) -> bool:
        return spec.set_id in there

    encoder = Choosy()
    config = ExtractConfig(pinned=pinned)
    assert settle_precision(encoder, config, is_there, spec_in) == expected[0]
    assert encoder.told == [expected]
    # What is asked for is taken, and an encoder without a choice at its word.
    asked = ExtractConfig(precision="float16")
    assert settle_precision(encoder, asked, is_there, spec_in) == "float16"
    assert settle_precision(object(), config, is_there, spec_in) == "float32"


def test_the_same_command_goes_on_with_what_the_set_was_begun_with(manifest, store, weights):
    def run(**changes: Any) -> featstore.ExtractResult:
        return featstore.extract(
            manifest, kind="image", encoder=NAME, weights=weights, store=store,
            config=_config(**changes),
        )  # fmt: skip

    with pytest.raises(Stop):
        run(precision="bfloat16", on_block=stop_after(1))
    result = run()
    assert (result.new, result.reused) == (7, 4)
    directory = store / result.key
    assert featstore.open_store(store).info(result.key).attributes["precision"] == "bfloat16"
    (path,) = (directory / "runs").glob("*.json")
    recorded = featstore.durable.read_json(path)
    assert (recorded["device"], recorded["settings"]["precision"]) == ("cpu", "bfloat16")
    assert read_commit(directory, result.revision_id).n == 11
    assert run().reused == 11
    # Another precision, asked for, is another set as ever.
    assert run(precision="float32").new == 11


def test_a_rank_takes_its_own_gpu(manifest, store, weights, monkeypatch):
    """On a machine with a GPU, as far as one can have it without."""
    asked: list[str] = []
    opening = open_encoder

    def on_cpu(name: str, *, device: str, **options: Any) -> Any:
        asked.append(device)
        return opening(name, device="cpu", **options)

    monkeypatch.setattr(parallel, "best_device", lambda: "cuda")
    monkeypatch.setattr(engines, "local_device", lambda device: device.replace("cuda", "cuda:2"))
    monkeypatch.setattr("featstore.encoders.registry.open_encoder", on_cpu)
    choices = [EncoderSpec(NAME, weights=weights)]
    for rank in range(2):
        (done,) = extract_rank(Job(manifest, "image", choices, store, _config()), Rank(rank, 2))
    assert done.blocks_left == 0
    assert asked == ["cuda:2", "cuda:2"]


def test_a_worker_computes_in_the_precision_of_the_plan(manifest, store, weights, monkeypatch):
    """Of two devices, each of which finds another precision best."""
    best = iter([("bfloat16", "best"), ("float32", "best"), ("float32", "best")])
    monkeypatch.setattr(TorchEncoder, "best_precision", lambda self: next(best))
    job = Job(manifest, "image", (EncoderSpec(NAME, weights=weights),), store, _config())
    one, two = open_on(job, "cpu"), open_on(job, "cpu")
    pinned, *_ = settle(one)
    with pytest.raises(EncoderError, match=r"The plan of the job has no .*, in float32 as cpu"):
        run_part(two, (1, 2), {"another": {}})
    (part,) = run_part(two, (1, 2), pinned)
    (whole,) = run_part(one, None, pinned)
    assert (part.key, part.new, whole.new) == (whole.key, 4, 7)
    (only,) = featstore.open_store(store).sets()
    assert only.attributes["precision"] == "bfloat16"

"""All that `make gpu` checks, on cards that are not there: rows and races, not speed.

That a fake card sees each kind of race show the mutants of `tests.mutants.table`.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from packaging.specifiers import SpecifierSet

import featstore
from featstore import EncoderSpec, ExtractConfig, Manifest, extract_many
from featstore.encoders import runtime
from featstore.encoders.base import golden_cosine, golden_images, golden_inputs
from featstore.encoders.registry import open_encoder
from featstore.encoders.timm import TimmEncoder
from featstore.errors import DeviceError
from featstore.extraction.engines import Worker, conduct, parse_devices, to_send
from featstore.extraction.targets import Job
from fitters import Pairs
from fitters.trained import PRESETS, preset
from tests.gpu.conftest import Cards
from tests.gpu.fake_card import TORCH, CannotBuildError, Card, fake_cards, load_guard
from tests.gpu.run import COSINE, manifest_of, random_weights, smallest_cosine

VIT, CONV = "timm:test_vit", "timm:test_convnext"

#: Largest difference of a float32 row from the CPU's: other kernels add in another order.
SAME = 1e-4


# ---- the cards themselves ------------------------------------------------------------------


def test_nothing_arrives_before_somebody_waits_and_two_cards_do_not_mix(cards: Cards):
    with cards(Card(), Card()):
        values = torch.arange(6.0).to("cuda")
        assert (values.device, values.is_cuda) == (torch.device("cuda:0"), True)
        assert float((values[values > 3] * 2).max()) == 10.0
        there = values.to("cpu", non_blocking=True)
        assert there.isnan().all()
        torch.cuda.synchronize()
        assert there.tolist() == list(range(6))
        with pytest.raises(RuntimeError, match="on the CPU"):
            values + torch.ones(6)
        with pytest.raises(RuntimeError, match="tensors on cuda:"):
            values + torch.ones(6, device="cuda:1")
        with torch.cuda.device(1):
            assert torch.ones(1, device="cuda").device == torch.device("cuda:1")
        with pytest.raises(RuntimeError, match="invalid device ordinal"):
            torch.ones(1, device="cuda:2")


def test_the_range_of_torch_is_pinned_and_others_are_refused(can_have_cards, monkeypatch):
    assert torch.__version__.partition("+")[0] in SpecifierSet(TORCH)
    for version in ("2.6.0", "99.0.0+cpu"):
        monkeypatch.setattr(torch, "__version__", version)
        with pytest.raises(CannotBuildError, match=f"torch {TORCH} without CUDA"):
            load_guard()


def test_nothing_stays_of_the_cards(can_have_cards):
    before = torch.cuda.Stream, torch.Tensor.backward, torch.inference_mode, threading.Thread.run
    with fake_cards():
        assert torch.cuda.is_available()
    assert not torch.cuda.is_available()
    after = torch.cuda.Stream, torch.Tensor.backward, torch.inference_mode, threading.Thread.run
    assert after == before


# ---- what runs on them ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Weights of the models, and small JPEG files."""
    made = tmp_path_factory.mktemp("cards")
    for model in (VIT, CONV):
        random_weights(model, made)
    return made


@pytest.fixture(scope="module")
def pictures(folder) -> Manifest:
    return manifest_of(folder, 16, ((64, 48), (40, 40)))


def rows_of(
    manifest: Manifest, folder: Path, store: Path, *, models: Any = (VIT,), **options: Any
) -> list[np.ndarray]:
    """Extract, and return the rows of each model; what is left of the cards is freed."""
    config = ExtractConfig(**{
        "dtype": "float32", "precision": "float32", "batch_size": 4, "block_rows": 8,
        "decode_timeout": None, "jobs": 2, "threads": 1, **options,
    })  # fmt: skip
    specs = [EncoderSpec(model, weights=str(random_weights(model, folder))) for model in models]
    done = extract_many(manifest, kind="image", encoders=specs, store=store, config=config)
    gc.collect()
    opened = featstore.open_store(store)
    return [opened.view(one.key).numpy(np.float32) for one in done]


@pytest.fixture(scope="module")
def on_the_cpu(pictures, folder) -> list[np.ndarray]:
    return rows_of(pictures, folder, folder / "cpu", models=(VIT, CONV), device="cpu")


def test_a_job_has_no_race_and_gives_the_rows_of_the_cpu(
    pictures, folder, on_the_cpu, tmp_path, cards: Cards
):
    on = {"models": (VIT, CONV), "device": "cuda:0"}
    with cards() as machine:
        found = rows_of(pictures, folder, tmp_path / "s", **on)
        pageable = machine.pageable
        rows_of(pictures, folder, tmp_path / "t", limit=4, **on)
        # Weights and constants alone: four times as many batches copy no more.
        assert machine.pageable == 2 * pageable
    for ours, theirs in zip(found, on_the_cpu, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=SAME, rtol=SAME)


@pytest.fixture(scope="module")
def towers(folder) -> Iterator[dict[str, dict[str, Any]]]:
    """One encoder of each family, as `open_encoder` takes it."""
    from tests.featstore.encoders.open_clip_models import known_to_open_clip, save_weights
    from tests.featstore.encoders.text_models import save_kind

    bert = save_kind("bert", folder / "bert")
    with known_to_open_clip(folder):
        clip = save_weights("tiny-clip", folder / "clip.safetensors")
        yield {
            "timm": {"name": VIT, "kind": "image", "weights": random_weights(VIT, folder)},
            "picture": {"name": "oc:tiny-clip", "kind": "image", "weights": clip},
            "text": {"name": "oc:tiny-clip", "kind": "caption", "weights": clip},
            "hf": {"name": "hf:bert", "kind": "caption", "weights": bert, "pool": "mean"},
        }


@pytest.mark.parametrize(
    ("family", "precision", "least"),
    [
        ("timm", "bfloat16", COSINE),
        ("hf", "bfloat16", COSINE),
        # Random weights round to more.
        ("picture", "bfloat16", 0.99),
        ("text", "bfloat16", 0.99),
        ("timm", "float16", COSINE),
    ],
)
def test_short_precisions_keep_the_vectors_and_what_is_exact_is_whole(
    family, precision, least, towers, cards: Cards
):
    exact: Any = open_encoder(**towers[family], device="cpu")
    batch = [exact.prepare(item) for item in golden_inputs(exact.kinds)]
    in_float32 = exact.encode(batch)
    with cards():
        encoder: Any = open_encoder(**towers[family], device="cuda", precision=precision)
        vectors, again = encoder.encode(batch), encoder.encode_float32(batch)
        cosine = golden_cosine(encoder)
    assert encoder.facts["compute"]["autocast"]
    assert smallest_cosine(vectors, in_float32) > least
    assert least < cosine < 1
    # What is exact is whole again.
    np.testing.assert_allclose(again, in_float32, atol=SAME, rtol=SAME)


def test_batches_under_way_do_not_touch_one_another(folder, cards: Cards):
    """Four of them, begun before the first one waits; a constant's copy waits for the first."""
    weights = random_weights(VIT, folder)
    exact = open_encoder(VIT, kind="image", weights=weights, device="cpu")
    one, two, three, four = [exact.prepare(image) for image in golden_images()]
    batches = [[one, two], [three, four], [two, four], [one, three]]
    with cards():
        encoder = open_encoder(VIT, kind="image", weights=weights, device="cuda")
        assert isinstance(encoder, TimmEncoder)
        under_way = [encoder._forward(batch, exact=False)[0] for batch in batches]
        found = [vectors.numpy() for vectors in under_way]
    for ours, batch in zip(found, batches, strict=True):
        np.testing.assert_allclose(ours, exact.encode(batch), atol=SAME, rtol=SAME)


@pytest.mark.parametrize("name", PRESETS)
def test_a_trained_head_is_that_of_the_cpu(name, cards: Cards):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(32, 6)), rng.normal(size=(32, 5))
    rows = Pairs(x, y, np.arange(32) // 2)  # two of a name are no negatives
    settings = {"epochs": 2, "batch_size": 16, "precision": "float32", "seed": 0}
    exact = preset(name, **settings).fit_rows(None, rows)
    with cards():
        there = preset(name, **settings).fit_rows(None, rows, device="cuda")
    np.testing.assert_allclose(there.project_x(x), exact.project_x(x), atol=SAME, rtol=SAME)


def test_two_cards_share_a_job(pictures, folder, on_the_cpu, tmp_path, cards: Cards):
    config = ExtractConfig(
        dtype="float32", precision="float32", batch_size=2, block_rows=2, threads=1, jobs=1,
        decode_timeout=None, limit=8,
    )  # fmt: skip
    specs = [EncoderSpec(VIT, weights=str(random_weights(VIT, folder)))]
    job = Job(pictures, "image", specs, tmp_path / "s", config)

    def in_turn(tasks: Any) -> Any:  # the workers are in this process
        for number, task in enumerate(tasks):
            yield workers[number % len(workers)].run(task)

    with cards(Card(), Card()) as machine:
        assert parse_devices("cuda:1,cpu") == ["cuda:1", "cpu"]
        devices = parse_devices("all")
        workers = [Worker(to_send(job), device, 1) for device in devices]
        with ThreadPoolExecutor(1) as thread:  # whose card it changes
            (done,) = thread.submit(conduct, job, in_turn, len(devices)).result()
        assert all(card.launched > 600 for card in machine.cards)
        gc.collect()
    rows = featstore.open_store(tmp_path / "s").view(done.key).numpy(np.float32)
    np.testing.assert_allclose(rows, on_the_cpu[0][:8], atol=SAME, rtol=SAME)


def test_a_batch_that_does_not_fit_says_what_to_do(pictures, folder, tmp_path, cards: Cards):
    usual = {"device": "cuda:0", "batch_size": None, "block_rows": 16}
    match = r"ran out of memory on cuda:0 with 16 items at once\. Take a smaller `batch_size=`"
    with cards(Card(memory=10 << 20)), pytest.raises(DeviceError, match=match):
        rows_of(pictures, folder, tmp_path / "t", **usual)


def test_before_torch_2_9_two_switches_keep_float32_whole(monkeypatch):
    """Those of today: tests/featstore/encoders/test_precision.py."""
    two = [SimpleNamespace(allow_tf32=True) for _ in range(2)]
    before = SimpleNamespace(cuda=SimpleNamespace(matmul=two[0]), cudnn=two[1], mkldnn=None)
    monkeypatch.setattr(runtime, "torch", SimpleNamespace(**{**vars(torch), "backends": before}))
    with runtime.computing("float32", torch.device("cpu")):
        assert [switch.allow_tf32 for switch in two] == [False, False]
    assert [switch.allow_tf32 for switch in two] == [True, True]

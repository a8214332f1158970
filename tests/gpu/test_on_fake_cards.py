"""All that `make gpu` checks, on cards that are not there: rows and races, not speed."""

from __future__ import annotations

import gc
import logging
import os
import re
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.io

import featstore
from featstore import EncoderSpec, ExtractConfig, Manifest, extract_many
from featstore.encoders import runtime
from featstore.encoders.base import golden_cosine, golden_images, golden_inputs
from featstore.encoders.registry import open_encoder
from featstore.encoders.timm_image import TimmEncoder
from featstore.errors import EncoderError
from featstore.extraction import batches
from featstore.extraction.targets import Job
from featstore.extraction.workers import Crew, conduct, open_on, parse_devices, to_send
from featstore.images import decode_batch, decode_image, own_stream
from featstore.parallel import stay_beside
from fitters.trained.base import ArrayRows
from fitters.trained.presets import PRESETS, preset
from tests.gpu.conftest import Cards
from tests.gpu.fake_card import Card
from tests.gpu.run import COSINE, make_manifest, random_weights, smallest_cosine

VIT, CONV = "timm:test_vit", "timm:test_convnext"

#: Largest difference of a float32 row from the CPU's: other kernels add in another order.
SAME = 1e-4


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Weights of the models, and small JPEG files."""
    made = tmp_path_factory.mktemp("cards")
    for model in (VIT, CONV):
        random_weights(model, made)
    return made


@pytest.fixture(scope="module")
def pictures(folder) -> Manifest:
    return make_manifest(folder / "pictures", 16, ((64, 48), (40, 40)))


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
        pageable = machine.counts["copies from pageable memory"]
        rows_of(pictures, folder, tmp_path / "t", limit=4, **on)
        # Weights and constants alone: four times as many batches copy no more.
        assert machine.counts["copies from pageable memory"] == 2 * pageable
    for ours, theirs in zip(found, on_the_cpu, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=SAME, rtol=SAME)


def random_bert(folder: Path) -> Path:
    """Write a BERT with random weights and a tokenizer of letters; return its folder."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder.mkdir(parents=True)
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{x}" for x in letters)]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 128}
    config = BertConfig(vocab_size=len(words), num_attention_heads=1, **sizes)
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def towers(folder) -> Iterator[dict[str, dict[str, Any]]]:
    """One encoder of each family, as `open_encoder` takes it."""
    from tests.featstore.encoders.open_clip_models import known_to_open_clip, save_weights

    bert = random_bert(folder / "bert-tiny")
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
        # Random weights round to more: also by autocast.
        ("picture", "bfloat16", 0.99),
        ("text", "bfloat16", 0.99),
        ("timm", "bfloat16", 1.1),
        ("timm", "float16", COSINE),
    ],
)
def test_bfloat16_has_weights_in_bfloat16_where_the_golden_inputs_allow_it(
    family, precision, least, towers, monkeypatch, cards: Cards
):
    monkeypatch.setattr(runtime, "BFLOAT16_COSINE", least)
    exact: Any = open_encoder(**towers[family], device="cpu")
    batch = [exact.prepare(item) for item in golden_inputs(exact.kinds)]
    in_float32 = exact.encode(batch)
    with cards():
        encoder: Any = open_encoder(**towers[family], device="cuda", precision=precision)
        vectors, again = encoder.encode(batch), encoder.encode_float32(batch)
        encoder.encode(batch)
        held = {one.dtype for one in encoder._weights.of if one.is_floating_point()}
        cosine = golden_cosine(encoder)
        seen = []
        if family == "timm":
            pixels = encoder._copies.to_device(batch, getattr(torch, precision))
            with encoder._copies.turn():
                seen = [pixels.float().cpu(), exact.preprocessing.floats(batch)]
    short = precision == "bfloat16" and least <= COSINE
    assert held == {torch.bfloat16 if short else torch.float32}
    compute = encoder.facts["compute"]
    assert (compute["weights"], compute["autocast"]) == (
        ("bfloat16", False) if short else ("float32", True)
    )
    assert smallest_cosine(vectors, in_float32) > min(least, COSINE)
    assert cosine is not None
    assert min(least, COSINE) < cosine.minimum < 1
    # What is exact is whole again.
    np.testing.assert_allclose(again, in_float32, atol=SAME, rtol=SAME)
    if seen:  # pixels are rounded once: half a unit in the last place
        torch.testing.assert_close(*seen, atol=2.0**-9, rtol=2.0**-8)


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


def test_pictures_are_decoded_before_another_thread_has_them(pictures, monkeypatch, cards: Cards):
    plain = torchvision.io.decode_jpeg

    def as_nvjpeg(data: Any, mode: Any, device: Any = "cpu") -> Any:
        """Decode on the CPU, and begin copies to the card."""
        if str(device) == "cpu":
            return plain(data, mode=mode)
        return [plain(one, mode=mode).pin_memory().to(device, non_blocking=True) for one in data]

    monkeypatch.setattr(torchvision.io, "decode_jpeg", as_nvjpeg)
    files = [(pictures.root / f"images/0{number}.jpg").read_bytes() for number in range(3)]
    found: list[torch.Tensor] = []

    def decode() -> None:
        with own_stream("cuda:0"):
            found.extend(decode_batch(files, "cuda:0"))

    with cards():
        thread = threading.Thread(target=decode)
        thread.start()
        thread.join()
        sums = [one.float().sum().item() for one in found]
    assert sums == [float(np.asarray(decode_image(file)).sum()) for file in files]


@pytest.mark.parametrize("name", PRESETS)
def test_a_trained_head_is_that_of_the_cpu(name, cards: Cards):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(32, 6)), rng.normal(size=(32, 5))
    rows = ArrayRows(x, y, np.arange(32) // 2)  # two of a name are no negatives
    settings = {"epochs": 2, "batch_size": 16, "precision": "float32", "seed": 0}
    exact = preset(name, **settings).fit_rows(None, rows)
    with cards():
        there = preset(name, **settings).fit_rows(None, rows, device="cuda")
    np.testing.assert_allclose(there.project_x(x), exact.project_x(x), atol=SAME, rtol=SAME)


class InThread:
    """A worker on a card that is in this process: the crew calls it in a thread."""

    def __init__(self, job: Job, _cores: int, device: str) -> None:
        self.device, self._job, self._opened = device, job, False

    def call(self, work: Any, arguments: Any, tell: Any) -> Any:
        batches.use_device(self.device)
        if not self._opened:
            self._job, self._opened = open_on(self._job, self.device, tell=tell), True
        return work(self._job, *arguments)

    def stop(self) -> None:
        """Nothing to end."""

    def end(self, until: float) -> str:
        return "It has ended."


def test_two_cards_share_a_job_and_one_that_dies_leaves_it_to_the_other(
    pictures, folder, on_the_cpu, tmp_path, caplog, cards: Cards
):
    config = ExtractConfig(
        dtype="float32", precision="float32", batch_size=2, block_rows=2, threads=1, jobs=1,
        decode_timeout=None, limit=8,
    )  # fmt: skip
    specs = [EncoderSpec(VIT, weights=str(random_weights(VIT, folder)))]
    job = Job(pictures, "image", specs, tmp_path / "s", config)
    with cards(Card(), Card(dies_after=600)) as machine:
        assert parse_devices("cuda:1,cpu") == ["cuda:1", "cpu"]
        with pytest.raises(EncoderError, match=r"no cuda:2: torch can use cuda:0, cuda:1\."):
            parse_devices("cuda:2")
        with Crew(parse_devices("all"), 1, partial(InThread, to_send(job))) as crew:
            (done,) = conduct(crew, config, encoders=1)
        assert all(card.launched > 600 for card in machine.cards)
        gc.collect()
    assert re.search(r"Worker 1 on cuda:1 raised .*illegal memory access", caplog.text)
    rows = featstore.open_store(tmp_path / "s").view(done.key).numpy(np.float32)
    np.testing.assert_allclose(rows, on_the_cpu[0][:8], atol=SAME, rtol=SAME)


def test_a_batch_that_does_not_fit_is_halved_said_once_and_the_rows_are_the_same(
    pictures, folder, on_the_cpu, tmp_path, caplog, cards: Cards
):
    usual = {"device": "cuda:0", "batch_size": None, "block_rows": 16}
    with cards(Card(memory=10 << 20)), caplog.at_level(logging.WARNING):
        (rows,) = rows_of(pictures, folder, tmp_path / "t", **usual)
    np.testing.assert_allclose(rows, on_the_cpu[0], atol=SAME, rtol=SAME)
    assert caplog.messages.count(f"{VIT} ran out of memory with 16 items; going on with 8.") == 1
    assert caplog.text.count("ran out of memory") == 1


def test_before_torch_2_9_two_switches_keep_float32_whole(monkeypatch):
    """Those of today: tests/featstore/encoders/test_precision.py."""
    two = [SimpleNamespace(allow_tf32=True) for _ in range(2)]
    before = SimpleNamespace(cuda=SimpleNamespace(matmul=two[0]), cudnn=two[1], mkldnn=None)
    monkeypatch.setattr(runtime, "torch", SimpleNamespace(**{**vars(torch), "backends": before}))
    with runtime.computing("float32", torch.device("cpu")):
        assert [switch.allow_tf32 for switch in two] == [False, False]
    assert [switch.allow_tf32 for switch in two] == [True, True]


def test_threads_of_a_card_run_on_the_cores_beside_it(tmp_path, monkeypatch, cards: Cards):
    first, *others = sorted(os.sched_getaffinity(0))
    nodes = tmp_path / "devices/system/node"
    card = SimpleNamespace(pci_domain_id=0, pci_bus_id=0x1B, pci_device_id=0)
    where = tmp_path / "bus/pci/devices/0000:1b:00.0"
    where.mkdir(parents=True)
    for number, cores in enumerate((f"{first}", "1000-1003,1008")):
        (nodes / f"node{number}").mkdir(parents=True)
        (nodes / f"node{number}" / "cpulist").write_text(cores + "\n")

    def run_on(node: str, of: Any = card) -> set[int]:
        (where / "numa_node").write_text(f"{node}\n")
        found: list[set[int]] = []

        def use() -> None:
            batches.use_device("cuda:0")
            found.append(os.sched_getaffinity(0))

        with cards():
            monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: of)
            monkeypatch.setattr(batches, "stay_beside", lambda one: stay_beside(one, tmp_path))
            thread = threading.Thread(target=use)
            thread.start()
            thread.join()
        return found[0]

    every = {first, *others}
    assert run_on("0") == {first}
    assert os.sched_getaffinity(0) == every  # the thread alone
    assert run_on("1") == every  # none of its cores is ours
    assert run_on("-1") == every  # nobody knows
    assert run_on("0", SimpleNamespace()) == every  # torch before 2.8

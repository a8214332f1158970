"""Tokens of texts, and texts sorted by their number."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featstore.encoders.base import GOLDEN_TEXTS, encode_texts, length_batches
from featstore.encoders.registry import open_encoder
from featstore.encoders.text import TextTokenizer
from featstore.errors import EncoderError
from tests.featstore.encoders.text_models import byte_level_bpe, word_piece


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    from transformers import ByT5Tokenizer

    folder = tmp_path_factory.mktemp("tokenizers")
    return {
        "bpe": byte_level_bpe(folder / "bpe"),
        "word piece": word_piece(folder / "wp"),
        "python": ByT5Tokenizer(),
    }


@pytest.mark.parametrize("kind", ["bpe", "word piece", "python"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(max_size=60), min_size=1, max_size=6), limit=st.integers(4, 40))
def test_it_tokenizes_cuts_and_pads_as_transformers_does(kind, tokenizers, texts, limit):
    theirs = tokenizers[kind]
    ours = TextTokenizer(theirs, "hf:x", limit=limit, prefix="q: ")
    prepared = ours.prepare_many(texts)
    for text, tokens in zip(texts, prepared, strict=True):
        (alone,) = ours.prepare_many([text])
        assert (alone.ids.tolist(), alone.truncated) == (tokens.ids.tolist(), tokens.truncated)
    prefixed = ["q: " + text for text in texts]
    expected = theirs(
        prefixed, padding=True, truncation=True, max_length=limit, return_tensors="pt"
    )
    batch = ours.batch(prepared)
    for name in ("input_ids", "attention_mask"):
        assert torch.equal(batch[name], expected[name])
    if "token_type_ids" in theirs.model_input_names:
        assert torch.equal(batch["token_type_ids"], expected["token_type_ids"])
    for text, tokens in zip(prefixed, prepared, strict=True):
        whole = len(theirs(text, truncation=False, padding=False)["input_ids"])
        assert tokens.truncated == (whole > limit)
        assert tokens.length == min(whole, limit)


def test_truncation_on_the_left_is_kept(tokenizers, tmp_path):
    theirs = word_piece(tmp_path)
    theirs.truncation_side = "left"
    ours = TextTokenizer(theirs, "hf:x", limit=5)
    expected = theirs("a photo of a dog on a bridge", truncation=True, max_length=5)["input_ids"]
    assert ours.prepare_many(["a photo of a dog on a bridge"])[0].ids.tolist() == expected


@pytest.mark.parametrize("kind", ["bpe", "python"])
def test_threads_do_not_disturb_each_other(kind, tokenizers):
    """A tokenizer of the library, called so, mixes up its truncation or fails."""
    ours = TextTokenizer(tokenizers[kind], "hf:x", limit=8)
    texts = ["dog " * n for n in range(40)]
    expected = [one.ids.tolist() for text in texts for one in ours.prepare_many([text])]
    gate = threading.Barrier(4)

    def work(_):
        gate.wait()
        return [one.ids.tolist() for text in texts * 5 for one in ours.prepare_many([text])]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == [expected * 5] * 4


def test_what_is_no_whole_text_is_refused(tokenizers):
    ours = TextTokenizer(tokenizers["bpe"], "hf:x", limit=8)
    with pytest.raises(EncoderError, match="takes texts, got int"):
        ours.prepare_many(["a dog", 3])
    with pytest.raises(EncoderError, match="has half of one"):
        ours.prepare_many(["dog \ud83d"])


LENGTHS = st.lists(st.integers(0, 20), max_size=60)


@given(lengths=LENGTHS, batch=st.integers(1, 20))
def test_every_text_is_in_one_batch_with_its_likes(lengths, batch):
    parts = length_batches(lengths, batch)
    order = [position for part in parts for position in part.tolist()]
    assert order == sorted(range(len(lengths)), key=lambda position: (lengths[position], position))
    assert all(len(part) == batch for part in parts[:-1])
    assert all(0 < len(part) <= batch for part in parts)


def test_rows_come_back_in_the_order_of_the_texts(tiny_text):
    encoder = open_encoder("st:tiny", weights=tiny_text)
    texts = [*GOLDEN_TEXTS, "", "dog " * 20, "a", "dog " * 9]
    rows = encode_texts(encoder, texts, 3)
    alone = np.concatenate([encoder.encode([encoder.prepare(text)]) for text in texts])
    np.testing.assert_allclose(rows, alone, atol=1e-5)
    assert (
        np.abs(alone[:, None] - alone[None]).max(axis=-1)[~np.eye(len(alone), dtype=bool)].min()
        > 1e-3
    )
    np.testing.assert_array_equal(encode_texts(encoder, texts, 3), rows)

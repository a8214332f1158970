import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer, T5Config, T5Model
from transformers import logging as log

from featstore.encoders.base import GOLDEN_TEXTS
from featstore.encoders.registry import open_encoder
from featstore.errors import EncoderError
from featstore.identity import space_id
from tests.featstore.encoders.text_models import (
    KINDS,
    MUTATIONS,
    byte_level_bpe,
    edit_json,
    nudge,
    save_kind,
    save_random,
    without_pooler,
)

TEXTS = [*GOLDEN_TEXTS, "", "a", "dog " * 60]
ENCODERS = ("roberta", "bert", "mpnet")
POOLINGS = [
    *((model, pool) for model in ENCODERS for pool in ("cls", "mean", "pooler")),
    ("gpt2", "last"),
    ("gpt2", "mean"),
]


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    root = tmp_path_factory.mktemp("hf")
    return {kind: save_kind(kind, root / kind) for kind in KINDS}


@pytest.fixture
def folders(originals, tmp_path):
    """A copy of each model that a test may change."""
    shutil.copytree(originals["bert"].parent, tmp_path / "hf")
    return {kind: tmp_path / "hf" / kind for kind in KINDS}


def one_by_one(folder, pool, texts, limit):
    """Pool each text on its own, from the published recipe: no padding, no mask, no batch."""
    log.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    network = AutoModel.from_pretrained(folder).eval()
    log.enable_progress_bar()
    rows = []
    for text in texts:
        ids = tokenizer(text, truncation=True, max_length=limit)["input_ids"]
        with torch.inference_mode():
            states = network(torch.tensor([ids])).last_hidden_state[0]
            if pool == "pooler":
                dense = network.pooler.dense
                rows.append(torch.tanh(dense.weight @ states[0] + dense.bias))
            else:
                rows.append({"cls": states[0], "mean": states.mean(0), "last": states[-1]}[pool])
    return torch.stack(rows).numpy()


@pytest.mark.parametrize(("model", "pool"), POOLINGS)
def test_every_pooling_equals_a_direct_forward_without_padding(originals, model, pool):
    encoder = open_encoder(f"hf:{model}", weights=originals[model], pool=pool, max_length=40)
    vectors = encoder.encode([encoder.prepare(text) for text in TEXTS])
    expected = one_by_one(originals[model], pool, TEXTS, limit=40)
    assert np.ptp(expected, axis=0).max() > 0.1  # the texts do differ
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    assert vectors.dtype == np.float32
    assert encoder.dim == 16


def test_positions_bound_the_input_not_the_tokenizer(originals):
    """42 rows of RoBERTa's table make 40 tokens, since the first two are never a token's."""
    for model in KINDS:
        encoder = open_encoder(f"hf:{model}", weights=originals[model], pool="mean")
        assert encoder.space["max_length"] == 40
        prepared = encoder.prepare("dog " * 100)
        assert encoder.length(prepared) == 40
        assert encoder.is_truncated(prepared)
        assert not encoder.is_truncated(encoder.prepare("dog"))
        assert np.isfinite(encoder.encode([prepared])).all()
        with pytest.raises(EncoderError, match=r"at most 40, the positions that it has\. Got 41"):
            open_encoder(f"hf:{model}", weights=originals[model], pool="mean", max_length=41)


def test_too_short_an_input_is_refused(originals):
    with pytest.raises(EncoderError, match="adds 2 special tokens"):
        open_encoder("hf:bert", weights=originals["bert"], pool="cls", max_length=2)


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_every_keyed_change_changes_the_space(mutation, folders):
    options = {"pool": "mean", "weights": folders["bert"]}
    before = open_encoder("hf:bert", **options)
    MUTATIONS[mutation](folders["bert"])
    after = open_encoder("hf:bert", **options)
    assert space_id(after.space) != space_id(before.space)
    assert len({key for key in before.space if before.space[key] != after.space[key]}) == 1


def test_the_run_is_not_keyed(folders, tmp_path):
    before = open_encoder("hf:bert", weights=folders["bert"], pool="cls")
    nudge(folders["bert"], "pooler.dense.bias")  # cls is read before the pooler
    (folders["bert"] / "README.md").write_text("hello")
    moved = shutil.move(folders["bert"], tmp_path / "elsewhere")
    options = {"batch_size": 3, "precision": "bfloat16"}
    after = open_encoder("hf:bert", weights=moved, pool="cls", **options)
    assert space_id(after.space) == space_id(before.space)


def test_the_pooler_is_keyed_where_it_is_read(folders):
    before = open_encoder("hf:bert", weights=folders["bert"], pool="pooler")
    nudge(folders["bert"], "pooler.dense.bias")
    after = open_encoder("hf:bert", weights=folders["bert"], pool="pooler")
    assert space_id(after.space) != space_id(before.space)


@pytest.mark.parametrize(("model", "pool", "message"), [
    ("bert", None, r"needs a pooling: -s pool= \(API: pool=\) cls, mean, pooler or last"),
    ("bert", "men", r"No pool named 'men' for .*cls, mean, pooler, last\. Did you mean 'mean'"),
    ("gpt2", "pooler", "has no pooler. Take pool=cls or pool=mean"),
])  # fmt: skip
def test_poolings_that_a_model_does_not_have(originals, model, pool, message):
    with pytest.raises(EncoderError, match=message):
        open_encoder(f"hf:{model}", weights=originals[model], pool=pool)


def test_a_pooler_that_was_never_trained_is_refused_and_otherwise_ignored(folders):
    whole = open_encoder("hf:bert", weights=folders["bert"], pool="mean")
    without_pooler(folders["bert"])
    with pytest.raises(EncoderError, match=r"has no trained pooler: 2 of \d+ tensors are missing"):
        open_encoder("hf:bert", weights=folders["bert"], pool="pooler")
    without = open_encoder("hf:bert", weights=folders["bert"], pool="mean")
    assert space_id(without.space) == space_id(whole.space)


def test_a_tokenizer_that_pads_otherwise_is_refused(folders):
    edit_json(folders["roberta"] / "config.json", pad_token_id=0)
    with pytest.raises(EncoderError, match="pads with token 1, the model with 0"):
        open_encoder("hf:roberta", weights=folders["roberta"], pool="mean")


def test_an_encoder_with_a_decoder_is_refused(tmp_path):
    byte_level_bpe(tmp_path / "t5")
    config = T5Config(vocab_size=350, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    save_random(T5Model, config, tmp_path / "t5")
    with pytest.raises(EncoderError, match="encoder with a decoder"):
        open_encoder("hf:t5", weights=tmp_path / "t5", pool="mean")


# --- code of the model's own --------------------------------------------------------------------

CODE = """
from transformers import BertModel

class TwiceBertModel(BertModel):
    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.last_hidden_state = {factor} * output.last_hidden_state
        return output
"""


def with_code(folder, factor):
    (folder / "modeling_twice.py").write_text(CODE.format(factor=factor))
    edit_json(folder / "config.json", auto_map={"AutoModel": "modeling_twice.TwiceBertModel"})


def test_code_of_a_model_is_run_only_if_named_and_then_keyed(folders, code_cache):
    folder = folders["bert"]
    plain = open_encoder("hf:bert", weights=folder, pool="mean")
    assert "trust_remote_code" not in plain.space
    with_code(folder, factor=2)
    # Without trust the library's own class is taken: nothing of the folder is run.
    untrusted = open_encoder("hf:bert", weights=folder, pool="mean")
    np.testing.assert_array_equal(untrusted.encode(TEXTS), plain.encode(TEXTS))
    trusted = open_encoder("hf:bert", weights=folder, pool="mean", trust_remote_code=True)
    np.testing.assert_allclose(trusted.encode(TEXTS), 2 * plain.encode(TEXTS), rtol=1e-6)
    assert trusted.space["trust_remote_code"]["files"] == 1
    with_code(folder, factor=3)
    changed = open_encoder("hf:bert", weights=folder, pool="mean", trust_remote_code=True)
    assert len({space_id(encoder.space) for encoder in (plain, trusted, changed)}) == 3

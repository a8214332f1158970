"""Prompts, lengths, precision and own code of sentence-transformers models."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from transformers import logging as log

from featstore.encoders.golden import GOLDEN_TEXTS
from featstore.encoders.registry import open_encoder
from featstore.errors import EncoderError
from featstore.identity import space_id

TEXTS = [*GOLDEN_TEXTS, "", " a ", "A DOG", "dog " * 60]


def edit_json(path, **changes):
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**before, **changes}))


def as_published(folder, **options):
    log.disable_progress_bar()
    model = SentenceTransformer(str(folder), device="cpu")
    log.enable_progress_bar()
    return model.encode(TEXTS, show_progress_bar=False, **options)


def with_prompts(folder, default=None):
    edit_json(
        folder / "config_sentence_transformers.json",
        prompts={"query": "query: ", "passage": "passage: "},
        default_prompt_name=default,
    )


PUBLISHED = {
    "plain": lambda _: None,
    "default prompt": lambda f: with_prompts(f, "query"),
    "lower case": lambda f: (
        edit_json(f / "sentence_bert_config.json", do_lower_case=True),
        edit_json(f / "tokenizer.json", normalizer=None),
    ),
    "short": lambda f: edit_json(f / "sentence_bert_config.json", max_seq_length=8),
    "prompt outside the pooling": lambda f: (
        with_prompts(f, "query"),
        edit_json(f / "1_Pooling" / "config.json", include_prompt=False),
    ),
    "first token": lambda f: edit_json(
        f / "1_Pooling" / "config.json",
        pooling_mode_cls_token=True,
        pooling_mode_mean_tokens=False,
    ),
}


@pytest.mark.parametrize("case", PUBLISHED)
def test_vectors_are_the_librarys_own(case, tiny_text):
    PUBLISHED[case](tiny_text)
    encoder = open_encoder("st:tiny", weights=tiny_text)
    vectors = encoder.encode([encoder.prepare(text) for text in TEXTS])
    np.testing.assert_allclose(vectors, as_published(tiny_text), atol=1e-5)


def test_a_prompt_is_chosen_by_name_or_given(tiny_text):
    with_prompts(tiny_text)
    plain = open_encoder("st:tiny", weights=tiny_text)
    named = open_encoder("st:tiny", weights=tiny_text, prompt_name="passage")
    given = open_encoder("st:tiny", weights=tiny_text, prefix="passage: ")
    np.testing.assert_allclose(
        named.encode(TEXTS), as_published(tiny_text, prompt_name="passage"), atol=1e-5
    )
    assert space_id(named.space) == space_id(given.space) != space_id(plain.space)
    assert given.space["prompt"] == "passage: "
    with pytest.raises(EncoderError, match=r"No prompt named 'passages'.*passage, query\. Did you"):
        open_encoder("st:tiny", weights=tiny_text, prompt_name="passages")
    with pytest.raises(EncoderError, match="Give one"):
        open_encoder("st:tiny", weights=tiny_text, prompt_name="query", prefix="query: ")


def test_an_empty_prefix_takes_the_default_prompt_away(tiny_text):
    plain = open_encoder("st:tiny", weights=tiny_text)
    with_prompts(tiny_text, "query")
    without = open_encoder("st:tiny", weights=tiny_text, prefix="")
    assert space_id(without.space) == space_id(plain.space)
    np.testing.assert_array_equal(without.encode(TEXTS), plain.encode(TEXTS))


def test_the_longest_input_can_be_set_and_is_keyed(tiny_text):
    plain = open_encoder("st:tiny", weights=tiny_text)
    short = open_encoder("st:tiny", weights=tiny_text, max_length=8)
    assert space_id(short.space) != space_id(plain.space)
    assert short.length(short.prepare("dog " * 60)) == 8
    edit_json(tiny_text / "sentence_bert_config.json", max_seq_length=8)
    saved = open_encoder("st:tiny", weights=tiny_text)
    assert space_id(saved.space) == space_id(short.space)
    np.testing.assert_array_equal(saved.encode(TEXTS), short.encode(TEXTS))
    with pytest.raises(EncoderError, match="at most 64, the positions that it has"):
        open_encoder("st:tiny", weights=tiny_text, max_length=65)


def test_a_chat_template_is_refused(tiny_text):
    (tiny_text / "chat_template.jinja").write_text("{{ messages[0].content }}")
    # With the template alone, the library takes the texts as they are.
    open_encoder("st:tiny", weights=tiny_text)
    plain = {"method": "forward", "method_output_name": "last_hidden_state"}
    edit_json(
        tiny_text / "sentence_bert_config.json",
        modality_config={"text": plain, "message": {**plain, "format": "flat"}},
        module_output_name="token_embeddings",
    )
    with pytest.raises(EncoderError, match=r"chat template.*Use the family hf"):
        open_encoder("st:tiny", weights=tiny_text)


CODE = """
import sentence_transformers.models as models

class Normalize(models.Normalize):
    def forward(self, features):
        features = super().forward(features)
        features["sentence_embedding"] = {factor} * features["sentence_embedding"]
        return features
"""


def with_code(folder, factor):
    (folder / "twice.py").write_text(CODE.format(factor=factor))
    modules = json.loads((folder / "modules.json").read_text())
    modules[2]["type"] = "twice.Normalize"
    (folder / "modules.json").write_text(json.dumps(modules))


@pytest.fixture
def code_cache(tmp_path, monkeypatch):
    """Keep the library's copies of code out of the home folder and of this process."""
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "code"))
    before, path = set(sys.modules), list(sys.path)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("transformers_modules"):
            del sys.modules[name]
    sys.path[:] = path


def test_code_of_a_model_is_run_only_if_named_and_then_keyed(tiny_text, code_cache):
    plain = open_encoder("st:tiny", weights=tiny_text)
    with_code(tiny_text, factor=2)
    with pytest.raises(EncoderError, match="could not be loaded"):
        open_encoder("st:tiny", weights=tiny_text)
    trusted = open_encoder("st:tiny", weights=tiny_text, trust_remote_code=True)
    np.testing.assert_allclose(trusted.encode(TEXTS), 2 * plain.encode(TEXTS), rtol=1e-6)
    assert trusted.space["trust_remote_code"]["files"] == 1
    with_code(tiny_text, factor=3)
    changed = open_encoder("st:tiny", weights=tiny_text, trust_remote_code=True)
    assert len({space_id(encoder.space) for encoder in (plain, trusted, changed)}) == 3

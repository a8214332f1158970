"""Text encoders of sentence-transformers: rows, identity, prompts, files."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from transformers import BertModel, BertTokenizerFast
from transformers import logging as log

from featstore.encoders.base import GOLDEN_TEXTS
from featstore.encoders.registry import open_encoder
from featstore.encoders.text import ModelFiles
from featstore.errors import EncoderError
from featstore.identity import space_id
from tests.featstore.encoders.text_models import (
    MUTATIONS,
    edit_json,
    rewrite,
    without_pooler,
    write_json,
)

TEXTS = [*GOLDEN_TEXTS, "", "a", "dog " * 400]


def test_minilm_equals_mean_pooling_by_hand(minilm, minilm_folder):
    log.disable_progress_bar()
    tokenizer = BertTokenizerFast.from_pretrained(minilm_folder)
    network = BertModel.from_pretrained(minilm_folder).eval()
    log.enable_progress_bar()
    rows = []
    for text in TEXTS:  # one at a time: no padding that could hide a wrong mask
        tokens = tokenizer(text, truncation=True, max_length=256, return_tensors="pt")
        with torch.inference_mode():
            mean = network(**tokens).last_hidden_state[0].mean(0)
        rows.append((mean / mean.norm()).numpy())
    np.testing.assert_allclose(minilm.encode(TEXTS), np.stack(rows), atol=1e-5)


def test_the_space_is_pinned(minilm):
    """Golden: this id stands in stores; a change of it orphans every one of them."""
    assert space_id(minilm.space) == (
        "a9fc539c813f3edcff235f256518e3785f6f371b50156104297879be2326de03"
    )
    assert minilm.space["pooling"]["mode"] == "mean"
    assert minilm.space["max_seq_length"] == 256
    assert minilm.space["normalized"] is True


def test_loading_is_silent_and_leaves_the_library_as_it_was(tiny_text, capfd, caplog):
    before = (log.get_verbosity(), log.is_progress_bar_enabled())
    capfd.readouterr()
    encoder = open_encoder("st:tiny", weights=tiny_text)
    encoder.encode(["a dog"])
    encoder.prepare("dog " * 2000)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    assert (log.get_verbosity(), log.is_progress_bar_enabled()) == before


def without_normalize(folder):
    write_json(folder / "modules.json", json.loads((folder / "modules.json").read_text())[:2])


def pooling(folder, **modes):
    edit_json(folder / "1_Pooling" / "config.json", **modes)


def with_prompts(folder, default=None):
    edit_json(
        folder / "config_sentence_transformers.json",
        prompts={"query": "query: ", "passage": "passage: "},
        default_prompt_name=default,
    )


ST_MUTATIONS = {
    **MUTATIONS,
    "length": lambda f: edit_json(f / "sentence_bert_config.json", max_seq_length=16),
    "lower case": lambda f: edit_json(f / "sentence_bert_config.json", do_lower_case=True),
    "pooling": lambda f: pooling(f, pooling_mode_cls_token=True, pooling_mode_mean_tokens=False),
    "prompt in pooling": lambda f: pooling(f, include_prompt=False),
    "normalizing": without_normalize,
    "prompt": lambda f: with_prompts(f, "query"),
}


@pytest.mark.parametrize("mutation", ST_MUTATIONS)
def test_every_keyed_change_of_the_model_changes_the_space(mutation, tiny_text):
    before = open_encoder("st:tiny", weights=tiny_text)
    ST_MUTATIONS[mutation](tiny_text)
    after = open_encoder("st:tiny", weights=tiny_text)
    assert space_id(after.space) != space_id(before.space)
    changed = {key for key in before.space if before.space[key] != after.space[key]}
    assert len(changed - {"after_pooling", "normalized"}) <= 1


def test_what_does_not_matter_is_not_keyed(tiny_text, tmp_path):
    before = open_encoder("st:tiny", weights=tiny_text)
    (tiny_text / "README.md").write_text("hello")
    (tiny_text / "vocab.txt").unlink()
    moved = shutil.move(tiny_text, tmp_path / "elsewhere")
    after = open_encoder("st:tiny", weights=moved, batch_size=3, device="cpu:0")
    assert space_id(after.space) == space_id(before.space)
    np.testing.assert_allclose(after.encode(TEXTS), before.encode(TEXTS), atol=1e-5)


def aged(folder):
    def age(state):
        for key in list(state):
            old = key.replace("LayerNorm.weight", "LayerNorm.gamma")
            state["bert." + old.replace("LayerNorm.bias", "LayerNorm.beta")] = state.pop(key)

    rewrite(folder, age)


def in_a_subfolder(folder):
    """sentence-transformers wrote 0_Transformer/ until version 2."""
    inner = folder / "0_Transformer"
    inner.mkdir()
    for path in list(folder.iterdir()):
        if path.is_file() and path.name != "modules.json":
            path.rename(inner / path.name)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    write_json(folder / "modules.json", modules)
    assert ModelFiles(folder, None).find("config.json") == inner / "config.json"


def in_several_files(folder):
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    parts = {key: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, key in enumerate(state)}
    for part in set(parts.values()):
        rows = {key: tensor for key, tensor in state.items() if parts[key] == part}
        save_file(rows, folder / part, metadata={"format": "pt"})
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": parts})


@pytest.mark.parametrize("change", [without_pooler, aged, in_a_subfolder, in_several_files])
def test_the_same_model_in_another_layout_is_the_same_space(change, tiny_text):
    before = open_encoder("st:tiny", weights=tiny_text)
    change(tiny_text)
    one, two = (open_encoder("st:tiny", weights=tiny_text) for _ in range(2))
    assert space_id(one.space) == space_id(two.space)
    assert (space_id(one.space) == space_id(before.space)) is (change is not without_pooler)
    np.testing.assert_array_equal(one.encode(TEXTS), before.encode(TEXTS))


def as_a_pickle(folder):
    path = folder / "model.safetensors"
    torch.save(load_file(path), folder / "pytorch_model.bin")
    path.unlink()


DAMAGES = {
    "no modules": (lambda f: (f / "modules.json").unlink(), "pooling is unknown"),
    "no weights": (
        lambda f: (f / "model.safetensors").unlink(), "could not be loaded from the folder 'tiny'"
    ),
    "damaged weights": (
        lambda f: (f / "model.safetensors").write_bytes(b"\0" * 100), "could not be loaded"
    ),
    "damaged config": (lambda f: (f / "config.json").write_text("{"), "could not be loaded"),
    "damaged modules": (lambda f: (f / "modules.json").write_text("{"), "could not be loaded"),
    "a missing tensor": (
        lambda f: rewrite(f, lambda state: state.pop("encoder.layer.0.output.dense.weight")),
        r"incomplete: 1 of \d+ tensors are missing \(encoder",
    ),
    "a pickle": (as_a_pickle, r"no model\.safetensors"),
    "no pooling": (
        lambda f: write_json(f / "modules.json", json.loads((f / "modules.json").read_text())[:1]),
        "made of Transformer; only models of a transformer",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_damaged_folders_answer_in_one_line(damage, message, tiny_text):
    damage(tiny_text)
    with pytest.raises(EncoderError, match=message) as caught:
        open_encoder("st:tiny", weights=tiny_text)
    assert "\n" not in str(caught.value)
    assert str(tiny_text) not in str(caught.value)


ODD_TEXTS = [*GOLDEN_TEXTS, "", " a ", "A DOG", "dog " * 60]


def as_published(folder, **options):
    log.disable_progress_bar()
    model = SentenceTransformer(str(folder), device="cpu")
    log.enable_progress_bar()
    return model.encode(ODD_TEXTS, show_progress_bar=False, **options)


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
        pooling(f, include_prompt=False),
    ),
    "first token": ST_MUTATIONS["pooling"],
}


@pytest.mark.parametrize("case", PUBLISHED)
def test_vectors_are_the_librarys_own(case, tiny_text):
    PUBLISHED[case](tiny_text)
    encoder = open_encoder("st:tiny", weights=tiny_text)
    vectors = encoder.encode([encoder.prepare(text) for text in ODD_TEXTS])
    np.testing.assert_allclose(vectors, as_published(tiny_text), atol=1e-5)


def test_a_prompt_is_chosen_by_name_or_given(tiny_text):
    with_prompts(tiny_text)
    plain = open_encoder("st:tiny", weights=tiny_text)
    named = open_encoder("st:tiny", weights=tiny_text, prompt_name="passage")
    given = open_encoder("st:tiny", weights=tiny_text, prefix="passage: ")
    np.testing.assert_allclose(
        named.encode(ODD_TEXTS), as_published(tiny_text, prompt_name="passage"), atol=1e-5
    )
    assert space_id(named.space) == space_id(given.space) != space_id(plain.space)
    assert given.space["prompt"] == "passage: "
    with pytest.raises(EncoderError, match=r"No prompt named 'passages'.*passage, query\. Did you"):
        open_encoder("st:tiny", weights=tiny_text, prompt_name="passages")


def test_the_longest_input_can_be_set_and_is_keyed(tiny_text):
    plain = open_encoder("st:tiny", weights=tiny_text)
    short = open_encoder("st:tiny", weights=tiny_text, max_length=8)
    assert space_id(short.space) != space_id(plain.space)
    assert short.length(short.prepare("dog " * 60)) == 8
    edit_json(tiny_text / "sentence_bert_config.json", max_seq_length=8)
    saved = open_encoder("st:tiny", weights=tiny_text)
    assert space_id(saved.space) == space_id(short.space)
    np.testing.assert_array_equal(saved.encode(ODD_TEXTS), short.encode(ODD_TEXTS))


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

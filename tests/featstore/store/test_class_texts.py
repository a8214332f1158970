"""Class texts: encode → L2 → mean → L2, one row a class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from featstore import EmbeddingsView, open_store
from featstore.errors import EmptySelectionError
from featstore.testing import item_table, write_set

PROMPTS = [
    # class, variant, template, vector
    ("b", "name", "none", [3.0, 0.0]),
    ("a", "name", "none", [1.0, 0.0]),
    ("b", "name", "photo", [0.0, 10.0]),
    ("a", "name", "photo", [1.0, 1.0]),
    ("a", "definition", "none", [0.0, 2.0]),
]


@pytest.fixture
def texts(tmp_path: Path) -> EmbeddingsView:
    items = item_table(
        [
            {
                "item_id": f"birds/{c}#{variant}#{template}",
                "kind": "class_name",
                "text": f"{variant} of {c}",
                "class_id": f"birds/{c}",
                "variant": variant,
                "template_id": template,
            }
            for c, variant, template, _ in PROMPTS
        ]
    )
    rows = np.array([vector for *_, vector in PROMPTS], dtype=np.float32)
    key = write_set(tmp_path, rows, items, kind="class_name", encoder="st:toy")
    return open_store(tmp_path).view(key)


def test_by_hand(texts: EmbeddingsView) -> None:
    reduced = texts.class_texts(variants=["name"], templates=["none", "photo"])
    assert reduced.items["class_id"].to_list() == ["birds/b", "birds/a"]
    assert reduced.items["item_id"].to_list() == ["birds/b", "birds/a"]
    root = np.sqrt(0.5)
    # b: mean of (1, 0) and (0, 1); a: mean of (1, 0) and (√½, √½), at half of 45 degrees.
    expected = [[root, root], [np.cos(np.pi / 8), np.sin(np.pi / 8)]]
    np.testing.assert_allclose(reduced.numpy(), expected, rtol=1e-6)


def test_a_class_may_lack_one_of_the_variants(texts: EmbeddingsView) -> None:
    reduced = texts.class_texts(variants=["name", "definition"], templates=["none"])
    np.testing.assert_allclose(reduced.numpy()[0], [1, 0], atol=1e-7)
    np.testing.assert_allclose(reduced.numpy()[1], [np.sqrt(0.5)] * 2, rtol=1e-6)


def test_variants_count_alike_and_a_definition_stands_bare(texts: EmbeddingsView) -> None:
    reduced = texts.class_texts(variants=["name", "definition"], templates=["photo"])
    # a: (√½, √½) of the name under `photo`, (0, 1) of the definition, which has no `photo`.
    np.testing.assert_allclose(
        reduced.numpy()[1], [np.sin(np.pi / 8), np.cos(np.pi / 8)], rtol=1e-6
    )
    both = texts.class_texts(variants=["name", "definition"], templates=["none", "photo"])
    # a: the name at half of 45 degrees, the definition at 90: in the middle.
    angle = (np.pi / 8 + np.pi / 2) / 2
    np.testing.assert_allclose(both.numpy()[1], [np.cos(angle), np.sin(angle)], rtol=1e-6)


def test_all_prompts_by_default(texts: EmbeddingsView) -> None:
    assert len(texts.class_texts()) == 2
    every = texts.class_texts(variants=["name", "definition"], templates=["none", "photo"])
    assert texts.class_texts().numpy().tobytes() == every.numpy().tobytes()


def test_a_message_does_not_list_a_thousand_names(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((1000, 3))
    items = item_table(
        [{"item_id": f"b/{i}", "kind": "class_name", "class_id": "b/c", "variant": f"v{i:03d}"}
         for i in range(1000)]
    )  # fmt: skip
    key = write_set(tmp_path, rows, items, kind="class_name")
    with pytest.raises(EmptySelectionError, match=r"'v000', .* and 988 more") as caught:
        open_store(tmp_path).view(key).class_texts(variants=["nmae"])
    assert len(str(caught.value)) < 300


def test_a_class_without_any_text_is_an_error(texts: EmbeddingsView) -> None:
    with pytest.raises(EmptySelectionError, match=r"1 classes .* \(first: 'birds/b'\)"):
        texts.class_texts(variants=["definition"])


@pytest.mark.parametrize("variants", [["nmae"], ["name", "nmae"], []])
def test_an_unknown_variant_is_not_ignored(texts: EmbeddingsView, variants: list[str]) -> None:
    with pytest.raises(EmptySelectionError, match="It has: 'definition', 'name'"):
        texts.class_texts(variants=variants)


def test_a_text_is_one_name_not_its_letters(texts: EmbeddingsView) -> None:
    one = texts.class_texts("name", "none")
    assert one.fingerprint == texts.class_texts(["name"], ["none"]).fingerprint
    with pytest.raises(EmptySelectionError, match="has no variant 'nmae'"):
        texts.class_texts("nmae")


def test_the_fingerprint_says_which_texts(texts: EmbeddingsView) -> None:
    names = texts.class_texts(variants=["name"])
    assert names.fingerprint != texts.class_texts().fingerprint
    assert names.fingerprint == texts.class_texts(variants=["name"]).fingerprint
    assert names.space_id == texts.space_id

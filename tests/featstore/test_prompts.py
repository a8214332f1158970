"""Prompts against hand-worked tables; identity and order under Hypothesis."""

import hashlib
import re

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featstore.errors import ManifestError
from featstore.manifest.manifest import validate_items
from featstore.prompts import TEMPLATES, VARIANTS, class_prompts

CLASSES = pl.DataFrame(
    {
        "class_id": ["a/2", "a/1"],
        "index": [1, 0],
        "synset": ["n2", "n1"],
        "lemmas": ["crane, derrick", "tench, Tinca tinca"],
        "definition": ["lifts {} heavy objects", "a fish"],
        "name": ["crane", "tench"],
        "shared_name": [True, False],
        "name_group": ["crane", "tench"],
        "clean_name": ["derrick", "tench"],
        "paper_name": ["crane, a machine", "tench, a fish"],
        "open_clip_name": ["crane (machine)", "tench"],
        "user_name": ["a lifter", "a swimmer"],
    }
)


def test_hand_worked_table():
    table = class_prompts(CLASSES, ("name", "definition"), ("none", "photo"))
    expected = [
        ("a/1#name#none", "tench"),
        ("a/1#name#photo", "a photo of a tench."),
        ("a/1#definition#none", "a fish"),
        ("a/1#definition#photo", "a photo of a a fish."),
        ("a/2#name#none", "crane"),
        ("a/2#name#photo", "a photo of a crane."),
        ("a/2#definition#none", "lifts {} heavy objects"),
        ("a/2#definition#photo", "a photo of a lifts {} heavy objects."),
    ]
    assert table.select("item_id", "text").rows() == expected
    assert table["kind"].unique().to_list() == ["class_name"]
    assert table["shared_name"].to_list() == [False] * 4 + [True] * 4
    assert table["name_group"].to_list() == ["tench"] * 4 + ["crane"] * 4
    assert table["content_sha256"][0] == hashlib.sha256(b"tench").hexdigest()
    validate_items({"class_name": table}, CLASSES)


def test_the_default_is_the_name_bare_and_in_a_photo():
    table = class_prompts(CLASSES)
    assert table["text"].to_list() == [
        "tench", "a photo of a tench.", "crane", "a photo of a crane.",
    ]  # fmt: skip


def test_a_noun_made_for_prompts_comes_before_the_name_and_the_split_is_carried():
    labels = CLASSES.with_columns(
        name=pl.lit("A Silver Gull"), noun=pl.lit("Silver Gull"), split=pl.lit("test")
    ).drop("name_group")
    table = class_prompts(labels, templates=["photo"])
    assert table["text"].unique().to_list() == ["a photo of a Silver Gull."]
    assert table["split"].unique().to_list() == ["test"]
    assert "name_group" not in table.columns


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_template_holds_the_name_once(template):
    assert TEMPLATES[template].count("{}") == 1
    [text, _] = class_prompts(CLASSES, templates=[template])["text"]
    assert text.split("tench") == TEMPLATES[template].replace("{a}", "a").split("{}")


def test_the_article_goes_by_the_first_letter_where_a_template_asks_for_it():
    names = ["actor", "Eagle owl", "iron", "Otter", "umbrella", "tench"]
    labels = CLASSES.head(1).select(pl.all().repeat_by(6).list.explode()).with_columns(
        class_id=pl.Series([f"a/{n}" for n in range(6)]), name=pl.Series(names),
        index=pl.Series(range(6), dtype=CLASSES["index"].dtype),
    )  # fmt: skip
    table = class_prompts(labels, templates=["icis"])
    assert table["text"].to_list() == [
        "a photo of an actor",
        "a photo of an Eagle owl",
        "a photo of an iron",
        "a photo of an Otter",
        "a photo of a umbrella",  # as its source has it
        "a photo of a tench",
    ]
    own = class_prompts(labels, templates={"mine": "{a} {} is {a} {}, {b}."})["text"]
    assert own[0] == "an actor is an actor, {b}."
    assert class_prompts(labels, templates=["photo"])["text"][0] == "a photo of a actor."


@given(
    st.lists(st.sampled_from(list(VARIANTS)), min_size=1, unique=True),
    st.lists(st.sampled_from(list(TEMPLATES)), min_size=1, unique=True),
    st.booleans(),
)
def test_every_class_has_every_variant_and_template_once(variants, templates, reverse):
    labels = CLASSES.reverse() if reverse else CLASSES
    table = class_prompts(labels, variants, templates)
    expected = [f"a/{n}#{v}#{t}" for n in (1, 2) for v in variants for t in templates]
    assert table["item_id"].to_list() == expected
    parts = [tuple(re.split("#", item)) for item in expected]
    assert table.select("class_id", "variant", "template_id").rows() == parts


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"variants": ["names"]}, "No variant named 'names'. Known .*Did you mean 'name'"),
        ({"templates": ["phto"]}, "No template named 'phto'. Known .*Did you mean 'photo'"),
        ({"variants": []}, "at least one"),
        ({"templates": ["none", "none"]}, "each once"),
        ({"templates": "photo"}, r"got the string 'photo'. Give \['photo'\]"),
    ],
)
def test_unknown_or_repeated_names_are_refused(arguments, match):
    with pytest.raises(ManifestError, match=match):
        class_prompts(CLASSES, **arguments)


def test_a_class_without_the_variant_is_named():
    labels = CLASSES.with_columns(
        definition=pl.when(pl.col("index") == 0).then(pl.lit(" ")), lemmas=pl.lit(None)
    )
    with pytest.raises(ManifestError, match=r"2 of 2 classes have no lemmas .*Leave the variant"):
        class_prompts(labels, ["lemmas"])
    with pytest.raises(ManifestError, match="2 of 2 classes have no definition"):
        class_prompts(labels, ["definition"])
    with pytest.raises(ManifestError, match="no column 'name'"):
        class_prompts(labels.drop("name"))

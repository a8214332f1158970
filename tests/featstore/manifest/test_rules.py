"""The rules of items, of label sets, of paths, of facts as TOML, and of any number of rows."""

from __future__ import annotations

import tomllib
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featstore import write_manifest
from featstore.errors import ManifestError
from featstore.manifest import toml_text, validate_classes, validate_items
from tests.featstore.manifest.zoo import captions, classes, images

# ---- rules of items ------------------------------------------------------------------------


ITEM_RULES = {
    "kind": ({"picture": images()}, "No kind named 'picture'. Known kinds: image, caption"),
    "no-id-column": ({"image": images().drop("item_id")}, "column 'item_id'. It has: 'uri'"),
    "wrong-type": ({"image": images(split=[1, 2, 3])},
     r"wrong type: split \(Int64 instead of String\)"),
    "no-id": ({"image": images(item_id=["a", None, ""])}, "2 image items have no item_id"),
    "control-id": ({"image": images(item_id=["a", "b\n", "c"])}, r"control character.*'b\\n'"),
    "duplicate": ({"image": images(item_id=["a", "b", "a"])}, "1 item ids are repeated: 'a'"),
    "duplicate-over-kinds": ({"image": images(), "caption": captions(item_id=["zoo/1", "x"])},
     "'zoo/1'. Rows are joined by item_id"),
    "other-kind": ({"image": images(kind=["image", "caption", "image"])},
     "1 items of the table of kind 'image' say another: 'caption'"),
    "unknown-kind": ({"image": images(kind=["image", "picture", "image"])},
     "'picture'.*Known kinds"),
    "both": ({"image": images(text=["t", None, None])},
     "1 image items .* needs, a uri and no text: 'zoo/1'"),
    "neither": ({"image": images(uri=["images/1.png", None, "images/2.png"])},
     "needs, a uri and no text: 'zoo/2'"),
    "caption-with-file": ({"caption": captions(text=[None, "b"], uri=["a.txt", None])},
     "needs, a text and no uri: 'zoo/1#en'"),
    "blank": ({"caption": captions(text=["a", "  "])}, "empty text: 'zoo/2#en'"),
    "head-with-text": ({"head_weight": pl.DataFrame({"item_id": ["h"], "text": ["t"]})},
     "neither a uri nor a text"),
    "class-name-without-class": ({"class_name": pl.DataFrame({"item_id": ["c"], "text": ["cat"]})},
     "1 class_name items .* needs, a text, a class_id and no uri: 'c'"),
    "dangling": ({"image": images(), "caption": captions(parent_id=["zoo/1", "zoo/9"])},
     "1 caption items have a parent that does not exist: 'zoo/9'.*Add the parents"),
    "leak": ({"image": images(), "caption": captions(split=["train", "train"])},
     "1 caption items lie in another split than their parent: 'zoo/2#en'"),
    "no-labels": ({"image": images()}, "label set of 0 classes .*: 'zoo/cat', 'zoo/dog'"),
    "unknown-class": ({"image": images(class_id=["zoo/cat", "zoo/dgo", "zoo/dgo"])},
     "have 1 class_ids .* 2 classes .*: 'zoo/dgo'. Did you mean 'zoo/dog'"),
    "leaves-root": ({"image": images(uri=["../1.png", "/etc/passwd", "images/1.png"])},
     "2 uris of image items .*climbs out.*it is absolute.*below the manifest's folder"),
}  # fmt: skip


@pytest.mark.parametrize("case", ITEM_RULES)
def test_broken_rules_of_items(case):
    tables, match = ITEM_RULES[case]
    with pytest.raises(ManifestError, match=match):
        validate_items(tables, None if case == "no-labels" else classes())


# ---- rules of label sets -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        (classes()[:0], "no class"),
        (classes().drop("name"), "no column 'name'"),
        (classes(index=[0.0, 1.0]), r"index \(Float64 instead of Int64\)"),
        (classes(class_id=["zoo/cat", "zoo/cat"]), "1 class ids are repeated: 'zoo/cat'"),
        (classes(class_id=["zoo/cat", None]), "1 classes have no class_id"),
        (classes(name=["cat", None]), "1 classes have no name: 'zoo/dog'"),
        (classes(index=[1, 2]), "must be 0 to 1, each once; got 1, 2. The index"),
        (classes(index=[0, 0]), "each once; got 0, 0"),
        (classes(name=["cat", "cat"]), "1 names are shared .*'cat'. Set shared_name to true"),
    ],
)
def test_broken_rules_of_label_sets(labels, match):
    with pytest.raises(ManifestError, match=match):
        validate_classes(labels)


# ---- Facts of a manifest as TOML, against the standard library's reader ---------------------


@pytest.mark.parametrize("value", [None, b"x", Path("x"), "\ud800"])
def test_facts_that_toml_cannot_hold_are_refused(value):
    with pytest.raises(ManifestError, match=r"cannot hold the facts \['a'\]: .*Give strings"):
        toml_text({"a": {"b": value}})


def test_a_name_or_key_with_a_line_end_does_not_pass_for_one_without(tmp_path):
    assert tomllib.loads(toml_text({"a\n": {"b\n": 1}})) == {"a\n": {"b\n": 1}}
    with pytest.raises(ManifestError, match="lower-case letters"):
        write_manifest(tmp_path, facts={"name": "stamps\n"}, tables={})


@given(st.lists(st.sampled_from("abcdefgh"), max_size=8), st.lists(st.sampled_from("abc")))
def test_repeated_ids_are_those_that_a_counter_finds(ids, heads):
    schema = {"item_id": pl.String, "text": pl.String}
    tables = {
        "caption": pl.DataFrame({"item_id": ids, "text": ["t"] * len(ids)}, schema=schema),
        "head_weight": pl.DataFrame({"item_id": heads}, schema={"item_id": pl.String}),
    }
    tables["head_weight"] = tables["head_weight"].with_columns(class_id=pl.col("item_id"))
    repeated = sorted(item for item, times in Counter([*ids, *heads]).items() if times > 1)
    reason = f"^{len(repeated)} item ids are repeated: '{repeated[0]}'" if repeated else "label set"
    if not repeated and not heads:
        validate_items(tables)
        return
    with pytest.raises(ManifestError, match=reason):
        validate_items(tables)

"""The rules of items and of label sets."""

from dataclasses import dataclass

import polars as pl
import pytest

from featstore.errors import ManifestError
from featstore.manifest.io import split_counts
from featstore.manifest.manifest import ITEM_SCHEMA, conform_items, validate_classes, validate_items
from tests.featstore.manifest.zoo import captions, classes, images

# ---- rules of items ------------------------------------------------------------------------


@dataclass(frozen=True)
class Broken:
    tables: dict
    match: str
    id: str
    labels: pl.DataFrame | None = None


ITEM_RULES = [
    Broken({"picture": images()}, "No kind named 'picture'. Known kinds: image, caption", "kind"),
    Broken({"image": images().drop("item_id")}, "column 'item_id'. It has: 'uri'", "no-id-column"),
    Broken(
        {"image": images(split=[1, 2, 3])},
        r"wrong type: split \(Int64 instead of String\)",
        "wrong-type",
    ),
    Broken({"image": images(item_id=["a", None, ""])}, "2 image items have no item_id", "no-id"),
    Broken(
        {"image": images(item_id=["a", "b\n", "c"])}, r"control character.*'b\\n'", "control-id"
    ),
    Broken({"image": images(item_id=["a", "b", "a"])}, "1 item ids are repeated: 'a'", "duplicate"),
    Broken(
        {"image": images(), "caption": captions(item_id=["zoo/1", "x"])},
        "'zoo/1'. Rows are joined by item_id",
        "duplicate-over-kinds",
    ),
    Broken(
        {"image": images(kind=["image", "caption", "image"])},
        "first: 'caption' of item 'zoo/2'",
        "other-kind",
    ),
    Broken(
        {"image": images(kind=["image", "picture", "image"])},
        "'picture'.*Known kinds",
        "unknown-kind",
    ),
    Broken(
        {"image": images(text=["t", None, None])},
        "1 image items .* needs a uri and no text; item 'zoo/1' has both",
        "both",
    ),
    Broken(
        {"image": images(uri=["images/1.png", None, "images/2.png"])},
        "item 'zoo/2' has neither",
        "neither",
    ),
    Broken(
        {"caption": captions(text=[None, "b"], uri=["a.txt", None])},
        "needs a text and no uri; item 'zoo/1#en' has a uri",
        "caption-with-file",
    ),
    Broken({"caption": captions(text=["a", "  "])}, "empty text: 'zoo/2#en'", "blank"),
    Broken(
        {"head_weight": pl.DataFrame({"item_id": ["h"], "text": ["t"]})},
        "neither a uri nor a text",
        "head-with-text",
    ),
    Broken(
        {"class_name": pl.DataFrame({"item_id": ["c"], "text": ["cat"]})},
        "1 class_name items have no class_id: 'c'",
        "class-name-without-class",
    ),
    Broken(
        {"image": images(), "caption": captions(parent_id=["zoo/1", "zoo/9"])},
        "parent that does not exist .*item 'zoo/2#en', parent 'zoo/9'.*Add the parents",
        "dangling",
    ),
    Broken(
        {"image": images(), "caption": captions(split=["train", "train"])},
        "another split than their parent .*'zoo/2#en' in 'train', its parent in 'test'",
        "leak",
    ),
    Broken({"image": images()}, "there is no label set. Add classes.parquet", "no-labels"),
    Broken(
        {"image": images(class_id=["zoo/cat", "zoo/dgo", "zoo/dgo"])},
        "2 image items .* 2 classes: 'zoo/dgo'. Did you mean 'zoo/dog'",
        "unknown-class",
    ),
    Broken(
        {"image": images(uri=["../1.png", "/etc/passwd", "images/1.png"])},
        "2 uris of image items .*climbs out.*it is absolute.*below the manifest's folder",
        "leaves-root",
    ),
]


@pytest.mark.parametrize("case", ITEM_RULES, ids=lambda case: case.id)
def test_broken_rules_of_items(case):
    labels = None if case.id == "no-labels" else classes()
    with pytest.raises(ManifestError, match=case.match):
        validate_items(case.tables, labels)


def test_no_items_at_all_and_empty_tables_are_valid():
    validate_items({})
    validate_items({"image": images()[:0], "caption": captions()[:0]})


def test_a_long_list_of_offenders_is_cut():
    table = pl.DataFrame({"item_id": [f"i{n // 2:02}" for n in range(40)], "text": ["t"] * 40})
    with pytest.raises(
        ManifestError, match=r"20 item ids are repeated: 'i00', .*'i04' and 15 more"
    ):
        validate_items({"caption": table})


def test_null_columns_are_taken_as_text():
    table = conform_items(pl.DataFrame({"item_id": ["a"], "text": ["b"], "uri": [None]}), "caption")
    assert dict(table.schema) == ITEM_SCHEMA


def test_counts_are_in_the_usual_order():
    table = pl.DataFrame({"split": ["test", "train", None, "extra", "val", "train"]})
    assert list(split_counts(table).items()) == [
        ("train", 2),
        ("val", 1),
        ("test", 1),
        ("extra", 1),
        ("unsplit", 1),
        ("total", 6),
    ]


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
        (classes(index=[1, 2]), "must be 0 to 1, each once; got 2 distinct ones, 1 to 2"),
        (classes(index=[0, 0]), "got 1 distinct ones, 0 to 0"),
        (classes(name=["cat", "cat"]), "1 names are shared .*'cat'. Set shared_name to true"),
    ],
)
def test_broken_rules_of_label_sets(labels, match):
    with pytest.raises(ManifestError, match=match):
        validate_classes(labels)


def test_classes_may_stand_in_any_order_and_share_names_knowingly():
    validate_classes(classes(index=[1, 0], name=["crane", "crane"], shared_name=[True, True]))

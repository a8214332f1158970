"""Label files, prompts against hand-worked tables, and a user's choice of names and templates."""

import hashlib
import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import featstore
from data_manifests.labels import imagenet_names, openai_templates
from featstore import read_manifest
from featstore.datasets import build_dataset, read_label_file, write_label_set
from featstore.errors import ManifestError, StoreWriteError
from featstore.extraction.heads import head_items
from featstore.manifest import validate_items
from featstore.prompts import (
    PromptChoice,
    class_prompts,
    read_templates,
    read_texts,
    template_texts,
)
from tests.data_manifests import miniatures
from tests.typed import headstock

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


def test_a_noun_made_for_prompts_comes_before_the_name_and_the_split_is_carried():
    labels = CLASSES.with_columns(
        name=pl.lit("A Silver Gull"), noun=pl.lit("Silver Gull"), split=pl.lit("test")
    ).drop("name_group")
    table = class_prompts(labels, templates=["photo"])
    assert table["text"].unique().to_list() == ["a photo of a Silver Gull."]
    assert table["split"].unique().to_list() == ["test"]
    assert "name_group" not in table.columns


def test_the_article_goes_by_the_first_letter_where_a_template_asks_for_it():
    names = ["actor", "Eagle owl", "iron", "Otter", "umbrella", "tench"]
    labels = CLASSES.head(1).select(pl.all().repeat_by(6).list.explode()).with_columns(
        class_id=pl.Series([f"a/{n}" for n in range(6)]), name=pl.Series(names),
        index=pl.Series(range(6), dtype=CLASSES["index"].dtype),
    )  # fmt: skip
    texts = class_prompts(labels, templates=["icis"])["text"]
    articles = ["an", "an", "an", "an", "a", "a"]  # "a umbrella", as its source has it
    assert texts.to_list() == [
        f"a photo of {a} {name}" for a, name in zip(articles, names, strict=True)
    ]
    own = class_prompts(labels, templates={"mine": "{a} {} is {a} {}, {b}."})["text"]
    assert own[0] == "an actor is an actor, {b}."
    assert class_prompts(labels, templates=["photo"])["text"][0] == "a photo of a actor."


@pytest.mark.parametrize(("arguments", "match"), [
    ({"variants": ["names"]}, "No variant named 'names'. Known .*Did you mean 'name'"),
    ({"templates": ["phto"]}, "No template named 'phto'. Known .*Did you mean 'photo'"),
    ({"variants": []}, "at least one"),
    ({"templates": ["none", "none"]}, "each once"),
    ({"templates": "photo"}, r"got the string 'photo'. Give \['photo'\]"),
])  # fmt: skip
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


# ---- Names and templates of a build: sets, open_clip's own lists, and a user's JSON ---------


@pytest.fixture
def build(tmp_path):
    """Build the miniature of Food-101 with a choice of prompts; return (manifest, texts by id)."""
    root = miniatures.food101(tmp_path / "data")
    count = iter(range(99))

    def call(**choice):
        out = tmp_path / f"out{next(count)}"
        result = build_dataset("food101", out, root=root, subset=True,
                               prompts=PromptChoice(**choice))  # fmt: skip
        items = result.manifest.items("class_name")
        return result.manifest, dict(items.select("item_id", "text").iter_rows())

    return call


def write(path, document):
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def test_the_usual_prompts_are_plain_and_the_papers(build):
    _, texts = build()
    assert texts == {
        "food101/apple_pie#name#none": "apple pie",
        "food101/apple_pie#name#photo": "a photo of a apple pie.",
        "food101/waffles#name#none": "waffles",
        "food101/waffles#name#photo": "a photo of a waffles.",
        "food101/apple_pie#paper#paper": "A photo of a Apple pie, a type of food",
        "food101/waffles#paper#paper": "A photo of a Waffles, a type of food",
    }


def test_chosen_names_stand_in_every_chosen_template(build):
    manifest, texts = build(variants=["paper"], templates=["none", "openai80"])
    assert len(texts) == 2 * 81
    assert texts["food101/waffles#paper#none"] == "Waffles, a type of food"
    for number, template in enumerate(openai_templates()):
        own = texts[f"food101/apple_pie#paper#openai80-{number:02d}"]
        assert own == template.replace("{}", "Apple pie, a type of food")
    assert manifest.facts["source"]["templates"] == ["none", "openai80"]


def test_sets_are_those_of_the_installed_open_clip():
    """Independent: open_clip, imported."""
    open_clip = pytest.importorskip("open_clip")
    expected = [make("{}") for make in open_clip.OPENAI_IMAGENET_TEMPLATES]
    assert list(template_texts(["openai80"]).values()) == expected
    assert len(set(expected)) == 80
    simple = [make("{}") for make in open_clip.SIMPLE_IMAGENET_TEMPLATES]
    assert list(template_texts(["simple"]).values()) == simple
    assert imagenet_names() == list(open_clip.IMAGENET_CLASSNAMES)
    by_hand = {"paper": "A photo of a {}", "photo": "a photo of a {}."}
    assert template_texts(["paper", "photo"]) == by_hand


@pytest.mark.parametrize("document", [
    ["pie of apples", "squares"],
    {"food101": ["pie of apples", "squares"], "pets": ["cat"]},
    {"Waffles": "squares", "apple_pie": "pie of apples"},
    {"food101": {"Waffles, a type of food": ["squares"], "apple pie": "pie of apples"}},
])  # fmt: skip
def test_a_users_names(build, tmp_path, document):
    file = write(tmp_path / "names.json", document)
    manifest, texts = build(names_file=file, templates=["none"])
    assert texts == {
        "food101/apple_pie#user#none": "pie of apples", "food101/waffles#user#none": "squares",
    }  # fmt: skip
    assert manifest.classes["user_name"].to_list() == ["pie of apples", "squares"]
    assert manifest.facts["source"]["names_file"] == "names.json"


def test_a_users_templates(build, tmp_path):
    own = ["a bad photo of a {c}.", "{}"]
    for document in (own, {"food101": own, "dtd": ["a {c} texture"]}):
        file = write(tmp_path / "templates.json", document)
        _, texts = build(variants=["name"], templates_file=file)
        assert sorted(texts.values()) == [
            "a bad photo of a apple pie.", "a bad photo of a waffles.", "apple pie", "waffles",
        ]  # fmt: skip


def test_cupls_descriptions_are_further_items(build, tmp_path):
    document = {"waffles": ["Waffles are square.", "\nThey are brown."], "apple pie": ["A pie."]}
    for content in (document, {"food101": document}, {"food101": [*document.values()][::-1]}):
        manifest, texts = build(descriptions_file=write(tmp_path / "cupl.json", content))
        own = {key: text for key, text in texts.items() if "#description#" in key}
        assert own == {
            "food101/apple_pie#description#d000": "A pie.",
            "food101/waffles#description#d000": "Waffles are square.",
            "food101/waffles#description#d001": "They are brown.",
        }
        assert len(texts) == len(own) + 6
        assert manifest.items("class_name")["content_sha256"].null_count() == 0


def test_a_class_that_shares_its_name_is_found_by_another(tmp_path):
    file = write(tmp_path / "cupl.json", {"derrick": ["It lifts."], "tench": "A fish."})
    assert read_texts(file, (), CLASSES) == {"a/1": ["A fish."], "a/2": ["It lifts."]}


@pytest.mark.parametrize(("reader", "document", "match"), [
    ("texts", ["one"], "1 texts for 2 classes"),
    ("texts", {"waffles": "squares"}, "no entry for 1 of 2 classes: 'food101/apple_pie'"),
    ("texts", ["one", " "], "no text for the class 'food101/waffles'"),
    ("texts", {"waffles": [], "apple pie": ["a"]}, "no text for the class 'food101/waffles'"),
    ("texts", 7, "holds a int"),
    ("templates", ["a photo"], "must hold {} or {c} once"),
    ("templates", {"dtd": ["{}"]}, "no templates for food101"),
])  # fmt: skip
def test_files_of_another_form(build, tmp_path, reader, document, match):
    classes = build()[0].classes
    file = write(tmp_path / "file.json", document)
    read, more = (read_texts, (classes,)) if reader == "texts" else (read_templates, ())
    with pytest.raises(ManifestError, match=match):
        read(file, ("food101",), *more)


class Letters:
    """Encodes a text as counts of its letters, and keeps the texts that it was given."""

    def __init__(self):
        self.texts = []

    def encode(self, texts):
        self.texts += texts
        return np.array([[text.count(letter) for letter in "aeiouy"] for text in texts], float)


def extract_names(folder, store):
    encoder = Letters()
    result = featstore.extract(
        read_manifest(folder), kind="class_name", encoder=encoder, space={"name": "letters"},
        store=store,
    )  # fmt: skip
    return result, encoder.texts


def test_appended_variants_extend_the_set_that_was_extracted(tmp_path):
    """Old prompts stay first, so old rows are kept and the new ones alone are encoded."""
    names, folder, store = tmp_path / "birds.csv", tmp_path / "birds", tmp_path / "store"
    names.write_text('name,lemmas,definition\nauk,"auk, alca",a sea bird\ntern,tern,another\n')
    before = write_label_set(names, folder).tables["class_name"]
    first, _ = extract_names(folder, store)
    assert (first.new, first.reused) == (4, 0)
    old = featstore.open_store(store).view(first.key).numpy()
    words = ["make", str(names), "--as", "labels", "-o", str(folder)]
    words += ["--prompts", "name,definition"]
    assert headstock("data", *words) == 0
    assert read_manifest(folder).tables["class_name"]["item_id"].head(4).equals(before["item_id"])
    again, texts = extract_names(folder, store)
    assert (again.reused, again.new, again.copied) == (4, 4, 0)
    assert {"a sea bird", "a photo of a another."} <= set(texts)
    assert "auk" not in texts
    view = featstore.open_store(store).view(again.key)
    np.testing.assert_array_equal(view.numpy()[:4], old)
    assert len(view.class_texts(variants="definition")) == 2
    # Prompts that are not those of before and more are a label set of their own.
    write_label_set(names, folder, prompts=PromptChoice(variants=("definition",)))
    with pytest.raises(StoreWriteError, match="cannot be extended"):
        extract_names(folder, store)


def test_a_built_dataset_takes_variants_on_and_another_name(tmp_path):
    root = miniatures.food101(tmp_path / "data")
    options = {"root": root, "subset": True, "name": "lunch"}
    out = tmp_path / "out"
    before = build_dataset("food101", out, **options).manifest
    assert (before.name, before.facts["name"]) == ("lunch", "lunch")
    assert build_dataset("food101", out, **options).status == "unchanged"
    more = PromptChoice(variants=("paper", "name"), templates=("photo", "paper", "none"))
    after = build_dataset("food101", out, prompts=more, **options).manifest.tables["class_name"]
    n = before.tables["class_name"].height
    assert after.height > n
    assert after["item_id"].head(n).equals(before.tables["class_name"]["item_id"])
    with pytest.raises(ManifestError, match="holds the dataset 'lunch', not 'food101'"):
        build_dataset("food101", out, root=root, subset=True)
    with pytest.raises(ManifestError, match="lower-case letters"):
        build_dataset("food101", tmp_path / "other", root=root, subset=True, name="My Lunch")


# ---- test_label_files -----------------------------------------------------------------------


NAMES = ["great auk", "Crane", "crane"]
FORMS = {
    "birds.txt": "great auk\nCrane\ncrane\n\n",
    "birds.csv": 'name,definition\n"great auk",a\nCrane,b\ncrane,c\n',
    "birds.tsv": "index\tname\n2\tcrane\n0\tgreat auk\n1\tCrane\n",
    "birds.json": json.dumps(NAMES),
    "birds.JSON": json.dumps({"1": "Crane", "0": "great auk", "2": "crane"}),
}


@pytest.mark.parametrize("file", FORMS)
def test_every_form_gives_the_same_classes(tmp_path, file):
    (tmp_path / file).write_text(FORMS[file])
    name, classes = read_label_file(tmp_path / file)
    assert name == "birds"
    assert classes["name"].to_list() == NAMES
    assert classes["index"].to_list() == [0, 1, 2]
    assert classes["class_id"].to_list() == ["birds/0", "birds/1", "birds/2"]
    assert classes["shared_name"].to_list() == [False, True, True]
    assert head_items(classes)["item_id"].to_list() == [f"birds/{i}#head" for i in range(3)]


def test_synsets_are_ids_where_there_are_any(tmp_path):
    (tmp_path / "My Birds.csv").write_text('synset,name,lemmas\nn2,auk,"auk, alca"\nn1,,x\n')
    with pytest.raises(ManifestError, match="no name for class 1"):
        read_label_file(tmp_path / "My Birds.csv")
    (tmp_path / "My Birds.csv").write_text('synset,name,lemmas\nn2,auk,"auk, alca"\nn1,tern,x\n')
    name, classes = read_label_file(tmp_path / "My Birds.csv")
    assert name == "my-birds"
    assert classes["class_id"].to_list() == ["my-birds/n2", "my-birds/n1"]
    assert classes["lemmas"].to_list() == ["auk, alca", "x"]
    assert read_label_file(tmp_path / "My Birds.csv", name="b")[1]["class_id"][0] == "b/n2"


@pytest.mark.parametrize(("file", "content", "message"), [
    ("a.txt", None, r"Cannot read the label file 'a\.txt'.*one name a line"),
    ("a.txt", b"", "holds no class"),
    ("a.txt", b"x\n\ny\n", "no name for class 1"),
    ("a.csv", b"label\nx\n", "no column 'name', only label"),
    ("a.csv", b"index,name\n0,x\n2,y\n", "index"),
    ("a.csv", b"index,name\n0,x\nfirst,y\n", "Cannot read the label file"),
    ("a.csv", b"synset,name\nn1,x\nn1,y\n", "class ids are repeated: 'a/n1'"),
    ("a.json", b"{", "Cannot read the label file"),
    ("a.json", b"3", "not iterable.*a list of names or"),
    ("a.xlsx", b"", "xlsx is no known form"),
])  # fmt: skip
def test_what_is_no_label_file_says_why(tmp_path, file, content, message):
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(ManifestError, match=message) as caught:
        read_label_file(tmp_path / file)
    assert "\n" not in str(caught.value)


# ---- Head items stand in the order of the rows of a head ------------------------------------


def labels(order):
    rows = [(f"set/c{n}", n, f"name {n}", False) for n in order]
    return pl.DataFrame(rows, ["class_id", "index", "name", "shared_name"], orient="row")


@given(st.permutations(range(7)))
def test_row_i_is_class_i_whatever_the_order_of_the_table(order):
    table = head_items(labels(order))
    assert table["item_id"].to_list() == [f"set/c{n}#head" for n in range(7)]
    assert table["class_id"].to_list() == [f"set/c{n}" for n in range(7)]
    assert table["content_sha256"][3] == hashlib.sha256(b"set/c3").hexdigest()
    assert set(table.schema.dtypes()) == {pl.String}
    assert table["kind"].unique().to_list() == ["head_weight"]
    validate_items({"head_weight": table}, labels(order))

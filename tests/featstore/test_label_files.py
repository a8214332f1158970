from __future__ import annotations

import json

import pytest

from featstore import read_manifest
from featstore.datasets import write_label_set
from featstore.errors import ManifestError
from featstore.labels import head_items, read_label_file
from featstore.sources.reader import check_bytes

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


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("a.txt", None, r"Cannot read the label file 'a\.txt'.*one name a line"),
        ("a.txt", b"", "holds no class"),
        ("a.txt", b"x\n\ny\n", "no name for class 1"),
        ("a.txt", b"\xff\xfe", "Cannot read the label file"),
        ("a.csv", b"label\nx\n", "no column 'name', only label"),
        ("a.csv", b"index,name\n0,x\n2,y\n", "index"),
        ("a.csv", b"index,name\n0,x\nfirst,y\n", "Cannot read the label file"),
        ("a.csv", b"synset,name\nn1,x\nn1,y\n", "class ids are repeated: 'a/n1'"),
        ("a.json", b"{", "Cannot read the label file"),
        ("a.json", b"[1, 2]", "neither a list of names nor"),
        ("a.json", b'{"x": "y"}', "Cannot read the label file"),
        ("a.xlsx", b"", "xlsx is no known form"),
    ],
)
def test_what_is_no_label_file_says_why(tmp_path, file, content, message):
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(ManifestError, match=message) as caught:
        read_label_file(tmp_path / file)
    assert "\n" not in str(caught.value)


def test_a_label_set_is_a_manifest_with_prompts(tmp_path):
    (tmp_path / "birds.txt").write_text(FORMS["birds.txt"])
    write_label_set(tmp_path / "birds.txt", tmp_path / "out")
    again = read_manifest(tmp_path / "out")
    check_bytes(again)
    assert again.name == "birds"
    assert again.tables["class_name"]["text"].to_list()[:2] == [
        "great auk",
        "a photo of a great auk.",
    ]
    with pytest.raises(ManifestError, match="holds the dataset 'birds', not 'other'"):
        write_label_set(tmp_path / "birds.txt", tmp_path / "out", name="other")
    with pytest.raises(ManifestError):
        write_label_set(tmp_path / "birds.txt", tmp_path / "new", name="No Name")

"""CSV, TSV, JSON Lines and Karpathy's JSON."""

import csv
import io
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featstore.errors import ManifestError
from featstore.sources.text_files import _rows
from tests.small_files import picture, write


@pytest.fixture
def root(tmp_path):
    return write(tmp_path / "in", {f"img/{n}.png": picture(n) for n in range(4)})


TABLES = {
    "csv": "path,caption,label,split\n"
    'img/0.png,"A dog, and ""a cat"".",dog,train\n'
    "img/0.png,Second.,dog,train\n"
    "\n"
    "./img/1.png,,cat,validation\n",
    "tsv": "path\tcaption\tlabel\tsplit\n"
    'img/0.png\t"A dog, and ""a cat""."\tdog\ttrain\n'
    "img/0.png\tSecond.\tdog\ttrain\n"
    "img/1.png\t\tcat\tvalidation\n",
    "jsonl": '{"path": "img/0.png", "caption": ["A dog, and \\"a cat\\".", "Second."], '
    '"label": "dog", "split": "train"}\n\n'
    '{"path": "img/1.png", "label": "cat", "split": "validation"}\n',
}


@pytest.mark.parametrize("kind", TABLES)
def test_tables_of_paths(make, root, kind):
    manifest = make(kind, write(root, {f"x.{kind}": TABLES[kind]}) / f"x.{kind}")
    images = manifest.items("image")
    assert images.select("item_id", "uri", "class_id", "split", "source_split").rows() == [
        ("zoo/image/img/0.png", "img/0.png", "zoo/dog", "train", None),
        ("zoo/image/img/1.png", "img/1.png", "zoo/cat", "val", "validation"),
    ]
    assert manifest.items("caption").select("item_id", "text", "parent_id", "split").rows() == [
        ("zoo/caption/img/0.png#0", 'A dog, and "a cat".', "zoo/image/img/0.png", "train"),
        ("zoo/caption/img/0.png#1", "Second.", "zoo/image/img/0.png", "train"),
    ]


def test_columns_are_chosen_by_options_and_ids_are_keys(make, root, tmp_path):
    table = write(tmp_path, {"t/x.csv": "file,words,id\n0.png,Hello.,q7\n1.png,,q8\n"}) / "t/x.csv"
    manifest = make("csv", table, image="file", caption="words", images=str(root / "img"))
    assert manifest.items("image")["item_id"].to_list() == ["zoo/image/q7", "zoo/image/q8"]
    assert manifest.items("caption")["item_id"].to_list() == ["zoo/caption/q7#0"]
    assert manifest.root == root / "img"


def test_absolute_paths_must_lie_below_the_root(make, root, tmp_path):
    table = write(root, {"x.csv": f"path\n{root}/img/0.png\n"}) / "x.csv"
    assert make("csv", table).items("image")["uri"].to_list() == ["img/0.png"]
    write(root, {"x.csv": f"path\n{tmp_path}/img/0.png\n"})
    with pytest.raises(ManifestError, match="does not lie below"):
        make("csv", table)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("path,caption\nimg/0.png\n", r"x\.csv, line 2 has 1 fields; the header has 2"),
        ("path,caption\nimg/0.png,a,b\n", "line 2 has 3 fields; the header has 2"),
        ('path,caption\nimg/0.png,"open\n', r"line \d, cannot be read: unexpected end of data"),
        (b"path,caption\nimg/0.png,abc\xe9\n", "not UTF-8"),
        ("path\n../secret.png\n", "climbs out"),
        ("path\n/etc/passwd\n", "does not lie below"),
        ("path\nhttp://example.org/a.png\n", "is a URL"),
        ("path\npipe:cat x\n", "no such file"),
        ("path\nimg/\0.png\n", "control character"),
        ("path\n \n", "no path of an image"),
        ("path\nimg/gone.png\n", "there is no such file"),
        ("path\nimg\n", "not a regular file"),
        ("path,label\nimg/0.png,a\nimg/0.png,b\n", r"'img/0\.png' is repeated with other facts"),
        ("path,id\nimg/0.png,1\nimg/1.png,1\n", "'1' is repeated with other facts"),
        ("path,path\nimg/0.png,x\n", "names a column twice"),
        ("picture\nimg/0.png\n", "no column of images.*It has: 'picture'"),
        ("path,caption\n", "holds no image"),
        ("", "no column of images"),
        ("path,caption\nimg/0.png,a\0b\n", "NUL"),
        ("path,label\nimg/0.png,Cat\nimg/1.png,cat\n", "differ only in case"),
        ("path,caption\nimg/0.png," + "x" * 200_000 + "\n", "field larger than field limit"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_tables_are_refused_by_name_and_line(make, root, content, match):
    table = write(root, {"x.csv": content}) / "x.csv"
    with pytest.raises(ManifestError, match=match):
        make("csv", table)


def test_an_option_that_names_no_column(make, root):
    table = write(root, {"x.csv": "path,captoin\nimg/0.png,a\n"}) / "x.csv"
    with pytest.raises(ManifestError, match=r"No column named 'caption'.*Did you mean 'captoin'"):
        make("csv", table, caption="caption")
    with pytest.raises(ManifestError, match=r"No option named 'captions'.*Did you mean 'caption'"):
        make("csv", table, captions="x")


@given(
    st.lists(
        st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=2, max_size=2),
        min_size=1,
    )
)
def test_rows_are_those_that_were_written(tmp_path_factory, rows):
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows(rows)
    path = tmp_path_factory.mktemp("csv") / "x.csv"
    path.write_bytes(buffer.getvalue().encode())
    read = [fields for _, fields in _rows(path, ",")]
    rows[0][0] = rows[0][0].removeprefix("\ufeff") if rows[0][0][:1] == "\ufeff" else rows[0][0]
    assert read == rows


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("[1, 2]\n", "line 1 is not a JSON object"),
        ('{"path": "img/0.png"}\n{"path"\n', "line 2 is not JSON"),
        ('{"path": "img/0.png", "caption": 3}\n', "a caption that is no text: 3"),
        ('{"path": ["img/0.png"]}\n', "no path of an image"),
        ('{"path": "img/0.png", "label": {"a": 1}}\n', "neither text nor integer"),
        ('{"path": "img/0.png", "label": 1.5}\n', "neither text nor integer"),
        ('{"path": "img/\\ud800.png"}\n', "not UTF-8"),
        ('{"path": "' + "x" * 2**20 + '"}\n', "bytes of JSON; at most"),
        ("[" * 200_000 + "]" * 200_000 + "\n", "is not JSON that is read here"),
        (b'{"path": "abc\xe9"}\n', "is not JSON"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_json_lines_are_refused_by_line(make, root, content, match):
    table = write(root, {"x.jsonl": content}) / "x.jsonl"
    with pytest.raises(ManifestError, match=match):
        make("jsonl", table)


def test_a_field_that_the_first_object_lacks_is_not_lost(make, root):
    lines = '{"path": "img/1.png", "label": "cat"}\n{"path": "img/0.png", "caption": "Late."}\n'
    manifest = make("jsonl", write(root, {"x.jsonl": lines}) / "x.jsonl")
    assert manifest.items("caption")["text"].to_list() == ["Late."]


# ---- Karpathy ------------------------------------------------------------------------------


def karpathy(**changes):
    image = {
        "filepath": "img", "filename": "0.png", "imgid": 7, "cocoid": 391895, "split": "restval",
        "sentids": [70, 71, 72, 73, 74, 75],
        "sentences": [
            {"tokens": ["a"], "raw": f"Sentence {n}.", "imgid": 7, "sentid": 70 + n}
            for n in range(6)
        ],
    }  # fmt: skip
    return {"images": [image | changes], "dataset": "coco"}


def test_karpathy_keeps_all_captions_and_its_own_ids(make, root):
    document = karpathy()
    document["images"].append(
        {"filename": "img/1.png", "split": "test", "sentences": [{"raw": "No ids."}]}
    )
    path = write(root, {"dataset.json": json.dumps(document)}) / "dataset.json"
    manifest = make("karpathy", path)
    columns = ("item_id", "uri", "split", "source_split", "cocoid")
    assert manifest.items("image").select(columns).rows() == [
        ("zoo/image/7", "img/0.png", "train", "restval", 391895),
        ("zoo/image/img/1.png", "img/1.png", "test", None, None),
    ]
    captions = manifest.items("caption").select("item_id", "text", "parent_id").rows()
    assert captions == [
        *((f"zoo/caption/{70 + n}", f"Sentence {n}.", "zoo/image/7") for n in range(6)),
        ("zoo/caption/img/1.png#0", "No ids.", "zoo/image/img/1.png"),
    ]


@pytest.mark.parametrize(
    ("document", "match"),
    [
        ({"images": 3}, "no list of images"),
        ([], "no list of images"),
        ({"images": [3]}, "image 0 is not a JSON object"),
        (karpathy(filename=None), "no path of an image: None"),
        (karpathy(filepath="../.."), "climbs out"),
        (karpathy(filepath="/etc", filename="passwd"), "does not lie below"),
        (karpathy(sentences=[{"tokens": []}]), "no list of raw texts"),
        (karpathy(sentences={"raw": "x"}), "no list of raw texts"),
        ({"images": karpathy()["images"] * 2}, "caption key '70' is repeated"),
        (
            {"images": [karpathy()["images"][0], karpathy(imgid=8, filename="1.png")["images"][0]]},
            "caption key '70' is repeated",
        ),
    ],
    ids=lambda value: str(value)[-40:],
)
def test_bad_karpathy_files(make, root, document, match):
    path = write(root, {"x.json": json.dumps(document)}) / "x.json"
    with pytest.raises(ManifestError, match=match):
        make("karpathy", path)


def test_a_gigantic_json_is_not_read(make, root):
    path = root / "x.json"
    with path.open("wb") as file:
        file.truncate(2**28 + 1)
    with pytest.raises(ManifestError, match=re.escape("at most 268,435,456 are read")):
        make("karpathy", path)

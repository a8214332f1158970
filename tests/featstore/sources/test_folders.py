"""Image folders, class folders and same-stem captions."""

import hashlib
import os

import pytest

from featstore.errors import ManifestError
from featstore.sources.reader import open_reader
from tests.small_files import picture, write


def ids(manifest, kind="image"):
    return manifest.items(kind)["item_id"].to_list()


@pytest.fixture
def photos(tmp_path):
    return write(
        tmp_path / "photos",
        {
            "b.PNG": picture(1),
            "a/2.jpeg": picture(2, "JPEG"),
            "a/zwölf.webp": picture(3, "WEBP"),
            "a/notes.txt": "no image",
            ".hidden/4.png": picture(4),
            "a/._2.jpeg": b"a resource fork",
            "empty.gif": b"",
        },
    )


def test_a_folder_is_its_images_by_relative_path(make, photos):
    manifest = make("folder", photos)
    table = manifest.items("image")
    assert ids(manifest) == [
        "zoo/image/a/2.jpeg", "zoo/image/a/zwölf.webp", "zoo/image/b.PNG", "zoo/image/empty.gif",
    ]  # fmt: skip
    assert manifest.root == photos
    assert table["class_id"].null_count() == table["split"].null_count() == 4
    with open_reader(manifest) as reader:
        for row in table.iter_rows(named=True):
            data = (photos / row["uri"]).read_bytes()
            assert reader.read(row) == data
            assert row["content_sha256"] == hashlib.sha256(data).hexdigest()


def test_folders_named_as_splits_are_splits(make, tmp_path):
    files = {f"{split}/{n}.png": picture(n) for n, split in enumerate(("train", "Validation"))}
    manifest = make("folder", write(tmp_path / "all", files))
    assert dict(manifest.items("image").select("uri", "split").iter_rows()) == {
        "train/0.png": "train", "Validation/1.png": "val",
    }  # fmt: skip
    write(tmp_path / "all", {"other/2.png": picture(2)})
    assert make("folder", tmp_path / "all").items("image")["split"].null_count() == 3
    one = make("folder", tmp_path / "all", split="test")
    assert one.items("image")["split"].unique().to_list() == ["test"]


def test_class_folders_have_sorted_classes_and_prompts(make, tmp_path):
    root = write(
        tmp_path / "pets",
        {"dog/a.png": picture(1), "cat/deep/b.png": picture(2), "Great Dane/a.png": picture(3)},
    )
    manifest = make("class-folders", root)
    assert manifest.classes.select("class_id", "index", "name").rows() == [
        ("zoo/Great Dane", 0, "Great Dane"), ("zoo/cat", 1, "cat"), ("zoo/dog", 2, "dog"),
    ]  # fmt: skip
    assert manifest.items("image").select("item_id", "class_id").rows() == [
        ("zoo/image/Great Dane/a.png", "zoo/Great Dane"),
        ("zoo/image/cat/deep/b.png", "zoo/cat"),
        ("zoo/image/dog/a.png", "zoo/dog"),
    ]
    texts = manifest.items("class_name").filter(class_id="zoo/cat")["text"].to_list()
    assert texts == ["cat", "a photo of a cat."]


def test_class_folders_below_split_folders(make, tmp_path):
    files = {
        "train/cat/1.png": picture(1),
        "val/cat/1.png": picture(2),
        "val/dog/x.png": picture(3),
    }
    manifest = make("class-folders", write(tmp_path / "in", files))
    rows = manifest.items("image").select("uri", "split", "class_id").rows()
    assert rows == [
        ("train/cat/1.png", "train", "zoo/cat"),
        ("val/cat/1.png", "val", "zoo/cat"),
        ("val/dog/x.png", "val", "zoo/dog"),
    ]


def test_classes_that_are_numbers_are_in_the_order_of_numbers(make, tmp_path):
    files = {f"{label}/x.png": picture(label) for label in (10, 9, 0)}
    manifest = make("class-folders", write(tmp_path / "digits", files))
    assert manifest.classes["name"].to_list() == ["0", "9", "10"]
    assert "class_name" not in manifest.tables


def test_captions_of_the_same_stem_one_a_line(make, tmp_path):
    root = write(
        tmp_path / "pairs",
        {
            "test/a.jpg": picture(1, "JPEG"),
            "test/a.txt": "\ufeffA cat.\r\n\r\n  Zwölf Hunde 犬 \nA cat.\n",
            "test/b.png": picture(2),
            "test/readme.txt": "about this folder",
        },
    )
    manifest = make("captions", root)
    assert manifest.items("caption").select("item_id", "text", "parent_id", "split").rows() == [
        ("zoo/caption/test/a.jpg#0", "A cat.", "zoo/image/test/a.jpg", "test"),
        ("zoo/caption/test/a.jpg#1", "Zwölf Hunde 犬", "zoo/image/test/a.jpg", "test"),
        ("zoo/caption/test/a.jpg#2", "A cat.", "zoo/image/test/a.jpg", "test"),
    ]
    assert len(ids(manifest)) == 2


@pytest.mark.parametrize(
    ("source", "files", "match"),
    [
        ("folder", {"x.txt": "none"}, "holds no image"),
        ("class-folders", {"cat/1.png": b"1", "loose.png": b"2"}, "'loose.png' .* no class folder"),
        ("class-folders", {"Cat/1.png": b"1", "cat/2.png": b"2"}, "differ only in case"),
        ("captions", {"a.jpg": b"1", "a.png": b"2", "a.txt": "?"}, "both 'a.jpg' and 'a.png'"),
        ("captions", {"a.jpg": b"1", "a.txt": b"abc\xe9"}, r"a\.txt is not UTF-8 \(byte 3\)"),
        ("captions", {"a.jpg": b"1", "a.txt": "x\0y"}, "holds a NUL"),
        ("captions", {"a.jpg": b"1", "a.txt": b"x" * (2**20 + 1)}, "more than 1,048,576 bytes"),
    ],
)
def test_what_cannot_be_right_is_refused_by_name(make, tmp_path, source, files, match):
    with pytest.raises(ManifestError, match=match):
        make(source, write(tmp_path / "in", files))
    assert not (tmp_path / "made0").exists()


def test_names_that_differ_only_in_case_stay_two_items(make, tmp_path):
    """Keys may be case-sensitive codes; nothing is ever written under them."""
    root = write(tmp_path / "in", {"dQw4.jpg": b"1", "DQW4.jpg": b"2"})
    assert ids(make("folder", root)) == ["zoo/image/DQW4.jpg", "zoo/image/dQw4.jpg"]


def test_a_file_name_that_is_not_utf8(make, tmp_path):
    root = write(tmp_path / "in", {"a.png": b"1"})
    with open(os.fsencode(root) + b"/abc\xe9.png", "wb"):  # noqa: PTH123
        pass
    with pytest.raises(ManifestError, match=r"is not UTF-8\. Rename"):
        make("folder", root)


@pytest.mark.parametrize("suffix", ["png", "txt"])
def test_links_out_of_the_folder_are_refused(make, tmp_path, suffix):
    secret = write(tmp_path / "secret", {"x": "mine"}) / "x"
    root = write(tmp_path / "in", {"a.png": picture(1)})
    (root / ("b.png" if suffix == "png" else "a.txt")).symlink_to(secret)
    with pytest.raises(ManifestError, match="leads out of"):
        make("captions", root)


@pytest.mark.parametrize(
    ("location", "match"),
    [
        ("pipe:curl http://example.org/a.tar", "is a command"),
        ("https://example.org/photos", "is a URL"),
        ("s3://bucket/photos", "is a URL"),
        ("gone", "No such file"),
        ("x\0y", "cannot be opened"),
    ],
)
@pytest.mark.parametrize("source", ["folder", "urls", "csv", "karpathy", "torchvision"])
def test_locations_are_local_and_exist(make, source, location, match):
    with pytest.raises(ManifestError, match=match):
        make(source, location)

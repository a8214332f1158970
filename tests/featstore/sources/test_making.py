"""Making manifests: determinism, reuse, ownership of the folder, the commands."""

import json
import os
import re

import pytest

from featstore import read_manifest
from featstore.errors import ManifestError
from featstore.sources.making import guessed, make_manifest
from tests.small_files import picture, write
from tests.typed import headstock


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.fixture
def photos(tmp_path):
    return write(tmp_path / "My Photos", {"a.png": picture(1), "cat/b.png": picture(2)})


def test_the_same_input_gives_the_same_bytes(photos, tmp_path):
    for out in ("x", "y"):
        make_manifest("folder", photos, tmp_path / out)
    assert contents(tmp_path / "x") == contents(tmp_path / "y")
    for path in photos.rglob("*.png"):
        os.utime(path, (1, 1))
    make_manifest("folder", photos, tmp_path / "x")
    assert contents(tmp_path / "x") == contents(tmp_path / "y")
    assert sorted(contents(tmp_path / "x")) == ["dataset.toml", "image.parquet"]


def test_a_folder_that_holds_something_else_is_left_alone(photos, tmp_path):
    mine = write(tmp_path / "mine", {"thesis.tex": "mine"})
    with pytest.raises(ManifestError, match="holds files that are no manifest"):
        make_manifest("folder", photos, mine)
    with pytest.raises(ManifestError, match="holds files that are no manifest"):
        make_manifest("folder", photos, photos)
    make_manifest("folder", photos, tmp_path / "x", name="one")
    with pytest.raises(ManifestError, match="holds the dataset 'one', not 'two'"):
        make_manifest("folder", photos, tmp_path / "x", name="two")
    with pytest.raises(ManifestError, match="is not a folder"):
        make_manifest("folder", photos, mine / "thesis.tex")
    assert [path.name for path in mine.iterdir()] == ["thesis.tex"]


# ---- the commands --------------------------------------------------------------------------


def run(capsys, *args):
    code = headstock(*args)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_make_and_show(photos, tmp_path, capsys):
    out = tmp_path / "out"
    code, text, _ = run(capsys, "data", "make", photos, "-o", out, "--name", "p", "--json",
                        "-s", "split=test")  # fmt: skip
    document = json.loads(text)
    assert code == 0
    assert (document["name"], document["root"]) == ("p", str(photos))
    assert document["items"] == {"image": {"test": 2, "total": 2}}
    assert read_manifest(out).facts["source"] == {"kind": "folder", "options": {"split": "test"}}
    code, text, _ = run(capsys, "data", "make", photos, "-o", tmp_path / "two")
    assert text.startswith(f"Made my-photos in {tmp_path / 'two'}. Its files are in {photos}.\n")
    assert run(capsys, "store", "verify", out)[0] == 0
    write(photos, {"a.png": picture(7)})
    code, _, error = run(capsys, "store", "verify", out)
    assert code == 4
    assert "'p/image/a.png'" in error


def test_what_is_odd_is_told(tmp_path, monkeypatch, capsys):
    (tmp_path / "things.txt").write_text("Sea bird\nowl\nsea-birds\n")
    _, text, _ = run(capsys, "data", "make", tmp_path / "things.txt", "-o", tmp_path / "things")
    assert "names nearly equal: 'Sea bird', 'sea-birds'" in text
    files = {"owls/a.png": 1, "sea/x/b.jpg": 2, "owls/broken.png": "no picture",
             "jays/x/y.txt": "none", ".hidden/y.txt": "none"}  # fmt: skip
    photos = write(tmp_path / "photos", files)
    made = ("data", "make", photos, "-o", tmp_path / "m", "--as", "class-folders")
    monkeypatch.setattr("featstore.sources.making.MAX_PIXELS", 47)  # pictures are 8 x 6
    odd = json.loads(run(capsys, *made, "--json")[1])["odd"]
    assert [one["names"] for one in odd] == [["jays"], ["owls/a.png", "sea/x/b.jpg"]]
    assert "images of more than 47 pixels (extract -s max_pixels=N takes" in run(capsys, *made)[1]
    assert "without images" not in run(capsys, *made[:-1], "folder")[1]
    monkeypatch.setattr("featstore.sources.making.MAX_PIXELS", 48)
    assert "pixels" not in run(capsys, *made)[1]
    split = {f"{one}/{path}": data for one in ("train", "val") for path, data in files.items()}
    del split["train/sea/x/b.jpg"]  # below splits: train has no sea, and no folder of it
    write(tmp_path / "split", split | {"val/empty/y.txt": "none"})
    _, text, _ = run(capsys, *made[:2], tmp_path / "split", "-o", tmp_path / "s", *made[-2:])
    assert "classes without images: 'train/jays', 'val/empty', 'val/jays'" in text


@pytest.mark.parametrize(
    ("args", "code", "match"),
    [
        (["x", "--as", "foldr"], 2, "No source named 'foldr'.*Did you mean 'folder'"),
        ([".", "--as", "folder", "-s", "split"], 2, "setting split of folder has no value"),
        ([".", "--as", "folder", "-s", "a=1"], 2, "named 'a' of folder. Known settings: split"),
        ([".", "--as", "folder", "--prompts", "name"], 2, "Prompts are for a list of classes"),
        (["gone", "--as", "folder"], 1, "No such file"),
        (["gone"], 1, "The location 'gone' cannot be"),
        ([".", "--as", "folder", "-s", "splt=x"], 2, "Did you mean 'split'"),
    ],
)
def test_wrong_use_is_one_line(args, code, match, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    got, out, error = run(capsys, "data", "make", *args, "-o", "y")
    assert (got, out, error.count("\n")) == (code, "", 1)
    assert re.search(match, error)
    assert not list(tmp_path.iterdir())


def test_the_name_of_a_file_says_how_it_is_read(tmp_path):
    for name, source in (("a.csv", "csv"), ("a.jsonl", "jsonl"), ("a.tar", "webdataset"),
                         ("a.parquet", "parquet"), ("birds.txt", "labels")):  # fmt: skip
        (tmp_path / name).touch()
        assert guessed(tmp_path / name) == source
    assert guessed("hf://datasets/OWNER/NAME") == "parquet"
    assert guessed("https://example.org/0.tar") == "webdataset"

"""torchvision's datasets, on miniatures in the files that its own classes read."""

import json
import socket
import struct

import numpy as np
import pytest

from featstore import read_manifest
from featstore.errors import ManifestError
from featstore.images import decode_image
from featstore.sources.making import make_manifest
from featstore.sources.reader import open_reader
from featstore.sources.torchvision_sets import NAMES
from tests.featstore.sources.torchvision_miniatures import MINIATURES
from tests.small_files import picture, write

DIGITS = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)
LABELS = np.array([7, 0, 1, 7, 9], dtype=np.uint8)


@pytest.fixture
def mnist(tmp_path):
    """The idx files of MNIST's test split, with five digits."""
    images = struct.pack(">IIII", 0x803, *DIGITS.shape) + DIGITS.tobytes()
    labels = struct.pack(">II", 0x801, len(LABELS)) + LABELS.tobytes()
    raw = "MNIST/raw"
    files = {}
    for split in ("train", "t10k"):
        files[f"{raw}/{split}-images-idx3-ubyte"] = images
        files[f"{raw}/{split}-labels-idx1-ubyte"] = labels
    return write(tmp_path / "data", files)


def test_arrays_become_lossless_files_of_the_manifest(mnist, tmp_path):
    options = {"name": "MNIST", "split": "test"}
    manifest = make_manifest("torchvision", mnist, tmp_path / "out", name="zoo", options=options)
    table = manifest.items("image")
    assert table.select("item_id", "uri", "split", "class_id").row(0) == (
        "zoo/image/test/000000.png", "images/test/000000.png", "test", "zoo/7 - seven",
    )  # fmt: skip
    assert manifest.root == tmp_path / "out"
    with open_reader(manifest) as reader:
        for row, digit in zip(table.to_dicts(), DIGITS, strict=True):
            decoded = np.asarray(decode_image(reader.read(row)))
            np.testing.assert_array_equal(decoded, np.repeat(digit[:, :, None], 3, 2))
    assert manifest.classes.height == 10
    again = make_manifest("torchvision", mnist, tmp_path / "out", name="zoo", options=options)
    assert again.items("image").equals(table)


def test_files_stay_where_they_are(tmp_path):
    root = write(
        tmp_path / "data",
        {
            "food-101/meta/test.json": json.dumps({"apple_pie": ["apple_pie/1"], "waffles": []}),
            "food-101/images/apple_pie/1.jpg": picture(1, "JPEG"),
        },
    )
    options = {"name": "Food101", "split": "test"}
    manifest = make_manifest("torchvision", root, tmp_path / "out", name="zoo", options=options)
    assert manifest.items("image").select("item_id", "class_id", "split").rows() == [
        ("zoo/image/food-101/images/apple_pie/1.jpg", "zoo/apple_pie", "test")
    ]
    assert manifest.root == root
    assert not (tmp_path / "out" / "images").exists()


def test_nothing_is_fetched_unless_asked(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    options = {"name": "CIFAR10", "split": "test"}
    with pytest.raises(ManifestError, match=r"Nothing is downloaded unless .*download=true"):
        make_manifest("torchvision", tmp_path, tmp_path / "out", options=options)


def test_a_pickle_that_is_not_cifars_is_not_opened(tmp_path):
    """CIFAR's batches are pickles: torchvision compares their md5 before it opens one."""
    sprung = tmp_path / "sprung"
    trap = f"cos\nsystem\n(S'touch {sprung}'\ntR.".encode()
    names = [f"data_batch_{n}" for n in range(1, 6)] + ["test_batch", "batches.meta"]
    root = write(tmp_path / "data", {f"cifar-10-batches-py/{name}": trap for name in names})
    with pytest.raises(ManifestError, match="corrupted"):
        make_manifest("torchvision", root, tmp_path / "out",
                      options={"name": "CIFAR10", "split": "test"})  # fmt: skip
    assert not sprung.exists()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, "No torchvision dataset named ''.*Known torchvision datasets: .* others"),
        ({"name": "CIFAR1"}, "Did you mean 'CIFAR10"),
        ({"name": "DatasetFolder"}, "No torchvision dataset"),
        ({"name": "MNIST"}, "MNIST has splits: give one"),
        ({"name": "MNIST", "split": "val"}, "has no split 'val'"),
        ({"name": "ImageFolder", "split": "val"}, "has no split 'val'"),
        ({"name": "DTD", "split": "all"}, "DTD cannot be opened"),
        ({"name": "MNIST", "split": "test", "download": "yes"}, "must be true or false"),
    ],
)
def test_wrong_options(tmp_path, options, match):
    with pytest.raises(ManifestError, match=match):
        make_manifest("torchvision", tmp_path, tmp_path / "out", options=options)


def test_every_name_has_a_miniature():
    assert set(MINIATURES) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_each_class_is_read_to_its_pixels_and_labels(name, tmp_path, monkeypatch):
    root = tmp_path / "data"
    mini = MINIATURES[name](root, monkeypatch)
    options = {"name": name} | ({} if mini.split is None else {"split": mini.split})
    manifest = make_manifest("torchvision", root, tmp_path / "out", name="zoo", options=options)
    assert read_manifest(tmp_path / "out").items("image").equals(manifest.items("image"))
    rows = manifest.items("image").to_dicts()
    named = dict(manifest.classes.select("class_id", "name").iter_rows())
    assert [(row["item_id"], named.get(row["class_id"])) for row in rows] == [
        (f"zoo/image/{key}", label) for key, label, _ in mini.items
    ]
    with open_reader(manifest) as reader:
        for row, (_, _, pixels) in zip(rows, mini.items, strict=True):
            expected = pixels
            if isinstance(pixels, int):
                expected = np.asarray(decode_image(picture(pixels)))
            elif pixels.ndim == 2:
                expected = np.repeat(pixels[:, :, None], 3, 2)
            np.testing.assert_array_equal(np.asarray(decode_image(reader.read(row))), expected)

"""torchvision's datasets, on miniatures in the files that its own classes read."""

import inspect
import socket

import numpy as np
import pytest
from torchvision import datasets

from featstore import read_manifest
from featstore.errors import ManifestError
from featstore.images import decode_image
from featstore.sources.making import make_manifest
from featstore.sources.pictures import NAMES
from featstore.sources.reader import open_reader
from tests.featstore.sources.torchvision_miniatures import MINIATURES
from tests.small_files import write


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
        ({}, "No torchvision dataset named ''.*Known torchvision datasets: CIFAR10, .*USPS"),
        ({"name": "CIFAR1"}, "Did you mean 'CIFAR10"),
        ({"name": "DatasetFolder"}, "No torchvision dataset"),
        ({"name": "MNIST"}, "MNIST has splits: give one"),
        ({"name": "MNIST", "split": "val"}, "has no split 'val'"),
        ({"name": "ImageFolder"}, "No torchvision dataset"),
        ({"name": "STL10", "split": "all"}, "STL10 cannot be opened"),
        ({"name": "MNIST", "split": "test", "download": "yes"}, "must be true or false"),
    ],
)
def test_wrong_options(tmp_path, options, match):
    with pytest.raises(ManifestError, match=match):
        make_manifest("torchvision", tmp_path, tmp_path / "out", options=options)


def test_every_name_is_a_class_whose_split_can_be_said():
    for name in NAMES:
        known = inspect.signature(getattr(datasets, name)).parameters
        assert {"split", "train"} & known.keys(), name


@pytest.mark.parametrize("name", MINIATURES)
def test_each_class_is_read_to_its_pixels_and_labels(name, tmp_path, monkeypatch):
    root = tmp_path / "data"
    mini = MINIATURES[name](root, monkeypatch)
    options = {"name": name, "split": mini.split}
    manifest = make_manifest("torchvision", root, tmp_path / "out", name="zoo", options=options)
    assert read_manifest(tmp_path / "out").items("image").equals(manifest.items("image"))
    assert manifest.root == tmp_path / "out"
    again = make_manifest("torchvision", root, tmp_path / "out", name="zoo", options=options)
    assert again.items("image").equals(manifest.items("image"))
    rows = manifest.items("image").to_dicts()
    named = dict(manifest.classes.select("class_id", "name").iter_rows())
    assert [(row["item_id"], named.get(row["class_id"])) for row in rows] == [
        (f"zoo/image/{key}", label) for key, label, _ in mini.items
    ]
    with open_reader(manifest) as reader:
        for row, (_, _, pixels) in zip(rows, mini.items, strict=True):
            expected = np.repeat(pixels[:, :, None], 3, 2) if pixels.ndim == 2 else pixels
            np.testing.assert_array_equal(np.asarray(decode_image(reader.read(row))), expected)

"""Every dataset that torchvision has, on one miniature: its class and ours give the same items.

What it has not, and every option, is in tests/goldens/manifests.json.
"""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from featstore.datasets import build_dataset
from featstore.images import decode_image
from featstore.sources.reader import open_reader
from tests.data_manifests import miniatures
from tests.data_manifests.miniatures import MINIATURES

datasets = pytest.importorskip("torchvision.datasets")


@pytest.fixture
def unchecked(monkeypatch):
    """Let torchvision take a miniature, whose md5 is not the published one."""
    for module in ("cifar", "flowers102", "places365"):
        monkeypatch.setattr(f"torchvision.datasets.{module}.check_integrity",
                            lambda path, md5=None: Path(path).is_file())  # fmt: skip


def built(name, tmp_path, **options):
    """Return the folder of a miniature, and its manifest."""
    root = MINIATURES[name](tmp_path / "data")
    return root, build_dataset(name, tmp_path / "out", root=root, subset=True, **options).manifest


def files_of(dataset, root):
    """Return {(path below root, label index)} of a torchvision dataset of files."""
    for attribute in ("samples", "_samples", "imgs"):
        if hasattr(dataset, attribute):
            pairs = getattr(dataset, attribute)
            break
    else:
        paths = getattr(dataset, "_image_files", None) or dataset._images
        pairs = zip(paths, dataset._labels, strict=True)
    return {(Path(path).relative_to(root).as_posix(), int(label)) for path, label in pairs}


def items_of(manifest, split):
    """Return {(uri, label index)} of the images of a split; of all, if it is None."""
    index = dict(manifest.classes.select("class_id", "index").iter_rows())
    images = manifest.items("image")
    chosen = images if split is None else images.filter(split=split)
    return {(uri, index[class_id]) for uri, class_id in chosen.select("uri", "class_id").rows()}


CASES = {
    "food101": ("Food101", {"train": {"split": "train"}, "test": {"split": "test"}}, {}),
    "pets": ("OxfordIIITPet", {"train": {"split": "trainval"}, "test": {"split": "test"}}, {}),
    "flowers102": ("Flowers102", {s: {"split": s} for s in ("train", "val", "test")}, {}),
    "dtd": (
        "DTD", {s: {"split": s, "partition": 2} for s in ("train", "val", "test")},
        {"partition": "2"},
    ),
    "places365": ("Places365", {"val": {"split": "val", "small": True}}, {}),
    "sun397": ("SUN397", {"all": {}}, {"partition": "all"}),
    "cars": ("StanfordCars", {"train": {"split": "train"}, "test": {"split": "test"}}, {}),
    "aircraft": (
        "FGVCAircraft",
        {s: {"split": s, "annotation_level": "family"} for s in ("train", "val", "test")},
        {"level": "family"},
    ),
}  # fmt: skip


#: Their classes are asked below.
OWN_NAMES = {"sun397", "flowers102"}


@pytest.mark.parametrize("name", CASES)
def test_torchvision_reads_the_same_items_and_labels(name, tmp_path, unchecked):
    cls, splits, options = CASES[name]
    root, manifest = built(name, tmp_path, **options)
    below = Path(manifest.root.relative_to(root.resolve()))
    named = []
    for split, arguments in splits.items():
        theirs = getattr(datasets, cls)(root, download=False, **arguments)
        pairs = {((below / uri).as_posix(), label) for uri, label in items_of(manifest, split)}
        assert len(theirs) == len(pairs) > 0
        assert pairs == files_of(theirs, root)
        named = theirs.classes
    assert set(manifest.items("image")["split"]) == set(splits)
    if name not in OWN_NAMES:
        if name == "places365":
            named = [text.split("/", 2)[2].replace("/", " ") for text in named]
        named = [text.replace("_", " ") for text in named]
        assert named == manifest.classes.sort("index")["name"].to_list()


def test_places365_has_the_papers_few_shot_split(tmp_path):
    """Ten images a class to train on and forty to test, the first by the hash of their names."""
    root = miniatures.places365(tmp_path / "data")
    numbers = range(1, 181)
    lines = "".join(f"Places365_val_{n:08d}.jpg {n % 3}\n" for n in numbers)
    (root / "places365_val.txt").write_text(lines)
    picture = (root / "val_256" / "Places365_val_00000001.jpg").read_bytes()
    for n in numbers:
        (root / "val_256" / f"Places365_val_{n:08d}.jpg").write_bytes(picture)
    paper, plain = (
        build_dataset(
            "places365", tmp_path / choice, root=root, subset=True, few_shot=choice
        ).manifest.items("image")
        for choice in ("paper", "none")
    )
    assert (set(plain["split"]), plain.height) == ({"val"}, 180)
    counts = dict(paper.group_by("class_id", "split").len().select("split", "len").unique().rows())
    assert counts == {"train": 10, "test": 40}
    assert paper.height == 150
    digest = {uri: hashlib.sha256(uri.encode()).hexdigest() for uri in plain["uri"]}
    for _, own in plain.group_by("class_id"):
        order = sorted(own["uri"], key=digest.get)
        splits = dict(paper.filter(class_id=own["class_id"][0]).select("uri", "split").rows())
        assert splits == dict.fromkeys(order[:10], "train") | dict.fromkeys(order[10:50], "test")


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar(name, tmp_path, unchecked):
    """The binary version holds the pictures that torchvision unpickles of the other."""
    _, manifest = built(name, tmp_path)
    miniatures.cifar_python(tmp_path / "python", name)
    theirs = _with_equal_pictures(manifest, tmp_path / "python", name.upper())
    assert manifest.classes["name"].to_list() == [text.replace("_", " ") for text in theirs]


@pytest.mark.parametrize("packed", [False, True])
def test_mnist(packed, tmp_path):
    root = miniatures.mnist(tmp_path / "data", packed=packed)
    manifest = build_dataset("mnist", tmp_path / "out", root=root, subset=True).manifest
    miniatures.mnist(tmp_path / "plain")
    theirs = _with_equal_pictures(manifest, tmp_path / "plain", "MNIST")
    assert [text.split()[0] for text in theirs] == manifest.classes["name"].to_list()


def _with_equal_pictures(manifest, root, cls):
    """Return the classes of torchvision's dataset, whose pictures and labels are the manifest's."""
    index = dict(manifest.classes.select("class_id", "index").iter_rows())
    for split in ("train", "test"):
        theirs = getattr(datasets, cls)(root, train=split == "train", download=False)
        ours = manifest.items("image").filter(split=split)
        assert ours.height == len(theirs)
        with open_reader(manifest) as reader:
            for row, (image, label) in zip(ours.to_dicts(), theirs, strict=True):
                assert index[row["class_id"]] == label
                decoded = np.asarray(decode_image(reader.read(row)))
                np.testing.assert_array_equal(decoded, np.asarray(image.convert("RGB")))
    return theirs.classes


def test_eurosat_is_split_as_the_paper_does(tmp_path):
    from sklearn.model_selection import train_test_split

    root, manifest = built("eurosat", tmp_path)
    theirs = datasets.EuroSAT(root, download=False)
    labels = [label for _, label in theirs.samples]
    train, test = train_test_split(
        range(len(labels)), test_size=0.1, random_state=42, stratify=labels
    )
    for split, chosen in (("train", train), ("test", test)):
        expected = {
            (Path(theirs.samples[i][0]).relative_to(manifest.root).as_posix(), labels[i])
            for i in chosen
        }
        assert items_of(manifest, split) == expected


@pytest.mark.parametrize("name", ["inat21", "inat21_mini"])
def test_inaturalist(name, tmp_path):
    root, manifest = built(name, tmp_path)
    for split, version in (
        ("train", f"2021_train{('_mini' if name.endswith('mini') else '')}"),
        ("val", "2021_valid"),
    ):
        theirs = datasets.INaturalist(root, version=version, download=False)
        expected = {
            (f"{version}/{theirs.all_categories[label]}/{file}", label)
            for label, file in theirs.index
        }
        assert items_of(manifest, split) == expected


def test_caltech101(tmp_path):
    root, manifest = built("caltech101", tmp_path)
    theirs = datasets.Caltech101(root, download=False)
    expected = {
        (f"101_ObjectCategories/{theirs.categories[y]}/image_{n:04d}.jpg", y)
        for n, y in zip(theirs.index, theirs.y, strict=True)
    }
    assert items_of(manifest, None) == expected
    sizes = (
        manifest.items("image").group_by("class_id", "split").len().sort("split")["len"].to_list()
    )
    assert sizes == [3, 3, 3, 30, 30, 30]


def test_imagenet1k_has_images_with_a_root(tmp_path):
    root, manifest = built("imagenet1k", tmp_path)
    labels = build_dataset("imagenet1k", tmp_path / "labels").manifest
    assert manifest.classes.equals(labels.classes)
    assert labels.tables["class_name"].equals(manifest.tables["class_name"])
    for split in ("train", "val"):
        theirs = datasets.ImageFolder(root / split)
        expected = {
            (Path(path).relative_to(root).as_posix(), f"imagenet1k/{theirs.classes[label]}")
            for path, label in theirs.samples
        }
        ours = manifest.items("image").filter(split=split)
        assert set(ours.select("uri", "class_id").iter_rows()) == expected


def test_a_list_may_lie_elsewhere(tmp_path):
    (root, here), lists = built("resisc45", tmp_path), tmp_path / "lists"
    lists.mkdir()
    for split in ("train", "val", "test"):
        (root / f"resisc45-{split}.txt").rename(lists / f"resisc45-{split}.txt")
    there = build_dataset("resisc45", tmp_path / "b", root=root, subset=True, lists=str(lists))
    assert here.items("image").equals(there.manifest.items("image"))


def test_the_names_of_flowers_are_torchvisions(tmp_path):
    _, manifest = built("flowers102", tmp_path)
    pairs = zip(datasets.Flowers102.classes, manifest.classes["name"], strict=True)
    assert {place for place, (theirs, ours) in enumerate(pairs) if theirs != ours} == {
        59
    }  # "pink-yellow dahlia?"

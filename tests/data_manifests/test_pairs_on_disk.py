"""Flickr30k and COCO, against tables worked out by hand."""

import pytest

from featstore.datasets import build_dataset
from featstore.errors import ManifestError
from tests.data_manifests import miniatures


def build(name, out, root, **options):
    return build_dataset(name, out, root=root, subset=True, **options).manifest


def test_flickr30k_by_karpathy(tmp_path):
    root = miniatures.flickr30k(tmp_path / "data")
    manifest = build("flickr30k", tmp_path / "out", root)
    images = manifest.items("image").select("uri", "split", "source_split").rows()
    assert images == [
        ("flickr30k-images/1000.jpg", "train", "train"),
        ("flickr30k-images/1003.jpg", "train", "train"),
        ("flickr30k-images/1001.jpg", "val", "val"),
        ("flickr30k-images/1002.jpg", "test", "test"),
    ]
    captions = manifest.items("caption")
    assert captions.height == 6 + 5 + 5 + 5
    assert captions.row(0, named=True) | {"content_sha256": None} == {
        "item_id": "flickr30k/caption/0", "kind": "caption", "uri": None,
        "text": "Caption 0 of 1000.jpg.", "parent_id": "flickr30k/image/flickr30k-images/1000.jpg",
        "class_id": None, "variant": None, "template_id": None, "split": "train",
        "content_sha256": None, "source_split": "train",
    }  # fmt: skip
    assert manifest.classes is None
    first = build("flickr30k", tmp_path / "five", root, captions="first5").items("caption")
    assert first.height == 20
    assert first["item_id"].to_list()[4:6] == ["flickr30k/caption/4", "flickr30k/caption/6"]


@pytest.mark.parametrize("tokens", ["results_20130124.token", "captions.txt"])
def test_the_papers_train_is_everything_but_test_and_says_so(tokens, tmp_path):
    root = miniatures.flickr30k(tmp_path / "data")
    if tokens == "captions.txt":
        file = root / "results_20130124.token"
        pairs = [line.split("\t") for line in file.read_text().splitlines()]
        rows = "".join(f"{image.partition('#')[0]},{text}\n" for image, text in pairs)
        (root / tokens).write_text("image,caption\n" + rows)
        file.unlink()
    manifest = build("flickr30k", tmp_path / "out", root, train="paper")
    images = manifest.items("image").select("uri", "split", "source_split").sort("uri").rows()
    assert images == [
        ("flickr30k-images/1000.jpg", "train", "train"),
        ("flickr30k-images/1001.jpg", "train", "val"),
        ("flickr30k-images/1002.jpg", "test", "test"),
        ("flickr30k-images/1003.jpg", "train", "train"),
        ("flickr30k-images/36979.jpg", "train", "none"),
    ]
    extra = manifest.items("caption").filter(source_split="none")
    assert extra["text"].to_list() == [f"Caption {n} of 36979.jpg ." for n in range(5)]
    assert manifest.facts["options"]["train"] == "paper"
    assert "includes Karpathy's validation images" in manifest.facts["pitfalls"][0]


def test_the_papers_train_needs_all_captions(tmp_path):
    root = miniatures.flickr30k(tmp_path / "data")
    (root / "results_20130124.token").unlink()
    with pytest.raises(ManifestError, match=r"neither results_20130124.token \(lines image.jpg#0"):
        build("flickr30k", tmp_path / "out", root, train="paper")


def test_coco_keeps_restval_and_every_caption(tmp_path):
    root = miniatures.coco(tmp_path / "data")
    manifest = build("coco", tmp_path / "out", root)
    assert manifest.items("image").select("uri", "split", "cocoid").rows() == [
        ("train2014/COCO_train2014_000000000009.jpg", "train", 103),
        ("val2014/COCO_val2014_000000000073.jpg", "restval", 101),
        ("val2014/COCO_val2014_000000000074.jpg", "val", 102),
        ("val2014/COCO_val2014_000000000042.jpg", "test", 100),
    ]
    counts = dict(manifest.items("caption")["split"].value_counts().iter_rows())
    assert counts == {"train": 5, "restval": 5, "val": 7, "test": 6}
    five = build("coco", tmp_path / "five", root, captions="first5").items("caption")
    assert five.group_by("parent_id").len()["len"].to_list() == [5] * 4
    only = build("coco", tmp_path / "test", root, splits=("test",))
    assert only.items("caption").height == 6
    assert only.facts["splits"] == ["test"]


def test_the_counts_of_coco_are_consistent():
    from data_manifests.registry import BUILDERS

    facts = BUILDERS["coco"].facts
    image, caption = facts["expected"]["image"], facts["expected"]["caption"]
    assert sum(image.values()) == 82_783 + 40_504
    assert sum(caption.values()) == 414_113 + 202_654
    assert caption["test"] == 25_010
    five = facts["expected_with"]["captions=first5"]["caption"]
    assert five == {split: 5 * n for split, n in image.items()}
    flickr = BUILDERS["flickr30k"].facts
    assert sum(flickr["expected"]["image"].values()) == 31_014
    assert sum(flickr["expected_with"]["train=paper"]["image"].values()) == 31_783

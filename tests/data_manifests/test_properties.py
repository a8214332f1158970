"""What holds for every dataset: splits are disjoint, captions have images, ids and bytes stay."""

import json
import os
import random
import re
from pathlib import Path

import polars as pl
import pytest

from data_manifests.plan import HOW_TO_READ
from data_manifests.registry import BUILDERS
from featstore.datasets import build_dataset
from featstore.errors import ManifestError
from tests.data_manifests import miniatures
from tests.data_manifests.miniatures import MINIATURES


def test_every_dataset_on_disk_has_a_miniature():
    assert set(MINIATURES) == {name for name, b in BUILDERS.items() if b.read}


def tables(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("name", MINIATURES)
def test_splits_captions_ids_and_bytes(name, tmp_path, monkeypatch):
    root = MINIATURES[name](tmp_path / "data")
    manifest = build_dataset(name, tmp_path / "a", root=root, subset=True).manifest
    images = manifest.items("image")
    assert images.height > 0
    assert images["uri"].is_unique().all()
    assert images["item_id"].is_unique().all()
    assert images["split"].null_count() == 0
    if "caption" in manifest.tables:
        captions = manifest.items("caption")
        both = captions.join(images, left_on="parent_id", right_on="item_id", suffix="_image")
        assert both.height == captions.height > 0
        assert (both["split"] == both["split_image"]).all()
    if manifest.classes is not None:
        assert set(images["class_id"]) <= set(manifest.classes["class_id"])
        assert set(manifest.items("class_name")["class_id"]) == set(manifest.classes["class_id"])

    # Folders listed in another order: nothing changes, to the byte.
    walk, listed = os.walk, os.listdir
    draw = random.Random(4)

    def shuffled_walk(top, *args, **kwargs):
        for at, folders, names in walk(top, *args, **kwargs):
            draw.shuffle(names)
            draw.shuffle(folders)
            yield at, folders, names

    monkeypatch.setattr(os, "walk", shuffled_walk)
    monkeypatch.setattr(os, "listdir", lambda *a: draw.sample(listed(*a), len(listed(*a))))
    build_dataset(name, tmp_path / "b", root=root, subset=True)
    assert tables(tmp_path / "a") == tables(tmp_path / "b")
    assert build_dataset(name, tmp_path / "b", root=root, subset=True).status == "unchanged"


@pytest.mark.parametrize("name", MINIATURES)
def test_the_table_of_datasets_says_what_the_toml_says(name):
    facts = BUILDERS[name].facts
    table = (Path(BUILDERS[name].folder).parent / "README.md").read_text(encoding="utf-8")
    [row] = [line for line in table.splitlines() if line.startswith(f"| `{name}` |")]
    expected = facts["expected"]
    for count in expected.get(
        "image", {"train": expected.get("published", {}).get("train")}
    ).values():
        assert f"{count:,}" in row
    assert f"| {expected['classes']:,} |" in row if "classes" in expected else "| | " in row
    if facts["metric"].startswith(("top-1", "mean", "balanced")):
        assert f"| {facts['metric'].partition(';')[0]} |" in row


def test_the_readme_names_every_key_that_says_how_a_copy_is_read():
    readme = (Path(BUILDERS["coco"].folder).parent / "README.md").read_text(encoding="utf-8")
    rows = readme.partition("| key or section | |")[2].partition("\n\n")[0].splitlines()[2:]
    keys = {key for row in rows for key in re.findall(r"`(\w+)", row.split("|")[1])}
    assert keys == {*HOW_TO_READ, "expected", "synsets"}


#: Dataset -> the folder of its images, which paths in CoOp's split lack.
COOP = dict.fromkeys(("food101", "dtd", "pets"), "images/")
COOP |= {"caltech101": "101_ObjectCategories/", "cars": ""}


@pytest.mark.parametrize("name", COOP)
def test_coops_split_is_read_as_it_is(name, tmp_path):
    root = MINIATURES[name](tmp_path / "data")
    official = build_dataset(name, tmp_path / "official", root=root, subset=True).manifest
    rows = official.items("image").select("uri", "class_id").rows()
    texts = [class_id.partition("/")[2].replace("_", " ") for _, class_id in rows]
    labels = {text: label for label, text in enumerate(sorted(set(texts)))}
    items = [
        [uri.removeprefix(COOP[name]), labels[text], text]
        for (uri, _), text in zip(rows, texts, strict=True)
    ]
    random.Random(1).shuffle(items)
    split = {"train": items[:3], "val": items[3:4], "test": items[4:]}
    file = tmp_path / f"split_zhou_{name}.json"
    file.write_text(json.dumps(split))
    manifest = build_dataset(name, tmp_path / "coop", root=root, split_file=file).manifest
    assert manifest.facts["complete"] is True
    assert manifest.facts["split_file"] == file.name
    found = manifest.items("image").join(manifest.classes, on="class_id")
    for part, own in split.items():
        expected = {(f"{COOP[name]}{path}", label, text) for path, label, text in own}
        rows = found.filter(pl.col("split") == part).select("uri", "index", "name").rows()
        assert set(rows) == expected
    (root / manifest.root.relative_to(root) / found["uri"][0]).unlink()
    with pytest.raises(ManifestError, match="is missing"):
        build_dataset(name, tmp_path / "coop", root=root, split_file=file)


def test_another_split_file_is_told(tmp_path):
    root, file = miniatures.dtd(tmp_path / "data"), tmp_path / "split.json"
    for document, match in (
        ({"train": []}, "KeyError: 'val'"),
        ({"train": [["a", 1, "x"]], "val": [], "test": []}, "does not give each label"),
    ):
        file.write_text(json.dumps(document))
        with pytest.raises(ManifestError, match=match):
            build_dataset("dtd", tmp_path / "out", root=root, split_file=file)
    with pytest.raises(ManifestError, match="CoOp has no split of 'mnist'"):
        build_dataset("mnist", tmp_path / "out", root=root, split_file=file)

"""Datasets with one folder a class: Caltech 101, EuroSAT, ImageNet-1k, iNaturalist 2021."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from data_manifests.labels import plan_label_set
from data_manifests.official.disk import Disk, Listing, Row, image_frame, sorted_labels
from data_manifests.plan import BuildError

#: A folder of Caltech 101 that is no class: clutter that detectors were trained against.
BACKGROUND = "BACKGROUND_Google"

#: Training images a class of Caltech 101, as in the usual protocol.
SHOTS = 30


def caltech101(disk: Disk) -> Listing:
    """List all images but the background: 30 a class are train, the rest test.

    The split depends on the paths alone.
    """
    groups: dict[str | None, list[str]] = defaultdict(list)
    for path, _, label in class_folders(disk, disk.image_folder(), "test"):
        if label != BACKGROUND:
            groups[label].append(path)
    rows: list[Row] = []
    for label, paths in groups.items():
        ordered = sorted(paths, key=lambda path: hashlib.sha256(path.encode()).digest())
        rows += [(path, "train" if n < SHOTS else "test", label) for n, path in enumerate(ordered)]
    kept = [row for row in rows if row[1] in disk.splits]
    return Listing(image_frame(kept), sorted_labels(rows))


def eurosat(disk: Disk) -> Listing:
    """List all images, split as the paper does: a stratified tenth is test."""
    from sklearn.model_selection import train_test_split

    rows = class_folders(disk, disk.image_folder(), "train")
    labels = [label for _, _, label in rows]
    try:
        _, test = train_test_split(
            range(len(rows)), test_size=0.1, random_state=42, stratify=labels
        )
    except ValueError as err:
        raise BuildError(
            f"{len(rows):,} images cannot be split by class into nine tenths and one: {err}"
        ) from err
    chosen = set(test)
    split_rows = [
        (path, "test" if place in chosen else "train", label)
        for place, (path, _, label) in enumerate(rows)
    ]
    kept = [row for row in split_rows if row[1] in disk.splits]
    return Listing(image_frame(kept), sorted_labels(rows))


def imagenet1k(disk: Disk) -> Listing:
    """List the images of the wanted splits, in one folder a synset; labels are synsets.

    The label set is that of timm's files.
    """
    folder = Path(__file__).parents[1] / "imagenet1k"
    classes = plan_label_set(folder).make(disk.root, None).classes
    assert classes is not None
    rows = [
        row for split in disk.splits for row in class_folders(disk, disk.split_folder(split), split)
    ]
    synsets = classes["synset"].to_list()
    strange = sorted({label for _, _, label in rows if label} - set(synsets))
    if strange:
        raise BuildError(
            f"{len(strange):,} folders below {disk.root} are no synset of ImageNet-1k (first: "
            f"{strange[0]!r}). Remove them."
        )
    return Listing(image_frame(rows), synsets, classes=classes)


#: The label set of both sizes of the training set, and of heads (timm's inat21).
INAT_LABEL_SET = "inat21"

#: Lists that have iNaturalist's categories; the smallest is read.
INAT_LISTS = ("categories.json", "val.json", "train_mini.json", "train.json")


def inat21(disk: Disk) -> Listing:
    """List the images of the wanted splits; the label set is from the dataset's categories.

    The label of a species is its number (``00042``), the first part of its folder's name.
    """
    given = next((name for name in INAT_LISTS if disk.has(name)), None)
    rows: list[Row] = []
    for split in disk.splits:
        folders = disk.facts["split_folders"][split]
        if given is not None and not any((disk.root / name).is_dir() for name in folders):
            continue  # told by the counts; the label set alone needs no folder
        rows += class_folders(disk, disk.split_folder(split), split)
    found = {label for _, _, label in rows if label is not None}
    species: Mapping[str, Mapping[str, Any]] = (
        {folder: {} for folder in sorted(found)} if given is None else _listed_species(disk, given)
    )
    classes = _species_table(species)
    strange = sorted(found - set(species))
    if strange:
        raise BuildError(
            f"{len(strange):,} folders are no species of {given} (first: {strange[0]!r})."
        )
    numbered = [(path, split, (label or "").partition("_")[0]) for path, split, label in rows]
    labels = [folder.partition("_")[0] for folder in species]
    return Listing(image_frame(numbered), labels, classes=classes)


def _listed_species(disk: Disk, name: str) -> dict[str, Mapping[str, Any]]:
    """Return folder -> category of a list, in the order of the categories' ids."""
    document = disk.json(name)
    categories = document["categories"] if isinstance(document, dict) else document
    rows = sorted(categories, key=lambda category: int(category["id"]))
    return {row["image_dir_name"]: row for row in rows}


def _species_table(species: Mapping[str, Mapping[str, Any]]) -> pl.DataFrame:
    """Return the label set: name is the common one, lemmas are the common and the scientific."""
    numbers = [folder.partition("_")[0] for folder in species]
    wrong = [n for place, n in enumerate(numbers) if n != f"{place:05d}"]
    if wrong:
        raise BuildError(
            f"The folders of the species must be numbered 00000, 00001 … without a gap; after "
            f"{numbers.index(wrong[0]):,} of them comes {wrong[0]!r}. Unpack the archive again."
        )
    pairs = [
        (
            str(row.get("common_name") or "").strip(),
            str(row.get("name") or " ".join(folder.split("_")[6:])),
        )
        for folder, row in species.items()
    ]
    return (
        pl.DataFrame(
            {
                "index": range(len(pairs)),
                "name": [common or scientific for common, scientific in pairs],
                "lemmas": [
                    ", ".join(dict.fromkeys(part for part in pair if part)) for pair in pairs
                ],
                "class_id": [f"{INAT_LABEL_SET}/{number}" for number in numbers],
            },
            schema_overrides={"index": pl.Int64},
        )
        .with_columns(name_group=pl.col("name").str.to_lowercase())
        .with_columns(shared_name=pl.col("name_group").is_duplicated())
    )


def class_folders(disk: Disk, folder: str, split: str) -> list[Row]:
    """Return the images of ``folder/<label>/…/<file>``, each with its class folder as label.

    Raises
    ------
    BuildError
        If an image lies in no class folder.
    """
    depth = 0 if folder == "." else folder.count("/") + 1
    rows: list[Row] = []
    for path in disk.images(folder):
        parts = path.split("/")
        if len(parts) < depth + 2:
            raise BuildError(
                f"{disk.root / path} lies in no class folder. {folder} must hold one folder a "
                "class, with its images inside."
            )
        rows.append((path, split, parts[depth]))
    return rows

"""iNaturalist 2021: one folder a species, named by number and taxonomy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from data_manifests.official.disk import Disk, Listing, image_frame
from data_manifests.plan import BuildError
from data_manifests.readers.layouts import Row, class_folders

#: The classes are the same with the small training set, and the rows of heads (timm's inat21).
LABEL_SET = "inat21"

#: Lists that have the categories; the smallest is read.
LISTS = ("categories.json", "val.json", "train_mini.json", "train.json")


def read(disk: Disk) -> Listing:
    """List the images of the wanted splits; the label set is from the dataset's categories.

    The label of a species is its number (``00042``), the first part of its folder's name.
    """
    given = next((name for name in LISTS if disk.has(name)), None)
    rows: list[Row] = []
    for split in disk.splits:
        folders = disk.facts["split_folders"][split]
        if given is not None and not any((disk.root / name).is_dir() for name in folders):
            continue  # told by the counts; the label set alone needs no folder
        rows += class_folders(disk, disk.split_folder(split), split)
    found = {label for _, _, label in rows if label is not None}
    classes = _from_list(disk, given) if given is not None else _from_folders(found)
    known = set(classes["folder"])
    strange = sorted(found - known)
    if strange:
        msg = f"{len(strange):,} folders are no species of {given} (first: {strange[0]!r})."
        raise BuildError(msg)
    numbered = [(path, split, (label or "").partition("_")[0]) for path, split, label in rows]
    table = (
        classes.with_columns(
            class_id=pl.lit(f"{LABEL_SET}/") + pl.col("folder").str.split("_").list.first(),
            name_group=pl.col("name").str.to_lowercase(),
        )
        .with_columns(shared_name=pl.col("name_group").is_duplicated())
        .drop("folder")
    )
    labels = [folder.partition("_")[0] for folder in classes["folder"]]
    return Listing(image_frame(numbered), labels, classes=table)


def _from_list(disk: Disk, name: str) -> pl.DataFrame:
    document = disk.json(name)
    categories = document["categories"] if isinstance(document, dict) else document
    rows = sorted(categories, key=lambda category: int(category["id"]))
    return _table({row["image_dir_name"]: row for row in rows})


def _from_folders(folders: set[str]) -> pl.DataFrame:
    return _table({folder: {} for folder in sorted(folders)})


def _table(rows: Mapping[str, Mapping[str, Any]]) -> pl.DataFrame:
    """Return folder, index, name (the common one) and lemmas (common, scientific)."""
    numbers = [folder.partition("_")[0] for folder in rows]
    wrong = [n for place, n in enumerate(numbers) if n != f"{place:05d}"]
    if wrong:
        msg = (
            f"The folders of the species must be numbered 00000, 00001 … without a gap; after "
            f"{numbers.index(wrong[0]):,} of them comes {wrong[0]!r}. Unpack the archive again."
        )
        raise BuildError(msg)
    scientific = [
        str(row.get("name") or " ".join(folder.split("_")[6:])) for folder, row in rows.items()
    ]
    common = [str(row.get("common_name") or "").strip() for row in rows.values()]
    pairs = list(zip(common, scientific, strict=True))
    return pl.DataFrame(
        {
            "folder": list(rows),
            "index": range(len(rows)),
            "name": [first or second for first, second in pairs],
            "lemmas": [", ".join(dict.fromkeys(part for part in pair if part)) for pair in pairs],
        },
        schema_overrides={"index": pl.Int64},
    )

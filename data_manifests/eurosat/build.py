"""EuroSAT: class folders, split as the paper does."""

from __future__ import annotations

from data_manifests.official.disk import Disk, Listing, image_frame, sorted_labels
from data_manifests.plan import BuildError
from data_manifests.readers.layouts import class_folders


def read(disk: Disk) -> Listing:
    """List all images; a stratified tenth is test."""
    from sklearn.model_selection import train_test_split

    rows = class_folders(disk, disk.image_folder(), "train")
    labels = [label for _, _, label in rows]
    try:
        _, test = train_test_split(
            range(len(rows)), test_size=0.1, random_state=42, stratify=labels
        )
    except ValueError as err:
        msg = f"{len(rows):,} images cannot be split by class into nine tenths and one: {err}"
        raise BuildError(msg) from err
    chosen = set(test)
    split_rows = [
        (path, "test" if place in chosen else "train", label)
        for place, (path, _, label) in enumerate(rows)
    ]
    kept = [row for row in split_rows if row[1] in disk.splits]
    return Listing(image_frame(kept), sorted_labels(rows))

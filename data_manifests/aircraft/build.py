"""FGVC-Aircraft: a list of image and class a split and level."""

from __future__ import annotations

from data_manifests.official.disk import Disk, Listing, image_frame

CLASSES = {"variant": "variants", "family": "families", "manufacturer": "manufacturers"}


def read(disk: Disk) -> Listing:
    """List the images of the wanted splits."""
    level = disk.options["level"]
    rows: list[tuple[str, str, str | None]] = [
        (f"data/images/{image}.jpg", split, label)
        for split in disk.splits
        for image, label in disk.fields(f"data/images_{level}_{split}.txt", 2)
    ]
    return Listing(image_frame(rows), disk.lines(f"data/{CLASSES[level]}.txt"))

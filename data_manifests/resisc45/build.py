"""RESISC45: lists of file names; the class is the name without its number, and the folder."""

from __future__ import annotations

from data_manifests.official.disk import Disk, Listing, image_frame, sorted_labels


def read(disk: Disk) -> Listing:
    """List the images of the wanted splits."""
    folder = disk.image_folder()
    rows: list[tuple[str, str, str | None]] = []
    for split in disk.splits:
        for name in disk.lines(f"resisc45-{split}.txt"):
            label = name.rpartition("_")[0]
            rows.append((f"{folder}/{label}/{name}", split, label))
    return Listing(image_frame(rows), sorted_labels(rows))

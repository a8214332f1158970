"""Describable Textures: a list of class/file a split and partition."""

from __future__ import annotations

from data_manifests.official.disk import Disk, Listing, image_frame, sorted_labels


def read(disk: Disk) -> Listing:
    """List the images of the wanted splits of a partition."""
    rows: list[tuple[str, str, str | None]] = [
        (f"images/{line}", split, line.partition("/")[0])
        for split in disk.splits
        for line in disk.lines(f"labels/{split}{disk.options['partition']}.txt")
    ]
    return Listing(image_frame(rows), sorted_labels(rows))

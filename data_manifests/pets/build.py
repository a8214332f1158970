"""Oxford-IIIT Pets: a list a split; the breed is the file name without its number."""

from __future__ import annotations

from data_manifests.official.disk import Disk, Listing, image_frame


def read(disk: Disk) -> Listing:
    """List the images of the wanted splits; classes in the order of the lists' numbers."""
    rows, numbers = [], {}
    for split in disk.splits:
        for image, number, _, _ in disk.fields(f"annotations/{disk.word(split)}.txt", 4):
            label = image.rpartition("_")[0].lower()
            numbers[label] = int(number)
            rows.append((f"images/{image}.jpg", split, label))
    return Listing(image_frame(rows), sorted(numbers, key=numbers.__getitem__))

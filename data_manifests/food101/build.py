"""Food-101: a JSON a split, class -> list of class/number."""

from __future__ import annotations

from data_manifests.official.disk import Disk, Listing, image_frame, sorted_labels
from data_manifests.plan import BuildError


def read(disk: Disk) -> Listing:
    """List the images of the wanted splits."""
    rows = []
    for split in disk.splits:
        name = f"meta/{split}.json"
        document = disk.json(name)
        if not isinstance(document, dict):
            msg = f"{disk.path(name)} is no JSON object class -> list. Fetch it again."
            raise BuildError(msg)
        rows += [
            (f"images/{image}.jpg", split, str(label))
            for label, images in document.items()
            for image in images
        ]
    return Listing(image_frame(rows), sorted_labels(rows))

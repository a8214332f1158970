"""ImageNet-1k: train and val in one folder a synset, over the label set of timm's files."""

from __future__ import annotations

from pathlib import Path

from data_manifests.labels import plan_label_set
from data_manifests.official.disk import Disk, Listing, image_frame
from data_manifests.plan import BuildError
from data_manifests.readers.layouts import split_folders


def read(disk: Disk) -> Listing:
    """List the images of the wanted splits; labels are synsets."""
    classes = plan_label_set(Path(__file__).parent).make(disk.root, None).classes
    assert classes is not None
    rows = split_folders(disk)
    synsets = classes["synset"].to_list()
    strange = sorted({label for _, _, label in rows if label} - set(synsets))
    if strange:
        msg = (
            f"{len(strange):,} folders below {disk.root} are no synset of ImageNet-1k (first: "
            f"{strange[0]!r}). Remove them."
        )
        raise BuildError(msg)
    return Listing(image_frame(rows), synsets, classes=classes)

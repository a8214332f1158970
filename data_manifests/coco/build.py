"""MS-COCO: Karpathy's JSON over the images of train2014 and val2014."""

from __future__ import annotations

from data_manifests.official.disk import Disk, Listing, caption_frame, image_frame
from data_manifests.readers.layouts import read_karpathy


def read(disk: Disk) -> Listing:
    """List the images and captions of the wanted splits."""
    chosen = [
        image
        for image in read_karpathy(disk, "dataset_coco.json", disk.options["captions"])
        if image.split in disk.splits
    ]
    paths = [f"{image.folder}/{image.name}" for image in chosen]
    rows = [(path, image.split, None) for path, image in zip(paths, chosen, strict=True)]
    captions = [
        (key, path, text)
        for path, image in zip(paths, chosen, strict=True)
        for key, text in image.captions
    ]
    return Listing(
        image_frame(rows, cocoid=[image.number for image in chosen]),
        captions=caption_frame(captions),
    )

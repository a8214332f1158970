"""Oxford 102 Flowers: numbers of images and their classes in MATLAB files."""

from __future__ import annotations

from data_manifests.labels import constant_list, package_file
from data_manifests.official.disk import Disk, Listing, image_frame
from data_manifests.plan import BuildError
from data_manifests.readers.layouts import read_mat


def read(disk: Disk) -> Listing:
    """List the images of the wanted splits; labels are the official numbers from 1."""
    classes = read_mat(disk, "imagelabels.mat", "labels").tolist()
    rows = []
    for split in disk.splits:
        for number in read_mat(disk, "setid.mat", disk.word(split)).tolist():
            if not 1 <= number <= len(classes):
                msg = f"setid.mat names image {number:,}; imagelabels.mat has {len(classes):,}."
                raise BuildError(msg)
            rows.append((f"jpg/image_{number:05d}.jpg", split, str(classes[number - 1])))
    names = _names(disk)
    return Listing(image_frame(rows), list(names), names)


def _names(disk: Disk) -> dict[str, str]:
    """Return number -> name, in the order of the numbers."""
    if disk.has("cat_to_name.json"):
        given = {str(key): str(name) for key, name in disk.json("cat_to_name.json").items()}
        return dict(sorted(given.items(), key=lambda pair: int(pair[0])))
    file = package_file("torchvision", "datasets/flowers102.py", install="'headstock[extract]'")
    return {str(n): name for n, name in enumerate(constant_list(file, "classes"), start=1)}

"""Stanford Cars: annotations in MATLAB files."""

from __future__ import annotations

import numpy as np

from data_manifests.official.disk import Disk, Listing, image_frame
from data_manifests.readers.layouts import read_mat

ANNOTATIONS = {
    "train": "devkit/cars_train_annos.mat",
    "test": "cars_test_annos_withlabels.mat",
}


def read(disk: Disk) -> Listing:
    """List the images of the wanted splits; labels are the official numbers from 1."""
    names = [str(name) for name in read_mat(disk, "devkit/cars_meta.mat", "class_names").tolist()]
    rows = [
        (f"cars_{split}/{row['fname']}", split, str(int(row["class"])))
        for split in disk.splits
        for row in np.atleast_1d(read_mat(disk, ANNOTATIONS[split], "annotations"))
    ]
    numbered = {str(number): name for number, name in enumerate(names, start=1)}
    return Listing(image_frame(rows), list(numbered), numbered)

"""Caltech 101: class folders; 30 images a class are train."""

from __future__ import annotations

import hashlib
from collections import defaultdict

from data_manifests.official.disk import Disk, Listing, image_frame, sorted_labels
from data_manifests.readers.layouts import Row, class_folders

#: No class: clutter that detectors were trained against.
BACKGROUND = "BACKGROUND_Google"

#: Training images a class, as in the usual protocol.
SHOTS = 30


def read(disk: Disk) -> Listing:
    """List all images but the background; the split depends on the paths alone."""
    groups: dict[str | None, list[str]] = defaultdict(list)
    for path, _, label in class_folders(disk, disk.image_folder(), "test"):
        if label != BACKGROUND:
            groups[label].append(path)
    rows: list[Row] = []
    for label, paths in groups.items():
        ordered = sorted(paths, key=lambda path: hashlib.sha256(path.encode()).digest())
        rows += [(path, "train" if n < SHOTS else "test", label) for n, path in enumerate(ordered)]
    kept = [row for row in rows if row[1] in disk.splits]
    return Listing(image_frame(kept), sorted_labels(rows))

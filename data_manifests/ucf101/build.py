"""UCF101: lists of videos, and the middle frame of each in a folder of the action's words."""

from __future__ import annotations

import re

from data_manifests.official.disk import Disk, Listing, image_frame


def read(disk: Disk) -> Listing:
    """List the frames of the wanted splits of a fold; labels are the folders (Apply_Eye_Makeup)."""
    folder = disk.image_folder()
    order = disk.fields("ucfTrainTestlist/classInd.txt", 2)
    labels = [words(action) for _, action in sorted(order, key=lambda row: int(row[0]))]
    rows = []
    for split in disk.splits:
        for line in disk.lines(f"ucfTrainTestlist/{split}list0{disk.options['fold']}.txt"):
            action, _, video = line.split()[0].partition("/")
            label = words(action)
            rows.append((f"{folder}/{label}/{video.removesuffix('.avi')}.jpg", split, label))
    return Listing(image_frame(rows), labels)


def words(action: str) -> str:
    """Return an action's words, joined by ``_``: ``ApplyEyeMakeup`` gives ``Apply_Eye_Makeup``."""
    return re.sub("(?<!^)(?=[A-Z])", "_", action)

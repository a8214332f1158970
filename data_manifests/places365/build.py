"""Places365: a list of categories, and a list of files with the number of their category."""

from __future__ import annotations

import hashlib
from collections import Counter

from data_manifests.official.disk import Disk, Listing, image_frame
from data_manifests.plan import BuildError

#: Images of a class in the paper's few-shot split, to train on and to test.
TRAIN, TEST = 10, 40


def read(disk: Disk) -> Listing:
    """List the validation images; labels are the categories without their letter.

    With ``few_shot=paper`` the images of each class are in the order of the sha256 of their names:
    the first `TRAIN` are train, the next `TEST` test, and the others left out.
    """
    categories = {
        int(number): category.split("/", 2)[-1]
        for category, number in disk.fields("categories_places365.txt", 2)
    }
    rows = []
    for file, number in disk.fields("places365_val.txt", 2):
        if int(number) not in categories:
            msg = f"places365_val.txt gives {file} the category {number}, which is not listed."
            raise BuildError(msg)
        rows.append((f"val_256/{file.lstrip('/')}", "val", categories[int(number)]))
    if disk.options["few_shot"] == "paper":
        rows = [row for row in _few_shot(rows) if row[1] in disk.splits]
    labels = [categories[number] for number in sorted(categories)]
    names = {label: label.replace("/", " ").replace("_", " ") for label in labels}
    return Listing(image_frame(rows), labels, names)


def _few_shot(rows: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    by_digest = sorted(rows, key=lambda row: hashlib.sha256(row[0].encode()).hexdigest())
    seen: Counter[str] = Counter()
    kept = []
    for path, _, label in by_digest:
        place = seen[label]
        seen[label] += 1
        if place < TRAIN + TEST:
            kept.append((path, "train" if place < TRAIN else "test", label))
    return sorted(kept)

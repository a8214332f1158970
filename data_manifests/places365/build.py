"""Places365: a list of categories, and a list of files with the number of their category."""

from __future__ import annotations

from data_manifests.official.disk import Disk
from data_manifests.official.listing import Listing, image_frame
from data_manifests.plan import BuildError


def read(disk: Disk) -> Listing:
    """List the validation images; labels are the categories without their letter."""
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
    labels = [categories[number] for number in sorted(categories)]
    names = {label: label.replace("/", " ").replace("_", " ") for label in labels}
    return Listing(image_frame(rows), labels, names)

"""HAM10000: a table of diagnoses over images in two folders."""

from __future__ import annotations

import csv

from data_manifests.official.disk import Disk, Listing, image_frame
from data_manifests.plan import BuildError

#: The diagnoses in the paper's order.
DIAGNOSES = ("nv", "mel", "bkl", "bcc", "akiec", "vasc", "df")

#: What the table is called: Kaggle, Dataverse as downloaded, Dataverse's original.
TABLES = ("HAM10000_metadata.csv", "HAM10000_metadata.tab", "HAM10000_metadata")


def read(disk: Disk) -> Listing:
    """List all images, with their lesions."""
    name = next((name for name in TABLES if disk.has(name)), None)
    if name is None:
        msg = (
            f"{disk.root} has none of {', '.join(TABLES)}: a table with the columns lesion_id, "
            "image_id and dx. It may lie elsewhere: --option metadata=PATH."
        )
        raise BuildError(msg)
    lines = disk.text(name).splitlines()
    reader = csv.DictReader(lines, delimiter="\t" if "\t" in lines[0] else ",")
    where = {path.rpartition("/")[2].rpartition(".")[0]: path for path in disk.images()}
    rows, lesions = [], []
    for row in reader:
        image, diagnosis = row["image_id"], row["dx"]
        if diagnosis not in DIAGNOSES:
            msg = f"{name} gives {image} the diagnosis {diagnosis!r}; known: {DIAGNOSES}."
            raise BuildError(msg)
        rows.append((where.get(image, f"images/{image}.jpg"), "test", diagnosis))
        lesions.append(row["lesion_id"])
    return Listing(image_frame(rows, lesion_id=lesions), DIAGNOSES)

"""Label sets: what the rows of a classification head stand for."""

from __future__ import annotations

import polars as pl

from featstore.manifest.hashes import text_sha256
from featstore.manifest.schema import conform_classes, conform_items
from featstore.manifest.validate import validate_classes


def head_items(classes: pl.DataFrame) -> pl.DataFrame:
    """Return the head_weight items of a label set: one a class, in the order of its index.

    Row i of the table is row i of the head's weight matrix. ``item_id`` is ``<class_id>#head``;
    content_sha256 is that of the class id, since the weights belong to the encoder, not to the
    item.

    Parameters
    ----------
    classes : DataFrame
        A label set (CLASS_SCHEMA), rows in any order.

    Raises
    ------
    ManifestError
        If it is no valid label set, e.g. indices are not 0, 1, 2 ….
    """
    labels = conform_classes(classes)
    validate_classes(labels)
    ids = labels.sort("index")["class_id"]
    table = pl.DataFrame(
        {
            "item_id": [f"{class_id}#head" for class_id in ids],
            "class_id": ids,
            "content_sha256": [text_sha256(class_id) for class_id in ids],
        }
    )
    return conform_items(table, "head_weight")

"""The columns of item tables and label sets, and how tables are brought to them."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from featstore.errors import ManifestError

#: What an item can be. All four are the same thing to a fitter: rows that have an embedding.
KINDS = ("image", "caption", "class_name", "head_weight")

#: The usual splits, in the order they are shown; a manifest may name others.
SPLITS = ("train", "val", "test")

#: Columns of an item table. All but item_id and kind may be null; extra columns are kept.
ITEM_SCHEMA: dict[str, pl.DataType] = {
    "item_id": pl.String(),
    "kind": pl.String(),
    "uri": pl.String(),
    "text": pl.String(),
    "parent_id": pl.String(),
    "class_id": pl.String(),
    "variant": pl.String(),
    "template_id": pl.String(),
    "split": pl.String(),
    "content_sha256": pl.String(),
}

#: Columns of a label set. synset, lemmas and definition may be null; extra columns are kept.
CLASS_SCHEMA: dict[str, pl.DataType] = {
    "class_id": pl.String(),
    "index": pl.Int64(),
    "synset": pl.String(),
    "lemmas": pl.String(),
    "definition": pl.String(),
    "name": pl.String(),
    "shared_name": pl.Boolean(),
}

_NULLABLE_CLASS_COLUMNS = ("synset", "lemmas", "definition")


def conform_items(table: pl.DataFrame, kind: str) -> pl.DataFrame:
    """Return `table` with every column of ITEM_SCHEMA first and in order, extra ones behind.

    Missing columns become null, ``kind`` becomes `kind`; values are not looked at.

    Raises
    ------
    ManifestError
        If item_id is missing, or a column has another type.
    """
    filled = table if "kind" in table.columns else table.with_columns(kind=pl.lit(kind))
    return _conform(filled, ITEM_SCHEMA, f"{kind} items", required=("item_id",))


def conform_classes(table: pl.DataFrame) -> pl.DataFrame:
    """Return a label set with every column of CLASS_SCHEMA first and in order.

    Raises
    ------
    ManifestError
        If a column that may not be null is missing, or one has another type.
    """
    required = tuple(name for name in CLASS_SCHEMA if name not in _NULLABLE_CLASS_COLUMNS)
    return _conform(table, CLASS_SCHEMA, "classes", required=required)


def _conform(
    table: pl.DataFrame, schema: Mapping[str, pl.DataType], what: str, *, required: tuple[str, ...]
) -> pl.DataFrame:
    absent = [name for name in required if name not in table.columns]
    if absent:
        msg = (
            f"The table of {what} has no column {', '.join(map(repr, absent))}. It has: "
            f"{', '.join(table.columns) or 'none'}."
        )
        raise ManifestError(msg)
    wrong = [
        f"{name} ({table.schema[name]} instead of {dtype})"
        for name, dtype in schema.items()
        if name in table.columns and table.schema[name] not in (dtype, pl.Null())
    ]
    if wrong:
        msg = f"The table of {what} has columns of the wrong type: {', '.join(wrong)}. Cast them."
        raise ManifestError(msg)
    known = [
        pl.col(name).cast(dtype) if name in table.columns else pl.lit(None, dtype=dtype).alias(name)
        for name, dtype in schema.items()
    ]
    return table.select(*known, *(name for name in table.columns if name not in schema))

"""Put rows from elsewhere into a store, with a provenance that says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from featstore.errors import ManifestError
from featstore.interop.reading import read_items, read_rows
from featstore.interop.tables import Rows
from featstore.keys import sha256_hex
from featstore.manifest.schema import ITEM_SCHEMA
from featstore.store.layout import BLOCK_ROWS, DTYPES
from featstore.store.writer import SetWriter


def import_rows(
    source: Path,
    *,
    store: Path,
    dataset: str,
    kind: str,
    encoder: str,
    items: Path | None = None,
    array: str | None = None,
    dtype: str | None = None,
) -> str:
    """Write the rows of a file as a set and return its key.

    The space of an imported set is what the caller says it is, and no more: the encoder's name
    and ``provenance: imported``. Two imports under one encoder's name claim one space.

    Parameters
    ----------
    source : Path
        See `featstore.interop.reading.read_rows`.
    items : Path, optional
        CSV or Parquet with ``item_id``, one row a row of `source`; needed if the source has none.
    array : str, optional
        Which array of the source.
    dtype : str, optional
        Stored dtype; by default the source's own, so that every bit is kept.

    Raises
    ------
    ManifestError
        If source and items do not fit, or a row is not finite.
    NonFiniteEmbeddingError
        If `dtype` cannot hold a value.
    """
    rows = read_rows(source, array=array)
    table = rows.items if items is None else read_items(items)
    if table is None:
        msg = f"{source} names no items. Give a CSV or Parquet file with item_id: --items FILE."
        raise ManifestError(msg)
    table = _conform(table, kind=kind, where=items or source)
    if table.height != len(rows.data):
        msg = f"{source} has {len(rows.data):,} rows, but there are {table.height:,} items."
        raise ManifestError(msg)
    stored = dtype or rows.dtype
    if stored not in DTYPES:
        msg = f"{source} is {stored}, which a store cannot hold. Say --save-dtype float32."
        raise ManifestError(msg)
    _check_finite(rows, table["item_id"], where=source)
    facts = {"provenance": "imported", "source": source.name}
    space = {"name": encoder, "provenance": "imported"}
    with SetWriter(
        store,
        dataset=dataset,
        kind=kind,
        encoder=encoder,
        space=space,
        items=table,
        dim=rows.data.shape[1],
        dtype=stored,
        facts=facts,
        plan={"rows": _digest(rows.data)},
    ) as writer:
        for block in writer.pending():
            writer.write_block(block, rows.values(writer.layout.block_slice(block)))
        writer.finish(bias=rows.bias, run=facts)
    return str(writer.key)


def _conform(table: pl.DataFrame, *, kind: str, where: Path) -> pl.DataFrame:
    """Return the item table with every column that a view may ask for."""
    ids = table.get_column("item_id", default=None)
    if ids is None or ids.dtype != pl.String or ids.null_count() or ids.n_unique() != ids.len():
        msg = f"{where} needs a column item_id of distinct texts, one a row."
        raise ManifestError(msg)
    missing = {name: dtype for name, dtype in ITEM_SCHEMA.items() if name not in table.columns}
    added = [pl.lit(None, dtype).alias(name) for name, dtype in missing.items() if name != "kind"]
    return table.with_columns(pl.lit(kind).alias("kind"), *added)


def _check_finite(rows: Rows, ids: pl.Series, *, where: Path) -> None:
    """Raise ManifestError for rows with NaN or Inf, naming the first, before the store is made."""
    count, first = 0, -1
    for start in range(0, ids.len(), BLOCK_ROWS):
        bad = ~np.isfinite(rows.values(slice(start, start + BLOCK_ROWS))).all(axis=1)
        if bad.any() and not count:
            first = start + int(np.flatnonzero(bad)[0])
        count += int(bad.sum())
    if count:
        msg = (
            f"{where}: row {first:,} ({ids[first]!r}) has NaN or Inf, as have {count:,} of "
            f"{ids.len():,} rows. Leave them out, here and among the items."
        )
        raise ManifestError(msg)


def _digest(data: np.ndarray) -> str:
    """Return a hash of the rows, so that staged blocks of another file are not taken over."""
    digests = [
        sha256_hex(np.ascontiguousarray(data[start : start + BLOCK_ROWS]).tobytes())
        for start in range(0, len(data), BLOCK_ROWS)
    ]
    return sha256_hex("".join(digests).encode())

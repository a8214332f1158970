"""From encoder output to stored rows: the cast, and the check that nothing was lost in it."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

import numpy as np

from featstore.errors import NonFiniteEmbeddingError
from featstore.store.bfloat16 import from_bfloat16, to_bfloat16
from featstore.store.layout import DTYPES, INTEGERS, ArrayLayout, LayoutError


def cast_rows(
    rows: np.ndarray,
    item_ids: Sequence[str],
    *,
    failed: Container[str],
    layout: ArrayLayout,
    where: str,
) -> np.ndarray:
    """Return `rows` in the stored dtype, nothing lost but precision.

    Rows of failed items are NaN, or 0 where the dtype is a whole number. bfloat16 comes back
    as its bits, uint16.

    Parameters
    ----------
    rows : ndarray of shape (b, d)
        Raw encoder output.
    item_ids : sequence of str
        Of the b items.
    failed : container of str
        item_ids that have no embedding.
    where : str
        Encoder and rows, for messages.

    Raises
    ------
    LayoutError
        If the shape is not (b, d).
    NonFiniteEmbeddingError
        If a row is NaN or Inf, or has values that the dtype cannot hold: too large, or not
        whole where it holds whole numbers. The message names the first item.
    """
    expected = (len(item_ids), layout.dim)
    if rows.shape != expected:
        msg = f"Got embeddings of shape {rows.shape}, expected {expected} ({where})."
        raise LayoutError(msg)
    skipped = np.array([item in failed for item in item_ids], dtype=bool)
    data, held = _cast(rows, layout.dtype)
    data[skipped] = blank_value(layout.dtype)
    bad = ~held & ~skipped
    if not bad.any():
        return data
    first = int(np.flatnonzero(bad)[0])
    if not np.isfinite(rows[first]).all():
        what, remedy = "NaN or Inf", "Extract it in float32"
    elif layout.dtype in INTEGERS:
        bounds = np.iinfo(DTYPES[layout.dtype])
        what = f"values that are no whole numbers of {bounds.min} to {bounds.max}"
        remedy = "Store it as float32 (--save-dtype float32)"
    else:
        what = f"values too large for {layout.dtype}"
        remedy = "Store it as float32 (--save-dtype float32)"
    msg = (
        f"Got {what} for {int(bad.sum()):,} of {len(item_ids):,} items, first {item_ids[first]!r} "
        f"({where}). Nothing was written for this block. {remedy}, or drop the item from the "
        "manifest."
    )
    raise NonFiniteEmbeddingError(msg)


def _cast(rows: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows in the stored dtype, and which rows it holds: a boolean of shape (b,)."""
    stored = DTYPES[dtype]
    with np.errstate(over="ignore", invalid="ignore"):
        if dtype == "bfloat16":
            bits = to_bfloat16(rows)
            return bits, np.isfinite(from_bfloat16(bits)).all(axis=1)
        if dtype not in INTEGERS:
            data = np.array(rows, dtype=stored, order="C")
            return data, np.isfinite(data).all(axis=1)
        bounds = np.iinfo(stored)
        # NaN compares false with everything, so it is not held either.
        held = (rows >= bounds.min) & (rows <= bounds.max) & (rows == np.trunc(rows))
        return np.array(np.where(held, rows, 0), dtype=stored, order="C"), held.all(axis=1)


def blank_value(dtype: str) -> Any:
    """Return what stands in the rows of failed items."""
    if dtype in INTEGERS:
        return 0
    return to_bfloat16(np.array([np.nan]))[0] if dtype == "bfloat16" else np.nan

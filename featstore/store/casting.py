"""From encoder output to stored rows: the cast, and the check that nothing was lost in it."""

from __future__ import annotations

from collections.abc import Container, Sequence

import numpy as np

from featstore.errors import NonFiniteEmbeddingError
from featstore.store.layout import DTYPES, ArrayLayout, LayoutError


def cast_rows(
    rows: np.ndarray,
    item_ids: Sequence[str],
    *,
    failed: Container[str],
    layout: ArrayLayout,
    where: str,
) -> np.ndarray:
    """Return `rows` in the stored dtype, finite but for the failed items, which are NaN.

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
        If a row is NaN or Inf, or overflows on the cast; the message names the first item.
    """
    expected = (len(item_ids), layout.dim)
    if rows.shape != expected:
        msg = f"Got embeddings of shape {rows.shape}, expected {expected} ({where})."
        raise LayoutError(msg)
    with np.errstate(over="ignore", invalid="ignore"):
        data = np.array(rows, dtype=DTYPES[layout.dtype], order="C")
    skipped = np.array([item in failed for item in item_ids], dtype=bool)
    data[skipped] = np.nan
    bad = ~np.isfinite(data).all(axis=1) & ~skipped
    if not bad.any():
        return data
    first = int(np.flatnonzero(bad)[0])
    if np.isfinite(rows[first]).all():
        what = f"values too large for {layout.dtype}"
        remedy = "Store it as float32 (--save-dtype float32)"
    else:
        what, remedy = "NaN or Inf", "Extract it in float32"
    msg = (
        f"Got {what} for {int(bad.sum()):,} of {len(item_ids):,} items, first {item_ids[first]!r} "
        f"({where}). Nothing was written for this block. {remedy}, or drop the item from the "
        "manifest."
    )
    raise NonFiniteEmbeddingError(msg)

"""How near rows that were made again are to the damaged ones that are stored."""

from __future__ import annotations

import numpy as np

from featstore.store.arrays import decode
from featstore.store.layout import DTYPES, INTEGERS

#: A stored value that is this far from the one made again, in units of its column's root mean
#: square in the block, is taken for damaged. Other libraries move values by a thousandth of that.
DAMAGED = 0.05


def nearness(data: np.ndarray, stored: np.ndarray | None, dtype: str, valid: np.ndarray) -> str:
    """Say how near `data` is to `stored`, both (b, d) as a store holds them.

    Parameters
    ----------
    valid : ndarray of shape (b,)
        False for rows that have no embedding.
    """
    if stored is None:
        return "the stored rows are gone, so nothing tells how near they are"
    same = (data == stored).all(axis=1) & valid
    count = int(valid.sum())
    said = f"{int(same.sum()):,} of {count:,} rows are bitwise those stored"
    if not (valid & ~same).any():
        return said
    ours, theirs = _floats(data, dtype)[valid & ~same], _floats(stored, dtype)[valid & ~same]
    with np.errstate(all="ignore"):
        norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
        cosines = (ours * theirs).sum(axis=1) / norms
    cosines = np.where(np.isfinite(cosines), cosines, 0.0)
    return (
        f"{said}; cosine of the others to the stored ones: median {np.median(cosines):.6f}, least "
        f"{cosines.min():.6f}"
    )


def nearest_bytes(data: np.ndarray, stored: np.ndarray | None, dtype: str) -> bytes | None:
    """Return the stored block with only its far-off values taken from `data`.

    Where another library changes last bits, and damage changes a few values a lot, this may be
    the very block that was stored; its hash will tell.
    """
    if stored is None or dtype in INTEGERS:
        return None
    ours, theirs = _floats(data, dtype), _floats(stored, dtype)
    scale = np.sqrt(np.mean(np.nan_to_num(ours) ** 2, axis=0, keepdims=True))
    with np.errstate(invalid="ignore"):
        near = np.abs(ours - theirs) <= DAMAGED * scale
    return np.where(near, stored, data).astype(DTYPES[dtype]).tobytes()


def _floats(stored: np.ndarray, dtype: str) -> np.ndarray:
    wide = np.float64 if dtype == "float64" else np.float32
    with np.errstate(invalid="ignore"):
        return decode(stored, dtype, np.empty(stored.shape, wide)).astype(np.float64)

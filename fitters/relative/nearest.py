"""The k nearest anchors of every row by dot product, anchors streamed in blocks.

Only similarities above 0 count, and nothing of the size rows × anchors is ever held: a block of
anchors is compared with what each row already has, and only what beats its k-th best is kept.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from fitters.errors import SettingError
from fitters.side_by_side import side_by_side

Rows = npt.NDArray[np.floating[Any]]
Backend = Literal["numpy", "faiss"]

ROW_BLOCK, ANCHOR_BLOCK = 512, 8192
"""Rows and anchors of one product: 16 MiB of float32 similarities."""


def nearest_anchors(rows: Rows, anchors: Rows, k: int, *, backend: Backend = "numpy") -> csr_array:
    """Return the similarities of each row to its k nearest anchors, those above 0.

    Parameters
    ----------
    rows, anchors : ndarray of shape (b, d), (n, d)
        Of one dtype, float32 or float64.
    k : int
        At most n are kept.
    backend : {"numpy", "faiss"}
        "faiss" needs the package faiss and float32; at equal similarity it takes any anchor,
        "numpy" the one of lower index.

    Returns
    -------
    csr_array of shape (b, n)
        At most k entries a row, all positive, columns ascending, in the dtype of `rows`.
    """
    k = min(k, len(anchors))
    find = _with_faiss if backend == "faiss" else _with_numpy
    return find(rows, anchors, k)


def _with_numpy(rows: Rows, anchors: Rows, k: int) -> csr_array:
    # Anchor by anchor block in the outer loop would read the anchors once, but hold every row's
    # candidates; rows in the outer loop hold those of one block of rows, and blocks of rows can be
    # searched at the same time.
    def search(block: Rows) -> list[_Best]:
        found = [_Best(k) for _ in block]
        for first in range(0, len(anchors), ANCHOR_BLOCK):
            similarities = block @ anchors[first : first + ANCHOR_BLOCK].T
            for best, of_row in zip(found, similarities, strict=True):
                best.add(of_row, first)
        for best in found:
            best.cut()
        return found

    blocks = [rows[start : start + ROW_BLOCK] for start in range(0, len(rows), ROW_BLOCK)]
    of_rows = [best for found in side_by_side(search, blocks) for best in found]
    shape = len(rows), len(anchors)
    if not of_rows:
        return csr_array(shape, dtype=rows.dtype)
    columns = [best.columns for best in of_rows]
    counts = np.cumsum([0, *map(len, columns)])
    flat = np.concatenate([best.values for best in of_rows]), np.concatenate(columns), counts
    return csr_array(flat, shape=shape)


class _Best:
    """The k largest positive similarities of one row so far; columns ascend."""

    def __init__(self, k: int) -> None:
        self._k = k
        self._threshold: Any = 0
        self._columns: list[npt.NDArray[np.intp]] = []
        self._values: list[Rows] = []
        self._size = 0

    def add(self, similarities: Rows, first: int) -> None:
        # A later anchor must be strictly better: at equal similarity the lower index stays.
        at = np.flatnonzero(similarities > self._threshold)
        if len(at):
            self._columns.append(at + first)
            self._values.append(similarities[at])
            self._size += len(at)
            if self._size > self._k:
                self.cut()

    def cut(self) -> None:
        """Keep the k best; fill the last places by index where similarities are equal."""
        columns, values = self.columns, self.values
        if self._size > self._k:
            threshold = np.partition(values, self._size - self._k)[self._size - self._k]
            keep = values > threshold
            ties = np.flatnonzero(values == threshold)[: self._k - int(keep.sum())]
            keep[ties] = True
            columns, values = columns[keep], values[keep]
            self._threshold = threshold
        self._columns, self._values, self._size = [columns], [values], len(columns)

    @property
    def columns(self) -> npt.NDArray[np.intp]:
        return np.concatenate(self._columns) if self._columns else np.empty(0, dtype=np.intp)

    @property
    def values(self) -> Rows:
        return np.concatenate(self._values) if self._values else np.empty(0)


def _with_faiss(rows: Rows, anchors: Rows, k: int) -> csr_array:
    try:
        import faiss
    except ImportError as err:
        msg = "backend='faiss' needs the package faiss-cpu. Install it, or use backend='numpy'."
        raise SettingError(msg) from err
    if rows.dtype != np.float32:
        msg = f"faiss computes in float32; got {rows.dtype}. Use precision='float32', or numpy."
        raise SettingError(msg)
    values, columns = faiss.knn(
        np.ascontiguousarray(rows),
        np.ascontiguousarray(anchors),
        k,
        metric=faiss.METRIC_INNER_PRODUCT,
    )
    counts = np.arange(len(rows) + 1) * k
    shape = len(rows), len(anchors)
    found = csr_array((np.maximum(values, 0).ravel(), columns.ravel(), counts), shape=shape)
    found.eliminate_zeros()
    found.sort_indices()
    return found

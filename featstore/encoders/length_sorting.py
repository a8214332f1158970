"""Batches of texts of like length: little is padded, and what is stored keeps its order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from featstore.encoders.base import TextEncoder


def length_batches(lengths: Sequence[int] | np.ndarray, batch: int) -> list[np.ndarray]:
    """Return the positions of texts, shortest first, in batches.

    The batches are a function of the lengths alone, equal lengths staying in their order: the
    same texts always meet in the same batches, and so get the same bits.

    Parameters
    ----------
    lengths : sequence of int, of length n
        Tokens of each text.
    batch : int
        Texts a batch; the last one may be smaller.

    Returns
    -------
    list of int64 arrays
        Together every position from 0 to n - 1 once.

    Raises
    ------
    ValueError
        If `batch` is not positive.

    Examples
    --------
    >>> [part.tolist() for part in length_batches([7, 3, 7, 1], 2)]
    [[3, 1], [0, 2]]
    """
    if batch < 1:
        msg = f"A batch must hold at least 1 text. Got {batch} instead."
        raise ValueError(msg)
    order = np.argsort(np.asarray(lengths, dtype=np.int64), kind="stable")
    return [order[start : start + batch] for start in range(0, len(order), batch)]


def encode_sorted(encoder: TextEncoder, prepared: Sequence[Any], batch: int) -> np.ndarray:
    """Encode prepared texts in batches of like length; return (n, d) float32 in their order."""
    rows = np.empty((len(prepared), encoder.dim), np.float32)
    for positions in length_batches([encoder.length(text) for text in prepared], batch):
        rows[positions] = encoder.encode([prepared[position] for position in positions])
    return rows

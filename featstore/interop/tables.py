"""What an exported file holds: rows in the stored dtype, their items, and a head's bias."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

#: Names of the formats, as the command line has them.
FORMATS = ("npy", "safetensors", "parquet", "h5")


@dataclass(frozen=True)
class Rows:
    """Rows and their items; row i of `data` is item i.

    Attributes
    ----------
    data : ndarray of shape (n, d)
        May be mapped from a file.
    items : DataFrame or None
        None if the file names no items.
    bias : ndarray of shape (n,) or None
        Only of heads.
    """

    data: np.ndarray
    items: pl.DataFrame | None = None
    bias: np.ndarray | None = None

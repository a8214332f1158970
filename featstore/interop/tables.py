"""What an exported file holds: rows in the stored dtype, their items, and a head's bias."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from featstore.store.bfloat16 import from_bfloat16

#: Names of the formats, as the command line has them.
FORMATS = ("npy", "safetensors", "parquet", "h5")

#: What safetensors calls the dtypes of a store.
TENSOR_DTYPES = {
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "int8": "I8",
    "uint8": "U8",
}


@dataclass(frozen=True)
class Rows:
    """Rows and their items; row i of `data` is item i.

    Attributes
    ----------
    data : ndarray of shape (n, d)
        May be mapped from a file; bfloat16 as its bits, uint16.
    items : DataFrame or None
        None if the file names no items.
    bias : ndarray of shape (n,) or None
        Only of heads.
    """

    data: np.ndarray
    items: pl.DataFrame | None = None
    bias: np.ndarray | None = None

    @property
    def dtype(self) -> str:
        """Name of the dtype, as a store has it."""
        name = str(self.data.dtype.newbyteorder("="))
        return "bfloat16" if name == "uint16" else name

    def values(self, rows: slice) -> np.ndarray:
        """Return rows as numbers: bfloat16 as the float32 that it is."""
        data = np.asarray(self.data[rows])
        return from_bfloat16(data) if self.dtype == "bfloat16" else data

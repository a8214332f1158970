"""Rows as torch tensors, without a copy."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from featstore.errors import needs_extra

if TYPE_CHECKING:
    import torch


def as_tensor(rows: np.ndarray, dtype: str) -> torch.Tensor:
    """Return stored rows as a tensor on the same memory.

    Parameters
    ----------
    rows : ndarray of shape (n, d)
        As a `RowSource` reads them, read-only or not.
    dtype : str
        Stored dtype; ``"bfloat16"`` rows are uint16 bits.
    """
    with needs_extra("Selection.torch"):
        import torch

    with warnings.catch_warnings():
        # torch warns of read-only memory; `Selection.torch` says so in its documentation.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        if dtype == "bfloat16":
            return torch.from_numpy(rows.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(rows)

"""bfloat16 as bits: the upper half of a float32.

NumPy has no such type, so a store keeps it as ``uint16`` (Zarr readers see that) and an
attribute says what the bits mean.
"""

from __future__ import annotations

import numpy as np

_NAN = np.uint16(0x7FC0)


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Return the bits of `values` rounded to bfloat16, ties to even, as uint16.

    Values beyond the largest bfloat16 (3.39e38) become Inf; every NaN becomes 0x7FC0.
    """
    narrow = np.ascontiguousarray(values, dtype=np.float32)
    bits = narrow.view(np.uint32)
    # Adding 0x7FFF, and 1 more if the kept half is odd, carries exactly when rounding up.
    rounded = ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16).astype("<u2")
    rounded[np.isnan(narrow)] = _NAN
    return rounded


def from_bfloat16(bits: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Return the float32 values of bfloat16 `bits`, in `out` (float32) if it is given."""
    if out is None:
        out = np.empty(bits.shape, dtype=np.float32)
    # uint32 in the memory of the float32: widen, then shift into the upper half.
    wide = out.view(np.uint32)
    np.copyto(wide, bits, casting="safe")
    np.left_shift(wide, np.uint32(16), out=wide)
    return out

"""Moments of paired rows, how they are accumulated and combined, and the row-wise preprocessing."""

from __future__ import annotations

from fitters.moments.accumulation import accumulate, accumulate_folds
from fitters.moments.moments import Moments, merge_pooled, merge_within_source
from fitters.moments.transform import SideTransform, normalize_rows

__all__ = [
    "Moments",
    "SideTransform",
    "accumulate",
    "accumulate_folds",
    "merge_pooled",
    "merge_within_source",
    "normalize_rows",
]

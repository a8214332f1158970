"""Moments of paired rows, how they are accumulated and combined, and the row-wise preprocessing."""

from __future__ import annotations

from fitters.moments.moments import Moments, merge_pooled
from fitters.moments.transform import SideTransform, normalize_rows

__all__ = ["Moments", "SideTransform", "merge_pooled", "normalize_rows"]

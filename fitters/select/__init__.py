"""Choosing penalties and mixing weights from training pairs and prototypes only."""

from __future__ import annotations

from fitters.select.curve import PENALTIES, WEIGHTS, Axis, Curve
from fitters.select.folds import folds_by_group
from fitters.select.leave_out import LeftOut, leave_one_group_out
from fitters.select.validation import cross_validate

__all__ = [
    "PENALTIES",
    "WEIGHTS",
    "Axis",
    "Curve",
    "LeftOut",
    "cross_validate",
    "folds_by_group",
    "leave_one_group_out",
]

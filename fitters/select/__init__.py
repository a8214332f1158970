"""Choosing penalties and mixing weights from training pairs and prototypes only."""

from __future__ import annotations

from fitters.select.curve import PENALTIES, WEIGHTS, Axis, Curve
from fitters.select.folds import folds_by_group
from fitters.select.held_out_error import validate_by_error
from fitters.select.kernel_mass import choose_mass
from fitters.select.kernel_mixing import cross_validate_kernel
from fitters.select.kernel_prototypes import choose_on_prototypes
from fitters.select.leave_out import LeftOut, leave_one_group_out
from fitters.select.refitting import choose_components, validate_by_refitting
from fitters.select.relative_choice import choose_anchors
from fitters.select.surface import Surface
from fitters.select.validation import cross_validate

__all__ = [
    "PENALTIES",
    "WEIGHTS",
    "Axis",
    "Curve",
    "LeftOut",
    "Surface",
    "choose_anchors",
    "choose_components",
    "choose_mass",
    "choose_on_prototypes",
    "cross_validate",
    "cross_validate_kernel",
    "folds_by_group",
    "leave_one_group_out",
    "validate_by_error",
    "validate_by_refitting",
]

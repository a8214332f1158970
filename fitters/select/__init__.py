"""Choosing penalties and mixing weights from training pairs and prototypes only."""

from __future__ import annotations

from fitters.select.grid import PENALTIES, WEIGHTS, Axis, Surface, folds_by_group
from fitters.select.held_out import cross_validate, validate_by_error
from fitters.select.kernel import choose_on_prototypes, cross_validate_kernel, weigh_noise
from fitters.select.leave_out import LeftOut, leave_one_group_out
from fitters.select.refitting import choose_components, validate_by_refitting

__all__ = [
    "PENALTIES",
    "WEIGHTS",
    "Axis",
    "LeftOut",
    "Surface",
    "choose_components",
    "choose_on_prototypes",
    "cross_validate",
    "cross_validate_kernel",
    "folds_by_group",
    "leave_one_group_out",
    "validate_by_error",
    "validate_by_refitting",
    "weigh_noise",
]

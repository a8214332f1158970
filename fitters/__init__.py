"""Aligners between two embedding spaces: closed forms fitted in seconds, and trained heads.

`fit_alignment` runs the whole protocol on arrays; `save_alignment` and `read_alignment` keep the
result. Importing this package loads nothing: each name below is imported when it is first used,
and none of them imports torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fitters.aligner import ALIGNERS, BaseAligner
    from fitters.alignment import Alignment
    from fitters.controls import CONTROLS
    from fitters.kernel import KernelRidgeAligner
    from fitters.linear import (
        CCAAligner,
        CSAAligner,
        MeanShiftAligner,
        PLSAligner,
        ProcrustesAligner,
        RidgeAligner,
        TextToConceptAligner,
        TwoWayRidgeAligner,
    )
    from fitters.methods import Method, register_method
    from fitters.moments import Moments, SideTransform
    from fitters.pairs import Pairs
    from fitters.persist import read_alignment, save_alignment
    from fitters.recipe import METHODS, fit_alignment
    from fitters.relative import ASIFAligner, ConSEAligner
    from fitters.trained import ICISAligner, MLPAligner
    from fitters.trained.presets import PRESETS, preset

_HOMES = {
    "ALIGNERS": "fitters.aligner",
    "Alignment": "fitters.alignment",
    "ASIFAligner": "fitters.relative",
    "BaseAligner": "fitters.aligner",
    "CCAAligner": "fitters.linear",
    "ConSEAligner": "fitters.relative",
    "CONTROLS": "fitters.controls",
    "CSAAligner": "fitters.linear",
    "fit_alignment": "fitters.recipe",
    "ICISAligner": "fitters.trained",
    "KernelRidgeAligner": "fitters.kernel",
    "MeanShiftAligner": "fitters.linear",
    "Method": "fitters.methods",
    "METHODS": "fitters.recipe",
    "MLPAligner": "fitters.trained",
    "Moments": "fitters.moments",
    "Pairs": "fitters.pairs",
    "PLSAligner": "fitters.linear",
    "preset": "fitters.trained.presets",
    "PRESETS": "fitters.trained.presets",
    "ProcrustesAligner": "fitters.linear",
    "read_alignment": "fitters.persist",
    "register_method": "fitters.methods",
    "RidgeAligner": "fitters.linear",
    "save_alignment": "fitters.persist",
    "SideTransform": "fitters.moments",
    "TextToConceptAligner": "fitters.linear",
    "TwoWayRidgeAligner": "fitters.linear",
}

__all__ = [
    "ALIGNERS",
    "CONTROLS",
    "METHODS",
    "PRESETS",
    "ASIFAligner",
    "Alignment",
    "BaseAligner",
    "CCAAligner",
    "CSAAligner",
    "ConSEAligner",
    "ICISAligner",
    "KernelRidgeAligner",
    "MLPAligner",
    "MeanShiftAligner",
    "Method",
    "Moments",
    "PLSAligner",
    "Pairs",
    "ProcrustesAligner",
    "RidgeAligner",
    "SideTransform",
    "TextToConceptAligner",
    "TwoWayRidgeAligner",
    "fit_alignment",
    "preset",
    "read_alignment",
    "register_method",
    "save_alignment",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        msg = f"module 'fitters' has no attribute '{name}'"
        raise AttributeError(msg)
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)

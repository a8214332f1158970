"""Aligners between two embedding spaces: closed forms fitted in seconds, and trained heads.

`fit` runs the whole protocol on arrays; `save_alignment` and `read_alignment` keep the
result. Importing this package loads nothing: each name below is imported when it is first used,
and none of them imports torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fitters.aligners.asif import ASIFAligner
    from fitters.aligners.base import BaseAligner
    from fitters.aligners.conse import ConSEAligner
    from fitters.aligners.directions import CCAAligner, CSAAligner, PLSAligner
    from fitters.aligners.kernel import KernelRidgeAligner
    from fitters.aligners.mean_shift import MeanShiftAligner, TextToConceptAligner
    from fitters.aligners.mini_vec2vec import MiniVec2VecAligner
    from fitters.aligners.procrustes import ProcrustesAligner
    from fitters.aligners.ridge import RidgeAligner, TwoWayRidgeAligner
    from fitters.alignment import Alignment, fit
    from fitters.methods import ALIGNERS, METHODS, Method
    from fitters.moments.moments import Moments
    from fitters.moments.transform import SideTransform
    from fitters.pairs import Pairs
    from fitters.prototypes import CONTROLS
    from fitters.saved import read_alignment, save_alignment
    from fitters.select.ranking import scoring
    from fitters.settings import FitConfig, Preparation
    from fitters.sources import Sources
    from fitters.trained.icis import ICISAligner
    from fitters.trained.mlp import MLPAligner
    from fitters.trained.presets import PRESETS, preset

_HOMES = {
    "ALIGNERS": "fitters.methods",
    "Alignment": "fitters.alignment",
    "ASIFAligner": "fitters.aligners.asif",
    "BaseAligner": "fitters.aligners.base",
    "CCAAligner": "fitters.aligners.directions",
    "ConSEAligner": "fitters.aligners.conse",
    "CONTROLS": "fitters.prototypes",
    "CSAAligner": "fitters.aligners.directions",
    "fit": "fitters.alignment",
    "FitConfig": "fitters.settings",
    "ICISAligner": "fitters.trained.icis",
    "KernelRidgeAligner": "fitters.aligners.kernel",
    "MeanShiftAligner": "fitters.aligners.mean_shift",
    "Method": "fitters.methods",
    "METHODS": "fitters.methods",
    "MLPAligner": "fitters.trained.mlp",
    "MiniVec2VecAligner": "fitters.aligners.mini_vec2vec",
    "Moments": "fitters.moments.moments",
    "Pairs": "fitters.pairs",
    "PLSAligner": "fitters.aligners.directions",
    "Preparation": "fitters.settings",
    "preset": "fitters.trained.presets",
    "PRESETS": "fitters.trained.presets",
    "ProcrustesAligner": "fitters.aligners.procrustes",
    "read_alignment": "fitters.saved",
    "RidgeAligner": "fitters.aligners.ridge",
    "save_alignment": "fitters.saved",
    "scoring": "fitters.select.ranking",
    "SideTransform": "fitters.moments.transform",
    "Sources": "fitters.sources",
    "TextToConceptAligner": "fitters.aligners.mean_shift",
    "TwoWayRidgeAligner": "fitters.aligners.ridge",
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
    "FitConfig",
    "ICISAligner",
    "KernelRidgeAligner",
    "MLPAligner",
    "MeanShiftAligner",
    "Method",
    "MiniVec2VecAligner",
    "Moments",
    "PLSAligner",
    "Pairs",
    "Preparation",
    "ProcrustesAligner",
    "RidgeAligner",
    "SideTransform",
    "Sources",
    "TextToConceptAligner",
    "TwoWayRidgeAligner",
    "fit",
    "preset",
    "read_alignment",
    "save_alignment",
    "scoring",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fitters' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)

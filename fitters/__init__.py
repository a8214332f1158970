"""Aligners between two embedding spaces: closed forms fitted in seconds, and trained heads.

`fit` runs the whole protocol on arrays; `Alignment.save` and `load` keep
the result. Importing this package loads nothing: each name below is imported when it is first used,
and none of them imports torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from featstore.errors import lazily

if TYPE_CHECKING:
    from fitters.aligners import BaseAligner
    from fitters.aligners.baselines import (
        ASIFAligner,
        ConSEAligner,
        MeanShiftAligner,
        TextToConceptAligner,
    )
    from fitters.aligners.ridge import KernelRidgeAligner, RidgeAligner, TwoWayRidgeAligner
    from fitters.aligners.rotations import (
        CCAAligner,
        CSAAligner,
        MiniVec2VecAligner,
        PLSAligner,
        ProcrustesAligner,
    )
    from fitters.alignment import Alignment, fit, load
    from fitters.methods import METHODS, Method
    from fitters.moments import Moments
    from fitters.pairs import Pairs
    from fitters.prototypes import CONTROLS
    from fitters.select.ranking import scoring
    from fitters.settings import FitConfig, Preparation
    from fitters.sources import SideTransform, Sources
    from fitters.trained import PRESETS, preset
    from fitters.trained.mlp import ICISAligner, MLPAligner

__all__ = [
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
    "load",
    "preset",
    "scoring",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "fitters.aligners": "BaseAligner",
        "fitters.aligners.baselines": (
            "ASIFAligner ConSEAligner MeanShiftAligner TextToConceptAligner"
        ),
        "fitters.aligners.rotations": (
            "CCAAligner CSAAligner MiniVec2VecAligner PLSAligner ProcrustesAligner"
        ),
        "fitters.aligners.ridge": "KernelRidgeAligner RidgeAligner TwoWayRidgeAligner",
        "fitters.alignment": "Alignment fit load",
        "fitters.methods": "METHODS Method",
        "fitters.moments": "Moments",
        "fitters.pairs": "Pairs",
        "fitters.prototypes": "CONTROLS",
        "fitters.select.ranking": "scoring",
        "fitters.settings": "FitConfig Preparation",
        "fitters.sources": "SideTransform Sources",
        "fitters.trained.mlp": "ICISAligner MLPAligner",
        "fitters.trained": "PRESETS preset",
    },
)

"""Linear aligners: pure solvers, and the estimators over them."""

from __future__ import annotations

from fitters.linear.cca import CCAAligner, CSAAligner
from fitters.linear.mean_shift import MeanShiftAligner
from fitters.linear.pls import PLSAligner
from fitters.linear.procrustes import ProcrustesAligner
from fitters.linear.ridge import RidgeAligner
from fitters.linear.text_to_concept import TextToConceptAligner
from fitters.linear.two_way_ridge import TwoWayRidgeAligner

__all__ = [
    "CCAAligner",
    "CSAAligner",
    "MeanShiftAligner",
    "PLSAligner",
    "ProcrustesAligner",
    "RidgeAligner",
    "TextToConceptAligner",
    "TwoWayRidgeAligner",
]

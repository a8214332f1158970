"""Linear aligners: pure solvers, and the estimators over them."""

from __future__ import annotations

from fitters.linear.procrustes import ProcrustesAligner
from fitters.linear.ridge import RidgeAligner

__all__ = ["ProcrustesAligner", "RidgeAligner"]

"""Nonlinear maps of one side's rows, after which every linear fitter is a nonlinear one."""

from __future__ import annotations

from fitters.feature_maps.fourier import FourierMap
from fitters.feature_maps.kernels import gaussian
from fitters.feature_maps.landmarks import choose_landmarks
from fitters.feature_maps.nystroem import NystroemMap
from fitters.feature_maps.registry import FEATURE_MAPS, FeatureMap

__all__ = [
    "FEATURE_MAPS",
    "FeatureMap",
    "FourierMap",
    "NystroemMap",
    "choose_landmarks",
    "gaussian",
]

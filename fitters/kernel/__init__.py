"""Kernel aligners: nonlinear in the rows, closed form in the coefficients."""

from __future__ import annotations

from fitters.kernel.kernel_ridge import KernelRidgeAligner

__all__ = ["KernelRidgeAligner"]

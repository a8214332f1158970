"""The aligners by name, and the contract they keep."""

from __future__ import annotations

from featstore.errors import did_you_mean
from fitters.errors import UnknownMethodError
from fitters.kernel.kernel_ridge import KernelRidgeAligner
from fitters.linear.cca import CCAAligner, CSAAligner
from fitters.linear.mean_shift import MeanShiftAligner
from fitters.linear.pls import PLSAligner
from fitters.linear.procrustes import ProcrustesAligner
from fitters.linear.ridge import RidgeAligner
from fitters.linear.text_to_concept import TextToConceptAligner
from fitters.linear.two_way_ridge import TwoWayRidgeAligner
from fitters.projection import BaseAligner
from fitters.relative.asif import ASIFAligner
from fitters.relative.conse import ConSEAligner
from fitters.trained.icis import ICISAligner
from fitters.trained.mlp import MLPAligner

__all__ = ["ALIGNERS", "BaseAligner", "aligner_class"]

ALIGNERS: dict[str, type[BaseAligner]] = {
    "ridge": RidgeAligner,
    "ridge-both": TwoWayRidgeAligner,
    "text-to-concept": TextToConceptAligner,
    "procrustes": ProcrustesAligner,
    "cca": CCAAligner,
    "csa": CSAAligner,
    "pls": PLSAligner,
    "mean-shift": MeanShiftAligner,
    "asif": ASIFAligner,
    "conse": ConSEAligner,
    "kernel-ridge": KernelRidgeAligner,
    "mlp": MLPAligner,
    "icis": ICISAligner,
}
"""Every aligner; the tests and the saved files go by this dict."""


def aligner_class(name: str) -> type[BaseAligner]:
    """Return the class of the aligner called `name`.

    Raises
    ------
    UnknownMethodError
        If there is none; the message lists those that exist.
    """
    if name not in ALIGNERS:
        known = ", ".join(ALIGNERS)
        msg = f"No aligner named '{name}'. Known aligners: {known}.{did_you_mean(name, ALIGNERS)}"
        raise UnknownMethodError(msg)
    return ALIGNERS[name]

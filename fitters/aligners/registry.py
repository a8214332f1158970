"""The aligners by name, and the contract they keep."""

from __future__ import annotations

from featstore.errors import lookup
from fitters.aligners.asif import ASIFAligner
from fitters.aligners.base import BaseAligner
from fitters.aligners.conse import ConSEAligner
from fitters.aligners.directions import CCAAligner, CSAAligner, PLSAligner
from fitters.aligners.kernel import KernelRidgeAligner
from fitters.aligners.mean_shift import MeanShiftAligner, TextToConceptAligner
from fitters.aligners.procrustes import ProcrustesAligner
from fitters.aligners.ridge import RidgeAligner, TwoWayRidgeAligner
from fitters.errors import UnknownMethodError
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
    return lookup(
        ALIGNERS,
        name,
        what="aligner",
        error=UnknownMethodError,
        listed_by="fitters.aligners.registry.ALIGNERS",
    )

"""How far a compute precision is from float32, measured on the golden inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def precision_facts(
    encode: Callable[[Sequence[Any], str], np.ndarray], golden: Sequence[Any], precision: str
) -> dict[str, Any]:
    """Return what to record of a precision: its name and the worst cosine to float32.

    Parameters
    ----------
    encode : callable
        ``encode(prepared items, precision) -> (g, d)``.
    golden : sequence
        The prepared golden inputs.
    precision : str
        Of the encoder.

    Returns
    -------
    dict
        ``precision`` with its name and ``golden_cosine_to_float32``, the smallest over the golden
        inputs; nothing in float32.
    """
    if precision == "float32":
        return {}
    exact = encode(golden, "float32").astype(np.float64)
    short = encode(golden, precision).astype(np.float64)
    norms = np.linalg.norm(exact, axis=1) * np.linalg.norm(short, axis=1)
    cosines = (exact * short).sum(axis=1) / norms
    worst = round(float(cosines.min()), 6)
    return {"precision": {"compute": precision, "golden_cosine_to_float32": worst}}

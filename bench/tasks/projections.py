"""Projecting items so that equal ones stay equal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.metrics.equal_rows import first_equal


def once_each(project: Callable[[NDArray[Any]], Any], rows: NDArray[Any]) -> Any:
    """Return project(rows), shape (n, r), with every different row projected once.

    Two captions with the same words are one row to an alignment, but its products may give them
    other last bits: see `bench.metrics.equal_rows`.
    """
    found = first_equal(rows)
    firsts = np.flatnonzero(found == np.arange(len(rows)))
    if len(firsts) == len(rows):
        return project(rows)
    return project(rows[firsts])[np.searchsorted(firsts, found)]

"""Projecting items so that equal ones stay equal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from bench.errors import ProtocolError
from bench.metrics.equal_rows import different_rows


def once_each(project: Callable[[NDArray[Any]], Any], rows: NDArray[Any]) -> Any:
    """Return project(rows), shape (n, r), with every different row projected once.

    Two captions with the same words are one row to an alignment, but its products may give them
    other last bits: see `bench.metrics.equal_rows`.

    Raises
    ------
    ProtocolError
        If the projection does not return a row for each that it was given.
    """
    firsts, which = different_rows(rows)
    projected = project(rows if len(firsts) == len(rows) else rows[firsts])
    if projected.shape[0] != len(firsts):
        msg = f"{len(firsts):,} rows were projected to {projected.shape[0]:,}: it takes one a row."
        raise ProtocolError(msg)
    return projected if len(firsts) == len(rows) else projected[which]

"""A fitted alignment: raw embeddings of two encoders in, one shared space out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.sparse import issparse, vstack

from fitters.moments.transform import SideTransform
from fitters.pairs import Rows
from fitters.projection import BaseAligner, Projection

BLOCK_ROWS = 8192
"""Rows that are transformed at a time: what a projection needs beyond its result stays small."""


@dataclass(frozen=True, eq=False)
class Alignment:
    """An aligner with the preprocessing of both sides, and where it came from.

    Attributes
    ----------
    x, y : SideTransform
        What is done to raw image and text embeddings first.
    aligner : BaseAligner
        Fitted.
    facts : dict
        Plain values for JSON: the method, the sources, what was chosen from what
        (``facts["choice"]``), ids of the spaces it was fitted on.
    """

    x: SideTransform
    y: SideTransform
    aligner: BaseAligner
    facts: dict[str, Any] = field(default_factory=dict)

    def project_x(self, x: Rows) -> Projection:
        """Return raw image embeddings (n, p) in the shared space: (n, r), float32, dense or CSR."""
        return _in_blocks(x, lambda rows: self.aligner.project_x(self.x.apply(rows)))

    def project_y(self, y: Rows) -> Projection:
        """Return raw text embeddings (n, q) in the shared space: (n, r), float32, dense or CSR.

        The score of an image and a text is the dot product of their projections, higher is better:
        a cosine, unless the aligner says otherwise (`BaseAligner.unit_rows`).
        """
        return _in_blocks(y, lambda rows: self.aligner.project_y(self.y.apply(rows)))


def _in_blocks(rows: Rows, project: Any) -> Projection:
    if len(rows) <= BLOCK_ROWS:
        return _in_float32(project(rows))
    first = _in_float32(project(rows[:BLOCK_ROWS]))
    starts = range(BLOCK_ROWS, len(rows), BLOCK_ROWS)
    others = (_in_float32(project(rows[start : start + BLOCK_ROWS])) for start in starts)
    if issparse(first):
        return vstack([first, *others], format="csr")
    out = np.empty((len(rows), first.shape[1]), dtype=np.float32)
    out[:BLOCK_ROWS] = first
    for start, block in zip(starts, others, strict=True):
        out[start : start + BLOCK_ROWS] = block
    return out


def _in_float32(projected: Projection) -> Projection:
    return projected.astype(np.float32, copy=False)

"""A fitted alignment: raw embeddings of two encoders in, one shared space out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fitters.moments.transform import SideTransform
from fitters.pairs import Rows
from fitters.projection import BaseAligner

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

    def project_x(self, x: Rows) -> npt.NDArray[np.float32]:
        """Return raw image embeddings (n, p) in the shared space: (n, r), float32, unit rows."""
        return _in_blocks(x, lambda rows: self.aligner.project_x(self.x.apply(rows)))

    def project_y(self, y: Rows) -> npt.NDArray[np.float32]:
        """Return raw text embeddings (n, q) in the shared space: (n, r), float32, unit rows.

        The score of an image and a text is the dot product of their projections: a cosine,
        higher is better.
        """
        return _in_blocks(y, lambda rows: self.aligner.project_y(self.y.apply(rows)))


def _in_blocks(rows: Rows, project: Any) -> npt.NDArray[np.float32]:
    if len(rows) <= BLOCK_ROWS:
        return np.asarray(project(rows), dtype=np.float32)
    first = np.asarray(project(rows[:BLOCK_ROWS]), dtype=np.float32)
    out = np.empty((len(rows), first.shape[1]), dtype=np.float32)
    out[:BLOCK_ROWS] = first
    for start in range(BLOCK_ROWS, len(rows), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        out[block] = project(rows[block])
    return out

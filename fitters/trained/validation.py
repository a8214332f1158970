"""Held-out pairs: which rows, and how well a module finds their partners."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import normalize

from fitters.errors import SelectionError
from fitters.trained.batches import Batch, PairSource, join, read_batch

MOST_ROWS = 4096
"""Held-out rows that are scored: more would cost more than they tell."""


def split_source(
    source: PairSource, fraction: float, generator: torch.Generator
) -> tuple[PairSource, PairSource]:
    """Return the rows to train on and those held out, `fraction` of the groups, none split.

    Raises
    ------
    SelectionError
        If either side would be empty.
    """
    labels, codes = np.unique(source.groups, return_inverse=True)
    n_held = round(fraction * len(labels))
    if not 0 < n_held < len(labels):
        msg = (
            f"{fraction:.0%} of {len(labels):,} groups cannot be held out for early stopping. Give "
            "more pairs, or train without patience."
        )
        raise SelectionError(msg)
    chosen = torch.randperm(len(labels), generator=generator)[:n_held].numpy()
    held: npt.NDArray[np.bool_] = np.isin(codes, chosen)
    held_rows = np.flatnonzero(held)
    return source.take(np.flatnonzero(~held)), source.take(held_rows[:MOST_ROWS])


def read_all(sources: Sequence[PairSource]) -> Batch:
    """Return all rows of small sources."""
    return join([read_batch(source, 0, source.n) for source in sources])


def mean_reciprocal_rank(held: Batch, project: Callable[[str, Tensor], Tensor]) -> float:
    """Return the mean of 1 / rank of the best own text of each x, among the texts of `held`.

    Own texts are those of the row's group. A wrong text that scores as high counts against it.
    """
    with torch.no_grad():
        x, y = (normalize(project(side, getattr(held, side)), dim=1) for side in ("x", "y"))
        scores = x @ y.T
        own = held.groups[:, None] == held.groups[None, :]
        best = scores.masked_fill(~own, -torch.inf).amax(dim=1, keepdim=True)
        above = ((scores >= best) & ~own).sum(dim=1)
        return float((1.0 / (1 + above).double()).mean())

"""Controls: prototypes with the meaning taken out.

A gain from head weights counts only beside what the same fit does with rows that carry no
knowledge of the class. Each control keeps one thing of the true rows and destroys the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from fitters.errors import PairsError
from fitters.pairs import Pairs

Control = Callable[[Pairs, np.random.Generator], Pairs]
"""Draws one set of control pairs from true ones."""


def replace_by_gaussian(pairs: Pairs, rng: np.random.Generator) -> Pairs:
    """Replace each row of x by an isotropic Gaussian one with the norm of the row it replaces.

    Keeps: the norms. Destroys: every direction, and with them the mean and the covariance.
    """
    drawn = rng.standard_normal(pairs.x.shape)
    norms = np.linalg.norm(pairs.x.astype(np.float64), axis=1, keepdims=True)
    drawn *= norms / np.linalg.norm(drawn, axis=1, keepdims=True)
    return Pairs(drawn.astype(pairs.x.dtype), pairs.y, pairs.groups, pairs.weight)


def replace_by_covariance(pairs: Pairs, rng: np.random.Generator) -> Pairs:
    """Replace the rows of x by Gaussian ones with the mean and the covariance of x.

    Keeps: where the rows lie and how they spread. Destroys: which class a row belongs to.
    The covariance is that of ``np.cov(x, rowvar=False)``.
    """
    x = pairs.x.astype(np.float64)
    mean = x.mean(axis=0)
    centred = x - mean
    n, p = x.shape
    # Z centred / sqrt(n-1) has exactly the sample covariance; for many rows a root of shape (p, p)
    # costs less than Z of shape (n, n).
    if n <= p:
        root = centred / np.sqrt(max(n - 1, 1))
    else:
        values, vectors = np.linalg.eigh(centred.T @ centred / (n - 1))
        root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    drawn = mean + rng.standard_normal((n, len(root))) @ root
    return Pairs(drawn.astype(pairs.x.dtype), pairs.y, pairs.groups, pairs.weight)


def shuffle_names(pairs: Pairs, rng: np.random.Generator) -> Pairs:
    """Give each row of x the y of another group: true rows, names permuted.

    Keeps: both sets of rows. Destroys: which belongs to which. The permutation is a derangement
    with respect to the groups: no row keeps a name of its own group. The groups stay with y,
    because leaving one out must remove every row that has that text; the weights go with x. The
    pairs come in the order of the names: y is that of the true pairs to the last byte, so that
    what a fit computes from it alone can be shared.

    Raises
    ------
    PairsError
        If one group holds more than half of the rows: no such permutation exists.
    """
    codes = pairs.row_groups
    largest = int(np.bincount(codes).max())
    if 2 * largest > pairs.n:
        msg = (
            f"Names cannot be shuffled: one group holds {largest:,} of {pairs.n:,} rows, so some "
            "row would keep its own name. Use more classes."
        )
        raise PairsError(msg)
    # Rows in random order, equal groups side by side, groups in random order: shifting the names
    # by the size of the largest group takes every name out of its group.
    n_groups = int(codes.max()) + 1
    order = np.lexsort((rng.permutation(pairs.n), rng.permutation(n_groups)[codes]))
    owner: npt.NDArray[Any] = np.empty(pairs.n, dtype=np.intp)
    owner[np.roll(order, -largest)] = order
    weight = None if pairs.weight is None else pairs.weight[owner]
    return Pairs(pairs.x[owner], pairs.y, pairs.groups, weight)


CONTROLS: dict[str, Control] = {
    "random": replace_by_gaussian,
    "random-cov": replace_by_covariance,
    "shuffled": shuffle_names,
}
"""The controls by name."""

"""Folds by group: what belongs together is never split."""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np
import numpy.typing as npt

from fitters.errors import SelectionError
from fitters.pairs import Pairs


def folds_by_group(
    groups: npt.NDArray[Any], n_folds: int, rng: np.random.Generator
) -> npt.NDArray[np.intp]:
    """Return the fold of each row: whole groups, in random order, each to the smallest fold.

    Parameters
    ----------
    groups : ndarray of shape (n,)
        Labels; the captions of one image, or the images of one description, share one.
    n_folds : int
        At least 2.
    rng : numpy.random.Generator
        Draws the order of the groups.

    Returns
    -------
    ndarray of int, shape (n,)
        0 … n_folds − 1; every fold holds at least one group.

    Raises
    ------
    SelectionError
        If there are fewer groups than folds.
    """
    labels, codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if n_folds < 2 or len(labels) < n_folds:
        msg = (
            f"{n_folds} folds of {len(labels):,} groups cannot be made: at least 2 folds, and a "
            "group for each. Give more pairs, or fewer folds."
        )
        raise SelectionError(msg)
    order = rng.permutation(len(labels))
    taken: Any = np.arange(len(labels)) % n_folds
    if sizes.min() < sizes.max():  # of equal groups the smallest fold is each in turn
        taken = []
        # The smallest fold, of equal ones the first, is at the top: a fifth of `argmin`'s time.
        smallest = [(0, fold) for fold in range(n_folds)]
        for size in sizes[order].tolist():
            rows, fold = smallest[0]
            taken.append(fold)
            heapq.heapreplace(smallest, (rows + size, fold))
    fold_of = np.empty(len(labels), dtype=np.intp)
    fold_of[order] = taken
    assigned: npt.NDArray[np.intp] = fold_of[codes]
    return assigned


def folds_of_pairs(
    pairs: Pairs, n_folds: int, what: str, rng: np.random.Generator, *, kind: str = "real pairs"
) -> npt.NDArray[np.intp]:
    """Return the folds of pairs for choosing `what`; fewer than `n_folds` if need be.

    `kind` says what the pairs are, for the message.

    Raises
    ------
    SelectionError
        If all pairs are of one group.
    """
    n_groups = len(np.unique(pairs.row_groups))
    if n_groups < 2:
        msg = (
            f"{pairs.n:,} {kind} of one group cannot be cross-validated, so {what}='auto' has "
            f"nothing to go by. Give pairs of at least 2 groups, or a number for {what}."
        )
        raise SelectionError(msg)
    return folds_by_group(pairs.row_groups, min(n_folds, n_groups), rng)

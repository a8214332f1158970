"""One pass over batches of paired rows into moments, in memory that does not grow with n.

Products are taken in float32 over blocks of 4096 rows, small enough to stay in cache, and added
in float64. The shift is the mean of the first rows, so that float32 never sees a large mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from fitters.errors import PairsError
from fitters.moments.moments import Matrix, Moments
from fitters.moments.sums import BlockSums, Precision, check_precision
from fitters.pairs import Rows, check_weight

Batch = tuple[Rows, Rows] | tuple[Rows, Rows, npt.NDArray[Any] | None]
"""(x, y) or (x, y, weight)."""

BLOCK_ROWS = 4096
"""Rows of one product. 2,000–8,000 run at the speed of the matrix product; 65,536 at half of it."""

FOLD_BLOCK_ROWS = 5 * BLOCK_ROWS
"""Rows that wait in the blocks of all folds together: with more folds, blocks are smaller."""


def accumulate(batches: Iterable[Batch], *, precision: Precision = "float32") -> Moments:
    """Return the moments of all rows in `batches`.

    Parameters
    ----------
    batches : iterable of (x, y) or (x, y, weight)
        Arrays of shapes (b, p), (b, q) and (b,), read once. An array may be overwritten once the
        next one is asked for.
    precision : {"float32", "float64", "bf16"}
        Of the products within a block. float32 costs about 1e-6 relative error of the moments
        (4e-6 of ridge weights at 100k × 768) and runs twice as fast as float64. bf16 lets torch
        round the inputs of a product to bfloat16, which it does on processors with AMX: about
        twice as fast again, relative error about 2e-3. Sums are always float64.

    Raises
    ------
    PairsError
        If there is no row, or shapes or weights are wrong.
    """
    check_precision(precision)
    sums: BlockSums | None = None
    for x, y, weight in _checked(batches):
        if sums is None:
            sums = BlockSums(*pilot_shifts(x, y), precision, BLOCK_ROWS)
        sums.add(x, y, weight)
    if sums is None:
        raise PairsError(_NO_ROWS)
    return sums.moments()


def accumulate_folds(
    batches: Iterable[Batch],
    folds: npt.NDArray[np.integer[Any]],
    *,
    groups: npt.NDArray[Any] | None = None,
    precision: Precision = "float32",
) -> list[Moments]:
    """Return the moments of each fold, in one pass.

    Parameters
    ----------
    batches : iterable of (x, y) or (x, y, weight)
        As for `accumulate`.
    folds : ndarray of int, shape (n,)
        The fold of each row of the whole stream, 0 … n_folds − 1; see `select.folds_by_group`.
        A fold is a set of rows or groups, never a chunk of the stream.
    groups : ndarray of shape (n,), optional
        What must stay together, such as the image of each caption: checked against `folds`.
    precision : {"float32", "float64", "bf16"}
        As for `accumulate`.

    Returns
    -------
    list of Moments
        One a fold, about the same shift. ``merge_pooled(*folds)`` is `accumulate` of all.

    Raises
    ------
    PairsError
        If `folds` is not one entry a row, a fold is empty, or a group lies in two folds.
    """
    n_folds = check_folds(folds, groups)
    parts = _fold_sums(batches, folds, n_folds, None, precision)
    empty = [fold for fold, part in enumerate(parts) if part is None]
    if empty or not parts:
        msg = f"Fold {empty[0]} holds no row." if empty else _NO_ROWS
        raise PairsError(msg)
    return [part.moments() for part in parts if part is not None]


def accumulate_part(
    batches: Iterable[Batch],
    folds: npt.NDArray[np.integer[Any]],
    *,
    n_folds: int,
    shifts: tuple[Matrix, Matrix],
    precision: Precision = "float32",
) -> list[Moments]:
    """Return the moments of each fold in a part of the rows, about shifts that all parts share.

    Parameters
    ----------
    batches, folds, precision
        As for `accumulate_folds`, of this part's rows.
    n_folds : int
        Of all parts together: a fold without rows here has moments of zeros.
    shifts : (ndarray of shape (p,), ndarray of shape (q,))
        See `pilot_shifts`.

    Raises
    ------
    PairsError
        As for `accumulate_folds`, but for an empty fold.
    """
    parts = _fold_sums(batches, folds, n_folds, shifts, precision)
    empty = BlockSums(*shifts, precision, 1)
    return [(empty if part is None else part).moments() for part in parts]


def _fold_sums(
    batches: Iterable[Batch],
    folds: npt.NDArray[np.integer[Any]],
    n_folds: int,
    shifts: tuple[Matrix, Matrix] | None,
    precision: Precision,
) -> list[BlockSums | None]:
    """Return the sums of each fold, None for one that has no row; the first rows give shifts."""
    check_precision(precision)
    parts: list[BlockSums | None] = [None] * n_folds
    rows = max(256, min(BLOCK_ROWS, FOLD_BLOCK_ROWS // max(n_folds, 1)))
    row = 0
    for x, y, weight in _checked(batches):
        shifts = pilot_shifts(x, y) if shifts is None else shifts
        here = folds[row : row + len(x)]
        row += len(x)
        if len(here) < len(x):
            break
        for fold in np.unique(here):
            of = np.flatnonzero(here == fold)
            part = parts[fold]
            if part is None:
                part = parts[fold] = BlockSums(*shifts, precision, rows)
            part.add(x[of], y[of], None if weight is None else weight[of])
    if row != len(folds):
        msg = (
            f"folds has {len(folds):,} entries, but the batches hold "
            f"{'more' if row > len(folds) else f'{row:,}'} rows. Give one fold number a row."
        )
        raise PairsError(msg)
    return parts


_NO_ROWS = "There are no rows to accumulate. Choose a selection that is not empty."


def check_folds(folds: npt.NDArray[Any], groups: npt.NDArray[Any] | None) -> int:
    """Return the number of folds; PairsError unless they are numbers that split no group."""
    if folds.dtype.kind not in "iu" or (len(folds) and int(folds.min()) < 0):
        msg = f"folds are numbers from 0. Got {folds.dtype} with smallest {folds.min()}."
        raise PairsError(msg)
    if groups is not None:
        if groups.shape != folds.shape:
            msg = f"groups {groups.shape} and folds {folds.shape} must have one entry a row each."
            raise PairsError(msg)
        labels, codes = np.unique(groups, return_inverse=True)
        lowest = np.full(len(labels), np.iinfo(np.int64).max)
        highest = np.full(len(labels), -1)
        np.minimum.at(lowest, codes, folds)
        np.maximum.at(highest, codes, folds)
        split = np.flatnonzero(lowest != highest)
        if len(split):
            at = split[0]
            msg = (
                f"{len(split):,} groups lie in two folds (first: {labels[at]!s}, in folds "
                f"{lowest[at]} and {highest[at]}). Make folds with select.folds_by_group."
            )
            raise PairsError(msg)
    return int(folds.max()) + 1 if len(folds) else 0


def pilot_shifts(x: Rows, y: Rows) -> tuple[Matrix, Matrix]:
    """Return the means of the first rows, rounded to what float32 holds."""
    first = (rows[:BLOCK_ROWS].mean(axis=0, dtype=np.float64) for rows in (x, y))
    mean_x, mean_y = (mean.astype(np.float32).astype(np.float64) for mean in first)
    return mean_x, mean_y


def _checked(
    batches: Iterable[Batch],
) -> Iterator[tuple[Rows, Rows, npt.NDArray[np.float64] | None]]:
    """Yield every batch that is not empty, after a check."""
    columns: tuple[int, int] | None = None
    for batch in batches:
        x, y = batch[0], batch[1]
        given = batch[2] if len(batch) == 3 else None
        if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
            msg = f"A batch must hold paired rows. Got x {x.shape} and y {y.shape}."
            raise PairsError(msg)
        if columns is not None and columns != (x.shape[1], y.shape[1]):
            msg = f"Batches differ in columns (x, y): {columns}, then {(x.shape[1], y.shape[1])}."
            raise PairsError(msg)
        columns = x.shape[1], y.shape[1]
        if len(x) == 0:
            continue
        weight = None if given is None else np.asarray(given, np.float64)
        if weight is not None:
            if weight.shape != (len(x),):
                msg = f"weight must have shape ({len(x)},), one a row. Got {weight.shape}."
                raise PairsError(msg)
            check_weight(weight, some=False)
        yield x, y, weight

"""Moments of many rows: sums of parts, added exactly enough.

Where a part begins depends on the number of rows alone, and parts are added one after the other:
who accumulated which, and who was first, changes no bit of the sum.

Products are taken in float32 over the rows of a fold in a batch and added in float64: batches have
some thousand rows, or a product would run at a fraction of the speed. The shift is the mean of the
first rows, so that float32 never sees a large mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fitters.moments.moments import Moments
from fitters.pairs import Matrix, Rows
from fitters.settings import MomentsPrecision

#: Pairs of a part, at least. One core takes 80 times as long to accumulate four folds of so many as
#: they take to travel at 1 GB/s, whatever the columns: 2 flops a pair against 32 bytes.
PART_ROWS = 65_536

#: Parts, at most: all moments that travel then fit some 60 GB at 768 columns.
MOST_PARTS = 1024

#: Rows of a part are a multiple of this: a store's block, the unit of its requests and checksums.
UNIT = 4096

_SUMS = ("sum_x", "sum_y", "sxx", "sxy", "syy")


def part_slices(n: int) -> list[slice]:
    """Return the parts of `n` rows, in order, the last perhaps shorter."""
    rows = max(PART_ROWS, -(-n // (MOST_PARTS * UNIT)) * UNIT)
    return [slice(start, min(start + rows, n)) for start in range(0, n, rows)]


def add_parts(parts: Iterable[Sequence[Moments]]) -> list[Moments]:
    """Return the moments of each fold, of all parts together, added in the order given.

    Parameters
    ----------
    parts : iterable of list of Moments
        Of `fitters.moments.accumulation.accumulate_part`: one a fold, about the same shifts.
    """
    totals: list[Moments] = []
    owned = False
    for part in parts:
        if not totals:
            totals = list(part)
            continue
        # In place from the second sum on: the first part's arrays are not ours.
        totals = [
            _sum(total, more, overwrite=owned) for total, more in zip(totals, part, strict=True)
        ]
        owned = True
    return totals


def _sum(total: Moments, more: Moments, *, overwrite: bool) -> Moments:
    sums = {}
    for name in _SUMS:
        left = getattr(total, name)
        sums[name] = np.add(left, getattr(more, name), out=left if overwrite else None)
    n, weight = total.n + more.n, total.weight + more.weight
    return Moments(n, weight, total.shift_x, total.shift_y, **sums)


PRECISIONS: dict[str, str] = {
    "float32": "products in float32, relative error of the moments about 1e-6",
    "float64": "products in float64",
}
"""How the products within a block are computed; they are always added up in float64."""


BLOCK_ROWS = 4096
"""Rows of one product. 2,000–8,000 run at the speed of the matrix product; 65,536 at half of it."""

Batch = tuple[Rows, Rows, npt.NDArray[np.float64]]
"""(x, y, weight): paired rows, and the mass of each."""


def accumulate_part(
    batches: Iterable[Batch],
    folds: npt.NDArray[np.integer[Any]],
    *,
    n_folds: int,
    shifts: tuple[Matrix, Matrix],
    precision: MomentsPrecision = "float32",
) -> list[Moments]:
    """Return the moments of each fold in a part of the rows, about shifts that all parts share.

    Parameters
    ----------
    batches : iterable of (x, y, weight)
        Arrays of shapes (b, p), (b, q) and (b,), read once. An array may be overwritten once the
        next batch is asked for.
    folds : ndarray of int, shape (n,)
        The fold of each row, below `n_folds`.
    shifts : pair of ndarray, shapes (p,) and (q,)
        What is subtracted from the rows before products are taken; see `pilot_shifts`.
    precision : str
        A key of `PRECISIONS`.
    """
    dtype = np.float64 if precision == "float64" else np.float32
    parts = [_nothing(shifts) for _ in range(n_folds)]
    scratch = [np.empty(getattr(parts[0], name).shape, dtype) for name in ("sxx", "sxy", "syy")]
    row = 0
    for x, y, weight in batches:
        here = folds[row : row + len(x)]
        row += len(x)
        for fold in np.unique(here):
            of, part = np.flatnonzero(here == fold), parts[fold]
            # The root of the weight on both sides keeps the products symmetric to the last bit.
            root = np.sqrt(weight[of])
            left, right = (
                _about(rows[of], shift, root, dtype)
                for rows, shift in zip((x, y), shifts, strict=True)
            )
            for rows, total in ((left, part.sum_x), (right, part.sum_y)):
                total += np.einsum("n,nd->d", root, rows, dtype=np.float64, casting="same_kind")
            sums = (left, left, part.sxx), (left, right, part.sxy), (right, right, part.syy)
            for (one, other, total), product in zip(sums, scratch, strict=True):
                total += np.matmul(one.T, other, out=product)
            weighed = part.weight + float(np.dot(root, root))
            parts[fold] = replace(part, n=part.n + len(of), weight=weighed)
    return parts


def _nothing(shifts: tuple[Matrix, Matrix]) -> Moments:
    """Return the moments of no row about shifts."""
    p, q = map(len, shifts)
    sums = (np.zeros(shape) for shape in (p, q, (p, p), (p, q), (q, q)))
    return Moments(0, 0.0, *shifts, *sums)


def _about(rows: Rows, shift: Matrix, root: Matrix, dtype: type[np.floating[Any]]) -> Rows:
    """Return rows about a shift, times the roots of their weights."""
    # In the rows' own precision or better: the difference is small, they may not be.
    work = np.result_type(rows.dtype, dtype)
    about: Rows = np.subtract(rows, shift.astype(work), dtype=work).astype(dtype, copy=False)
    return about if (root == 1).all() else about * root[:, None].astype(dtype)


def pilot_shifts(x: Rows, y: Rows) -> tuple[Matrix, Matrix]:
    """Return the means of the first rows, rounded to what float32 holds."""
    first = (rows[:BLOCK_ROWS].mean(axis=0, dtype=np.float64) for rows in (x, y))
    mean_x, mean_y = (mean.astype(np.float32).astype(np.float64) for mean in first)
    return mean_x, mean_y

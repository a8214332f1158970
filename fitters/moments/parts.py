"""Rows cut into parts whose moments are accumulated anywhere, and added up in their order.

Where a part begins depends on the number of rows alone, and parts are added one after the other:
who accumulated which, and who was first, changes no bit of the sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from fitters.errors import PairsError
from fitters.moments.moments import Moments

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

    Raises
    ------
    PairsError
        If a fold has no row in any part.
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
    empty = [fold for fold, total in enumerate(totals) if total.n == 0]
    if empty or not totals:
        msg = f"Fold {empty[0]} holds no row." if empty else "There are no rows to accumulate."
        raise PairsError(msg)
    return totals


def _sum(total: Moments, more: Moments, *, overwrite: bool) -> Moments:
    sums = {}
    for name in _SUMS:
        left = getattr(total, name)
        sums[name] = np.add(left, getattr(more, name), out=left if overwrite else None)
    n, weight = total.n + more.n, total.weight + more.weight
    return Moments(n, weight, total.shift_x, total.shift_y, **sums)

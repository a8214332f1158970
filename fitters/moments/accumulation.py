"""Moments of many rows: sums of parts, added exactly enough.

Where a part begins depends on the number of rows alone, and parts are added one after the other:
who accumulated which, and who was first, changes no bit of the sum.

Rows are collected until a block is full, whatever the batches they come in and whichever folds
they belong to: a product of few rows would run at a fraction of the speed.

Products are taken in float32 over blocks of 4096 rows, small enough to stay in cache, and added
in float64. The shift is the mean of the first rows, so that float32 never sees a large mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from featstore.errors import needs_extra
from fitters.errors import PairsError, SettingError
from fitters.moments.moments import Matrix, Moments
from fitters.pairs import Rows, check_weight
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
        raise PairsError(
            f"Fold {empty[0]} holds no row." if empty else "There are no rows to accumulate."
        )
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
    "bf16": "torch may round the inputs of products to bfloat16: relative error about 2e-3",
}
"""How the products within a block are computed; they are always added up in float64."""


class BlockSums:
    """Sums over rows about a shift, of which the last block is not yet full.

    Parameters
    ----------
    shift_x, shift_y : ndarray of shape (p,), (q,)
        Subtracted from every row; float64 values that float32 holds exactly, so that the same is
        subtracted from rows of either precision.
    precision : {"float32", "float64", "bf16"}
    rows : int
        Of a block.
    """

    def __init__(
        self, shift_x: Matrix, shift_y: Matrix, precision: MomentsPrecision, rows: int
    ) -> None:
        self._dtype = np.float64 if precision == "float64" else np.float32
        self._products = _products_in_bf16 if precision == "bf16" else _products
        self._shifts = shift_x, shift_y
        p, q = len(shift_x), len(shift_y)
        self._x = np.empty((rows, p), dtype=self._dtype)
        self._y = np.empty((rows, q), dtype=self._dtype)
        self._root = np.empty(rows)
        self._weighted = False
        self._filled = self._n = 0
        self._weight = 0.0
        self._sum_x, self._sum_y = np.zeros(p), np.zeros(q)
        self._sxx, self._sxy, self._syy = np.zeros((p, p)), np.zeros((p, q)), np.zeros((q, q))
        self._scratch = [np.empty(total.shape, dtype=self._dtype) for total in self._second]

    @property
    def _second(self) -> tuple[Matrix, Matrix, Matrix]:
        return self._sxx, self._sxy, self._syy

    def add(self, x: Rows, y: Rows, weight: npt.NDArray[np.float64] | None) -> None:
        """Add paired rows; None weighs 1."""
        taken = 0
        while taken < len(x):
            room = min(len(self._x) - self._filled, len(x) - taken)
            here = slice(self._filled, self._filled + room)
            rows = slice(taken, taken + room)
            for buffer, shift, given in (
                (self._x, self._shifts[0], x),
                (self._y, self._shifts[1], y),
            ):
                # In the rows' own precision or better: the difference is small, they may not be.
                work = np.result_type(given.dtype, self._dtype)
                np.subtract(
                    given[rows], shift.astype(work), out=buffer[here], dtype=work,
                    casting="same_kind",
                )  # fmt: skip
            if weight is None:
                self._root[here] = 1.0
            else:
                # The root of the weight on both sides keeps the products symmetric to the last bit.
                self._root[here] = np.sqrt(weight[rows])
                self._x[here] *= self._root[here, None].astype(self._dtype)
                self._y[here] *= self._root[here, None].astype(self._dtype)
                self._weighted = True
            self._filled += room
            taken += room
            if self._filled == len(self._x):
                self._flush()

    def _flush(self) -> None:
        m = self._filled
        if m == 0:
            return
        x, y, root = self._x[:m], self._y[:m], self._root[:m]
        for rows, total in ((x, self._sum_x), (y, self._sum_y)):
            if self._weighted:
                total += np.einsum("n,nd->d", root, rows, dtype=np.float64, casting="same_kind")
            else:
                total += rows.sum(axis=0, dtype=np.float64)
        if not (np.isfinite(self._sum_x).all() and np.isfinite(self._sum_y).all()):
            bad = np.flatnonzero(~(np.isfinite(x).all(axis=1) & np.isfinite(y).all(axis=1)))
            at = f"first: row {self._n + bad[0]:,} of its fold" if len(bad) else "a sum overflows"
            raise PairsError(
                f"Batches hold NaN or Inf ({at}). Drop these rows, or extract them again."
            )
        self._products(x, y, self._scratch)
        for total, product in zip(self._second, self._scratch, strict=True):
            total += product
        self._n += m
        self._weight += float(np.dot(root, root)) if self._weighted else m
        self._filled = 0
        self._weighted = False

    def moments(self) -> Moments:
        """Return the moments of the rows so far."""
        self._flush()
        return Moments(
            self._n, self._weight, *self._shifts, self._sum_x, self._sum_y, *self._second
        )


def check_precision(precision: str) -> None:
    """Raise SettingError unless `precision` is one of `PRECISIONS` that can be had here."""
    if precision not in PRECISIONS:
        raise SettingError(f"precision must be one of {', '.join(PRECISIONS)}. Got {precision!r}.")
    if precision == "bf16":
        _bf16_switch()


def _products(x: Rows, y: Rows, out: list[Any]) -> None:
    for left, right, into in ((x, x, out[0]), (x, y, out[1]), (y, y, out[2])):
        np.matmul(left.T, right, out=into)


def _products_in_bf16(x: Rows, y: Rows, out: list[Any]) -> None:
    import torch

    switch = _bf16_switch()
    before = switch.fp32_precision
    switch.fp32_precision = "bf16"
    try:
        a, b = torch.from_numpy(x), torch.from_numpy(y)
        for left, right, into in ((a, a, out[0]), (a, b, out[1]), (b, b, out[2])):
            torch.mm(left.T, right, out=torch.from_numpy(into))
    finally:
        switch.fp32_precision = before


def _bf16_switch() -> Any:
    with needs_extra("precision='bf16'", "train"):
        import torch
    try:
        switch: Any = getattr(torch.backends.mkldnn, "matmul")  # noqa: B009  unknown to its types
        _ = switch.fp32_precision
    except AttributeError as err:
        raise SettingError(
            "precision='bf16' needs torch 2.9 or newer. Install it, or use float32."
        ) from err
    return switch


Batch = tuple[Rows, Rows] | tuple[Rows, Rows, npt.NDArray[Any] | None]
"""(x, y) or (x, y, weight)."""

BLOCK_ROWS = 4096
"""Rows of one product. 2,000–8,000 run at the speed of the matrix product; 65,536 at half of it."""

FOLD_BLOCK_ROWS = 5 * BLOCK_ROWS
"""Rows that wait in the blocks of all folds together: with more folds, blocks are smaller."""


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
    batches : iterable of (x, y) or (x, y, weight)
        Arrays of shapes (b, p), (b, q) and (b,), read once. An array may be overwritten once the
        next one is asked for.
    folds : ndarray of int, shape (n,)
        The fold of each row of this part, 0 … n_folds − 1; see `select.folds_by_group`.
        A fold is a set of rows or groups, never a chunk of the stream.
    n_folds : int
        Of all parts together: a fold without rows here has moments of zeros.
    shifts : (ndarray of shape (p,), ndarray of shape (q,))
        See `pilot_shifts`.
    precision : {"float32", "float64", "bf16"}
        Of the products within a block. float32 costs about 1e-6 relative error of the moments
        (4e-6 of ridge weights at 100k × 768) and runs twice as fast as float64. bf16 lets torch
        round the inputs of a product to bfloat16, which it does on processors with AMX: about
        twice as fast again, relative error about 2e-3. Sums are always float64.

    Returns
    -------
    list of Moments
        One a fold, about the same shifts.

    Raises
    ------
    PairsError
        If shapes or weights are wrong, or `folds` is not one entry a row.
    """
    check_precision(precision)
    rows = max(256, min(BLOCK_ROWS, FOLD_BLOCK_ROWS // max(n_folds, 1)))
    parts = [BlockSums(*shifts, precision, rows) for _ in range(n_folds)]
    row = 0
    for x, y, weight in checked_batches(batches):
        here = folds[row : row + len(x)]
        row += len(x)
        if len(here) < len(x):
            break
        for fold in np.unique(here):
            of = np.flatnonzero(here == fold)
            parts[fold].add(x[of], y[of], None if weight is None else weight[of])
    if row != len(folds):
        raise PairsError(
            f"folds has {len(folds):,} entries, but the batches hold "
            f"{'more' if row > len(folds) else f'{row:,}'} rows. Give one fold number a row."
        )
    return [part.moments() for part in parts]


def check_folds(folds: npt.NDArray[Any], groups: npt.NDArray[Any] | None) -> int:
    """Return the number of folds; PairsError unless they are numbers that split no group."""
    if folds.dtype.kind not in "iu" or (len(folds) and int(folds.min()) < 0):
        raise PairsError(
            f"folds are numbers from 0. Got {folds.dtype} with smallest {folds.min()}."
        )
    if groups is not None:
        if groups.shape != folds.shape:
            raise PairsError(
                f"groups {groups.shape} and folds {folds.shape} must have one entry a row each."
            )
        labels, codes = np.unique(groups, return_inverse=True)
        lowest = np.full(len(labels), np.iinfo(np.int64).max)
        highest = np.full(len(labels), -1)
        np.minimum.at(lowest, codes, folds)
        np.maximum.at(highest, codes, folds)
        split = np.flatnonzero(lowest != highest)
        if len(split):
            at = split[0]
            raise PairsError(
                f"{len(split):,} groups lie in two folds (first: {labels[at]!s}, in folds "
                f"{lowest[at]} and {highest[at]}). Make folds with select.folds_by_group."
            )
    return int(folds.max()) + 1 if len(folds) else 0


def pilot_shifts(x: Rows, y: Rows) -> tuple[Matrix, Matrix]:
    """Return the means of the first rows, rounded to what float32 holds."""
    first = (rows[:BLOCK_ROWS].mean(axis=0, dtype=np.float64) for rows in (x, y))
    mean_x, mean_y = (mean.astype(np.float32).astype(np.float64) for mean in first)
    return mean_x, mean_y


def checked_batches(
    batches: Iterable[Batch],
) -> Iterator[tuple[Rows, Rows, npt.NDArray[np.float64] | None]]:
    """Yield every batch that is not empty, after a check."""
    columns: tuple[int, int] | None = None
    for batch in batches:
        x, y = batch[0], batch[1]
        given = batch[2] if len(batch) == 3 else None
        if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
            raise PairsError(f"A batch must hold paired rows. Got x {x.shape} and y {y.shape}.")
        if columns is not None and columns != (x.shape[1], y.shape[1]):
            raise PairsError(
                f"Batches differ in columns (x, y): {columns}, then {(x.shape[1], y.shape[1])}."
            )
        columns = x.shape[1], y.shape[1]
        if len(x) == 0:
            continue
        weight = None if given is None else np.asarray(given, np.float64)
        if weight is not None:
            if weight.shape != (len(x),):
                raise PairsError(
                    f"weight must have shape ({len(x)},), one a row. Got {weight.shape}."
                )
            check_weight(weight, some=False)
        yield x, y, weight

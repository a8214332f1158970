"""Second moments of paired rows: all that a linear fitter sees of the data.

Moments are weighted raw sums about a pilot shift (any vector near the mean), so they add and
scale: prototypes, real pairs, folds and mixing weights combine by matrix addition without
reading a row twice, and large means cost no precision.

`merge_pooled` gives the moments of all rows together, about one common mean.

Those of many rows are sums of parts. Where a part begins depends on the number of rows alone, and
parts are added one after the other: who accumulated which, and who was first, changes no bit of the
sum.

Products are taken in float32 over the rows of a fold in a batch and added in float64: batches have
some thousand rows, or a product would run at a fraction of the speed. The shift is the mean of the
first rows, so that float32 never sees a large mean.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from featstore.terminal import Card, Shown
from fitters.errors import PairsError
from fitters.pairs import Matrix, Pairs, Rows, check_weight
from fitters.settings import MomentsPrecision


@dataclass(frozen=True, eq=False, repr=False)
class Moments(Shown):
    """Weighted sums of n paired rows about the shifts s and t, all float64.

    With weights w_i, dx_i = x_i − s and dy_i = y_i − t:

    Attributes
    ----------
    n : int
        Number of rows that were added (not changed by `scaled`).
    weight : float
        Σ w_i.
    shift_x, shift_y : ndarray of shape (p,), (q,)
        s and t.
    sum_x, sum_y : ndarray of shape (p,), (q,)
        Σ w_i dx_i and Σ w_i dy_i.
    sxx, sxy, syy : ndarray of shape (p, p), (p, q), (q, q)
        Σ w_i dx_i dx_iᵀ, Σ w_i dx_i dy_iᵀ, Σ w_i dy_i dy_iᵀ.

    Examples
    --------
    >>> x, y = np.random.default_rng(0).standard_normal((2, 40, 8))
    >>> made = RidgeAligner().fit_moments(Moments.from_rows(x, y))
    >>> bool(np.allclose(made.coef_, RidgeAligner().fit(x, y).coef_))
    True
    """

    n: int
    weight: float
    shift_x: Matrix
    shift_y: Matrix
    sum_x: Matrix
    sum_y: Matrix
    sxx: Matrix
    sxy: Matrix
    syy: Matrix

    @classmethod
    def from_rows(
        cls, x: Rows, y: Rows, weight: npt.NDArray[Any] | None = None, *, centre: bool = True
    ) -> Moments:
        """Return the moments of rows in memory, products in float64.

        Parameters
        ----------
        x, y : ndarray of shape (n, p), (n, q)
        weight : ndarray of shape (n,), optional
        centre : bool
            Take the sums about the mean (best when means are large). False: about 0, which is
            exact for an uncentred fit.
        """
        x64, y64 = np.asarray(x, np.float64), np.asarray(y, np.float64)
        w = np.ones(len(x64)) if weight is None else np.asarray(weight, np.float64)
        check_weight(w)
        zeros = np.zeros(x64.shape[1]), np.zeros(y64.shape[1])
        shifts = (w @ x64 / w.sum(), w @ y64 / w.sum()) if centre else zeros
        left, right = x64 - shifts[0], y64 - shifts[1]
        sums = w @ left, w @ right
        if (w != 1).any():
            # The root of the weight on both sides keeps the products symmetric to the last bit.
            left, right = (np.sqrt(w)[:, None] * rows for rows in (left, right))
        about: tuple[Matrix, ...] = (*shifts, *sums, left.T @ left, left.T @ right, right.T @ right)
        return cls(len(x64), float(w.sum()), *about)

    @property
    def mean_x(self) -> Matrix:
        """Weighted mean of x, shape (p,)."""
        return self.shift_x + self.sum_x / self.weight

    @property
    def mean_y(self) -> Matrix:
        """Weighted mean of y, shape (q,)."""
        return self.shift_y + self.sum_y / self.weight

    @property
    def uncentred(self) -> Moments:
        """The same moments about 0: sxx is Σ w x xᵀ, what a fit without centring needs."""
        return self.shifted(np.zeros_like(self.shift_x), np.zeros_like(self.shift_y))

    @property
    def centred(self) -> Moments:
        """The same moments about the means: sxx is Σ w (x − mean)(x − mean)ᵀ."""
        return self.shifted(self.mean_x, self.mean_y)

    @property
    def swapped(self) -> Moments:
        """The same moments with x and y exchanged."""
        return Moments(
            self.n,
            self.weight,
            self.shift_y,
            self.shift_x,
            self.sum_y,
            self.sum_x,
            self.syy,
            self.sxy.T,
            self.sxx,
        )

    def shifted(self, shift_x: Matrix, shift_y: Matrix) -> Moments:
        """Return the same moments about other shifts."""
        dx, dy = self.shift_x - shift_x, self.shift_y - shift_y
        if not dx.any() and not dy.any():
            return self
        sx, sy, w = self.sum_x, self.sum_y, self.weight
        cross_x, cross_y = np.outer(sx, dx), np.outer(sy, dy)
        return replace(
            self,
            shift_x=shift_x,
            shift_y=shift_y,
            sum_x=sx + w * dx,
            sum_y=sy + w * dy,
            sxx=self.sxx + cross_x + cross_x.T + w * np.outer(dx, dx),
            sxy=self.sxy + np.outer(sx, dy) + np.outer(dx, sy) + w * np.outer(dx, dy),
            syy=self.syy + cross_y + cross_y.T + w * np.outer(dy, dy),
        )

    def scaled(self, weight: float) -> Moments:
        """Return the moments with every row's weight multiplied by `weight` (> 0)."""
        names = ("weight", "sum_x", "sum_y", "sxx", "sxy", "syy")
        return replace(self, **{name: getattr(self, name) * weight for name in names})

    def _card(self) -> Card:
        p, q = self.sxy.shape
        sides = {"x": f"{p:,} columns", "y": f"{q:,} columns"}
        return Card(
            f"Moments of {self.n:,} pairs", {**sides, "weight": f"{self.weight:.6g} in all"}
        )


def moments_of(pairs: Pairs) -> Moments:
    """Return the moments of transformed pairs about 0, products in float64."""
    return Moments.from_rows(pairs.x, pairs.y, pairs.row_weight, centre=False)


class Folds(tuple[Moments, ...]):
    """Moments of parts of the same data, to be added or left out one by one."""

    @property
    def n(self) -> int:
        """Rows of all parts."""
        return sum(part.n for part in self)


def merge_pooled(*parts: Moments) -> Moments:
    """Return the moments of the rows of all parts together, about one common mean.

    Used uncentred with prototypes and real pairs as parts, this is the mixing of both under one
    squared loss.
    """
    if not parts:
        raise PairsError("There are no moments to merge. Pass at least one part.")
    first = parts[0]
    for part in parts[1:]:
        if part.sxy.shape != first.sxy.shape:
            raise PairsError(
                f"Moments of {first.sxy.shape} and {part.sxy.shape} columns (x, y) do not add. "
                "Both must come from the same two encoders."
            )
    about = [part.shifted(first.shift_x, first.shift_y) for part in parts]
    names = ("n", "weight", "sum_x", "sum_y", "sxx", "sxy", "syy")
    return replace(first, **{n: sum(getattr(part, n) for part in about) for n in names})


#: Pairs of a part, at least. One core takes 80 times as long to accumulate four folds of so many as
#: they take to travel at 1 GB/s, whatever the columns: 2 flops a pair against 32 bytes.
PART_ROWS = 65_536

#: Parts, at most: all moments that travel then fit some 60 GB at 768 columns.
MOST_PARTS = 1024

#: Rows of a part are a multiple of this: a store's block, the unit of its requests and checksums.
UNIT = 4096


def part_slices(n: int) -> list[slice]:
    """Return the parts of `n` rows, in order, the last perhaps shorter."""
    rows = max(PART_ROWS, -(-n // (MOST_PARTS * UNIT)) * UNIT)
    return [slice(start, min(start + rows, n)) for start in range(0, n, rows)]


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
    return Moments(0, 0.0, *shifts, *(np.zeros(shape) for shape in (p, q, (p, p), (p, q), (q, q))))


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

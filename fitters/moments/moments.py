"""Second moments of paired rows: all that a linear fitter sees of the data.

Moments are weighted raw sums about a pilot shift (any vector near the mean), so they add and
scale: prototypes, real pairs, folds and mixing weights combine by matrix addition without
reading a row twice, and large means cost no precision.

`merge_pooled` gives the moments of all rows together, about one common mean.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from featstore.cards import Card, Shown
from fitters.errors import PairsError
from fitters.pairs import Matrix, Pairs, Rows, check_weight


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

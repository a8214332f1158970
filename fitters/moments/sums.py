"""Weighted sums of products of paired rows, added up block by block in place.

Rows are collected until a block is full, whatever the batches they come in and whichever folds
they belong to: a product of few rows would run at a fraction of the speed.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from featstore.errors import needs_extra
from fitters.errors import PairsError, SettingError
from fitters.moments.moments import Matrix, Moments
from fitters.pairs import Rows

Precision = Literal["float32", "float64", "bf16"]

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

    def __init__(self, shift_x: Matrix, shift_y: Matrix, precision: Precision, rows: int) -> None:
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
            msg = f"Batches hold NaN or Inf ({at}). Drop these rows, or extract them again."
            raise PairsError(msg)
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
        msg = f"precision must be one of {', '.join(PRECISIONS)}. Got {precision!r}."
        raise SettingError(msg)
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
        msg = "precision='bf16' needs torch 2.9 or newer. Install it, or use float32."
        raise SettingError(msg) from err
    return switch

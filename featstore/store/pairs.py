"""Pairs: two views joined by id, never by position."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
import polars as pl

from featstore.errors import EmptySelectionError, MisalignedItemsError
from featstore.store.selection import Selection

View = TypeVar("View", bound=Selection)

COLUMNS = ("parent_id", "class_id")


@dataclass(frozen=True, eq=False)
class PairedView(Generic[View]):
    """Rows of x and rows of y that belong together: pair i is (x row i, y row i).

    Attributes
    ----------
    x, y : Selection
        Of equal length.
    weight : ndarray of shape (n,)
        1 / number of partners of the pair's x item, so that an image with five captions
        weighs as much as an image with one.
    by : str
        The column that joined them.
    missing_x, missing_y : tuple of str
        item_ids that found no partner.
    """

    x: View
    y: View
    weight: np.ndarray = field(repr=False)
    by: str
    missing_x: tuple[str, ...] = field(default=(), repr=False)
    missing_y: tuple[str, ...] = field(default=(), repr=False)

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        missing = f", missing partners: {len(self.missing_x):,} x, {len(self.missing_y):,} y"
        return f"PairedView({len(self):,} pairs by {self.by}{missing}; x={self.x!r}, y={self.y!r})"

    def numpy(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (n, p) and (n, q) float32 arrays, row i of each being pair i."""
        return self.x.numpy(), self.y.numpy()

    def batches(
        self, rows: int = 4096, *, reuse: bool = False
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield (x, y, weight) of at most `rows` pairs each: the seam to the fitters.

        With `reuse` each x and y is overwritten by the next; see `Selection.batches`.
        """
        start = 0
        x_batches, y_batches = (view.batches(rows, reuse=reuse) for view in (self.x, self.y))
        for x, y in zip(x_batches, y_batches, strict=True):
            yield x, y, self.weight[start : start + len(x)]
            start += len(x)


def pair_views(x: View, y: View, *, by: str) -> PairedView[View]:
    """Join two views by id.

    Parameters
    ----------
    x, y : Selection
    by : str
        ``"parent_id"``: the item_id of one side is the parent_id of the other (an image and
        its captions, whichever of the two is x). ``"class_id"``: both sides carry it (head
        rows and class texts; images and class texts).

    Returns
    -------
    PairedView
        In the order of x, then of y. Items without a partner are listed in it.

    Raises
    ------
    MisalignedItemsError
        If `by` is another column, or neither side points to the other.
    EmptySelectionError
        If nothing pairs.
    """
    if by not in COLUMNS:
        msg = f"Views pair by {' or '.join(COLUMNS)}; got {by!r}."
        raise MisalignedItemsError(msg)
    left, right = _keys(x, y, by)
    a = pl.DataFrame({"key": left, "x": np.arange(len(x))}).drop_nulls("key")
    b = pl.DataFrame({"key": right, "y": np.arange(len(y))}).drop_nulls("key")
    joined = a.join(b, on="key", how="inner").sort("x", "y")
    if joined.is_empty():
        msg = (
            f"{x.key} ({len(x):,} rows) and {y.key} ({len(y):,} rows) share no {by}. "
            "Check that both are of one dataset, and the selection of each."
        )
        raise EmptySelectionError(msg)
    x_rows = joined["x"].to_numpy()
    y_rows = joined["y"].to_numpy()
    partners = np.bincount(x_rows, minlength=len(x))
    return PairedView(
        x=x.take(x_rows),
        y=y.take(y_rows),
        weight=1.0 / partners[x_rows],
        by=by,
        missing_x=_without(x, x_rows),
        missing_y=_without(y, y_rows),
    )


def _keys(x: Selection, y: Selection, by: str) -> tuple[pl.Series, pl.Series]:
    """Return the two columns whose values must be equal."""
    x_values, y_values = _column(x, by), _column(y, by)
    if by == "class_id":
        return x_values, y_values
    if y_values.null_count() < len(y):
        return x.items["item_id"], y_values
    if x_values.null_count() < len(x):
        return x_values, y.items["item_id"]
    msg = (
        f"Neither {x.key} nor {y.key} has a parent_id: nothing says which items belong together. "
        "Pair them by class_id?"
    )
    raise MisalignedItemsError(msg)


def _column(view: Selection, name: str) -> pl.Series:
    """Return a column of the items; imported sets need not have it, and are as if it were empty."""
    empty = pl.Series(name, [None] * len(view), dtype=pl.String)
    return view.items.get_column(name, default=empty)


def _without(view: Selection, rows: np.ndarray) -> tuple[str, ...]:
    """Return the item_ids of the rows of a view that are not among `rows`."""
    left_out = np.setdiff1d(np.arange(len(view)), rows)
    return tuple(view.items["item_id"][left_out].to_list())

"""Views of a set's rows, and two views joined by id: pairs.

What belongs together is found by the ids of the items, never by the position of the rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, Self, overload

import numpy as np
import polars as pl

from featstore.cards import Card
from featstore.errors import EmptySelectionError, MisalignedItemsError
from featstore.labels import class_texts
from featstore.store.rows import row_numbers
from featstore.store.tables import join_ids
from featstore.store.view import Selection, Several, TorchRows, View

if TYPE_CHECKING:
    import torch

COLUMNS = ("parent_id", "class_id", "item_id")


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

    Examples
    --------
    >>> key = toy_store("store")
    >>> images, captions = (open_store("store").view(key[k]) for k in ("image", "caption"))
    >>> x, y = images.pair_by("parent_id", captions).numpy()
    >>> x.shape, y.shape
    ((40, 12), (40, 8))
    """

    x: View
    y: View
    weight: np.ndarray = field(repr=False)
    by: str
    missing_x: tuple[str, ...] = field(default=(), repr=False)
    missing_y: tuple[str, ...] = field(default=(), repr=False)

    def __len__(self) -> int:
        return len(self.x)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (x row, y row) of each pair; they are read in blocks."""
        for x, y, _ in self.batches():
            yield from zip(x, y, strict=True)

    def __contains__(self, item_id: object) -> bool:
        """Return whether the x of a pair is the item with this id."""
        return item_id in self.x

    @overload
    def __getitem__(self, index: int | np.integer[Any]) -> tuple[np.ndarray, np.ndarray]: ...
    @overload
    def __getitem__(self, index: str | Several) -> PairedView[View]: ...
    def __getitem__(self, index: Any) -> Any:
        """Return the two rows of one pair, or several pairs, which keep their weights.

        Parameters
        ----------
        index : int, str, slice, list or array
            As of a view. Ids are those of x, and mean all of its pairs.

        Raises
        ------
        IndexError, UnknownItemError
            As of `Selection.__getitem__`.
        """
        index = [index] if isinstance(index, str) else index
        rows = row_numbers(index, len(self), lambda ids: self.x.places(ids)[1])
        if isinstance(rows, int):
            return self.x[rows], self.y[rows]
        return self._take(rows)

    def _take(self, rows: np.ndarray) -> PairedView[View]:
        """Return these pairs, in this order."""
        x = self.x.take(rows)
        return replace(self, x=x, y=self.y.take(rows), weight=self.weight[rows])

    def __repr__(self) -> str:
        missing = f", missing partners: {len(self.missing_x):,} x, {len(self.missing_y):,} y"
        return (
            f"PairedView({len(self):,} pairs by {self.by}{missing}; x={self.x.key}, y={self.y.key})"
        )

    @property
    def group_column(self) -> str:
        """What pairs must not be split by: the description of their images, or else the image."""
        return "item_id" if self.x.items["class_id"].null_count() else "class_id"

    @property
    def groups(self) -> np.ndarray:
        """The group of each pair as text, shape (n,)."""
        return self.x.items[self.group_column].to_numpy().astype(str)

    def numpy(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (n, p) and (n, q) float32 arrays, row i of each being pair i."""
        return self.x.numpy(), self.y.numpy()

    def torch(
        self, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (n, p) and (n, q) tensors, row i of each being pair i; see `Selection.torch`."""
        return self.x.torch(dtype, device), self.y.torch(dtype, device)

    def torch_dataset(self, columns: Sequence[str] = ()) -> TorchRows:
        """Return the pairs as a dataset for `torch.utils.data.DataLoader`; see `TorchRows`.

        `columns` are of the items of x.
        """
        return TorchRows((self.x, self.y), tuple(columns))

    def batches(
        self,
        rows: int = 4096,
        *,
        shuffle: int | np.random.Generator | None = None,
        reuse: bool = False,
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield (x, y, weight) of at most `rows` pairs each: the seam to the fitters.

        With `shuffle`, a seed or a generator, the pairs come in an order that it draws, each once;
        with `reuse` each x and y is overwritten by the next. See `Selection.batches`.
        """
        if shuffle is not None:
            order = np.random.default_rng(shuffle).permutation(len(self))
            yield from self._take(order).batches(rows, reuse=reuse)
            return
        start = 0
        x_batches, y_batches = (view.batches(rows, reuse=reuse) for view in (self.x, self.y))
        for x, y in zip(x_batches, y_batches, strict=True):
            yield x, y, self.weight[start : start + len(x)]
            start += len(x)

    def _repr_html_(self) -> str:
        return Card(repr(self), {"x": repr(self.x), "y": repr(self.y)}).html


def pair_views(x: View, y: View, *, by: str) -> PairedView[View]:
    """Join two views by id.

    Parameters
    ----------
    x, y : Selection
    by : str
        ``"parent_id"``: the item_id of one side is the parent_id of the other (an image and
        its captions, whichever of the two is x). ``"class_id"``: both sides carry it (head
        rows and class texts; images and class texts). ``"item_id"``: rows of one item by two
        encoders.

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

    Examples
    --------
    >>> key = toy_store("store")
    >>> head, names = (open_store("store").view(key[k]) for k in ("head_weight", "class_name"))
    >>> pairs = pair_views(head, names.class_texts(), by="class_id")
    >>> len(pairs), pairs.weight[:2]
    (30, array([1., 1.]))
    """
    if by not in COLUMNS:
        raise MisalignedItemsError(f"Views pair by {', '.join(COLUMNS)}; got {by!r}.")
    left, right = _keys(x, y, by)
    x_rows, y_rows = join_ids(left, right)
    if not len(x_rows):
        raise EmptySelectionError(
            f"{x.key} ({len(x):,} rows) and {y.key} ({len(y):,} rows) share no {by}, such as "
            f"{left.head(1).to_list()} and {right.head(1).to_list()}. "
            "Check that both are of one dataset, and the selection of each."
        )
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
    if by != "parent_id":
        return x_values, y_values
    if y_values.null_count() < len(y):
        return x.items["item_id"], y_values
    if x_values.null_count() < len(x):
        return x_values, y.items["item_id"]
    raise MisalignedItemsError(
        f"Neither {x.key} nor {y.key} has a parent_id: nothing says which items belong together. "
        "Pair them by class_id?"
    )


def _column(view: Selection, name: str) -> pl.Series:
    """Return a column of the items; imported sets need not have it, and are as if it were empty."""
    empty = pl.Series(name, [None] * len(view), dtype=pl.String)
    return view.items.get_column(name, default=empty)


def _without(view: Selection, rows: np.ndarray) -> tuple[str, ...]:
    """Return the item_ids of the rows of a view that are not among `rows`."""
    left_out = np.setdiff1d(np.arange(len(view)), rows)
    return tuple(view.items["item_id"][left_out].to_list())


@dataclass(frozen=True, eq=False, repr=False)
class EmbeddingsView(Selection):
    """Rows of one set; see `Selection` for choosing and reading them.

    Examples
    --------
    >>> key = toy_store("store")
    >>> images, captions = (open_store("store").view(key[k]) for k in ("image", "caption"))
    >>> len(images.pair_by("parent_id", captions))
    40
    """

    def pair_by(self, column: str, other: EmbeddingsView) -> PairedView[EmbeddingsView]:
        """Join this view to another by id; see `pair_views`."""
        return pair_views(self, other, by=column)

    def class_texts(
        self,
        variants: Sequence[str] | str | None = None,
        templates: Sequence[str] | str | None = None,
    ) -> Self:
        """Return one text row per class; see `featstore.labels.class_texts`."""
        return class_texts(self, variants=variants, templates=templates)

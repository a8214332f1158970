"""Views of a set's rows, two views joined by id, and the rows that are nearest to others.

What belongs together is found by the ids of the items, never by the position of the rows.

The nearest rows are exact: every row is scored, block by block, and the best of each query are
kept. A first product, in the precision of the rows, only says which rows may be among the best:
those whose score lies within its rounding of the k-th. These few are scored again in float64. So
the answer depends neither on BLAS nor on its threads, and rows that are equal tie.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Literal, Self

import numpy as np
import polars as pl

from featstore.errors import EmptySelectionError, MisalignedItemsError
from featstore.matrices import Rows, matrix
from featstore.parallel import map_threads
from featstore.prompts import class_texts
from featstore.store.tables import ItemTable, join_ids
from featstore.store.view import Selection, TorchRows, View
from featstore.terminal import Card

#: Values and scores of a block, and queries and rows that are scored together.
BLOCK_VALUES, BLOCK_SCORES, QUERIES, AGAIN_VALUES = 2**21, 2**18, 256, 2**20


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The nearest rows of a view to each of q queries, the best first.

    Attributes
    ----------
    rows : ndarray of shape (q, k), int64
        Numbers of the rows in the view; -1 where it has no more rows with a score.
    scores : ndarray of shape (q, k), float64
        Cosines, or dot products; NaN where there is no row.
    """

    rows: np.ndarray
    scores: np.ndarray
    table: ItemTable = field(repr=False)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield the ids and the scores: ``ids, scores = view.nearest(queries)``."""
        yield from (self.ids, self.scores)

    @property
    def ids(self) -> np.ndarray:
        """Item ids of the rows: (q, k) texts, None where there is no row."""
        ids = self.table.table["item_id"][np.maximum(self.rows, 0).ravel()].to_numpy()
        found: Any = np.where(self.rows < 0, None, ids.reshape(self.rows.shape))
        return found


class _Best:
    """The best rows so far of some queries; blocks may be added in any order, by many threads."""

    def __init__(self, queries: np.ndarray, k: int, dtype: np.dtype[Any], *, cosine: bool) -> None:
        if cosine:  # no square overflows
            queries = np.ldexp(queries, -np.frexp(np.abs(queries).max(axis=1))[1][:, None])
        norms = np.linalg.norm(queries, axis=1)
        self._queries = queries / norms[:, None] if cosine else queries
        self._columns = np.ascontiguousarray(self._queries.T, dtype)
        # Twice what the sum of so many rounded products can be off, relative to both norms.
        error = (queries.shape[1] + 8) * np.finfo(dtype).eps
        self._error = error * (np.ones_like(norms) if cosine else norms)
        self._least = len(self._columns) * float(np.finfo(dtype).tiny / np.finfo(dtype).eps)
        self._k, self._cosine, self._lock = k, cosine, threading.Lock()
        self.scores = np.full((len(queries), k), -np.inf)
        self.rows = np.full((len(queries), k), -1)

    def add(self, view: Selection, first: int, norms: np.ndarray) -> None:
        """Look at the rows from number `first` on, as many as there are norms: NaN if unknown."""
        count = len(norms)
        scores = np.empty((count, len(self._queries)), self._columns.dtype)
        # What overflows, or has no direction, compares false: it is scored again.
        with np.errstate(all="ignore"):
            margin = self._score(view.block(first, first + count), scores, norms)
            low = self.scores[:, -1] - margin
            hits = np.flatnonzero(~(scores < low.astype(scores.dtype)))
            if hits.size > 4 * self._k * len(self._queries) and count > self._k:
                known = np.fmax(scores, -np.inf)
                kth = np.partition(known, count - self._k, axis=0)[count - self._k]
                low = np.maximum(low, kth - 2 * margin)
                hits = np.flatnonzero(~(scores < low.astype(scores.dtype)))
            step = max(1, AGAIN_VALUES // len(self._columns))
            for start in range(0, hits.size, step):
                numbers, of = np.divmod(hits[start : start + step], len(self._queries))
                found = view.take(first + numbers).numpy(np.float64)
                exact = np.einsum("ij,ij->i", found, self._queries[of])
                if self._cosine:
                    exact /= np.sqrt(np.einsum("ij,ij->i", found, found))
                there = np.isfinite(exact)
                self._merge(of[there], first + numbers[there], exact[there])

    def _score(self, rows: np.ndarray, scores: np.ndarray, norms: np.ndarray) -> Any:
        """Fill in scores and unknown norms; return how far the scores of each query may be off."""
        # A block at once: in pieces of 512 KiB, two threads took twice as long for one query.
        some = rows.astype(scores.dtype, copy=False)
        np.matmul(some, self._columns, out=scores)
        if np.isnan(norms).any():
            np.sqrt(np.einsum("ij,ij->i", some, some), out=norms)
        if not self._cosine:
            return self._error * (float(norms.max()) + self._least**0.5) + self._least
        # A norm that has lost digits to underflow, or all to overflow, is none.
        known = (norms > self._least**0.5) & (norms < np.inf)
        scores /= np.where(known, norms, np.nan)[:, None]
        return self._error + self._least

    def _merge(self, of: np.ndarray, rows: np.ndarray, scores: np.ndarray) -> None:
        """Keep the best of these and of those so far: of equal scores the lower rows."""
        at = np.flatnonzero(np.bincount(of, minlength=len(self.rows)))
        places = np.searchsorted(at, of)
        with self._lock:
            places = np.concatenate([np.repeat(np.arange(at.size), self._k), places])
            scores = np.concatenate([self.scores[at].ravel(), scores])
            rows = np.concatenate([self.rows[at].ravel(), rows])
            order = np.lexsort((rows, -scores, places))
            starts = np.searchsorted(places[order], np.arange(at.size))
            best = order[starts[:, None] + np.arange(self._k)]
            self.scores[at], self.rows[at] = scores[best], rows[best]


def nearest(view: Selection, rows: Rows, k: int, metric: Literal["cosine", "dot"]) -> Neighbours:
    """Return the nearest rows of a view; see `EmbeddingsView.nearest`."""
    queries = matrix(rows, "queries", one=True).astype(np.float64)
    if queries.shape[1] != view.dim:
        raise ValueError(
            f"Queries of {view.key} have shape (q, {view.dim:,}); got {queries.shape}. Take rows "
            "of the same encoder, or project them into its space first."
        )
    lost = np.asarray(~np.isfinite(queries).all(axis=1))
    lost |= (metric == "cosine") & ~queries.any(axis=1)
    if lost.any():
        raise ValueError(
            f"{int(lost.sum()):,} of {len(lost):,} queries of {view.key} are NaN, Inf or (for a "
            f"cosine) all zeros, first number {int(lost.argmax()):,}. Leave them out."
        )
    if operator.index(k) < 1 or metric not in ("cosine", "dot"):
        raise ValueError(f"Ask for k >= 1 rows by cosine or dot; got k={k}, metric={metric!r}.")
    norms, k = view.norms, min(k, len(view))
    scores = np.empty((len(queries), k))
    numbers = np.empty(scores.shape, np.int64)
    for start in range(0, len(queries), QUERIES):
        some = slice(start, start + QUERIES)
        best = _Best(queries[some], k, norms.dtype, cosine=metric == "cosine")
        size = max(1, min(BLOCK_VALUES // view.dim, BLOCK_SCORES // len(best.rows)))

        def add(first: int, best: _Best = best, size: int = size) -> None:
            best.add(view, first, norms[first : first + size])

        map_threads(add, range(0, len(view), size))
        numbers[some], scores[some] = best.rows, best.scores
    return Neighbours(numbers, np.where(numbers < 0, np.nan, scores), view.table)


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

    def take(self, rows: np.ndarray | Sequence[int] | slice) -> PairedView[View]:
        """Return these pairs, in this order, with their weights; `rows` as of `Selection.take`."""
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

    def torch_dataset(self, columns: Sequence[str] = ()) -> TorchRows:
        """Return the pairs as a dataset for `torch.utils.data.DataLoader`; see `TorchRows`.

        `columns` are of the items of x.
        """
        return TorchRows((self.x, self.y), tuple(columns))

    def batches(
        self, rows: int = 4096, *, reuse: bool = False
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield (x, y, weight) of at most `rows` pairs each: the seam to the fitters.

        With `reuse` each x and y is overwritten by the next: see `Selection.batches`.
        """
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
    if by not in COLUMNS or not isinstance(y, Selection):
        raise MisalignedItemsError(
            f"A view pairs with a view by {', '.join(COLUMNS)}; got {type(y).__name__} and {by!r}. "
            "Rows of an array have no ids: `headstock.write` makes a view of them."
        )
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
    return tuple(view.items["item_id"][np.setdiff1d(np.arange(len(view)), rows)].to_list())


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
        """Return one text row per class; see `featstore.prompts.class_texts`."""
        return class_texts(self, variants=variants, templates=templates)

    def nearest(
        self, rows: Rows, k: int = 10, *, metric: Literal["cosine", "dot"] = "cosine"
    ) -> Neighbours:
        """Return the k rows that are nearest to each query, exactly, and their scores.

        Every row is looked at, as the view hands it out, in blocks and on all cores: a view may be
        larger than memory. The first search of a view also measures the length of each row, which
        the view then remembers. Of equal scores the lower rows come first. Rows without a finite
        score are never returned, such as rows of zeros by their cosine.

        Parameters
        ----------
        rows : Rows of shape (q, d) or (d,)
            Queries, such as another view.
        k : int
            If the view has fewer rows, all of them are returned.
        metric : {"cosine", "dot"}
            What is largest: the cosine, or the dot product.

        Raises
        ------
        ValueError
            If `k` is not positive, there is no such metric, or a query has another width, a value
            that is not finite or, for a cosine, only zeros.
        MisalignedItemsError
            If the queries are a view of a set in another embedding space.

        Examples
        --------
        >>> view = open_store("store").view(toy_store("store")["image"])
        >>> found = view.nearest(view[:2].numpy(), 3)
        >>> found.ids[:, 0].tolist() == view.items["item_id"][:2].to_list()
        True
        >>> found.rows.shape, found.scores[:, 0].round(6)
        ((2, 3), array([1., 1.]))
        """
        if isinstance(rows, Selection) and self.origin is not None and rows.origin is not None:
            self.require_same_space(rows, what="Rows and their queries")
        return nearest(self, rows, k, metric)

"""Views of embeddings: rows by id, class, split or position.

A selection is immutable; choosing rows or changing how they are read gives another. It knows
what it is (space, revision, rows, and how they are read), so that whatever is computed from it
can say so.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

import numpy as np
import polars as pl

from featstore.errors import (
    LISTED,
    EmptySelectionError,
    MisalignedItemsError,
    UnknownColumnError,
    UnknownItemError,
    listed,
    needs_extra,
    unknown_name,
)
from featstore.identity import canonical_json, sha256_hex
from featstore.matrices import BIAS, EMBEDDING
from featstore.store.layout import DTYPES, INTEGERS, decode
from featstore.store.rows import Mode, Rows, Verify, row_numbers
from featstore.store.tables import ItemTable, closest, join_ids
from featstore.terminal import SHOWN, Card, printable

if TYPE_CHECKING:
    import pyarrow
    import torch

#: What stands in brackets behind a view and chooses several rows.
Several = slice | list[int] | list[bool] | list[str] | np.ndarray | pl.Series


def as_tensor(rows: np.ndarray, dtype: str) -> torch.Tensor:
    """Return stored rows as a tensor that may be written to.

    Parameters
    ----------
    rows : ndarray of shape (n, d)
        As a `Rows` reads them: the tensor is on their memory, or on a copy of read-only rows,
        since torch would write into them, which ends the process.
    dtype : str
        Stored dtype; ``"bfloat16"`` rows are uint16 bits.
    """
    with needs_extra("Selection.torch"):
        import torch

    if not rows.flags.writeable:
        rows = rows.copy()
    if dtype == "bfloat16":
        return torch.from_numpy(rows.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(rows)


@dataclass(frozen=True)
class Origin:
    """How a store was opened.

    Attributes
    ----------
    address : str
        Absolute path, or address.
    mode, verify : str
        See `featstore.store.store.open_store`.
    reopen : callable
        `featstore.store.store.reopened`: returns a view of it in another process.
    """

    address: str
    mode: Mode
    verify: Verify
    reopen: Callable[..., Selection]


_FLOAT32 = np.dtype(np.float32)


@dataclass(frozen=True, eq=False)
class Selection:
    """Rows of one set.

    Attributes
    ----------
    source : Rows
        Reader of the set's array.
    rows : ndarray of shape (n,), int64
        The selected rows of the source.
    table : ItemTable
        Items of the selected rows, unread until `items` is asked for.
    key, encoder : str
        ``dataset/kind/encoder`` and the encoder's name as typed.
    space_id, set_id, revision_id : str
        Identity of what is read.
    n_failed : int
        Items of the whole set that have no embedding and are therefore not in any view.
    bias : ndarray of shape (n,), optional
        Of a classification head.
    unit : bool
        Whether rows are divided by their L2 norm when they are read.
    dtype : dtype
        Floating-point type in which rows are handed out; float32 unless `astype` changed it.
    origin : Origin, optional
        How its store was opened; None if the rows are in no store. Pickled, a view is this and the
        numbers of its rows: another process opens the same revision.

    Examples
    --------
    >>> key = toy_store("store")
    >>> images = open_store("store").view(key["image"])
    >>> train = images.where(split="train").normalized()
    >>> train.shape, np.linalg.norm(train.numpy(), axis=1).round(5)[:2]
    ((30, 12), array([1., 1.], dtype=float32))
    """

    source: Rows = field(repr=False)
    rows: np.ndarray = field(repr=False)
    table: ItemTable = field(repr=False)
    key: str
    encoder: str
    space_id: str
    set_id: str
    revision_id: str
    n_failed: int = 0
    bias: np.ndarray | None = field(default=None, repr=False)
    unit: bool = False
    dtype: np.dtype[Any] = _FLOAT32
    origin: Origin | None = field(default=None, repr=False)

    def __reduce__(self) -> Any:
        """Return what `pickle` keeps of a view: what it selects of which store.

        Raises
        ------
        TypeError
            If its rows are in no store, such as class texts.
        """
        if self.origin is None:
            raise TypeError(
                f"{self!r} is of rows in memory: send the view it was made of, or `numpy()`."
            )
        facts = (self.key, self.revision_id, self.rows, self.unit, self.dtype)
        return self.origin.reopen, (self.origin, *facts)

    def __len__(self) -> int:
        return int(self.rows.size)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield the rows one by one, each of shape (d,); they are read in blocks."""
        for batch in self.batches():
            yield from batch

    def __contains__(self, item_id: object) -> bool:
        """Return whether one of the rows is of the item with this id."""
        return isinstance(item_id, str) and item_id in self.items["item_id"]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:  # noqa: FBT001
        """Return the rows as `numpy` does, so that NumPy's functions take a view.

        Raises
        ------
        ValueError
            If `copy` is False: rows are copied out of the files of the store.
        """
        if copy is False:
            raise ValueError(f"The rows of {self.key} are copied out of a store: copy=False fails.")
        return self.numpy(dtype)

    @overload
    def __getitem__(self, index: int | np.integer[Any] | str) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: Several) -> Self: ...
    def __getitem__(self, index: Any) -> Any:
        """Return one row, of shape (d,), or a view of several; numbers mean what they do in NumPy.

        Parameters
        ----------
        index : int, str, slice, list or array
            The number of a row, negative ones from the end, or the id of its item; a slice; or
            numbers, ids or a mask of booleans. Of an item with several rows an id means the first.

        Raises
        ------
        IndexError
            If there is no such row, or the index is something else.
        UnknownItemError
            If there is no item with an id; the message names the closest.
        """
        if isinstance(index, str):
            index = int(self.places([index])[1][0])
        rows = row_numbers(index, len(self), self._first)
        if isinstance(rows, int):
            return self._read(self.rows[rows : rows + 1])[0]
        return self.take(rows)

    def places(self, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the places of equal item ids in `ids` and in the view, in the order of `ids`.

        Raises
        ------
        UnknownItemError
            If the view has no row of an item.
        """
        known = self.items["item_id"]
        asked, rows = join_ids(pl.Series(ids, dtype=pl.String), known)
        lost = [ids[place] for place in np.setdiff1d(np.arange(len(ids)), asked)]
        if lost:
            raise UnknownItemError(
                f"{self.key} has no item {listed(lost)}. The closest id is "
                f"{closest(lost[0], known)!r}."
            )
        return asked, rows

    def _first(self, ids: Sequence[str]) -> np.ndarray:
        """Return the first row of each of these items."""
        asked, rows = self.places(ids)
        return rows[np.unique(asked, return_index=True)[1]]

    def __repr__(self) -> str:
        splits = ",".join(
            sorted(self.table.columns(["split"])["split"].drop_nulls().unique().to_list())
        )
        form = ", normalized" * self.unit
        return printable(
            f"{type(self).__name__}({self.key}, encoder={self.encoder}, "
            f"{len(self):,} × {self.dim:,} {self.dtype}{form}, "
            f"split={splits or None}, fingerprint={self.fingerprint[:8]})"
        )

    @property
    def items(self) -> pl.DataFrame:
        """Item table of the selected rows, in their order; read from disk when first used."""
        return self.table.table

    @property
    def dim(self) -> int:
        """Embedding dimension."""
        return self.source.shape[1]

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (rows of the view, d)."""
        return len(self), self.dim

    @property
    def fingerprint(self) -> str:
        """Sha256 of the revision, the selected rows, and how they are read."""
        facts = {
            "revision": self.revision_id,
            "rows": sha256_hex(np.ascontiguousarray(self.rows, dtype="<i8").tobytes()),
            "transforms": [["l2"]] * self.unit,
            "dtype": str(self.dtype),
        }
        return sha256_hex(canonical_json(facts))

    def where(self, *predicates: pl.Expr, **equal: Any) -> Self:
        """Return the rows whose items meet every condition.

        Parameters
        ----------
        *predicates : polars expression
            Over any column of the item table.
        **equal
            Column = value, or a list of values any of which will do.

        Raises
        ------
        EmptySelectionError
            If no row is left; the message lists the values that the column has.
        UnknownColumnError
            If the item table has no such column.

        Examples
        --------
        >>> view.where(split="train", variant=["en", "fr"])  # doctest: +SKIP
        """
        keep = pl.Series(np.ones(len(self), dtype=bool))
        for column, value in equal.items():
            try:
                keep &= self.table.where(column, value)
            except pl.exceptions.ColumnNotFoundError as err:
                where = f"in the items of {self.key}"
                message = unknown_name("column", column, self.items.columns, where=where)
                raise UnknownColumnError(message) from err
        for predicate in predicates:
            try:
                names = predicate.meta.root_names()  # none of `pl.all()`
                items = self.table.columns(names) if names else self.items
                found = items.select(predicate).to_series()
            except pl.exceptions.ColumnNotFoundError as err:
                known = listed(self.items.columns, shown=LISTED)
                raise UnknownColumnError(
                    f"The items of {self.key} lack a column of {predicate}. They have: {known}."
                ) from err
            keep &= found.fill_null(value=False)
        chosen = np.flatnonzero(keep.to_numpy())
        if not chosen.size:
            values = "; ".join(
                f"{name} has {listed(self.items[name].drop_nulls().unique().sort(), shown=8)}"
                for name in equal
            )
            message = ", ".join(f"{name}={value!r}" for name, value in equal.items())
            raise EmptySelectionError(
                f"{self.key} has no item with {message or 'these conditions'}. {values}".strip()
            )
        return self.take(chosen)

    def take(self, rows: np.ndarray | Sequence[int] | slice) -> Self:
        """Return these rows of the view (as in brackets, but always a view), in this order.

        Raises
        ------
        IndexError
            If a number is outside the view, or `rows` is something else.
        """
        index = np.atleast_1d(row_numbers(rows, len(self), self._first))
        bias = None if self.bias is None else self.bias[index]
        return replace(self, rows=self.rows[index], table=self.table.take(index), bias=bias)

    def normalized(self) -> Self:
        """Return the same rows, divided by their L2 norm when read."""
        return replace(self, unit=True)

    def astype(self, dtype: Any) -> Self:
        """Return the same rows, handed out as float16, float32 or float64.

        Raises
        ------
        ValueError
            If it is another type.
        """
        wanted = np.dtype(dtype)
        if wanted not in (np.float16, np.float32, np.float64):
            raise ValueError(f"Rows are read as float16, float32 or float64; got {wanted}.")
        return replace(self, dtype=wanted)

    def numpy(self, dtype: Any = None) -> np.ndarray:
        """Return all rows as an array of shape (n, d) that the caller owns.

        Parameters
        ----------
        dtype : dtype, optional
            Cast to this: a floating-point type, or of rows that are stored as whole numbers one
            that holds them. Default: the view's dtype.

        Raises
        ------
        ValueError
            If it is a type that would cut the numbers off.
        """
        if dtype is not None:
            self._check_dtype(np.dtype(dtype).name)
        rows = self._read(self.rows)
        return rows if dtype is None else rows.astype(dtype, copy=False)

    def _check_dtype(self, name: str) -> None:
        """Raise ValueError if the rows would lose their fractions in a dtype of this name."""
        whole = self.source.dtype in INTEGERS and not self.unit
        if "float" in name or (whole and np.can_cast(self.source.dtype, name, "safe")):
            return
        raise ValueError(
            f"The rows of {self.key} are {self.source.dtype}; as {name} they would be cut off. Ask "
            "for float16, float32 or float64, and round them as you need."
        )

    def torch(
        self, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> torch.Tensor:
        """Return all rows as a tensor that the caller owns.

        Parameters
        ----------
        dtype : torch.dtype, optional
            Default: the view's dtype, float32. ValueError if it would cut the numbers off.
        device : torch.device or str, optional
            Default: the CPU.

        Returns
        -------
        torch.Tensor of shape (n, d)
            Bit for bit what is stored, where the view is not normalised and that dtype is asked
            for, bfloat16 included. `torch_dataset` reads rows that are larger than memory.
        """
        name = str(self.dtype if dtype is None else dtype).removeprefix("torch.")
        self._check_dtype(name)
        if name == self.source.dtype and not self.unit:
            return as_tensor(self.source.read(self.rows), name).to(device)
        return as_tensor(self._read(self.rows), str(self.dtype)).to(device, dtype)

    def batches(
        self,
        rows: int = 4096,
        *,
        shuffle: int | np.random.Generator | None = None,
        reuse: bool = False,
    ) -> Iterator[np.ndarray]:
        """Yield the rows in the view's dtype, at most `rows` rows at a time.

        Parameters
        ----------
        rows : int
            Rows of a batch; the last may be shorter.
        shuffle : int or numpy.random.Generator, optional
            A seed, or what draws an order of all rows when the first batch is asked for; each row
            comes once.
            Where the items are needed too, take rows in an order of your own:
            ``view[rng.permutation(len(view))]``.
        reuse : bool
            Convert every batch into the same memory: faster, but each batch is overwritten
            when the next is asked for. By default each is a new array.

        Raises
        ------
        ValueError
            If `rows` is not positive.
        TypeError
            If it is no whole number.
        """
        try:
            rows = operator.index(rows)
        except TypeError as err:
            raise TypeError(f"The rows of a batch are a whole number; got rows={rows!r}.") from err
        if rows < 1:
            raise ValueError(f"A batch has at least one row; got rows={rows}.")
        if shuffle is not None:
            order = np.random.default_rng(shuffle).permutation(len(self))
            yield from self.take(order).batches(rows, reuse=reuse)
            return
        self.source.prefetch(self.rows)
        size = min(rows, len(self))
        out = np.empty((size, self.dim), self.dtype) if reuse else None
        stored = np.empty((size, self.dim), DTYPES[self.source.dtype]) if reuse else None
        try:
            for start in range(0, len(self), rows):
                yield self._read(self.rows[start : start + rows], stored, out)
        finally:
            self.source.prefetch(self.rows[:0])  # also where the caller broke off

    @functools.cached_property
    def norms(self) -> np.ndarray:
        """L2 norms of the rows, as far as `nearest` has measured them: float32, or float64; NaN."""
        return np.full(len(self), np.nan, np.result_type(self.dtype, np.float32))

    def block(self, start: int, stop: int) -> np.ndarray:
        """Return the rows from one number to another, for reading: as stored, they are no copy."""
        found = self.source.read(self.rows[start:stop])
        if self.source.dtype == self.dtype.name and not self.unit:
            return found
        return self._handed_out(found, np.empty(found.shape, self.dtype))

    def torch_dataset(self, columns: Sequence[str] = ()) -> TorchRows:
        """Return the rows as a dataset for `torch.utils.data.DataLoader`; see `TorchRows`.

        Parameters
        ----------
        columns : sequence of str
            Of the items: their values stand behind the row.

        Raises
        ------
        UnknownColumnError
            If the items have no such column.
        """
        return TorchRows((self,), tuple(columns))

    def to_polars(self) -> pl.DataFrame:
        """Return the items with their rows: a column ``embedding`` of type Array, behind the rest.

        A head has its ``bias`` as a column, too.
        """
        bias = [] if self.bias is None else [pl.Series(BIAS, self.bias)]
        return self.items.with_columns(*bias, pl.Series(EMBEDDING, self.numpy()))

    def to_arrow(self) -> pyarrow.Table:
        """Return the items with their rows: ``embedding`` is a FixedSizeList, behind the rest.

        Consecutive rows are not copied, where the view is not normalised and its dtype is the one
        in which they are stored: the table shares the memory of the store's files. A head has its
        ``bias`` as a column, too.

        Raises
        ------
        MissingPackageError
            If pyarrow is not installed.
        """
        with needs_extra("Selection.to_arrow"):
            import pyarrow as pa
        as_stored = self.source.dtype == self.dtype.name and not self.unit
        rows = self.source.read(self.rows) if as_stored else self._read(self.rows)
        table = self.items.to_arrow()
        if self.bias is not None:
            table = table.append_column(BIAS, pa.array(self.bias))
        lists = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), self.dim)
        return table.append_column(EMBEDDING, lists)

    def require_same_space(self, other: Selection, *, what: str = "They") -> None:
        """Raise MisalignedItemsError unless both views lie in the same embedding space."""
        if self.space_id != other.space_id:
            # Arrays of no named encoder are in a space of their dataset: `featstore.arrays.write`.
            said = " Were both made by one encoder, write both with its name (encoder=)."
            unnamed = said * any(one.encoder.startswith("array:") for one in (self, other))
            raise MisalignedItemsError(
                f"{self.key} and {other.key} lie in different embedding spaces (space_id "
                f"{self.space_id[:8]} and {other.space_id[:8]}). {what} must come from the same "
                f"model, weights, preprocessing and pooling.{unnamed} Of items that both have, "
                f"`headstock bridge {other.key} {self.key}` maps one to the other."
            )

    def _read(
        self, rows: np.ndarray, stored: np.ndarray | None = None, out: np.ndarray | None = None
    ) -> np.ndarray:
        """Return rows of the source, as the view hands them out, in memory the caller owns.

        `stored` and `out` are buffers of at least as many rows, of the stored dtype and of the
        view's.
        """
        out = np.empty((rows.size, self.dim), self.dtype) if out is None else out[: rows.size]
        if DTYPES[self.source.dtype] == self.dtype:
            stored = out  # nothing to convert: rows that must be copied are copied there
        found = self.source.read(rows, None if stored is None else stored[: rows.size])
        return self._handed_out(found, out)

    def _handed_out(self, found: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Return rows as they are stored, converted and, if asked for, normalised, in `out`."""
        if not self.unit:
            if not np.may_share_memory(out, found):
                decode(found, self.source.dtype, out)
            return out
        # Norms are taken in float32 at least, and lose nothing of float64.
        precise = np.result_type(
            np.float32, self.dtype, np.float64 if self.source.dtype == "float64" else np.float32
        )
        work = out if precise == self.dtype else np.empty(out.shape, precise)
        if not np.may_share_memory(work, found):
            decode(found, self.source.dtype, work)
        norms = np.linalg.norm(work, axis=1, keepdims=True)
        if not norms.all():
            bad = int(np.flatnonzero(norms[:, 0] == 0)[0])
            raise MisalignedItemsError(
                f"Row {bad:,} of a batch of {self.key} is zero and cannot be normalised."
            )
        work /= norms
        if work is not out:
            np.copyto(out, work, casting="same_kind")
        return out

    def _repr_html_(self) -> str:
        items = self.items.head(SHOWN)
        told = [name for name in items.columns if items[name].null_count() < len(items)]
        rows = items.select(told).rows()
        return Card(repr(self), {}, told, rows, len(self) - len(rows)).html


View = TypeVar("View", bound=Selection)


@dataclass(frozen=True)
class TorchRows:
    """A map-style dataset for `torch.utils.data.DataLoader`: rows as tensors that the caller owns.

    An item is one row, of shape (d,), of each view: a tensor, or a tuple of them for pairs, with
    the values of `columns` behind them. Workers are sent what the views select of their stores, and
    no rows. A list of numbers gives a batch in
    one reading, the fast way: a DataLoader with ``batch_size=None`` and a `BatchSampler` as its
    sampler asks for such lists.

    Attributes
    ----------
    views : tuple of Selection
        Of one length.
    columns : tuple of str
        Of the items of the first view.
    """

    views: tuple[Selection, ...]
    columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        known = self.views[0].items.columns if self.columns else ()
        for name in self.columns:
            if name not in known:
                where = f"in the items of {self.views[0].key}"
                raise UnknownColumnError(unknown_name("column", name, known, where=where))

    def __len__(self) -> int:
        return len(self.views[0])

    def __getitem__(self, index: Any) -> Any:
        """Return the tensors of a row, or of several, stacked; `index` as a view takes it."""
        found: list[Any] = [
            as_tensor(np.asarray(view[index]), view.dtype.name) for view in self.views
        ]
        if self.columns:
            rows: Any = [index] if isinstance(index, int | str) else index
            own = self.views[0].take(rows).items
            # A loader collates no None: an item without a class is of class "".
            own = own.with_columns(pl.col(pl.String).fill_null(""))
            values = [own[name].to_list() for name in self.columns]
            found += [one[0] for one in values] if isinstance(index, int | str) else values
        return tuple(found) if len(found) > 1 else found[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Return the items of these numbers, read together: what a DataLoader asks for."""
        found = self[list(indices)]
        return list(zip(*found, strict=True) if isinstance(found, tuple) else found)

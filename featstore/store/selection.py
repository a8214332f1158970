"""A selection of a set's rows, read only when asked for.

A selection is immutable; `where`, `take` and `normalized` return another. It knows what it is
(space, revision, rows), so that whatever is computed from it can say so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import polars as pl

from featstore.errors import (
    EmptySelectionError,
    MisalignedItemsError,
    UnknownColumnError,
    did_you_mean,
)
from featstore.keys import canonical_json, sha256_hex
from featstore.store.arrays import RowSource


@dataclass(frozen=True, eq=False)
class Selection:
    """Rows of one set.

    Attributes
    ----------
    items : DataFrame
        Item table of the selected rows, in their order.
    key, encoder : str
        ``dataset/kind/encoder`` and the encoder's name as typed.
    space_id, set_id, revision_id : str
        Identity of what is read.
    n_failed : int
        Items of the whole set that have no embedding and are therefore not in any view.
    """

    source: RowSource = field(repr=False)
    rows: np.ndarray = field(repr=False)
    items: pl.DataFrame = field(repr=False)
    key: str
    encoder: str
    space_id: str
    set_id: str
    revision_id: str
    n_failed: int = 0
    bias: np.ndarray | None = field(default=None, repr=False)
    unit_rows: bool = False

    def __len__(self) -> int:
        return int(self.rows.size)

    def __repr__(self) -> str:
        splits = ",".join(sorted(self.items["split"].drop_nulls().unique().to_list()))
        form = ", normalized" if self.unit_rows else ""
        return (
            f"{type(self).__name__}({self.key}, {len(self):,} × {self.dim:,}{form}, "
            f"split={splits or None}, fingerprint={self.fingerprint[:8]})"
        )

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
        """Sha256 of the revision, the selected rows and what is done to them."""
        rows = sha256_hex(np.ascontiguousarray(self.rows, dtype="<i8").tobytes())
        facts = {"revision": self.revision_id, "rows": rows, "normalized": self.unit_rows}
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
            if column not in self.items.columns:
                known = ", ".join(self.items.columns)
                hint = did_you_mean(column, self.items.columns)
                msg = (
                    f"The items of {self.key} have no column {column!r}. They have: {known}.{hint}"
                )
                raise UnknownColumnError(msg)
            wanted = (
                value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
            )
            here = self.items[column].is_in(list(wanted))
            keep &= here.fill_null(value=False)
        for predicate in predicates:
            keep &= self.items.select(predicate).to_series().fill_null(value=False)
        chosen = np.flatnonzero(keep.to_numpy())
        if not chosen.size:
            values = "; ".join(f"{name} has {_values(self.items, name)}" for name in equal)
            said = ", ".join(f"{name}={value!r}" for name, value in equal.items())
            msg = f"{self.key} has no item with {said or 'these conditions'}. {values}".strip()
            raise EmptySelectionError(msg)
        return self.take(chosen)

    def take(self, rows: np.ndarray | Sequence[int]) -> Self:
        """Return these rows of the view, in this order.

        Raises
        ------
        IndexError
            If a number is outside the view.
        """
        index = np.asarray(rows, dtype=np.int64)
        if index.size and (int(index.min()) < 0 or int(index.max()) >= len(self)):
            msg = (
                f"Rows {int(index.min()):,} to {int(index.max()):,} are outside 0 to "
                f"{len(self) - 1:,} of {self.key}."
            )
            raise IndexError(msg)
        bias = None if self.bias is None else self.bias[index]
        return replace(self, rows=self.rows[index], items=self.items[index], bias=bias)

    def normalized(self) -> Self:
        """Return the same rows, divided by their L2 norm when read."""
        return replace(self, unit_rows=True)

    def numpy(self, dtype: Any = np.float32) -> np.ndarray:
        """Return all rows as an array of shape (n, d) that the caller owns."""
        return self._read(self.rows).astype(dtype, copy=True)

    def batches(self, rows: int = 4096) -> Iterator[np.ndarray]:
        """Yield the rows as float32 arrays of at most `rows` rows each.

        Raises
        ------
        ValueError
            If `rows` is not positive.
        """
        if rows < 1:
            msg = f"A batch has at least one row; got rows={rows}."
            raise ValueError(msg)
        for start in range(0, len(self), rows):
            yield self._read(self.rows[start : start + rows])

    def require_same_space(self, other: Selection, *, what: str = "They") -> None:
        """Raise MisalignedItemsError unless both views lie in the same embedding space."""
        if self.space_id != other.space_id:
            msg = (
                f"{self.key} and {other.key} lie in different embedding spaces (space_id "
                f"{self.space_id[:8]} and {other.space_id[:8]}). {what} must come from the same "
                "model, weights, preprocessing and pooling."
            )
            raise MisalignedItemsError(msg)

    def _read(self, rows: np.ndarray) -> np.ndarray:
        """Return rows of the source as float32, normalised if asked."""
        data = self.source.read(rows).astype(np.float32)
        if not self.unit_rows:
            return data
        norms = np.linalg.norm(data, axis=1, keepdims=True)
        if not norms.all():
            bad = int(np.flatnonzero(norms[:, 0] == 0)[0])
            msg = f"Row {bad:,} of a batch of {self.key} is zero and cannot be normalised."
            raise MisalignedItemsError(msg)
        data /= norms
        return data


def _values(items: pl.DataFrame, column: str) -> str:
    """Return the first few values of a column, for an error message."""
    values = items[column].drop_nulls().unique().sort().to_list()
    shown = ", ".join(repr(value) for value in values[:8]) or "no value"
    return shown + (f" and {len(values) - 8:,} more" if len(values) > 8 else "")

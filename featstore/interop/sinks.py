"""The sink of Ray Data: what runs there leaves a set of a store.

A write task stages the rows that it is given, in whatever order they come, as one file in the
store; the driver then writes the rows of all tasks with `featstore.write`, in the order of the
items. Only files that a task has returned are read: what a task left that was lost and tried again
does no harm. Files of a job that died are named as every unfinished write is, which ``headstock
store verify`` knows and ``headstock store gc`` removes.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from featstore.arrays import checked_rows, write
from featstore.durable import local_folder, write_durably, write_error
from featstore.errors import (
    CorruptStoreError,
    EmptySelectionError,
    ManifestError,
    listed,
    needs_extra,
    unknown_name,
)
from featstore.interop import npy_parts
from featstore.manifest import ITEM_SCHEMA, KINDS, Manifest
from featstore.matrices import EMBEDDING
from featstore.store import BLOCK_ROWS
from featstore.store.pairs import EmbeddingsView
from featstore.store.parquet_guard import table_bytes
from featstore.store.tables import join_ids

logger = logging.getLogger(__name__)


class RowSink:
    """Rows of many tasks, staged as they come and committed as one set.

    `ray_sink` makes one for Ray. Another engine calls `stage` in its workers, which get a copy of
    this, and `commit` with all that was returned.

    Parameters
    ----------
    store : path
        A local store that every worker sees under this path; made if it is missing.
    dataset, kind, encoder, dtype, space
        As for `featstore.write`.
    ids, rows : str
        The columns that hold the id and the vector of each row.
    columns : sequence of str
        Further columns that the item table keeps. Those of `featstore.manifest.ITEM_SCHEMA`
        (``text``, ``class_id``, ``split`` ...) are kept wherever the rows have them.
    items : Manifest or DataFrame, optional
        The items of the set, in their order, with everything that is known of them; the columns of
        the rows are not looked at then. Items without a row are left out, with a warning. By
        default the items are those of the rows, in the order of their ids as texts.

    Attributes
    ----------
    staged : list of str
        What the tasks have returned, once all have ended: names of files in the store.
    view : EmbeddingsView or None
        The set, once it is committed.

    Raises
    ------
    ManifestError
        If there is no such kind.
    AddressError
        If the store is remote.
    """

    def __init__(
        self,
        store: str | Path,
        *,
        dataset: str,
        kind: str,
        encoder: str,
        ids: str = "id",
        rows: str = "embedding",
        columns: Sequence[str] = (),
        items: Manifest | pl.DataFrame | None = None,
        dtype: str | None = None,
        space: EmbeddingsView | dict[str, Any] | None = None,
    ) -> None:
        if kind not in KINDS:
            raise ManifestError(unknown_name("kind", kind, KINDS))
        self.root = local_folder(store).absolute()
        self.staged: list[str] = []
        self.view: EmbeddingsView | None = None
        self._kind, self._ids, self._rows, self._columns = kind, ids, rows, tuple(columns)
        names: dict[str, Any] = {"dataset": dataset, "kind": kind, "encoder": encoder}
        self._set = names | {"dtype": dtype}
        self._space = space
        self._items = items.items(kind) if isinstance(items, Manifest) else items
        self._name = f".rows-{secrets.token_hex(4)}"

    def __getstate__(self) -> dict[str, Any]:
        """Return what a task needs: no item, and no view."""
        return {**self.__dict__, "_items": None, "_space": None, "view": None, "staged": []}

    def stage(self, tables: Iterable[Any]) -> str | None:
        """Check the rows of a task and make them durable; return their file, None without rows.

        Parameters
        ----------
        tables : iterable of pyarrow.Table

        Raises
        ------
        ManifestError
            If a column is missing, or rows and ids are not what `featstore.write` takes.
        NonFiniteEmbeddingError
            If a row has NaN or Inf.
        StoreWriteError
            If the file system refuses.
        """
        found = [self._read(table) for table in tables if table.num_rows]
        if not found:
            return None
        # An id that stands in two tasks is found when all are there.
        rows, items = checked_rows(self._kind, pl.concat(found, how="diagonal_relaxed"))
        name = f"{self._name}-{secrets.token_hex(8)}.staged"
        path = self.root / name
        try:
            write_durably(path, [*npy_parts(rows), table_bytes(items)])
        except OSError as err:
            raise write_error(path, err) from err
        return name

    def commit(self, staged: Iterable[str | None] | None = None) -> EmbeddingsView:
        """Write the set from all that was staged, remove that, and return the set's view.

        If it fails, what was staged stays, and `commit` can be called again without arguments.

        Raises
        ------
        EmptySelectionError
            If no task had a row.
        CorruptStoreError
            If a file that was staged is not there.
        FeatstoreError
            As `featstore.write`.
        """
        if staged is not None:
            self.staged = [one for one in staged if one is not None]
        if not self.staged:
            raise EmptySelectionError(f"No row came for {self.root}. Nothing was written.")
        try:
            parts = self._parts()
            items, order = self._ordered(parts)
            self.view = write(
                self.root, **self._set, rows=_in_order(parts, order), items=items,
                space=self._space,
            )  # fmt: skip
        except Exception as err:
            err.add_note(
                f"The rows are kept as {self._name}-*.staged in {self.root}: call commit() of this "
                "sink once the cause is fixed."
            )
            raise
        self.discard()
        return self.view

    def discard(self) -> None:
        """Remove what was staged."""
        self.staged = []
        for path in self.root.glob(f"{self._name}-*.staged"):
            path.unlink(missing_ok=True)

    def _read(self, table: Any) -> pl.DataFrame:
        """Return the vectors of an Arrow table, and what is kept of its other columns."""
        for name in (self._ids, self._rows, *self._columns):
            if name not in table.column_names:
                raise ManifestError(unknown_name("column", name, table.column_names))
        known = {*ITEM_SCHEMA, *self._columns} - {"kind", self._ids, self._rows}
        kept = {name: name for name in table.column_names if name in known}
        wanted = kept | {self._ids: "item_id", self._rows: EMBEDDING}
        given = {new: table.column(name) for name, new in wanted.items()}
        given[EMBEDDING] = _vectors(given[EMBEDDING])
        return pl.DataFrame({name: pl.Series(column) for name, column in given.items()})

    def _parts(self) -> list[np.memmap[Any, Any]]:
        """Return the rows of each file that was staged, mapped."""
        parts, lost = [], []
        for name in self.staged:
            try:
                parts.append(np.lib.format.open_memmap(self.root / name, mode="r"))
            except (OSError, ValueError):
                lost.append(name)
        if lost:
            raise CorruptStoreError(
                f"{len(lost):,} of {len(self.staged):,} files of rows are not in {self.root}: "
                f"{listed(lost)}. Every worker must see the store under this path; `headstock "
                "store gc` may have removed them. Run the job again."
            )
        widths = {part.shape[1] for part in parts}
        if len(widths) > 1:
            raise ManifestError(f"Rows have one width; those of the tasks have {sorted(widths)}.")
        return parts

    def _ordered(self, parts: Sequence[Any]) -> tuple[pl.DataFrame, np.ndarray]:
        """Return the items of the set, and for each the number of its row among all staged."""
        tables = []
        for name, part in zip(self.staged, parts, strict=True):
            with (self.root / name).open("rb") as file:
                file.seek(part.offset + part.nbytes)
                tables.append(pl.read_parquet(BytesIO(file.read())))
        table = pl.concat(tables, how="diagonal_relaxed")
        ids = table["item_id"]
        if self._items is None:
            order = ids.arg_sort().to_numpy()
            return table[order], order
        known, order = join_ids(self._items["item_id"], ids)
        unknown = ids.filter(~ids.is_in(self._items["item_id"].implode()))
        if len(unknown):
            raise ManifestError(
                f"{len(unknown):,} of {len(ids):,} rows have ids that no item has: "
                f"{listed(unknown)}."
            )
        missing = self._items["item_id"].filter(~self._items["item_id"].is_in(ids.implode()))
        if len(missing):
            logger.warning(
                "%s of %s items have no row and are left out: %s.",
                f"{len(missing):,}", f"{self._items.height:,}", listed(missing),
            )  # fmt: skip
        return self._items[known], order


def _in_order(parts: Sequence[np.ndarray], order: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the rows of these numbers, counted over all parts, a block at a time."""
    starts = np.cumsum([0, *map(len, parts)])
    dtype = np.result_type(*parts)
    for begin in range(0, len(order), BLOCK_ROWS):
        numbers = order[begin : begin + BLOCK_ROWS]
        block = np.empty((len(numbers), parts[0].shape[1]), dtype)
        where = np.searchsorted(starts, numbers, side="right") - 1
        for part in np.unique(where):
            here = where == part
            block[here] = parts[part][numbers[here] - starts[part]]
        yield block


def _vectors(column: Any) -> Any:
    """Return a column of vectors as Arrow's lists, without an engine's own type around them."""
    import pyarrow as pa

    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    storage = getattr(array, "storage", array)
    shape = getattr(array.type, "shape", None) or ()
    if len(shape) > 1:
        raise ManifestError(f"Rows are vectors; got tensors of shape {tuple(shape)}. Pool them.")
    # Lists of any length, so that what is too short is found and named.
    value = storage.type.value_type if hasattr(storage.type, "value_type") else None
    return storage if value is None else storage.cast(pa.large_list(value))


def ray_sink(store: str | Path, **options: Any) -> Any:
    """Return a Ray Data ``Datasink`` that writes a set: ``ds.write_datasink(ray_sink(...))``.

    The rows may come in any order from any number of tasks, and the set is the one that
    `featstore.write` makes of the same rows. Whatever ends the job before all rows are there leaves
    the store as it was.

    Parameters
    ----------
    store : path
    **options
        Of `RowSink`: ``dataset``, ``kind``, ``encoder``, ``ids``, ``rows``, ``columns``, ``items``,
        ``dtype`` and ``space``.

    Returns
    -------
    ray.data.Datasink
        With the attributes and methods of `RowSink`; ``view`` is the set.

    Raises
    ------
    MissingPackageError
        If Ray is not installed.
    FeatstoreError
        From Ray, as `RowSink.stage` and `RowSink.commit`.
    """
    with needs_extra("A sink of Ray Data", "ray"):
        from ray.data import Datasink
        from ray.data.block import BlockAccessor

    class StoreDatasink(RowSink, Datasink):  # type: ignore[misc]
        """A `RowSink` as Ray calls it."""

        def write(self, blocks: Iterable[Any], ctx: Any) -> str | None:  # noqa: ARG002
            return self.stage(BlockAccessor.for_block(block).to_arrow() for block in blocks)

        def on_write_complete(self, write_result: Any) -> None:
            self.commit(write_result.write_returns)

        def on_write_failed(self, error: Exception) -> None:  # noqa: ARG002
            if not self.staged:  # or only the commit has failed
                self.discard()

    return StoreDatasink(store, **options)

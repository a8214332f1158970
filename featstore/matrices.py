"""Rows of any library as a matrix of numbers: the one coercion behind every door.

`matrix` is what a fit, a search or a projection reads; `readable` leaves rows where they are, for
writing them a block at a time.
"""

from __future__ import annotations

import collections
import contextlib
import sys
from collections.abc import Iterator, Mapping, ValuesView
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from featstore.errors import FeatstoreError, RowsError, needs_extra, unknown_name

if TYPE_CHECKING:
    import polars as pl

Rows: TypeAlias = Any
"""Rows of numbers: an array of NumPy or of a library that NumPy reads (a memory map, HDF5, Zarr);
a tensor of torch, on any device; lists; a view of a store; a column of vectors (polars, Arrow,
pandas); or a table (polars, pandas, Arrow, Hugging Face ``datasets``) with one such column, called
``embedding`` if there are several, or with columns of numbers alone."""

#: The columns of a table that are its rows, and the bias of a head.
EMBEDDING, BIAS = "embedding", "bias"

_KEPT = ("float32", "float64")


def matrix(rows: Rows, what: str = "rows", *, one: bool = False) -> np.ndarray:
    """Return rows as a matrix of floating-point numbers in memory, of shape (n, d).

    float32 and float64 stay as they are, without a copy where NumPy can read the memory. Whole
    numbers, float16 and bfloat16 become float32.

    Parameters
    ----------
    rows : Rows
    what : str
        What the caller calls them, for messages: the name of its parameter.
    one : bool
        Whether a single vector is a matrix of one row, such as a query.

    Raises
    ------
    RowsError
        If they are no matrix of numbers: of objects, masked, of one dimension, of several widths.

    Examples
    --------
    >>> matrix([[1, 2], [3, 4]]).dtype, matrix(pl.Series([[0.5], [1.0]])).shape
    (dtype('float32'), (2, 1))
    >>> matrix([1.0, 2.0], "queries", one=True).shape
    (1, 2)
    """
    if type(rows) is np.ndarray and rows.ndim == 2 and rows.dtype.name in _KEPT:
        return rows
    data, dtype = readable(rows, what, one=one)
    with expecting(f"{what} must be a matrix of numbers"):
        return numbers(data, dtype).astype(dtype if dtype in _KEPT else np.float32, copy=False)


def vector(values: Any, what: str) -> np.ndarray:
    """Return one number a row as an array of shape (n,), as `matrix` returns a query.

    Raises
    ------
    RowsError
        If it is something else.
    """
    found = matrix(values, what, one=True)
    if len(found) > 1:
        raise RowsError(f"{what} must be one number a row; got shape {found.shape}.")
    own: np.ndarray = found[0]
    return own


def numbers(part: Any, dtype: str) -> np.ndarray:
    """Return some of the rows that `readable` returned as an array; bfloat16 as float32."""
    found = np.asarray(part)
    return from_bfloat16(found) if dtype == "bfloat16" else found


def readable(rows: Rows, what: str = "rows", *, one: bool = False) -> tuple[Any, str]:
    """Return rows as a matrix that is read by slices, bfloat16 as its bits, and its dtype's name.

    Raises
    ------
    RowsError
        As `matrix`.
    """
    with expecting(f"{what} must be a matrix of numbers"):
        table = table_of(rows)
        if table is not None:
            name = vector_column(table, what)
            rows = table.to_numpy() if name is None else table[name]
        check_masks(what, rows)
        found, dtype = _array(rows, what)
        if one and len(found.shape) == 1:
            found = found[None]
        if len(found.shape) != 2 or np.dtype(found.dtype).kind not in "fiu":
            raise RowsError(
                f"{what} must be a matrix of numbers, one row each; got {dtype} of shape "
                f"{tuple(found.shape)}."
            )
    return found, dtype


def _array(rows: Any, what: str) -> tuple[Any, str]:
    """Return rows as an array, its dtype as a store names it."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(rows, torch.Tensor):
        rows = rows.detach().cpu()
        bits = rows.dtype == torch.bfloat16
        rows = rows.view(torch.int16).numpy().view("<u2") if bits else rows.numpy()
        return rows, "bfloat16" if bits else rows.dtype.name
    if hasattr(rows, "__arrow_c_array__") or hasattr(rows, "__arrow_c_stream__"):
        rows = vectors(rows, what)
    elif getattr(getattr(rows, "dtype", None), "kind", "") == "O" and rows.ndim == 1:
        rows = vectors(list(rows), what)  # of pandas or NumPy: vectors as objects
    elif not hasattr(rows, "shape"):
        try:
            rows = np.asarray(rows)
        except ValueError:  # lists of different lengths
            rows = vectors(rows, what)
    dtype = np.dtype(rows.dtype).newbyteorder("=").name
    # Of ml_dtypes, as JAX has it.
    return (np.asarray(rows).view("<u2") if dtype == "bfloat16" else rows), dtype


def vectors(column: Any, what: str = "rows") -> np.ndarray:
    """Return a column of vectors as a matrix, one of numbers as it is.

    Raises
    ------
    RowsError
        If it is no column of vectors, or they have several widths; the message names the rows.
    """
    import polars as pl

    lists = pl.Series(column)
    if isinstance(
        lists.dtype, getattr(pl, "BaseExtension", ())
    ):  # tensors of Ray, arrays of datasets
        lists = lists.ext.storage()
    if lists.dtype.is_numeric():
        return lists.to_numpy()
    if not isinstance(lists.dtype, pl.List | pl.Array):
        raise RowsError(f"{what} must be vectors; got a column of {lists.dtype}.")
    lists = lists.cast(pl.List(lists.dtype.inner))
    widths = lists.list.len().to_list()
    usual = collections.Counter(widths).most_common(1)[0][0]
    wrong = [row for row, width in enumerate(widths) if not width or width != usual]
    if wrong:
        shown = ", ".join(f"row {row:,} has {widths[row]}" for row in wrong[:5])
        raise RowsError(
            f"{what}: {len(wrong):,} of {lists.len():,} vectors do not have the {usual} columns of "
            f"most: {shown}. Every row needs one vector of one width."
        )
    flat: np.ndarray = lists.explode().to_numpy()
    return flat.reshape(lists.len(), -1)


def table_of(table: Any) -> pl.DataFrame | None:
    """Return a table of another library as one of polars; None if it is no table."""
    if hasattr(table, "with_format"):  # of Hugging Face: it may be a selection of its file
        table = table.with_format("arrow")[:]
    marks = ("columns", "column_names")
    if not (isinstance(table, Mapping) or any(hasattr(table, mark) for mark in marks)):
        return None
    with needs_extra("A table of pandas or Arrow"):
        import polars as pl

        if isinstance(table, pl.DataFrame):
            return table
        with expecting("A table has a column of vectors, and one of each fact of its items"):
            check_masks("columns", table)
            return pl.DataFrame(table)


def vector_column(table: pl.DataFrame, what: str = "rows") -> str | None:
    """Return the name of the column of a table that holds its rows; None if all are numbers.

    Raises
    ------
    RowsError
        If there is neither, or several columns of vectors and none called ``embedding``.
    """
    nested = [name for name, dtype in table.schema.items() if dtype.is_nested()]
    if EMBEDDING in table.columns or len(nested) == 1:
        return EMBEDDING if EMBEDDING in table.columns else nested[0]
    if nested or not all(dtype.is_numeric() for dtype in table.dtypes):
        where = f"in the table of {what}"
        raise RowsError(unknown_name("column", EMBEDDING, table.columns, where=where))
    return None


@contextlib.contextmanager
def expecting(what: str) -> Iterator[None]:
    """Say what is expected where a library refuses a value, or panics."""
    try:
        yield
    except (FeatstoreError, MemoryError):
        raise
    except BaseException as err:
        # Whatever objects may stand in a list or an array meets NumPy, polars, pyarrow or torch.
        if not isinstance(err, Exception) and type(err).__name__ != "PanicException":
            raise
        reason = (str(err).splitlines() or [""])[0][:200].rstrip(".") or type(err).__name__
        raise RowsError(f"{what}: {reason}.") from err


def check_masks(what: str, given: Any) -> None:
    """Raise RowsError of an array, or a list or mapping of them, with masked values.

    NumPy drops the mask.
    """
    many = given.values() if isinstance(given, Mapping) else given
    parts = many if isinstance(many, list | tuple | ValuesView) else [given]
    masked = sum(np.count_nonzero(one.mask) for one in parts if isinstance(one, np.ma.MaskedArray))
    if masked:
        raise RowsError(
            f"{what} must have no masked values; got {masked:,}. Fill them, or drop their rows."
        )


def from_bfloat16(bits: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Return the float32 values of bfloat16 `bits`, in `out` (float32) if it is given."""
    if out is None:
        out = np.empty(bits.shape, dtype=np.float32)
    # uint32 in the memory of the float32: widen, then shift into the upper half.
    wide = out.view(np.uint32)
    np.copyto(wide, bits, casting="safe")
    np.left_shift(wide, np.uint32(16), out=wide)
    return out

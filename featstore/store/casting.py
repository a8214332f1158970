"""Conversion of rows to the stored type and back, to NumPy or torch, and what views do to them.

Conversions run at the speed of memory or of the processor's cores: a writer is as fast as what it
adds to the disk. NumPy's float16 arithmetic is done in software, so finiteness is read off the
bits, and rows that are already what is stored are not copied. Where numkong is installed, the
processor's own instructions convert float32 to float16: the same values, bit for bit. For bfloat16
it is not used: numkong 7.8 makes numbers of some NaN, which would then be stored.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import polars as pl

from featstore.errors import MisalignedItemsError, NonFiniteEmbeddingError, needs_extra
from featstore.identity import sha256_hex
from featstore.matrices import from_bfloat16
from featstore.store.layout import (
    DTYPES,
    INTEGERS,
    ArrayLayout,
    LayoutError,
    SetLayout,
    blank_value,
    to_bfloat16,
)

if TYPE_CHECKING:
    import torch

#: The bits of a value's exponent where NumPy has no fast `isfinite`: all are set in NaN and Inf.
EXPONENTS = {"float16": 0x7C00, "bfloat16": 0x7F80}

#: Values looked at together: two bytes each, they stay in the processor's cache.
_AT_ONCE = 2**16


def convert_rows(
    rows: np.ndarray,
    item_ids: Sequence[str] | pl.Series,
    *,
    failed: Collection[str],
    layout: ArrayLayout | SetLayout,
    where: str,
) -> tuple[np.ndarray, Callable[[], None]]:
    """Return `rows` in the stored dtype, and what checks them; see `cast_rows` for the parameters.

    The check is apart so that a writer can hash the rows beside it: nothing may be written before.
    Rows of failed items are NaN, or 0 where the dtype is a whole number. bfloat16 is its bits,
    uint16. Rows that needed no change are those given, not a copy. The check raises
    NonFiniteEmbeddingError if a row of an item that did not fail is NaN or Inf, or has values that
    the dtype cannot hold; the message names the first item.

    Raises
    ------
    LayoutError
        If the shape is not (b, d).
    """
    expected = (len(item_ids), layout.dim)
    if rows.shape != expected:
        raise LayoutError(f"Got embeddings of shape {rows.shape}, expected {expected} ({where}).")
    data, whole = _convert(rows, layout.dtype)
    skipped = np.zeros(len(rows), dtype=bool)
    if failed:
        skipped[:] = [item in failed for item in item_ids]
    if skipped.any():
        if data is rows:
            data = data.copy()
        data[skipped] = blank_value(layout.dtype)

    def check() -> None:
        held = finite_rows(data, layout.dtype) if whole is None else whole
        bad = ~held & ~skipped
        if not bad.any():
            return
        first = int(np.flatnonzero(bad)[0])
        remedy = "Store it as float32 (`dtype=float32`)"
        if not np.isfinite(rows[first]).all():
            what, remedy = "NaN or Inf", "Extract it in float32"
        elif layout.dtype in INTEGERS:
            bounds = np.iinfo(DTYPES[layout.dtype])
            what = f"values that are no whole numbers of {bounds.min} to {bounds.max}"
        else:
            what = f"values too large for {layout.dtype}"
        raise NonFiniteEmbeddingError(
            f"Got {what} for {int(bad.sum()):,} of {len(bad):,} items, first "
            f"{item_ids[first]!r} ({where}). Nothing was written for this block. {remedy}, or "
            "drop the item from the manifest."
        )

    return data, check


def cast_rows(
    rows: np.ndarray,
    item_ids: Sequence[str] | pl.Series,
    *,
    failed: Collection[str],
    layout: ArrayLayout | SetLayout,
    where: str,
) -> np.ndarray:
    """Return `rows` in the stored dtype, nothing lost but precision.

    Parameters
    ----------
    rows : ndarray of shape (b, d)
        Raw encoder output.
    item_ids : sequence of str
        Of the b items.
    failed : collection of str
        item_ids that have no embedding.
    where : str
        Encoder and rows, for messages.

    Raises
    ------
    LayoutError, NonFiniteEmbeddingError
        See `convert_rows`.
    """
    data, check = convert_rows(rows, item_ids, failed=failed, layout=layout, where=where)
    check()
    return data


def _convert(rows: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the rows in the stored dtype, and which rows it holds if it holds whole numbers."""
    stored = DTYPES[dtype]
    if dtype in INTEGERS:
        bounds = np.iinfo(stored)
        with np.errstate(invalid="ignore"):
            # NaN compares false with everything, so it is not held either.
            held = (rows >= bounds.min) & (rows <= bounds.max) & (rows == np.trunc(rows))
            whole = np.where(held, rows, 0)
        return np.array(whole, dtype=stored, order="C"), held.all(axis=1)
    if dtype == "float16" and rows.dtype == np.float32 and rows.flags.c_contiguous:
        numkong = _numkong()
        if numkong is not None and stored.isnative:
            # A signalling NaN becomes a quiet one, unlike in NumPy. No row that is written has any
            # NaN but those of failed items, which are blanked.
            return np.asarray(numkong.astype(rows, dtype)), None
    if dtype == "bfloat16":
        with np.errstate(over="ignore", invalid="ignore"):
            return to_bfloat16(rows), None
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(rows).astype(stored, order="C", copy=False), None


@functools.cache
def _numkong() -> Any:
    """Return the package numkong (the extra ``cast``), or None where it is not installed."""
    try:
        import numkong
    except ImportError:
        return None
    return numkong


def decode(stored: np.ndarray, dtype: str, out: np.ndarray) -> np.ndarray:
    """Convert stored values to floats of `out`'s dtype, in `out`; the bits of NaN may differ."""
    if dtype == "bfloat16":
        wide = from_bfloat16(stored, out if out.dtype == np.float32 else None)
        if wide is not out:
            np.copyto(out, wide, casting="same_kind")
    elif dtype == "float16" and out.dtype == np.float32 and (numkong := _numkong()) is not None:
        numkong.astype(stored, "float32", out=out)
    else:
        np.copyto(out, stored, casting="same_kind")
    return out


def finite_rows(data: np.ndarray, dtype: str) -> np.ndarray:
    """Return which rows are finite throughout: a boolean of shape (b,).

    Parameters
    ----------
    data : ndarray of shape (b, d)
        C-ordered; bfloat16 as its bits, uint16.
    dtype : str
        A floating-point name of `featstore.store.layout.DTYPES`.
    """
    if dtype not in EXPONENTS:
        finite: np.ndarray = np.isfinite(data).all(axis=1)
        return finite
    exponent = EXPONENTS[dtype]
    bits = data.view("<u2")
    finite = np.ones(len(bits), dtype=bool)
    # Largest values are found fast, and mostly answer for all rows. What is not finite has the
    # largest bits of its sign: as signed numbers those without it, as unsigned those with it.
    signed = int(bits.view("<i2").max(initial=0)) < exponent
    if signed and int(bits.max(initial=0)) < exponent + 0x8000:
        return finite
    step = max(1, _AT_ONCE // bits.shape[1])
    for start in range(0, len(bits), step):
        part = bits[start : start + step] & exponent
        finite[start : start + step] = part.max(axis=1) != exponent
    return finite


def as_tensor(rows: np.ndarray, dtype: str) -> torch.Tensor:
    """Return stored rows as a tensor that may be written to.

    Parameters
    ----------
    rows : ndarray of shape (n, d)
        As a `RowSource` reads them: the tensor is on their memory, or on a copy of read-only rows,
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


class Transform(Protocol):
    """A change of rows, in place; each row by itself."""

    @property
    def name(self) -> str:
        """One word for what it does."""

    @property
    def facts(self) -> list[Any]:
        """What it does, as JSON: part of a view's fingerprint."""

    def apply(self, rows: np.ndarray, *, key: str) -> None:
        """Change floating-point rows of shape (b, d) in place; `key` is for messages."""


@dataclass(frozen=True)
class Normalize:
    """Divide each row by its L2 norm."""

    name: str = field(default="normalized", init=False)

    @property
    def facts(self) -> list[Any]:
        """What it does."""
        return ["l2"]

    def apply(self, rows: np.ndarray, *, key: str) -> None:
        """Divide in place.

        Raises
        ------
        MisalignedItemsError
            If a row is zero.
        """
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        if not norms.all():
            bad = int(np.flatnonzero(norms[:, 0] == 0)[0])
            raise MisalignedItemsError(
                f"Row {bad:,} of a batch of {key} is zero and cannot be normalised."
            )
        rows /= norms


@dataclass(frozen=True, eq=False)
class Center:
    """Subtract a mean that was fitted elsewhere, on training rows."""

    mean: np.ndarray
    name: str = field(default="centered", init=False)

    @property
    def facts(self) -> list[Any]:
        """What it does: the hash of the mean as float64."""
        return ["center", sha256_hex(np.ascontiguousarray(self.mean, dtype="<f8").tobytes())]

    def apply(self, rows: np.ndarray, *, key: str) -> None:  # noqa: ARG002
        """Subtract in place, in the precision of the rows."""
        rows -= self.mean.astype(rows.dtype)

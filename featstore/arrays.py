"""Arrays of other libraries as sets of a store."""

from __future__ import annotations

import collections
import contextlib
import itertools
import operator
import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import polars as pl

from featstore.address import Address, parse_address
from featstore.errors import (
    AlreadyFinishedError,
    ManifestError,
    NonFiniteEmbeddingError,
    RowsError,
    StoreWriteError,
    listed,
    unknown_name,
)
from featstore.manifest import ITEM_SCHEMA, KINDS, Kind, conform_items
from featstore.matrices import (
    BIAS,
    EMBEDDING,
    Rows,
    check_masks,
    expecting,
    numbers,
    readable,
    table_of,
    vector,
    vector_column,
)
from featstore.store import BLOCK_ROWS
from featstore.store.layout import DTYPES, ArrayLayout, LayoutError, SetSpec, convert_rows
from featstore.store.log import read_log
from featstore.store.pairs import EmbeddingsView
from featstore.store.store import FeatureStore, open_store
from featstore.store.tables import WITHDRAWN, join_ids
from featstore.store.view import Selection
from featstore.store.writer import SetWriter, WriteOptions

#: Seconds that rows wait for another writer of their set.
PATIENCE = 60.0

#: What class names are where nothing else is said: a name without a template.
BARE_NAME = {"variant": "name", "template_id": "none"}


def write(
    store: str | Path | FeatureStore,
    rows: Rows,
    *,
    dataset: str,
    kind: Kind = "image",
    encoder: str | None = None,
    ids: Any = None,
    items: Any = None,
    bias: Rows | None = None,
    dtype: str | None = None,
    space: EmbeddingsView | Mapping[str, Any] | None = None,
) -> EmbeddingsView:
    """Write rows as a set of a store, or further rows of a set that is there, and return its view.

    Rows are stored as they are, neither centred nor normalised. The same rows, ids and items make
    the same bytes, and written again they change nothing. Further ids are appended: the set gets a
    new revision, and earlier ones stay readable. Ids that the set has may be given again beside
    them, with the same rows and items. A set is never changed otherwise: another dtype is another
    set, and other rows need another name, or ``headstock store rm`` first.

    Parameters
    ----------
    store : path or FeatureStore
        A local store; a path is made one if it is missing.
    rows : Rows of shape (n, d), or an iterable of them
        See `featstore.matrices.Rows`. The other columns of a table with a column of vectors are the
        items. An iterator, or a list of two-dimensional arrays, is taken block by block: rows
        larger than memory, whose number the ids or items say.
    dataset, kind : str
        Name of the dataset; and ``image``, ``caption``, ``class_name`` or ``head_weight``.
    encoder : str, optional
        What made the rows, ``family:name``. None: ``array:DATASET``, a space that no other set
        is in.
    ids : sequence of str or int, or str, optional
        Id of each row; or the column of the items that holds them. Whole numbers are kept as
        texts: 7 is ``"7"``. Default: the items' ``item_id``, or the numbers of the rows.
    items : table or mapping of columns, optional
        What is known of each row, in the columns of `featstore.manifest.ITEM_SCHEMA`: ``class_id``,
        ``split``, ``text``, ``parent_id`` and so on, whole numbers kept as texts. Further columns
        are kept as they are. A class name is of variant ``name`` and template ``none`` where
        nothing else is said.
    bias : array_like of shape (n,), optional
        Of a head; stored as float32. A head with one is written whole, and never extended.
    dtype : str, optional
        Stored dtype, one of `featstore.store.layout.DTYPES`. Default: that of the rows, and float32
        for other numbers.
    space : EmbeddingsView or mapping, optional
        The embedding space of the rows: a view of a set in it, such as the images that a head was
        trained on; or its keyed facts. Default: what `encoder` claims, so that a head fits images
        that were written under the same name.

    Raises
    ------
    RowsError
        If rows are no matrix of numbers.
    ManifestError
        If rows, ids and items do not fit: different numbers, ids that are missing or stand twice,
        or ids of the set with other rows or items.
    NonFiniteEmbeddingError
        If a row is NaN or Inf, or has a value that the stored dtype cannot hold.
    LayoutError
        If a name or dtype is one that no store can have.
    StoreWriteError
        If the store is remote or cannot be written. What a failed write of many blocks leaves is
        no set, and the next write of it begins anew.

    Examples
    --------
    >>> rows, names = np.eye(3, dtype=np.float32), ["tench", "goldfish", "shark"]
    >>> made = write("arrays", rows, dataset="fish", ids=names)
    >>> made["shark"]
    array([0., 0., 1.], dtype=float32)
    """
    if kind not in KINDS:
        raise ManifestError(unknown_name("kind", kind, KINDS))
    how: dict[str, Any] = {}
    if isinstance(store, FeatureStore):
        how = {"mode": store.mode, "verify": store.verify}
        store = store.address
    root = parse_address(store)
    if isinstance(root, Address):
        raise StoreWriteError(
            f"{store} is remote. Write a local store, and `headstock store push` it."
        )
    table = table_of(rows)
    name = None if table is None else vector_column(table)
    rows = rows if table is None else table
    if name is not None:
        if items is not None:
            raise ManifestError("Items stand beside a table of rows, or in it: give one of them.")
        bias = rows[BIAS].to_numpy() if bias is None and BIAS in rows.columns else bias
        rows, items = rows[name], rows.drop(name, BIAS, strict=False)
    given = Given.of(rows)
    known = items_of(kind, ids, items, n=given.n)
    if encoder is None:
        encoder = f"array:{dataset}"
        space = {"name": encoder, "kind": kind} if space is None else space
    spec = SetSpec(
        dataset, kind, encoder, _space(space, encoder),
        dtype or (given.dtype if given.dtype in DTYPES else "float32"),
    )  # fmt: skip
    if spec.dtype not in DTYPES:
        raise LayoutError(
            f"The rows are {spec.dtype}, which a store cannot hold. Say dtype='float32'."
        )
    write_given(root, spec, given, known, bias)
    return open_store(root, **how).view(str(spec.key))


def _space(given: EmbeddingsView | Mapping[str, Any] | None, encoder: str) -> Mapping[str, Any]:
    """Return the keyed facts of the space that rows are said to lie in."""
    if isinstance(given, Selection):
        if given.origin is None:
            raise ManifestError(f"{given!r} is of rows in memory: its space is in no store.")
        info = open_store(given.origin.address).info(given.key, revision=given.revision_id)
        return dict(info.attributes["space"])
    return given if given is not None else {"name": encoder, "provenance": "imported"}


@dataclass(frozen=True)
class Given:
    """Rows as they were given: arrays that are read by slices, or blocks that come once.

    Attributes
    ----------
    blocks : iterable of arrays
        Of shape (b, d) each; bfloat16 as its bits.
    n : int or None
        Number of rows; None of blocks that come once.
    dim : int
        Width of a row.
    dtype : str
        As a store names it.
    """

    blocks: Iterable[Any]
    n: int | None
    dim: int
    dtype: str

    @classmethod
    def of(cls, rows: Any) -> Given:
        """Return rows of any library.

        Raises
        ------
        ManifestError
            If they are no matrix of numbers, or blocks of different widths or dtypes.
        MisalignedItemsError
            If they are views of sets in several embedding spaces.
        """
        in_list = isinstance(rows, list | tuple)
        first = rows[0] if in_list and rows else None
        if isinstance(first, Selection) and first.origin is not None:
            for one in rows[1:]:
                if isinstance(one, Selection) and one.origin is not None:
                    first.require_same_space(one, what="Rows of one set")
        if (
            getattr(first, "ndim", 1) == 2
            or table_of(first) is not None
            or (isinstance(rows, Iterable) and not in_list and not hasattr(rows, "__array__"))
        ):
            own = map(cls._of_block, rows)
            begin = next(own, None)
            if begin is None:
                raise ManifestError("There is no block of rows. Nothing was written.")
            blocks = _alike(itertools.chain([begin], own), begin)
            kept = list(blocks) if in_list else blocks
            n = sum(map(len, kept)) if isinstance(kept, list) else None
            return cls(kept, n, begin.dim, begin.dtype)
        return cls._of_block(rows)

    @classmethod
    def _of_block(cls, block: Any) -> Given:
        data, dtype = readable(block)
        if not all(data.shape):
            raise RowsError(f"rows must be a matrix that is not empty; got shape {data.shape}.")
        return cls([data], data.shape[0], data.shape[1], dtype)

    def parts(self) -> Iterator[np.ndarray]:
        """Yield the rows as numbers, at most `BLOCK_ROWS` at a time; bfloat16 as float32."""
        for block in self.blocks:
            for start in range(0, block.shape[0], BLOCK_ROWS):
                yield numbers(block[start : start + BLOCK_ROWS], self.dtype)


def _alike(blocks: Iterable[Given], first: Given) -> Iterator[Any]:
    """Yield the arrays of blocks, which must have the width and dtype of the first."""
    start = 0
    for block in blocks:
        if (block.dim, block.dtype) != (first.dim, first.dtype):
            raise ManifestError(
                f"The block of rows {start:,} to {start + (block.n or 0) - 1:,} has {block.dim:,} "
                f"columns of {block.dtype}; the first has {first.dim:,} of {first.dtype}."
            )
        yield from block.blocks
        start += block.n or 0


@expecting("Items are a table or a mapping of columns")
def items_of(kind: str, ids: Any, items: Any, *, n: int | None) -> pl.DataFrame:
    """Return the item table of n rows, conformed; n of blocks is what it says itself."""
    table = pl.DataFrame() if items is None else table_of(items)
    if table is None:
        raise ManifestError(f"Items are a table or a mapping of columns; got {type(items)}.")
    taken = [name for name in (EMBEDDING, BIAS) if name in table.columns]
    if taken:
        raise ManifestError(f"Items cannot have a column {listed(taken)}: rows are called so.")
    column = _ids(ids, table, n)
    heights = {"rows": n, "ids": column.len(), "items": None if items is None else table.height}
    if len({count for count in heights.values() if count is not None}) > 1:
        counts = ", ".join(f"{v:,} {k}" for k, v in heights.items() if v is not None)
        raise ManifestError(f"There are {counts}. Each row has one id and one item.")
    _check_ids(column)
    columns = {name: _as_text(table[name]) for name in table.columns if name in ITEM_SCHEMA}
    known: dict[str, Any] = {**table.to_dict(), **columns, "item_id": column}
    if kind == "class_name":
        known = {name: [value] * column.len() for name, value in BARE_NAME.items()} | known
    return conform_items(pl.DataFrame(known), kind)


@expecting("Ids are texts or whole numbers, one a row")
def _ids(ids: Any, table: pl.DataFrame, n: int | None) -> pl.Series:
    """Return the ids of rows as they are given: themselves, as a column of the items, or not."""
    check_masks("ids", ids)
    name = ids if isinstance(ids, str) else "item_id" if ids is None else None
    if name is not None and name in table.columns:
        ids = table[name]
    elif isinstance(ids, str):
        raise ManifestError(unknown_name("column", ids, table.columns, where="in the items"))
    elif ids is None:
        ids = range(n if n is not None else table.height)
        if not ids:
            raise ManifestError("Rows that come in blocks need ids or items: how many are there?")
    return _as_text(pl.Series("item_id", ids))


def _as_text(column: pl.Series) -> pl.Series:
    """Return a column of whole numbers or categories as texts; others as they are."""
    texts = column.dtype.is_integer() or column.dtype in (pl.Categorical, pl.Enum)
    return column.cast(pl.String) if texts else column


def _check_ids(ids: pl.Series) -> None:
    """Refuse ids that are no texts, are missing, or stand twice."""
    if ids.dtype != pl.String:
        raise ManifestError(f"Ids are texts or whole numbers; got {ids.dtype}.")
    missing = (ids.is_null() | (ids.str.len_bytes() == 0)).arg_true()
    if len(missing):
        raise ManifestError(f"{len(missing):,} rows have no id: {_numbers(missing)}.")
    twice = ids.filter(ids.is_duplicated()).unique(maintain_order=True)
    if len(twice):
        shown = "; ".join(f"{one!r} ({_numbers((ids == one).arg_true())})" for one in twice[:5])
        raise ManifestError(f"{len(twice):,} ids stand in several rows: {shown}. Each has one row.")


def _numbers(rows: pl.Series | Sequence[int]) -> str:
    """Return the first few row numbers for a message."""
    more = f" and {len(rows) - 5:,} more" if len(rows) > 5 else ""
    return f"row{'s' * (len(rows) > 1)} {', '.join(f'{row:,}' for row in rows[:5])}{more}"


def _check_finite(parts: Iterable[np.ndarray], ids: pl.Series, start: int = 0) -> None:
    """Refuse rows with NaN or Inf, naming them; the first is row `start`."""
    bad: list[int] = []
    for part in parts:
        bad += (start + np.flatnonzero(~np.isfinite(part).all(axis=1))).tolist()
        start += len(part)
    if bad:
        raise NonFiniteEmbeddingError(
            f"{len(bad):,} rows have NaN or Inf: {_numbers(bad)} (ids {listed(ids[bad])}). Leave "
            "them out, with their ids and items."
        )


def write_given(
    root: Path,
    spec: SetSpec,
    given: Given,
    items: pl.DataFrame,
    bias: Any = None,
    *,
    failed: Mapping[str, str] = MappingProxyType({}),
    source: str = "arrays",
    facts: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Write what the set does not have yet; nothing, if it has everything.

    Parameters
    ----------
    root : Path
        Of a local store, made if it is missing.
    spec, given, items
        The set, its rows, and their item table.
    bias : array_like of shape (n,), optional
    failed : mapping
        item_id -> reason, of rows that are no embeddings.
    source : str
        Where the rows are from; the set records it.
    facts : mapping
        What it records beside that.

    Raises
    ------
    FeatstoreError
        As `write`.
    """
    bias = None if bias is None else vector(bias, "bias").astype(np.float32, copy=False)
    if given.n is not None:
        _check_finite(given.parts(), items["item_id"])
    # Nobody can tell whether rows that were staged before are these.
    plan = {"rows": secrets.token_hex(8)}
    own = {"provenance": "imported", **facts, "source": source}
    while True:
        table, revision, parts = items, "", _counted(given, items["item_id"])
        if str(spec.key) in read_log(root).sets:
            store = open_store(root)
            view, old, at = _held_against(store, str(spec.key), given, items)
            # Whoever was withdrawn stays out, and has the row of a failed item.
            out = {*failed, *store.failures(view.key).filter(reason=WITHDRAWN)["item_id"]}
            parts, revision = _new_rows(parts, view, at, items["item_id"], out), view.revision_id
            if (at >= 0).all():
                ours, theirs = (np.empty(0) if b is None else b for b in (bias, view.bias))
                if not np.array_equal(ours, theirs):
                    raise ManifestError(f"{spec.key} has another bias. Remove it to change it.")
                collections.deque(parts, maxlen=0)
                return
            table = pl.concat([old, items.filter(pl.Series(at < 0))], how="diagonal_relaxed")
        options = WriteOptions(wait=PATIENCE)
        with (
            contextlib.suppress(AlreadyFinishedError),
            SetWriter(
                root, spec, table, given.dim, facts=own, plan=plan, options=options
            ) as writer,
        ):
            if (writer.base.commit.revision_id if writer.base else "") != revision:
                continue  # another process was faster: what it wrote is held against these rows
            blocks = _in_blocks(parts, writer.layout.block_rows)
            for block, data in zip(writer.pending(), blocks, strict=True):
                ids = writer.items["item_id"][writer.layout.block_slice(block)]
                lost = {item: failed[item] for item in ids if item in failed}
                writer.write_block(block, data, lost)
            writer.finish(bias=bias)
            return


def _held_against(
    store: FeatureStore, key: str, given: Given, items: pl.DataFrame
) -> tuple[EmbeddingsView, pl.DataFrame, np.ndarray]:
    """Return a set, its items, and the row of it that each row given is again; -1 of further ones.

    Raises
    ------
    ManifestError
        If the set was extracted, or has another width or other items of these ids.
    """
    info, view = store.info(key), store.view(key)
    if info.attributes["facts"].get("provenance") not in ("imported", "derived"):
        raise ManifestError(f"{view.key} was extracted: rows from elsewhere are no part of it.")
    if given.dim != view.dim:
        raise ManifestError(f"{view.key} has {view.dim:,} columns; got rows of {given.dim:,}.")
    old = store.item_table(info)
    again, rows = join_ids(items["item_id"], old["item_id"])
    if view.bias is not None and len(again) < items.height:
        raise StoreWriteError(f"{view.key} is a head: it is written whole, and never extended.")
    for name in items.columns if len(again) else ():
        was = old.get_column(name, default=pl.repeat(None, old.height, eager=True))[rows]
        own = items[name][again]
        stated = own.is_not_null()  # what is left out is as it was
        if not own.filter(stated).equals(was.filter(stated)):
            other = pl.Series(map(operator.ne, own, was), dtype=pl.Boolean)
            others = items["item_id"][again].filter(stated & other)
            raise ManifestError(
                f"{len(others):,} ids are in {view.key} with another {name}: {listed(others)}. A "
                "set is only appended to: give further ids, or write another dataset."
            )
    at = np.full(items.height, -1)
    at[again] = rows
    return view, old, at


def _new_rows(
    parts: Iterable[np.ndarray], view: EmbeddingsView, at: np.ndarray, ids: pl.Series,
    failed: Collection[str],
) -> Iterator[np.ndarray]:  # fmt: skip
    """Yield what is new of rows, after comparing the others with the set, bit by bit."""
    start, (n, dim) = 0, view.source.shape
    layout = ArrayLayout(n, dim, view.source.dtype, n, 0)
    for part in parts:
        here = slice(start, start + len(part))
        known = at[here] >= 0
        if known.any():
            own_ids = ids[here].filter(pl.Series(known))
            own, check = convert_rows(
                part[known], own_ids, failed=failed, layout=layout, where="rows again"
            )
            check()
            was = np.ascontiguousarray(view.source.read(at[here][known]))
            other = (own.view(np.uint8) != was.view(np.uint8)).any(axis=1)
            if other.any():
                others = own_ids.filter(pl.Series(other))
                raise ManifestError(
                    f"{len(others):,} ids are in {view.key} with other rows: "
                    f"{listed(others)}. A set is only appended to: give further ids, another "
                    f"name, or remove it first (`headstock store rm`)."
                )
        start += len(part)
        yield part[~known]


def _counted(given: Given, ids: pl.Series) -> Iterator[np.ndarray]:
    """Yield the rows; of blocks that come once, those that are checked."""
    start = 0
    for part in given.parts():
        if given.n is None:
            _check_finite([part], ids, start)
        start += len(part)
        if start > len(ids):
            break
        yield part
    if start != len(ids):
        more = " or more" if start > len(ids) else ""
        raise ManifestError(f"The blocks hold {start:,}{more} rows; there are {len(ids):,} ids.")


def _in_blocks(parts: Iterable[np.ndarray], block_rows: int) -> Iterator[np.ndarray]:
    """Yield rows in blocks."""
    held: list[np.ndarray] = []
    size = 0
    for part in parts:
        rest = part
        while size + len(rest) >= block_rows:
            cut = block_rows - size
            yield np.concatenate([*held, rest[:cut]]) if held else rest[:cut]
            held, size, rest = [], 0, rest[cut:]
        held, size = [*held, rest], size + len(rest)
    if size:
        yield np.concatenate(held)

"""Derived sets: the rows of a set in fewer bytes, fewer columns, or mapped to another encoder.

A derived set lies in a space of its own, which says what it was made from and how; it is never that
of an encoder. Its record states how many of the ten nearest it keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.linalg import eigh

from bench.bridge import GALLERY, NEIGHBOURS, QUERIES, nearest_items
from bench.errors import ProtocolError
from featstore.arrays import Given, write_given
from featstore.errors import MisalignedItemsError, StoreWriteError, unknown_name
from featstore.identity import sha256_hex
from featstore.store.layout import SetSpec
from featstore.store.store import FeatureStore, SetInfo, open_store
from featstore.store.view import Selection
from fitters.adapter import GOLDEN, Adapter
from fitters.space_maps import LinearMap

Matrix = npt.NDArray[Any]

#: Column of the items of an int8 set: a stored row times it is the row.
SCALE = "int8_scale"


@dataclass(frozen=True, eq=False)
class Way:
    """How rows become those of a derived set.

    Attributes
    ----------
    facts : mapping
        What enters the space: all that changes what a coordinate means.
    width : int
    dtype : str
        Stored dtype.
    apply : callable
        Rows of shape (b, d) -> (b, width).
    scale : callable, optional
        Rows -> the factor of each, (b,), which their items have.
    adapter : Adapter, optional
        The map, for rows of other sets.
    """

    facts: Mapping[str, Any]
    width: int
    dtype: str
    apply: Callable[[Matrix], Matrix]
    scale: Callable[[Matrix], Matrix] | None = None
    adapter: Adapter | None = None


@dataclass(frozen=True, eq=False)
class Derived:
    """A derived set.

    Attributes
    ----------
    key : str
    kept : float
        Share of the ten nearest by the original rows that are among the ten nearest by its own.
    n_queries, gallery : int
        Items that were asked for, and among which they were looked for.
    adapter : Adapter, optional
        The map that was used or made, for rows of other sets.
    """

    key: str
    kept: float
    n_queries: int
    gallery: int
    adapter: Adapter | None = field(default=None, repr=False)

    @property
    def sentence(self) -> str:
        """What is kept."""
        among = f"the ten nearest among {self.gallery:,} items ({self.n_queries:,} queries)"
        return f"{self.key} keeps {100 * self.kept:.1f} % of {among}."


def derive(
    store: str | Path | FeatureStore, key: str, by: str | Path = "int8", *, name: str | None = None
) -> Derived:
    """Write a set that is derived from another; again, it changes nothing.

    Parameters
    ----------
    store : path or FeatureStore
        A local store.
    key : str
        Of the original, or a part of it that fits one set.
    by : str or Path
        An adapter file (`Adapter.save`); or ``int8``, with a scale a row, which the items have as
        ``int8_scale``; ``binary``, the signs of the centred rows as 1 and -1; ``float16``;
        ``svd:N``, N singular directions of the rows, which are not centred; ``truncate:N``, the
        first N columns.
    name : str, optional
        Of the new set's encoder; by default ``ENCODER+HOW``.

    Raises
    ------
    ProtocolError
        If there is no such way, the set is a head or has fewer than 2 rows with a direction, or the
        name is that of an encoder that its rows are of.
    MisalignedItemsError
        If the adapter is for the space of another set of the store.
    PairsError, CorruptAlignmentError
        If the adapter is for rows of another width, or damaged.
    UnknownSetError, StoreWriteError
        If there is no such set, or the store is remote or cannot be written.

    Examples
    --------
    >>> made = derive("store", toy_store("store")["image"], "truncate:6")
    >>> open_store("store").view(made.key).shape
    (40, 6)
    """
    opened = store if isinstance(store, FeatureStore) else open_store(store)
    if "://" in opened.address:
        raise StoreWriteError(f"{opened.address} is remote: pull the set, and derive from it here.")
    info = opened.info(key)
    view = opened.view(str(info.key), revision=info.commit.revision_id)
    if view.bias is not None or info.key.kind == "head_weight":
        raise ProtocolError(f"{info.key} is a head: derive the images that it is used on.")
    way = _way(str(by), view)
    _check_space(way, info, opened)
    models = _models(way, info, opened)
    if name in models:
        raise ProtocolError(f"Its rows are not those of {name}: give the set another name.")
    kept, n_queries, gallery = _kept(view, way)
    source = info.attributes
    space = {"provenance": "derived", "from": info.commit.space_id, **way.facts}
    how = Path(by).stem if way.adapter is not None and Path(by).exists() else str(by)
    spec = SetSpec(
        info.key.dataset, info.key.kind, name or f"{info.encoder}+{how.replace(':', '')}", space,
        way.dtype, source["precision"],
    )  # fmt: skip
    own = {
        "key": str(info.key), "revision_id": info.commit.revision_id, "by": str(by),
        "recall_at_10": round(kept, 6), "queries": n_queries, "gallery": gallery,
    }  # fmt: skip
    facts = {
        **source["facts"], "provenance": "derived", "derived": own,
        "models": models, "of": {"space": source["space"]},
    }  # fmt: skip
    given = Given(_Blocks(view, way.apply), None, way.width, "float32")
    write_given(
        Path(opened.address), spec, given, _items(view, way), source=str(info.key), facts=facts
    )
    return Derived(str(spec.key), kept, n_queries, gallery, way.adapter)


@dataclass(frozen=True)
class _Blocks:
    """Rows as they are read, changed; as often as they are asked for."""

    view: Selection
    apply: Callable[[Matrix], Matrix]

    def __iter__(self) -> Iterator[Matrix]:
        return map(self.apply, self.view.batches())


def _items(view: Selection, way: Way) -> pl.DataFrame:
    if way.scale is None:
        return view.items
    scales = np.concatenate([way.scale(block) for block in view.batches(reuse=True)])
    return view.items.with_columns(pl.Series(SCALE, scales))


def _way(by: str, view: Selection) -> Way:
    """Return how a text says that rows are derived.

    Raises
    ------
    ProtocolError
        If it does not.
    """
    name, _, number = by.partition(":")
    if name in _PLAIN and not number:
        return _PLAIN[name](view)
    if name in _SIZED:
        if not number.isdecimal() or not 0 < int(number) < view.dim:
            raise ProtocolError(
                f"{name} needs a number of columns below {view.dim:,}, such as "
                f"{name}:{max(1, view.dim // 2)}; got {by!r}."
            )
        return _SIZED[name](view, int(number))
    if not Path(by).is_file():
        known = [*_PLAIN, *(f"{one}:N" for one in _SIZED), "the file of an adapter"]
        raise ProtocolError(unknown_name("way", by, known))
    return _mapped(Adapter.read(Path(by)))


def _int8(view: Selection) -> Way:
    def scale(rows: Matrix) -> Matrix:
        found: Matrix = np.maximum(np.abs(rows).max(axis=1) / 127, np.finfo(np.float32).tiny)
        return found

    return Way(
        {"int8": "a scale a row"}, view.dim, "int8",
        lambda rows: np.round(rows / scale(rows)[:, None]), scale,
    )  # fmt: skip


def _float16(view: Selection) -> Way:
    return Way({"rounded": "float16"}, view.dim, "float16", lambda rows: rows)


def _binary(view: Selection) -> Way:
    total = np.zeros(view.dim)
    for block in view.batches(reuse=True):
        total += block.sum(axis=0, dtype=np.float64)
    mean = (total / len(view)).astype(np.float32)
    return Way(
        {"signs": sha256_hex(mean.tobytes())}, view.dim, "int8",
        lambda rows: np.where(rows > mean, np.float32(1), np.float32(-1)),
    )  # fmt: skip


def _truncated(view: Selection, width: int) -> Way:
    return Way({"columns": width}, width, view.source.dtype, lambda rows: rows[:, :width])


def _svd(view: Selection, width: int) -> Way:
    gram = np.zeros((view.dim, view.dim))
    for block in view.batches(reuse=True):
        rows = block.astype(np.float64)
        gram += rows.T @ rows
    axes = eigh(gram, subset_by_index=(view.dim - width, view.dim - 1))[1][:, ::-1]
    axes *= np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(width)])  # else the sign is open
    made = LinearMap(np.zeros(width, np.float32), axes.astype(np.float32))
    facts = {
        "old": {"space_id": view.space_id, "columns": view.dim},
        "new": {"space_id": "", "columns": width}, "map": {"kind": "svd"},
    }  # fmt: skip
    return _mapped(Adapter(made, unit=False, golden=view[:GOLDEN].numpy(), facts=facts))


def _mapped(adapter: Adapter) -> Way:
    arrays = sorted(adapter.map.arrays().items())
    digest = sha256_hex(b"".join(name.encode() + own.tobytes() for name, own in arrays))
    facts = {"adapter": digest, "unit": adapter.unit}
    return Way(facts, adapter.widths[1], "float32", adapter.apply, adapter=adapter)


_PLAIN: Mapping[str, Callable[[Selection], Way]] = {
    "int8": _int8, "binary": _binary, "float16": _float16,
}  # fmt: skip
_SIZED: Mapping[str, Callable[[Selection, int], Way]] = {"svd": _svd, "truncate": _truncated}


def _check_space(way: Way, info: SetInfo, store: FeatureStore) -> None:
    """Refuse an adapter that is known to be for another space.

    Of files that were bridged nothing says what space they were of.
    """
    old = None if way.adapter is None else way.adapter.facts.get("old", {}).get("space_id")
    if old == info.commit.space_id:
        return
    others = [str(one.key) for one in store.sets() if one.commit.space_id == old]
    if others:
        raise MisalignedItemsError(
            f"This adapter maps the space of {others[0]}; {info.key} lies in another. "
            f"`headstock bridge {info.key} NEW` makes one for it."
        )


def _models(way: Way, info: SetInfo, store: FeatureStore) -> list[str]:
    """Return the encoders whose rows or whose neighbours are in it: their licences are its own."""
    found = list(info.attributes["facts"].get("models", [info.encoder]))
    new = None if way.adapter is None else way.adapter.facts.get("new", {}).get("space_id")
    return [
        *dict.fromkeys([*found, *(o.encoder for o in store.sets() if o.commit.space_id == new)])
    ]


def _kept(view: Selection, way: Way) -> tuple[float, int, int]:
    """Return the share of the ten nearest that is kept, queries, and items of the gallery."""
    rng = np.random.default_rng(0)
    old = view.take(np.sort(rng.permutation(len(view))[:GALLERY])).numpy()
    new = way.apply(old)
    there = old.any(axis=1) & new.any(axis=1)
    old, new = old[there], new[there]
    if len(old) < 2:
        raise ProtocolError(f"{view.key} has {len(old):,} rows with a direction; 2 are needed.")
    asked = rng.permutation(len(old))
    old, new = old[asked], new[asked]
    k, n_queries = min(NEIGHBOURS, len(old) - 1), min(QUERIES, len(old))
    truth, found = (nearest_items(rows[:n_queries], rows, k) for rows in (old, new))
    both = (found[:, :, None] == truth[:, None, :]).any(axis=2)
    return float(both.mean()), n_queries, len(old)

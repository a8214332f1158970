"""Derived sets: the rows of a set in fewer bytes, fewer columns, or mapped to another encoder.

A derived set lies in a space of its own, which says what it was made from and how; it is never that
of an encoder. Its record states how many of the ten nearest it keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from bench.bridge import GALLERY, QUERIES, Search, side
from bench.errors import ProtocolError
from featstore.arrays import Given, write_given
from featstore.errors import MisalignedItemsError, StoreWriteError, unknown_name
from featstore.identity import sha256_hex
from featstore.store.layout import SetSpec
from featstore.store.store import FeatureStore, open_store
from featstore.store.view import Selection
from fitters.adapter import GOLDEN, Adapter, SpaceMap
from fitters.solvers import eigen_gram
from fitters.sources import mean_of

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
    dtype : str
        Stored dtype.
    apply : callable
        Rows of shape (b, d) -> those of the set.
    scale : callable, optional
        Rows -> the factor of each, (b,), which their items have.
    adapter : Adapter, optional
        The map, for rows of other sets; it says what sets it was fitted on.
    """

    facts: Mapping[str, Any]
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
    sides = [way.adapter.facts.get(name, {}) for name in ("old", "new")] if way.adapter else [{}]
    # Of files nothing says what space they were of.
    if sides[0].get("dataset") and sides[0]["space_id"] != info.commit.space_id:
        raise MisalignedItemsError(
            f"This adapter maps the space of {sides[0]['encoder']}; {info.key} lies in another. "
            f"`headstock bridge {info.key} NEW` makes one for it."
        )
    source, facts = info.attributes, info.attributes["facts"]
    whose = {  # their licences are its own
        "models": _named(facts.get("models", [info.encoder]), sides[1:], "encoder"),
        "datasets": _named(facts.get("datasets", [info.key.dataset]), sides, "dataset"),
    }
    if name in whose["models"]:
        raise ProtocolError(f"Its rows are not those of {name}: give the set another name.")
    kept, n_queries, gallery = _kept(view, way)
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
        **facts, "provenance": "derived", "derived": own, **whose, "of": {"space": source["space"]},
    }  # fmt: skip
    given = Given(
        map(way.apply, view.batches()), None, way.apply(view[:1].numpy()).shape[1], "float32"
    )
    items = view.items
    if way.scale is not None:
        scales = [way.scale(block) for block in view.batches(reuse=True)]
        items = items.with_columns(pl.Series(SCALE, np.concatenate(scales)))
    write_given(Path(opened.address), spec, given, items, source=str(info.key), facts=facts)
    return Derived(str(spec.key), kept, n_queries, gallery, way.adapter)


def _way(by: str, view: Selection) -> Way:
    """Return how a text says that rows are derived.

    Raises
    ------
    ProtocolError
        If it does not.
    """
    name, _, number = by.partition(":")
    sized = f"{name}:N" in _WAYS
    if sized and not (number.isdecimal() and 0 < int(number) < view.dim):
        raise ProtocolError(
            f"{name} needs a number of columns below {view.dim:,}, such as "
            f"{name}:{max(1, view.dim // 2)}; got {by!r}."
        )
    if (make := _WAYS.get(f"{name}:N" if sized else by)) is not None:
        return make(view, int(number or 0))
    if not Path(by).is_file():
        raise ProtocolError(unknown_name("way", by, [*_WAYS, "the file of an adapter"]))
    return _mapped(Adapter.read(Path(by)))


def _int8(_view: Selection, _: int) -> Way:
    def scale(rows: Matrix) -> Matrix:
        found: Matrix = np.maximum(np.abs(rows).max(axis=1) / 127, np.finfo(np.float32).tiny)
        return found

    return Way(
        {"int8": "a scale a row"}, "int8",
        lambda rows: np.round(rows / scale(rows)[:, None]), scale,
    )  # fmt: skip


def _binary(view: Selection, _: int) -> Way:
    mean = mean_of((block.sum(axis=0, dtype=np.float64), len(block)) for block in view.batches())
    mean = mean.astype(np.float32)
    return Way(
        {"signs": sha256_hex(mean.tobytes())}, "int8",
        lambda rows: np.where(rows > mean, np.float32(1), np.float32(-1)),
    )  # fmt: skip


def _svd(view: Selection, width: int) -> Way:
    gram = sum(rows.T @ rows for rows in view.astype(np.float64).batches(reuse=True))
    axes = eigen_gram(gram)[1][:, ::-1][:, :width]
    axes *= np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(width)])  # else the sign is open
    made = SpaceMap(np.zeros(width), axes).astype(np.float32)
    facts = {
        "old": side(view, view.dim), "new": side(None, width), "map": {"kind": "svd"},
    }  # fmt: skip
    return _mapped(Adapter(made, unit=False, golden=view[:GOLDEN].numpy(), facts=facts))


def _mapped(adapter: Adapter) -> Way:
    arrays = sorted(adapter.map.arrays().items())
    digest = sha256_hex(b"".join(name.encode() + own.tobytes() for name, own in arrays))
    return Way({"adapter": digest, "unit": adapter.unit}, "float32", adapter.apply, adapter=adapter)


_WAYS: Mapping[str, Callable[[Selection, int], Way]] = {
    "int8": _int8,
    "binary": _binary,
    "float16": lambda _view, _: Way({"rounded": "float16"}, "float16", np.asarray),
    "svd:N": _svd,
    "truncate:N": lambda view, n: Way({"columns": n}, view.source.dtype, lambda rows: rows[:, :n]),
}


def _named(own: Sequence[str], sides: Sequence[Mapping[str, Any]], what: str) -> list[str]:
    return [*dict.fromkeys([*own, *(one[what] for one in sides if one.get(what))])]


def _kept(view: Selection, way: Way) -> tuple[float, int, int]:
    """Return the share of the ten nearest that is kept, queries, and items of the gallery."""
    old = view.take(np.random.default_rng(0).permutation(len(view))[:GALLERY]).numpy()
    new = way.apply(old)
    there = old.any(axis=1) & new.any(axis=1)
    old, new = old[there], new[there]
    search = Search(old, QUERIES)
    return float(search.kept(new, new)[2].mean()), search.n_queries, len(old)

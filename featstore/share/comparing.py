"""What two stores, or two revisions of one, differ in: sets, items, rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import polars as pl

from featstore.store.set_info import SetInfo
from featstore.store.store import FeatureStore


@dataclass(frozen=True)
class SetDifference:
    """How a set differs.

    Attributes
    ----------
    key : str
    state : str
        ``"only in A"``, ``"only in B"``, or ``"differs"``.
    revisions : tuple of str
        Of A and of B; empty where the set is missing.
    added, removed : int
        Items that only B, or only A, has.
    changed_items : int
        Items of both whose row of the item table differs.
    changed_blocks : int or None
        Blocks of rows with another hash, of those that both have in full; None if the two cannot be
        compared by blocks (other dimension, dtype or block size).
    failed : tuple of int
        Items without an embedding in A and in B.
    """

    key: str
    state: str
    revisions: tuple[str, str]
    added: int = 0
    removed: int = 0
    changed_items: int = 0
    changed_blocks: int | None = None
    failed: tuple[int, int] = (0, 0)
    attributes: dict[str, tuple[Any, Any]] = field(default_factory=dict)


def compare_stores(a: FeatureStore, b: FeatureStore) -> list[SetDifference]:
    """Return the sets in which two stores differ, by key; rows are compared by their hashes.

    Of remote stores only records and item tables are fetched.
    """
    in_a = {str(info.key): info for info in a.sets()}
    in_b = {str(info.key): info for info in b.sets()}
    found = []
    for key in sorted({*in_a, *in_b}):
        one, other = in_a.get(key), in_b.get(key)
        if one is None or other is None:
            state = "only in A" if other is None else "only in B"
            ids = tuple("" if info is None else info.commit.revision_id for info in (one, other))
            found.append(SetDifference(key, state, (ids[0], ids[1])))
        elif one.commit.revision_id != other.commit.revision_id:
            found.append(_compare(key, (a, one), (b, other)))
    return found


def _compare(
    key: str, a: tuple[FeatureStore, SetInfo], b: tuple[FeatureStore, SetInfo]
) -> SetDifference:
    one, other = a[1].commit, b[1].commit
    tables = [store.item_table(info) for store, info in (a, b)]
    first, second = (set(table["item_id"].to_list()) for table in tables)
    blocks: int | None = None
    shape = (one.dim, one.dtype, one.block_rows)
    if shape == (other.dim, other.dtype, other.block_rows):
        whole = min(one.n, other.n) // one.block_rows
        whole = len(one.blocks) if one.n == other.n else whole
        pairs = zip(one.blocks[:whole], other.blocks[:whole], strict=True)
        blocks = sum(left != right for left, right in pairs)
    names = sorted({*a[1].attributes, *b[1].attributes} - {"revision", "history"})
    values = {name: (a[1].attributes.get(name), b[1].attributes.get(name)) for name in names}
    return SetDifference(
        key,
        "differs",
        (one.revision_id, other.revision_id),
        added=len(second - first),
        removed=len(first - second),
        changed_items=_changed(*tables),
        changed_blocks=blocks,
        failed=(one.n_failed, other.n_failed),
        attributes={name: pair for name, pair in values.items() if pair[0] != pair[1]},
    )


def _changed(one: pl.DataFrame, other: pl.DataFrame) -> int:
    """Return how many items of both tables differ in a column, or have it in one table only."""
    columns = sorted({*one.columns, *other.columns} - {"item_id"})
    both = [
        table.select(
            "item_id",
            *(pl.col(name).cast(pl.String) if name in table.columns else pl.lit(None, pl.String)
              .alias(name) for name in columns),
        )
        for table in (one, other)
    ]  # fmt: skip
    shared = both[0].join(both[1], on="item_id", suffix="_b")
    differs = [pl.col(name).ne_missing(pl.col(f"{name}_b")) for name in columns]
    return shared.filter(pl.any_horizontal(differs)).height if differs else 0

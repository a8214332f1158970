"""What the rows of a set are like: norms, duplicates, size; read block by block."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from featstore.errors import FeatstoreError
from featstore.store.arrays import decode
from featstore.store.files import MAX_METADATA_BYTES, read_json
from featstore.store.selection import Selection

#: Rows that are looked at together.
_ROWS = 4096

#: Groups of equal items that are shown by name, and names of each.
_GROUPS, _NAMES = 3, 5


@dataclass(frozen=True)
class Norms:
    """L2 norms of the rows as stored; `zero` counts the rows whose norm is 0."""

    min: float
    median: float
    mean: float
    max: float
    zero: int


@dataclass(frozen=True)
class Duplicates:
    """Groups of at least two equal things.

    Attributes
    ----------
    groups, largest, extra : int
        Number of groups, members of the largest, and members beyond the first of each.
    examples : list of list of str
        item_ids of the largest groups, a few each.
    """

    groups: int
    largest: int
    extra: int
    examples: list[list[str]]


def row_facts(view: Selection) -> tuple[Norms, Duplicates]:
    """Return norms and bitwise equal rows of a view without transforms.

    Rows are compared by 64-bit keyed hashes: among a million rows, two different ones are taken
    for equal once in 40 million sets. Memory is 12 bytes a row, beside one block.
    """
    n = len(view)
    wide: Any = np.float64 if view.source.dtype == "float64" else np.float32
    norms: np.ndarray = np.empty(n, wide)
    hashes = np.empty(n, np.int64)
    for start in range(0, n, _ROWS):
        rows = view.rows[start : start + _ROWS]
        stored = np.ascontiguousarray(view.source.read(rows))
        data = stored.tobytes()
        size = len(data) // len(rows)
        # The hash of bytes is SipHash under a key that this process drew.
        hashes[start : start + len(rows)] = [
            hash(data[at : at + size]) for at in range(0, len(data), size)
        ]
        values = decode(stored, view.source.dtype, np.empty(stored.shape, wide))
        norms[start : start + len(rows)] = np.sqrt(np.einsum("ij,ij->i", values, values))
    found = Norms(
        min=float(norms.min()),
        median=float(np.median(norms)),
        mean=float(norms.mean(dtype=np.float64)),
        max=float(norms.max()),
        zero=int((norms == 0).sum()),
    )
    return found, _duplicates(pl.Series(hashes), view)


def content_duplicates(view: Selection) -> Duplicates | None:
    """Return the items with equal ``content_sha256``; None if the items do not state it."""
    column = view.items.get_column("content_sha256", default=None)
    if column is None or column.null_count() == column.len():
        return None
    return _duplicates(column, view)


def _duplicates(keys: pl.Series, view: Selection) -> Duplicates:
    table = pl.DataFrame({"key": keys, "row": np.arange(keys.len())}).drop_nulls("key")
    groups = (
        table.group_by("key")
        .agg(pl.len().alias("n"), pl.col("row").min())
        .filter(pl.col("n") > 1)
        .sort("n", "row", descending=[True, False])
    )
    if groups.is_empty():
        return Duplicates(0, 0, 0, [])
    examples = []
    for key in groups["key"].head(_GROUPS):
        rows = table.filter(pl.col("key") == key)["row"].head(_NAMES)
        examples.append(view.items["item_id"].gather(rows).to_list())
    sizes = groups["n"]
    return Duplicates(groups.height, int(sizes[0]), int(sizes.sum()) - groups.height, examples)


def disk_bytes(directory: Path) -> int:
    """Return the bytes of all files of a set, of every revision."""
    return sum(path.lstat().st_size for path in directory.rglob("*") if not path.is_dir())


def runs(directory: Path) -> list[dict[str, Any]]:
    """Return the facts of each run that wrote to a set, the newest first."""
    found = []
    for path in sorted((directory / "runs").glob("*.json"), reverse=True):
        try:
            document = read_json(path, limit=MAX_METADATA_BYTES)
        except (FeatstoreError, OSError):
            continue
        if isinstance(document, dict):
            found.append(document)
    return found

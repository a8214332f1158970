"""Rows of the same content elsewhere in the store, as a source for damaged blocks.

Two datasets may hold the same picture or text under one encoder. Whether their rows agree to the
last bit is not assumed: a block that is put together from them must have the commit's hash.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import polars as pl

from featstore.errors import FeatstoreError
from featstore.store.arrays import RowSource
from featstore.store.blocks import layout_of
from featstore.store.casting import blank_value
from featstore.store.damage import Damage
from featstore.store.items import read_items
from featstore.store.layout import DTYPES
from featstore.store.readers import open_rows
from featstore.store.set_info import SetInfo
from featstore.store.store import FeatureStore


class Donors:
    """The rows of other sets that have the content of a damaged set's blocks.

    Parameters
    ----------
    damage : Damage
    items : DataFrame
        Items of the damaged set; without content_sha256 nothing is found.
    precision : str
        Compute precision of the damaged set.
    """

    def __init__(self, damage: Damage, items: pl.DataFrame, *, precision: str) -> None:
        self._damage = damage
        self._hashes = items.get_column("content_sha256", default=None)
        self._places: dict[str, tuple[RowSource, int]] = {}
        if self._hashes is None:
            return
        wanted: set[str] = set()
        for block in damage.blocks:
            rows = damage.layout.block_slice(block)
            wanted |= set(self._hashes[rows.start : rows.stop].drop_nulls())
        commit = damage.commit
        for info in _readable(FeatureStore(damage.root)):
            same = (info.commit.space_id, info.commit.dtype, info.attributes["precision"])
            if info.key != damage.key and same == (commit.space_id, commit.dtype, precision):
                self._look(info, wanted)

    def _look(self, info: SetInfo, wanted: set[str]) -> None:
        """Note where another set has the wanted content."""
        directory = info.key.directory(self._damage.root)
        layout = layout_of(info.commit)
        if layout is None or not wanted - set(self._places):
            return
        try:
            path = directory.parent / info.commit.items["file"]
            table = read_items(path, info.commit.items, n=info.commit.n)
            source = open_rows(directory / "embedding", layout, "pread")
        except (FeatstoreError, OSError):
            return
        if "content_sha256" not in table.columns:
            return
        failed = info.commit.failed_rows()
        for row, digest in enumerate(table["content_sha256"].to_list()):
            if digest in wanted and not failed[row]:
                self._places.setdefault(digest, (source, row))

    def rows(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of a block as other sets store them, and which were found.

        Returns
        -------
        rows : ndarray of shape (rows of the block, d), as stored
            Blank where an item failed, or was not found.
        found : boolean ndarray of shape (rows of the block,)
            True for failed rows, too.
        """
        commit = self._damage.commit
        where = self._damage.layout.block_slice(block)
        found = commit.failed_rows()[where].copy()
        data = np.full((found.size, commit.dim), blank_value(commit.dtype), DTYPES[commit.dtype])
        if self._hashes is None:
            return data, found
        for row, digest in enumerate(self._hashes[where.start : where.stop].to_list()):
            if found[row] or digest not in self._places:
                continue
            source, other = self._places[digest]
            data[row] = source.read(np.array([other]))[0]
            found[row] = True
        return data, found

    def block(self, block: int) -> bytes | None:
        """Return the rows of a block as other sets store them, or None if one is nowhere."""
        data, found = self.rows(block)
        return data.tobytes() if found.all() else None


def _readable(store: FeatureStore) -> Iterable[SetInfo]:
    return [info for _, info in store.listing() if isinstance(info, SetInfo)]

"""Rows that the store has elsewhere: the same content in the same space is not computed twice.

An item's content hash says what was encoded, the space_id by what. Rows of other datasets with
both the same, and the same precision and dtype, are copied bit for bit. A source whose golden
vectors the encoder does not give is left alone: its rows may be of another space after all.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from featstore.encoders.base import IMAGE_KINDS, TEXT_KINDS
from featstore.errors import FeatstoreError
from featstore.extraction.golden_check import GOLDEN_COSINE, Golden
from featstore.store.catalog import finished_sets
from featstore.store.set_info import SetInfo
from featstore.store.store import FeatureStore
from featstore.store.views import EmbeddingsView

logger = logging.getLogger(__name__)

_HASH = "content_sha256"


@dataclass(frozen=True)
class KnownRows:
    """Where the rows of a job's items can be had.

    Attributes
    ----------
    sources : list of EmbeddingsView
        Sets that have some of them; their blocks are checked when first read.
    source, row : ndarray of shape (n,)
        For each item the number of its source, or -1, and its row in there.
    """

    sources: list[EmbeddingsView]
    source: np.ndarray
    row: np.ndarray

    def has(self, rows: slice) -> np.ndarray:
        """Return a boolean for each of `rows`: whether it can be copied."""
        found: np.ndarray = self.source[rows] >= 0
        return found

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return known rows as float32, (b, d): a cast to the stored dtype gives the same bits.

        Raises
        ------
        CorruptStoreError
            If a source's bytes disagree with its commit.
        """
        out = np.empty((rows.size, self.sources[0].dim), dtype=np.float32)
        for number in np.unique(self.source[rows]):
            here = np.flatnonzero(self.source[rows] == number)
            out[here] = self.sources[number].take(self.row[rows[here]]).numpy(np.float32)
        return out

    @property
    def count(self) -> int:
        """How many items are known."""
        return int((self.source >= 0).sum())


def find_known_rows(
    root: Path,
    items: pl.DataFrame,
    *,
    kind: str,
    space_id: str,
    set_id: str,
    precision: str,
    dtype: str,
    golden: Golden | None,
) -> KnownRows | None:
    """Look for the items of a job in every finished set of the store.

    Parameters
    ----------
    items : DataFrame
        With ``content_sha256``; items without one are never known.
    set_id : str
        Of the set that is being made: its own earlier rows are its writer's affair.
    golden : Golden, optional
        Golden vectors of the encoder. None looks without comparing, for a plan.

    Returns
    -------
    KnownRows or None
        None if nothing is known.
    """
    if _HASH not in items.columns:
        return None
    wanted = items.select(_HASH).with_row_index("item").drop_nulls()
    source = np.full(items.height, -1, dtype=np.int32)
    row = np.zeros(items.height, dtype=np.int64)
    sources: list[EmbeddingsView] = []
    # A source's bytes are checked block by block, when they are first read.
    store = FeatureStore(root, verify="first-touch")
    for info in _candidates(root, store, kind=kind, space_id=space_id, set_id=set_id):
        if wanted.is_empty():
            break
        if (info.attributes.get("precision"), info.commit.dtype) != (precision, dtype):
            continue
        try:
            view = store.view(str(info.key))
            found = _matches(view, wanted)
            if found.is_empty() or not _trusted(root, info, golden):
                continue
        except FeatstoreError as err:
            logger.warning("%s is damaged and not reused from: %s", info.key, err)
            continue
        at = found["item"].to_numpy()
        source[at] = len(sources)
        row[at] = found["row"].to_numpy()
        sources.append(view)
        wanted = wanted.join(found, on="item", how="anti")
    return KnownRows(sources, source, row) if sources else None


def _matches(view: EmbeddingsView, wanted: pl.DataFrame) -> pl.DataFrame:
    """Return the (item, row) pairs whose content the view has."""
    if _HASH not in view.items.columns:
        return pl.DataFrame(schema={"item": pl.UInt32, "row": pl.UInt32})
    have = view.items.select(_HASH).with_row_index("row").drop_nulls().unique(_HASH, keep="first")
    return wanted.join(have, on=_HASH, how="inner", maintain_order="left").select("item", "row")


def _candidates(
    root: Path, store: FeatureStore, *, kind: str, space_id: str, set_id: str
) -> list[SetInfo]:
    """Return the other finished sets of the space, sorted by key."""
    kinds = next((kinds for kinds in (IMAGE_KINDS, TEXT_KINDS) if kind in kinds), frozenset())
    found = []
    for directory in finished_sets(root):
        if directory.parent.name not in kinds:
            continue
        try:
            info = store.info(str(directory.relative_to(root).as_posix()))
        except FeatstoreError:
            continue  # damaged: not a source
        if info.commit.space_id == space_id and info.commit.set_id != set_id:
            found.append(info)
    return found


def _trusted(root: Path, info: SetInfo, golden: Golden | None) -> bool:
    """Return whether a source's golden vectors are the encoder's."""
    if golden is None:
        return True
    cosine = golden.cosine(info.key.directory(root), info.commit)
    if cosine is None:
        logger.info("%s has no golden vectors; its rows are not reused.", info.key)
        return False
    if cosine < GOLDEN_COSINE:
        logger.warning(
            "%s says it is of the same space, but its golden vectors have a cosine of %.4f to "
            "this encoder's: its rows are computed anew.",
            info.key,
            cosine,
        )
        return False
    return True

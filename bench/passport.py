"""What a set of vectors is: a passport, of a file or of a set of a store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.stats import skew

from bench.bridge import NEIGHBOURS
from bench.errors import ProtocolError
from bench.metrics.geometry import effective_rank, nearest_rows
from bench.options import AgainConfig
from bench.spaces import ENOUGH_ROWS, footprints, unusual
from featstore.encoders.registry import encode
from featstore.manifest import read_manifest
from featstore.sources.reader import open_reader
from featstore.store.store import Duplicates, Norms, row_facts
from featstore.store.view import Selection
from fitters.sources import unit_or_zero

#: Rows on which neighbours and variances are counted at most, and the mean and covariance of
#: unusual rows: the latter more where there are many columns.
SAMPLE, PER_COLUMN = 5000, 6

#: Cosine from which on two rows of an item are of one encoder: int8 towers make .9996.
_OWN = 0.999


@dataclass(frozen=True, eq=False)
class Again:
    """Items that were encoded again.

    Attributes
    ----------
    encoder : str
    n : int
    cosine : float
        Median cosine of the rows and the new ones, over the columns that both have.
    others : tuple of int
        Numbers of the rows that are not the encoder's.
    """

    encoder: str
    n: int
    cosine: float
    others: tuple[int, ...]

    @property
    def sentence(self) -> str:
        """Whether the rows are the encoder's."""
        own = self.n - len(self.others)
        which = {0: "None of", self.n: "All"}.get(own, f"{own:,} of")
        said = f"{which} {self.n:,} rows are those of {self.encoder}"
        return f"{said} (median cosine {self.cosine:.4f})."


@dataclass(frozen=True, eq=False)
class Passport:
    """What is known of vectors by themselves.

    Attributes
    ----------
    n, dim, dtype : int, int, str
    broken : tuple of int
        Numbers of the rows with NaN or Inf; they are in nothing that follows.
    norms, duplicates : Norms, Duplicates
        As of `featstore.store.store.row_facts`.
    rank : float
        Effective rank, of at most `SAMPLE` rows.
    hubness : float
        Skewness of how often a row is among the ten nearest of another: 0 without hubs.
    hub : (int, int)
        Number of the row that most often is, and how often.
    sample : int
        Rows that `rank`, `hubness` and `hub` are of.
    footprints : mapping
        Name -> share of rows (`bench.spaces.footprints`).
    minority : mapping
        Name -> numbers of the rows that have it, or lack it if they are fewer; only where the share
        is between 0 and 1.
    unusual : tuple of int, optional
        `bench.spaces.unusual`; None of too few rows.
    again : Again, optional
    """

    n: int
    dim: int
    dtype: str
    broken: tuple[int, ...]
    norms: Norms
    duplicates: Duplicates
    rank: float
    hubness: float
    hub: tuple[int, int]
    sample: int
    footprints: Mapping[str, float]
    minority: Mapping[str, tuple[int, ...]] = field(repr=False)
    unusual: tuple[int, ...] | None = field(repr=False)
    again: Again | None = None


def passport(view: Selection, again: Again | None = None) -> Passport:
    """Look at vectors, in blocks.

    Raises
    ------
    ProtocolError
        If no row is finite and other than zeros.

    Examples
    --------
    >>> key = toy_store("store")["image"]
    >>> found = passport(open_store("store").view(key))
    >>> found.n, found.footprints["padded"], found.unusual is None
    (40, 0.0, True)
    """
    wide = view.astype(np.float64) if view.source.dtype == "float64" else view
    masks, parts = [], []
    for block in wide.batches():
        finite = np.isfinite(block).all(axis=1)
        masks.append((finite, finite & block.any(axis=1)))
        if masks[-1][1].any():
            parts.append(footprints(block[masks[-1][1]]))
    finite, there = np.concatenate(masks, axis=1)
    good = np.flatnonzero(there)
    if not len(good):
        raise ProtocolError(f"All {len(view):,} rows of {view.key} are NaN, Inf or all zeros.")
    norms, duplicates = row_facts(view.take(np.flatnonzero(finite)))
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    rows = wide.take(good)
    some = np.random.default_rng(0).permutation(len(good))[: max(SAMPLE, PER_COLUMN * view.dim)]
    sample = rows.take(some).numpy(np.float32)
    near, apart = sample[:SAMPLE], None
    if len(good) >= ENOUGH_ROWS:
        apart = _numbers(good[unusual(lambda: rows.batches(reuse=True), sample)])
    counts = np.zeros(len(near), np.int64)
    if len(near) > NEIGHBOURS:
        counts = np.bincount(nearest_rows(near, NEIGHBOURS).ravel(), minlength=len(near))
    return Passport(
        len(view), view.dim, view.source.dtype, _numbers(np.flatnonzero(~finite)), norms,
        duplicates, effective_rank(near), float(skew(counts)) if counts.any() else 0.0,
        (int(good[some[counts.argmax()]]), int(counts.max())), len(near),
        {name: float(mask.mean()) for name, mask in found.items()},
        {name: _numbers(good[mask == (mask.mean() <= 0.5)])
         for name, mask in found.items() if 0 < mask.mean() < 1},
        apart, again,
    )  # fmt: skip


def _numbers(rows: npt.NDArray[Any]) -> tuple[int, ...]:
    return tuple(rows.tolist())


def encoded_again(view: Selection, config: AgainConfig) -> Again:
    """Encode items again, and say which of their rows are this encoder's.

    Parameters
    ----------
    view : Selection
        Its items have a column ``text``, or ids that the manifest has.
    config : AgainConfig
        With an encoder.

    Raises
    ------
    ProtocolError
        If no item has a text or a picture.
    EncoderError, ImageError, ManifestError
        If the encoder does not open, or an item cannot be read.
    """
    manifest = None if config.manifest is None else read_manifest(config.manifest)
    items = view.items if manifest is None else manifest.items("image")
    if manifest is None and "text" not in items.columns:
        raise ProtocolError(
            f"The items of {view.key} have no column 'text'. Of pictures, name their manifest "
            "(--manifest DIR): its items are told by their ids."
        )
    there = pl.lit(value=True) if manifest else pl.col("text").is_not_null()
    rows = {item["item_id"]: item for item in items.filter(there).iter_rows(named=True)}
    places = np.flatnonzero(view.items["item_id"].is_in([*rows]).to_numpy())
    if not len(places):
        raise ProtocolError(f"No item of {view.key} has a text, or is in the manifest.")
    places = np.sort(np.random.default_rng(0).permutation(places)[: config.sample])
    chosen, name = view.take(places), str(config.encoder)
    asked = [rows[item] for item in chosen.items["item_id"]]
    if manifest is None:
        given: list[Any] = [item["text"] for item in asked]
    else:
        with open_reader(manifest) as reader:
            given = [reader.read(item) for item in asked]
    new, old = encode(given, name, weights=config.weights), chosen.numpy()
    width = min(new.shape[1], old.shape[1])
    one, two = (unit_or_zero(rows[:, :width].astype(np.float64)) for rows in (old, new))
    cosine = np.einsum("nd,nd->n", one, two)
    others = _numbers(places[~(cosine >= _OWN)])
    return Again(name, len(places), float(np.median(cosine)), others)

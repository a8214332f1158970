"""Which gallery items are relevant to which query: equal group ids, as one flat list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import MetricError


@dataclass(frozen=True, eq=False)
class Relevance:
    """Positions of the relevant gallery items of n queries.

    Query i owns ``positions[starts[i] : starts[i] + counts[i]]``.

    Attributes
    ----------
    positions : int64 array of shape (sum of counts,)
    starts, counts : int64 arrays of shape (n,)
    query_codes, gallery_codes : int64 arrays of shape (n,) and (g,)
        Group of every query and gallery item as a number; equal numbers are relevant.
    """

    positions: NDArray[np.int64]
    starts: NDArray[np.int64]
    counts: NDArray[np.int64]
    query_codes: NDArray[np.int64]
    gallery_codes: NDArray[np.int64]

    @classmethod
    def build(
        cls, query_groups: NDArray[Any], gallery_groups: NDArray[Any], n: int, g: int
    ) -> Relevance:
        """Match the groups of n queries with those of g gallery items.

        Raises
        ------
        MetricError
            If lengths disagree, or a query has no relevant item.
        """
        query_groups, gallery_groups = np.asarray(query_groups), np.asarray(gallery_groups)
        if query_groups.shape != (n,) or gallery_groups.shape != (g,):
            msg = (
                f"Every query and gallery item needs one group id: got {query_groups.shape} ids "
                f"for {n:,} queries and {gallery_groups.shape} for {g:,} gallery items."
            )
            raise MetricError(msg)
        if n == 0 or g == 0:
            msg = f"There is nothing to rank: {n:,} queries, {g:,} gallery items."
            raise MetricError(msg)
        known, gallery_codes = np.unique(gallery_groups, return_inverse=True)
        order = np.argsort(gallery_codes, kind="stable")
        per_group = np.bincount(gallery_codes, minlength=len(known))
        place = np.minimum(np.searchsorted(known, query_groups), len(known) - 1)
        lost = np.flatnonzero(known[place] != query_groups)
        if len(lost):
            msg = (
                f"{len(lost):,} of {n:,} queries have no relevant item in the gallery (first "
                f"group: {str(query_groups[lost[0]])!r}). Drop these queries or add their items "
                "to the gallery."
            )
            raise MetricError(msg)
        counts = per_group[place].astype(np.int64)
        first = starts_of(per_group)[place]
        within = np.arange(counts.sum()) - np.repeat(starts_of(counts), counts)
        positions = order[np.repeat(first, counts) + within].astype(np.int64)
        return cls(positions, starts_of(counts), counts, place, gallery_codes.astype(np.int64))

    @property
    def shape(self) -> tuple[int, int]:
        """Return n and g."""
        return len(self.counts), len(self.gallery_codes)

    def check(self, n: int, g: int) -> None:
        """Check that this is of n queries and g gallery items.

        Raises
        ------
        MetricError
            If not.
        """
        if self.shape != (n, g):
            msg = (
                f"Relevance of {self.shape[0]:,} queries and {self.shape[1]:,} gallery items does "
                f"not fit projections of {n:,} and {g:,}."
            )
            raise MetricError(msg)

    def of_rows(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the (row within the block, gallery position) of every relevant item."""
        counts = self.counts[start:stop]
        begin = self.starts[start]
        rows = np.repeat(np.arange(stop - start), counts)
        return rows, self.positions[begin : begin + counts.sum()]


def starts_of(counts: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Return where each run of a list of consecutive runs begins."""
    ends: NDArray[np.int64] = np.cumsum(counts, dtype=np.int64)
    return ends - counts

"""Ties: equal rows score equally and count against; which answers are right.

Equal items tie, and ties count against. But a matrix product does not give equal rows or columns
equal bits: which kernel they go through depends on their position. OpenBLAS 0.3.31 gave 509 of 517
copies of one column other bits than the first (570 × 384 · 384 × 517, float32, its kernels for
Haswell). So the scores of one are written over those of the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import MetricError

# Rows that differ almost always differ in these columns.
_LOOKED_AT = 4


def first_equal(rows: NDArray[Any]) -> NDArray[np.int64]:
    """Return, for each of n rows, the position of the first row with the same bytes, shape (n,)."""
    key = np.zeros(len(rows), dtype=np.uint64)
    for column in rows[:, :_LOOKED_AT].T:
        bits = np.ascontiguousarray(column).view(f"u{rows.itemsize}")
        key = key * np.uint64(0x9E3779B97F4A7C15) + bits
    _, first, code, counts = np.unique(
        key, return_index=True, return_inverse=True, return_counts=True
    )
    found: NDArray[np.int64] = first[code].astype(np.int64)
    seen: dict[bytes, int] = {}
    for position in np.flatnonzero(counts[code] > 1).tolist():
        found[position] = seen.setdefault(rows[position].tobytes(), position)
    return found


def different_rows(rows: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the positions of the u different rows, each where it is first, and which each row is.

    Shapes (u,) and (n,): ``rows[firsts][which]`` is rows.
    """
    found = first_equal(rows)
    firsts = np.flatnonzero(found == np.arange(len(rows)))
    return firsts, np.searchsorted(firsts, found)


@dataclass(frozen=True, eq=False)
class EqualColumns:
    """Columns of scores that belong to the same item as an earlier one.

    Attributes
    ----------
    others, firsts : int64 arrays of equal length
        Column ``others[i]`` is to be as column ``firsts[i]``.
    """

    others: NDArray[np.int64]
    firsts: NDArray[np.int64]

    @classmethod
    def of(cls, items: NDArray[Any]) -> EqualColumns:
        """Find them for items of shape (g, r), whose scores are the columns."""
        found = first_equal(items)
        others = np.flatnonzero(found != np.arange(len(items)))
        return cls(others, found[others])

    def tie(self, scores: NDArray[Any]) -> NDArray[Any]:
        """Write the scores of the first over those of the others, shape (b, g); return them."""
        if len(self.others):
            scores[:, self.others] = scores[:, self.firsts]
        return scores


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
            raise MetricError(
                f"Every query and gallery item needs one group id: got {query_groups.shape} ids "
                f"for {n:,} queries and {gallery_groups.shape} for {g:,} gallery items."
            )
        if n == 0 or g == 0:
            raise MetricError(f"There is nothing to rank: {n:,} queries, {g:,} gallery items.")
        known, gallery_codes = np.unique(gallery_groups, return_inverse=True)
        order = np.argsort(gallery_codes, kind="stable")
        per_group = np.bincount(gallery_codes, minlength=len(known))
        place = np.minimum(np.searchsorted(known, query_groups), len(known) - 1)
        lost = np.flatnonzero(known[place] != query_groups)
        if len(lost):
            raise MetricError(
                f"{len(lost):,} of {n:,} queries have no relevant item in the gallery (first "
                f"group: {str(query_groups[lost[0]])!r}). Drop these queries or add their items "
                "to the gallery."
            )
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
            raise MetricError(
                f"Relevance of {self.shape[0]:,} queries and {self.shape[1]:,} gallery items does "
                f"not fit projections of {n:,} and {g:,}."
            )

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

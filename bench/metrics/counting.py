"""Counting on one block of scores: at which place each relevant item stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.metrics.relevance import Relevance, starts_of

# Up to so many relevant items a query, one pass over its row for each is cheaper than sorting it.
MAX_PASSES = 8

# Entries from which on a row is worth a call of its own.
LONG_ROW = 2_000

# Of a block's scores, up to this share is little enough to be listed rather than passed again.
FEW = 1 / 32


@dataclass(frozen=True, eq=False)
class Counted:
    """What is kept of a block of queries; see `bench.metrics.ranks.Ranks`."""

    rank: NDArray[np.int64]
    average_precision: NDArray[np.float64]
    truncated_precision: NDArray[np.float64]
    hits: NDArray[np.int64]


def count_block(
    scores: NDArray[np.floating[Any]], start: int, relevance: Relevance, cutoffs: tuple[int, ...]
) -> Counted:
    """Count on the scores of the queries from `start` on, shape (b, g)."""
    n = len(scores)
    rows, positions = relevance.of_rows(start, start + n)
    counts = relevance.counts[start : start + n]
    own = scores[rows, positions]
    order = np.lexsort((-own, rows))
    ordered = own[order]
    at_least = _count_at_least(scores, ordered, counts, starts_of(counts))
    return counted_items(ordered, at_least, counts, cutoffs)


def counted_items(
    ordered: NDArray[np.floating[Any]],
    at_least: NDArray[np.int64],
    counts: NDArray[np.int64],
    cutoffs: tuple[int, ...],
) -> Counted:
    """Return what follows from how many items score at least as much as each relevant one.

    Of the relevant items of a query in order, the j-th stands at place j + (non-relevant items
    that score at least as much): ties count against.

    Parameters
    ----------
    ordered : array of shape (s,)
        Scores of the relevant items, those of one query together and best first.
    at_least : int64 array of shape (s,)
        Items, itself among them, that score at least as much.
    counts : int64 array of shape (n,)
        Relevant items of every query; s in all.
    cutoffs : tuple of int
    """
    starts = starts_of(counts)
    rows = np.repeat(np.arange(len(counts)), counts)
    nth = np.arange(len(ordered)) - np.repeat(starts, counts) + 1
    relevant_at_least = _last_of_ties(ordered, rows, nth)
    place = at_least - relevant_at_least + nth
    hits = np.stack([np.add.reduceat((place <= k).astype(np.int64), starts) for k in cutoffs], 1)
    # Within the first n_relevant places, ties broken: each place has one item.
    inside = np.where(place <= counts[rows], nth / place, 0.0)
    return Counted(
        rank=place[starts],
        average_precision=np.add.reduceat(relevant_at_least / at_least, starts) / counts,
        truncated_precision=np.add.reduceat(inside, starts) / counts,
        hits=hits,
    )


def _count_at_least(
    scores: NDArray[np.floating[Any]],
    own: NDArray[np.floating[Any]],
    counts: NDArray[np.int64],
    starts: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Return, per relevant item, how many gallery items of its query score at least as much.

    One pass over the block for the lowest relevant item of every query, then for the next; as soon
    as a pass finds little, the items above are counted among what it found.
    """
    out = np.empty(len(own), dtype=np.int64)
    most = int(counts.max())
    if most > MAX_PASSES:
        for row, start, count in zip(scores, starts.tolist(), counts.tolist(), strict=True):
            mine = slice(start, start + count)
            out[mine] = len(row) - np.searchsorted(np.sort(row), own[mine], side="left")
        return out
    rows = np.arange(len(scores))  # those that have an item at this place, from the last
    reached = np.empty(scores.shape, dtype=bool)
    for back in range(1, most + 1):
        rows = rows[counts[rows] >= back]
        items = starts[rows] + counts[rows] - back
        block = scores if len(rows) == len(scores) else scores[rows]
        found = np.greater_equal(block, own[items][:, None], out=reached[: len(rows)])
        each = count_true(found)
        out[items] = each
        if back < most and each.sum() <= FEW * scores.size:
            owner = np.repeat(np.arange(len(rows)), each)
            values = block.reshape(-1)[np.flatnonzero(found)]
            for above in range(back + 1, most + 1):
                having = np.flatnonzero(counts[rows] >= above)
                level = np.full(len(rows), np.inf, dtype=own.dtype)
                items = starts[rows[having]] + counts[rows[having]] - above
                level[having] = own[items]
                passed = np.bincount(owner[values >= level[owner]], minlength=len(rows))
                out[items] = passed[having]
            break
    return out


def count_true(found: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return how many entries of every row are true.

    Long rows one by one: counting along an axis took four times as long with 25,000 entries a
    row, and a third of it with 200.
    """
    if found.shape[1] < LONG_ROW:
        each: NDArray[np.int64] = np.count_nonzero(found, axis=1)
        return each
    return np.array([np.count_nonzero(row) for row in found])


def _last_of_ties(
    ordered: NDArray[np.floating[Any]], rows: NDArray[np.int64], nth: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return, per relevant item, how many relevant items of its query score at least as much.

    Within a query they are ordered; equal scores count as far as the last of them.
    """
    last = np.ones(len(ordered), dtype=bool)
    last[:-1] = (ordered[1:] != ordered[:-1]) | (rows[1:] != rows[:-1])
    ends = np.flatnonzero(last)
    return nth[ends[np.searchsorted(ends, np.arange(len(ordered)))]]

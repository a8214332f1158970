"""Exact ranks of the relevant gallery items, counted block by block.

Queries and gallery items carry a group id each, and an item is relevant to a query when the
two ids are equal: a caption carries the id of its image, an image the id of its class. A
query may have several relevant items.

**Ties count against.** A non-relevant item whose score equals that of a relevant one stands
before it, so that a projection that maps everything to one point gets recall 0, not 1.
Average precision follows the same rule in the form of
``sklearn.metrics.average_precision_score``: the precision at a relevant item counts every
item with at least its score.

A worked example with 2 queries and 4 gallery items::

                    gallery group   a     b     a     c
    query group a   scores        [0.2,  0.9,  0.5,  0.1]
    query group c   scores        [0.3,  0.3,  0.8,  0.3]

Query a: its relevant items score 0.5 and 0.2. One non-relevant item scores at least 0.5
(0.9), so the rank is 2. Items with at least 0.5: two, one of them relevant (precision 1/2);
with at least 0.2: three, two of them relevant (2/3); average precision (1/2 + 2/3) / 2 = 7/12.
Query c: its only relevant item scores 0.3; three non-relevant items score at least that, two
of them tied, so the rank is 4 and the average precision 1/4. Recall at 1 is 0 of 2 queries,
at 2 it is 1 of 2, at 4 it is 2 of 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse

from bench.errors import MetricError

#: Stands in `Ranks.top` where the gallery has fewer items than places.
NO_ITEM = -1

# 8 M float32 scores are 32 MiB: large enough for the matrix product to run at full speed,
# small enough that the comparisons after it still find the block in the cache hierarchy.
BLOCK_SCORES = 8_000_000

# Up to so many relevant items per query, one comparison pass per relevant item is cheaper
# than sorting the row.
MAX_PASSES = 8


@dataclass(frozen=True)
class Ranks:
    """What n queries found in a gallery of g items.

    Attributes
    ----------
    rank : int64 array of shape (n,)
        Place of the best relevant item, from 1; ties count against.
    average_precision : float64 array of shape (n,)
        Mean over the relevant items of the precision at each.
    n_relevant : int64 array of shape (n,)
        Relevant items of each query, at least 1.
    top : int64 array of shape (n, k)
        Gallery positions of the first k items, best first: by score, at equal score
        non-relevant items first, then the lower position. `NO_ITEM` beyond the gallery.
    gallery : int
        g, the number of gallery items.
    """

    rank: NDArray[np.int64]
    average_precision: NDArray[np.float64]
    n_relevant: NDArray[np.int64]
    top: NDArray[np.int64]
    gallery: int


def rank_projections(
    queries: NDArray[np.floating[Any]] | Any,
    gallery: NDArray[np.floating[Any]] | Any,
    query_groups: NDArray[Any],
    gallery_groups: NDArray[Any],
    *,
    top: int = 5,
    block_scores: int = BLOCK_SCORES,
) -> Ranks:
    """Rank the gallery for every query by dot product, without the whole score matrix.

    Parameters
    ----------
    queries : array or csr_array of shape (n, r)
        Projections; with rows of unit length the score is the cosine.
    gallery : array or csr_array of shape (g, r)
    query_groups, gallery_groups : arrays of shape (n,) and (g,)
        Ids of any comparable type; equal id means relevant.
    top : int
        How many gallery positions to keep per query.
    block_scores : int
        Scores held at once. It bounds memory and does not change the result of a block:
        a relevant item's score is read from the same product as all others.

    Raises
    ------
    MetricError
        If shapes disagree, a projection is not finite, or a query has no relevant item.
    """
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
        msg = (
            f"Queries and gallery must be matrices over one shared space, got shapes "
            f"{queries.shape} and {gallery.shape}. Project both with the same alignment."
        )
        raise MetricError(msg)
    relevance = _Relevance.build(query_groups, gallery_groups, queries.shape[0], gallery.shape[0])
    queries, columns = _in_float32(queries), _in_float32(gallery).T
    for name, rows in (("query", queries), ("gallery", columns)):
        if not np.isfinite(rows.data if issparse(rows) else rows).all():
            msg = f"A {name} projection is not finite: nothing can be ranked by it."
            raise MetricError(msg)
    rows_per_block = max(1, block_scores // max(1, columns.shape[1]))
    blocks = [
        _rank_block(
            _scores(queries[start : start + rows_per_block], columns), start, relevance, top
        )
        for start in range(0, queries.shape[0], rows_per_block)
    ]
    return _join(blocks, relevance)


def ranks_from_scores(
    scores: NDArray[np.floating[Any]],
    query_groups: NDArray[Any],
    gallery_groups: NDArray[Any],
    *,
    top: int = 5,
) -> Ranks:
    """Rank from a finished score matrix of shape (n, g); higher is better.

    The same as `rank_projections` for scores that are no dot products.
    """
    if scores.ndim != 2:
        msg = f"Scores must be a matrix of queries × gallery, got shape {scores.shape}."
        raise MetricError(msg)
    relevance = _Relevance.build(query_groups, gallery_groups, *scores.shape)
    if np.isnan(scores).any():
        msg = "A score is NaN: nothing can be ranked by it."
        raise MetricError(msg)
    return _join([_rank_block(scores, 0, relevance, top)], relevance)


@dataclass(frozen=True)
class _Relevance:
    """Which gallery positions are relevant to which query, as one flat list.

    Query i owns ``positions[starts[i] : starts[i] + counts[i]]``.
    """

    positions: NDArray[np.int64]
    starts: NDArray[np.int64]
    counts: NDArray[np.int64]
    n_gallery: int

    @classmethod
    def build(
        cls, query_groups: NDArray[Any], gallery_groups: NDArray[Any], n: int, g: int
    ) -> _Relevance:
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
        order = np.argsort(gallery_groups, kind="stable")
        ordered = gallery_groups[order]
        first = np.searchsorted(ordered, query_groups, side="left")
        counts = np.searchsorted(ordered, query_groups, side="right") - first
        if not counts.all():
            lost = query_groups[np.flatnonzero(counts == 0)]
            msg = (
                f"{len(lost):,} of {n:,} queries have no relevant item in the gallery (first "
                f"group: {str(lost[0])!r}). Drop these queries or add their items to the gallery."
            )
            raise MetricError(msg)
        return cls(_ragged(order, first, counts), _starts(counts), counts.astype(np.int64), g)

    def of_rows(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the (row within the block, gallery position) of every relevant item."""
        counts = self.counts[start:stop]
        begin = self.starts[start]
        rows = np.repeat(np.arange(stop - start), counts)
        return rows, self.positions[begin : begin + counts.sum()]


def _in_float32(rows: Any) -> Any:
    return rows.astype(np.float32) if issparse(rows) else np.ascontiguousarray(rows, np.float32)


def _scores(queries: Any, columns: Any) -> NDArray[np.float32]:
    """Return queries @ columns, such that equal gallery items get equal scores.

    A product with a single row goes through another kernel (gemv), which gives identical
    columns different last bits: measured, 22 of 200 ties were broken by it.
    """
    if issparse(queries):
        # Products are summed in the order of the query's own entries: equal items, equal scores.
        return np.asarray((queries @ columns).toarray())
    if len(queries) == 1:
        return np.asarray((np.repeat(queries, 2, axis=0) @ columns)[:1])
    return np.asarray(queries @ columns)


def _starts(counts: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    ends: NDArray[np.int64] = np.cumsum(counts, dtype=np.int64)
    return ends - counts


def _ragged(
    values: NDArray[np.int64], first: NDArray[np.int64], counts: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return values[first[i] : first[i] + counts[i]] for every i, one after another."""
    within = np.arange(counts.sum()) - np.repeat(_starts(counts), counts)
    taken: NDArray[np.int64] = values[np.repeat(first, counts) + within].astype(np.int64)
    return taken


def _rank_block(
    scores: NDArray[np.floating[Any]], start: int, relevance: _Relevance, top: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    n, g = scores.shape
    rows, positions = relevance.of_rows(start, start + n)
    counts = relevance.counts[start : start + n]
    own = scores[rows, positions]
    at_least = _count_at_least(scores, own, counts)
    # Among the relevant items of a query, how many score at least as much as this one:
    # sort them within their query, then count back from the last equal value.
    relevant_at_least = _count_relevant_at_least(own, rows, counts)
    best = np.maximum.reduceat(own, _starts(counts))
    is_best = own == best[rows]
    rank = np.zeros(n, dtype=np.int64)
    rank[rows[is_best]] = 1 + (at_least - relevant_at_least)[is_best]
    precision = np.add.reduceat(relevant_at_least / at_least, _starts(counts)) / counts
    relevant = np.zeros((n, g), dtype=bool)
    relevant[rows, positions] = True
    return rank, precision, _top_positions(scores, relevant, top)


def _count_at_least(
    scores: NDArray[np.floating[Any]],
    own: NDArray[np.floating[Any]],
    counts: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Return, per relevant item, how many gallery items of its query score at least as much."""
    starts = _starts(counts)
    if counts.max() <= MAX_PASSES:
        out = np.empty(len(own), dtype=np.int64)
        for place in range(int(counts.max())):
            having = np.flatnonzero(counts > place)
            items = starts[having] + place
            block = scores if len(having) == len(scores) else scores[having]
            out[items] = np.count_nonzero(block >= own[items, None], axis=1)
        return out
    ordered = np.sort(scores, axis=1)
    parts = [
        np.searchsorted(ordered[row], own[starts[row] : starts[row] + counts[row]], side="left")
        for row in range(len(scores))
    ]
    at_least: NDArray[np.int64] = scores.shape[1] - np.concatenate(parts).astype(np.int64)
    return at_least


def _count_relevant_at_least(
    own: NDArray[np.floating[Any]], rows: NDArray[np.int64], counts: NDArray[np.int64]
) -> NDArray[np.int64]:
    order = np.lexsort((-own, rows))
    within = np.arange(len(own)) - np.repeat(_starts(counts), counts)
    ordered = own[order]
    last_of_tie = np.ones(len(own), dtype=bool)
    last_of_tie[:-1] = (ordered[1:] != ordered[:-1]) | (rows[1:] != rows[:-1])
    # The place of the last equal value is the count for every member of the tie.
    ends = np.flatnonzero(last_of_tie)
    end = ends[np.searchsorted(ends, np.arange(len(own)))]
    out = np.empty(len(own), dtype=np.int64)
    out[order] = within[end] + 1
    return out


def _top_positions(
    scores: NDArray[np.floating[Any]], relevant: NDArray[np.bool_], top: int
) -> NDArray[np.int64]:
    n, g = scores.shape
    k = min(top, g)
    out = np.full((n, top), NO_ITEM, dtype=np.int64)
    if k == 0:
        return out
    if k < g:
        chosen = np.argpartition(scores, g - k, axis=1)[:, g - k :]
    else:
        chosen = np.broadcast_to(np.arange(g), (n, g))
    values = np.take_along_axis(scores, chosen, axis=1)
    good = np.take_along_axis(relevant, chosen, axis=1)
    order = np.lexsort((chosen, good, -values), axis=1)
    out[:, :k] = np.take_along_axis(chosen, order, axis=1)
    # Where a tie crosses the last place, the partition has kept an arbitrary part of it.
    tied = np.flatnonzero(np.count_nonzero(scores >= values.min(axis=1)[:, None], axis=1) > k)
    for row in tied:
        full = np.lexsort((np.arange(g), relevant[row], -scores[row]))
        out[row, :k] = full[:k]
    return out


def _join(
    blocks: list[tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]],
    relevance: _Relevance,
) -> Ranks:
    ranks, precisions, tops = zip(*blocks, strict=True)
    return Ranks(
        rank=np.concatenate(ranks),
        average_precision=np.concatenate(precisions),
        n_relevant=relevance.counts,
        top=np.concatenate(tops),
        gallery=relevance.n_gallery,
    )

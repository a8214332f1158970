"""Ranks of the right answer, exact, in blocks of a score matrix never held whole.

The product is made in float32, whatever the projections are, and no block outlives its turn.

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
It has two relevant items, and of its first two places the second holds one: truncated average
precision (0 + 1/2) / 2 = 1/4.
Query c: its only relevant item scores 0.3; three non-relevant items score at least that, two
of them tied, so the rank is 4 and the average precision 1/4. Recall at 1 is 0 of 2 queries,
at 2 it is 1 of 2, at 4 it is 2 of 2.

Equal items tie, and ties count against. But a matrix product does not give equal rows or columns
equal bits: which kernel they go through depends on their position. OpenBLAS 0.3.31 gave 509 of 517
copies of one column other bits than the first (570 × 384 · 384 × 517, float32, its kernels for
Haswell). So the scores of one are written over those of the others.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse

from bench.errors import MetricError
from featstore.parallel import map_threads

# Up to so many relevant items a query, one pass over its row for each is cheaper than sorting it.
MAX_PASSES = 8

#: The k of true recall and precision at k. Hit recall needs none: it follows from the rank.
CUTOFFS = (1, 5, 10)


def first_equal(rows: NDArray[Any]) -> NDArray[np.int64]:
    """Return, for each of n rows, the position of the first row with the same bytes, shape (n,)."""
    seen: dict[bytes, int] = {}
    return np.array([seen.setdefault(row.tobytes(), k) for k, row in enumerate(rows)], np.int64)


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
    def build(cls, query_groups: NDArray[Any], gallery_groups: NDArray[Any]) -> Relevance:
        """Match the groups of n queries with those of g gallery items.

        Raises
        ------
        MetricError
            If a side is empty, or a query has no relevant item.
        """
        n, g = len(query_groups), len(gallery_groups)
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


@dataclass(frozen=True)
class Ranks:
    """What n queries found in a gallery of g items.

    Attributes
    ----------
    rank : int64 array of shape (n,)
        Place of the best relevant item, from 1; ties count against.
    average_precision : float64 array of shape (n,)
        Mean over the relevant items of the precision at each.
    truncated_precision : float64 array of shape (n,)
        The same over the first n_relevant places only, ties broken as in `top`; relevant items
        beyond count 0.
    hits : int64 array of shape (n, len(CUTOFFS))
        Relevant items among the first k places, for every k of `CUTOFFS`.
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
    truncated_precision: NDArray[np.float64]
    hits: NDArray[np.int64]
    n_relevant: NDArray[np.int64]
    top: NDArray[np.int64]
    gallery: int

    @classmethod
    def of_block(
        cls, scores: NDArray[np.floating[Any]], start: int, relevance: Relevance, top: int
    ) -> Ranks:
        """Rank by the scores of the queries from `start` on, shape (b, g)."""
        stop = start + len(scores)
        rows, positions = relevance.of_rows(start, stop)
        counts = relevance.counts[start:stop]
        own = scores[rows, positions]
        ordered, starts = own[np.lexsort((-own, rows))], starts_of(counts)
        at_least = _count_at_least(scores, ordered, counts, starts)
        # Of the relevant items of a query in order, the j-th stands at place j + (non-relevant
        # items that score at least as much): ties count against.
        nth = np.arange(len(ordered)) - np.repeat(starts, counts) + 1
        relevant_at_least = _last_of_ties(ordered, rows, nth)
        place = at_least - relevant_at_least + nth
        # Within the first n_relevant places, ties broken: each place has one item.
        inside = np.where(place <= counts[rows], nth / place, 0.0)
        return cls(
            rank=place[starts],
            average_precision=np.add.reduceat(relevant_at_least / at_least, starts) / counts,
            truncated_precision=np.add.reduceat(inside, starts) / counts,
            hits=np.stack(
                [np.add.reduceat(place <= k, starts, dtype=np.int64) for k in CUTOFFS], 1
            ),
            n_relevant=counts,
            top=first_places(
                scores, relevance.query_codes[start:stop], relevance.gallery_codes, top
            ),
            gallery=scores.shape[1],
        )

    @classmethod
    def joined(cls, blocks: Sequence[Ranks]) -> Ranks:
        """Return the ranks of all queries from those of consecutive blocks."""
        columns = [one.name for one in fields(cls)[:-1]]
        found = {name: np.concatenate([getattr(b, name) for b in blocks]) for name in columns}
        return cls(**found, gallery=blocks[0].gallery)


def _count_at_least(
    scores: NDArray[np.floating[Any]],
    own: NDArray[np.floating[Any]],
    counts: NDArray[np.int64],
    starts: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Return, per relevant item, how many gallery items of its query score at least as much.

    One pass over the block for the lowest relevant item of every query, then for the next.
    """
    out = np.empty(len(own), dtype=np.int64)
    most = int(counts.max())
    if most > MAX_PASSES:
        for row, start, count in zip(scores, starts.tolist(), counts.tolist(), strict=True):
            mine = slice(start, start + count)
            out[mine] = len(row) - np.searchsorted(np.sort(row), own[mine], side="left")
        return out
    rows = np.arange(len(scores))  # those that have an item at this place, from the last
    for back in range(1, most + 1):
        rows = rows[counts[rows] >= back]
        items = starts[rows] + counts[rows] - back
        block = scores if len(rows) == len(scores) else scores[rows]
        out[items] = np.count_nonzero(block >= own[items][:, None], axis=1)
    return out


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


#: Stands where the gallery has fewer items than places.
NO_ITEM = -1

# A row with more candidates than this many times its places is full of ties and is done alone, so
# that no list is longer than the block of scores.
_CROWDED = 64


def first_places(
    scores: NDArray[np.floating[Any]],
    query_codes: NDArray[np.int64],
    gallery_codes: NDArray[np.int64],
    top: int,
) -> NDArray[np.int64]:
    """Return the gallery positions of the first `top` items of every row, best first.

    By score; at equal score items of another group than the query's first, then the lower
    position. `NO_ITEM` beyond the gallery.

    Parameters
    ----------
    scores : array of shape (n, g)
    query_codes, gallery_codes : int64 arrays of shape (n,) and (g,)
        Equal codes are relevant.
    top : int
    """
    n, g = scores.shape
    k = min(top, g)
    out = np.full((n, top), NO_ITEM, dtype=np.int64)
    if k == 0:
        return out
    rows, positions, crowded = _candidates(scores, k)
    for row in crowded.tolist():
        relevant = gallery_codes == query_codes[row]
        out[row, :k] = _first_of_ties(scores[row], relevant, k)
    relevant = gallery_codes[positions] == query_codes[rows]
    order = np.lexsort((positions, relevant, -scores[rows, positions], rows))
    having = np.ones(n, dtype=bool)
    having[crowded] = False
    starts = starts_of(np.bincount(rows, minlength=n))[having]
    out[having, :k] = positions[order][starts[:, None] + np.arange(k)]
    return out


def _candidates(
    scores: NDArray[np.floating[Any]], k: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return (rows, positions) of items among which the first k of a row are, and other rows.

    In the other rows ties leave too many candidates to list.
    """
    g = scores.shape[1]
    level = scores.max(axis=1) if k == 1 else np.partition(scores, g - k, axis=1)[:, g - k]
    wanted = scores >= level[:, None]
    crowded = np.count_nonzero(wanted, axis=1) > _CROWDED * k
    wanted[crowded] = False
    return *np.divmod(np.flatnonzero(wanted), g), np.flatnonzero(crowded)


def _first_of_ties(
    row: NDArray[np.floating[Any]], relevant: NDArray[np.bool_], k: int
) -> NDArray[np.int64]:
    """Return the first k of one row, in a few passes over it and without sorting its ties."""
    last = np.partition(row, len(row) - k)[len(row) - k]
    above, tied = np.flatnonzero(row > last), np.flatnonzero(row == last)
    few = np.concatenate([above, tied[~relevant[tied]][:k], tied[relevant[tied]][:k]])
    return few[np.lexsort((few, relevant[few], -row[few]))][:k]


Result = TypeVar("Result")

# 8 M float32 scores are 32 MiB: large enough for the matrix product to run at full speed,
# small enough that the comparisons after it still find the block in the cache hierarchy.
BLOCK_SCORES = 8_000_000


def checked_sides(queries: Any, gallery: Any) -> tuple[Any, Any]:
    """Return queries (n, r) and gallery columns (r, g) in float32.

    Raises
    ------
    MetricError
        If shapes disagree, or a projection is not finite.
    """
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
        raise MetricError(
            f"Queries and gallery must be matrices over one shared space, got shapes "
            f"{queries.shape} and {gallery.shape}. Project both with the same alignment."
        )
    queries, columns = _in_float32(queries), _in_float32(gallery).T
    for name, rows in (("query", queries), ("gallery", columns)):
        if not np.isfinite(rows.data if issparse(rows) else rows).all():
            raise MetricError(f"A {name} projection is not finite: nothing can be ranked by it.")
    return queries, columns


def _in_float32(rows: Any) -> Any:
    return rows.astype(np.float32) if issparse(rows) else np.ascontiguousarray(rows, np.float32)


def of_blocks(
    function: Callable[[NDArray[np.float32], int], Result],
    queries: Any,
    columns: Any,
    block_scores: int,
) -> list[Result]:
    """Return function(scores, first row) for blocks of rows of the scores, queries @ columns.

    A block is valid during its call, and `function` may write into it. Where there are several they
    are made side by side, a thread each: beside a product with all threads and counting with one,
    5,000 × 25,000 × 512 took a fifth less with two.

    Equal gallery items get equal scores, which a product alone does not do: see `equal_rows`.
    """
    n, g = queries.shape[0], columns.shape[1]
    rows = -(-n // -(-n // max(1, block_scores // g)))  # equally large blocks
    equal = None if issparse(columns) else EqualColumns.of(columns.T)
    memory = threading.local()

    def of_block(start: int) -> Result:
        part = queries[start : start + rows]
        if issparse(part):
            # Products are summed in the order of the query's own entries: equal items, equal
            # scores.
            return function(np.asarray((part @ columns).toarray()), start)
        # One block of memory a thread: taking it anew costs a page fault every 4 kB.
        if not hasattr(memory, "block"):
            memory.block = np.empty((min(rows, n), g), dtype=np.float32)
        scores = np.matmul(part, columns, out=memory.block[: len(part)])
        return function(scores if equal is None else equal.tie(scores), start)

    return map_threads(of_block, range(0, n, rows))


def rank_relevant(
    queries: NDArray[np.floating[Any]] | Any,
    gallery: NDArray[np.floating[Any]] | Any,
    relevance: Relevance,
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
    relevance : Relevance
        Serves every projection of the same items.
    top : int
        How many gallery positions to keep per query.
    block_scores : int
        Scores that a thread holds at once. It bounds memory and does not change the result of a
        block: a relevant item's score is read from the same product as all others.

    Raises
    ------
    MetricError
        If shapes disagree, or a projection is not finite.
    """
    queries, columns = checked_sides(queries, gallery)

    def ranks(scores: NDArray[np.float32], start: int) -> Ranks:
        return Ranks.of_block(scores, start, relevance, top)

    return Ranks.joined(of_blocks(ranks, queries, columns, block_scores))


def rank_blocks(
    blocks: Iterable[NDArray[np.floating[Any]]], relevance: Relevance, *, top: int = 5
) -> Ranks:
    """Rank from scores that come in blocks of rows, together of the shape of `relevance`.

    Raises
    ------
    MetricError
        If the blocks are not n rows of g scores, or a score is NaN.
    """
    n, g = relevance.shape
    done, start = [], 0
    for scores in blocks:
        if scores.shape[1] != g or start + len(scores) > n:
            raise MetricError(
                f"A block of scores has shape {scores.shape}; {n - start:,} queries are left, and "
                f"the gallery has {g:,} items."
            )
        if np.isnan(scores).any():
            raise MetricError("A score is NaN: nothing can be ranked by it.")
        done.append(Ranks.of_block(scores, start, relevance, top))
        start += len(scores)
    return Ranks.joined(done)

"""Ranks of both directions of a retrieval from one product.

The scores of one query lie in every block, and those of its relevant items in some of them, so
that nothing can be counted when a block is there. But a relevant score is known beforehand to
within the rounding of a dot product, and what is not that near to it can. The rest, usually next to
nothing, is listed with its score, and counted at the end: the counts are exact.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse

from bench.metrics.ranks import (
    BLOCK_SCORES,
    CUTOFFS,
    FEW,
    MAX_PASSES,
    NO_ITEM,
    WIDTH,
    Counted,
    Ranks,
    checked_sides,
    counted_items,
    join_blocks,
    of_blocks,
    rank_block,
    ranked,
)
from bench.metrics.ties import EqualRows, Relevance, starts_of

#: Scores that may be listed, 8 or 12 bytes each; of many scores this share.
MOST_LISTED, LISTED_SHARE = 8_000_000, 1 / 128

Listed = tuple[NDArray[np.int32], NDArray[np.float32]]


class ColumnQueries:
    """What m queries find in a gallery of n items, from blocks of rows of the (n, m) scores.

    Any thread may bring any block, in any order.

    Parameters
    ----------
    rows, columns : float32 arrays of shape (n, r) and (r, m)
        Their product is what the blocks hold.
    relevance : Relevance
        Of the columns to the rows.
    top : int
        First places that are kept.
    """

    def __init__(
        self,
        rows: NDArray[np.float32],
        columns: NDArray[np.float32],
        relevance: Relevance,
        top: int,
    ) -> None:
        m, n = relevance.shape
        self._relevance, self._top = relevance, top
        self._most_listed = max(MOST_LISTED, int(LISTED_SHARE * n * m))
        self._few = min(FEW, self._most_listed / (4 * n * m))
        query = np.repeat(np.arange(m), relevance.counts)
        low, high = _bounds(rows, columns.T, relevance.positions, query)
        # Place 0 is the lowest of a query's relevant items: what reaches it holds all others.
        nth = np.empty(len(query), dtype=np.int64)
        within = np.arange(len(query)) - np.repeat(relevance.starts, relevance.counts)
        nth[np.lexsort((low, query))] = within
        most = int(relevance.counts.max())
        self._item_at = np.full((most, m), -1, dtype=np.int64)
        self._low, self._high = np.full((2, most, m), np.inf, dtype=np.float32)
        self._item_at[nth, query] = np.arange(len(query))
        self._low[nth, query], self._high[nth, query] = low, high
        self._query = query
        self._by_position = np.argsort(relevance.positions, kind="stable")
        self._positions = relevance.positions[self._by_position]
        self._own = np.empty(len(query), dtype=np.float32)
        self._sure = np.zeros((most, m), dtype=np.int64)
        self._near: list[list[Listed]] = [[] for _ in range(most)]
        # The k largest maxima of groups of rows, the k-th first.
        self._best = np.full((min(top, n), m), -np.inf, dtype=np.float32)
        self._first: list[tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]] = []
        # Where scores overflow there are no bounds.
        self._listed = 0 if np.isfinite([low, high]).all() else self._most_listed + 1
        self._lock = threading.Lock()

    @property
    def crowded(self) -> bool:
        """Whether ties left too much to list: there is no result then."""
        return self._listed > self._most_listed

    def add(self, scores: NDArray[np.float32], start: int) -> None:
        """Count the rows from `start` on, shape (b, m)."""
        if self.crowded:
            return
        here = slice(*np.searchsorted(self._positions, (start, start + len(scores))))
        items = self._by_position[here]
        self._own[items] = scores[self._positions[here] - start, self._query[items]]
        self._count(scores)
        if not self.crowded:
            self._keep_first(scores, start)

    def _count(self, scores: NDArray[np.float32]) -> None:
        most = len(self._low)
        for place in range(most):
            reached = scores >= self._low[place]
            few = np.count_nonzero(reached) <= self._few * scores.size
            if not few:
                sure = scores >= self._high[place]
                each = _sum_of_columns(sure)
                reached ^= sure
            listed = self._list(scores, reached)
            with self._lock:
                if not few:
                    self._sure[place] += each
                for above in range(place, most if few else place + 1):
                    self._near[above].append(listed)
            if few or self.crowded:
                return

    def _list(self, scores: NDArray[np.float32], chosen: NDArray[np.bool_]) -> Listed:
        count = int(np.count_nonzero(chosen))
        with self._lock:
            self._listed += count
        if self.crowded:
            return np.empty(0, np.int32), np.empty(0, np.float32)
        flat = np.flatnonzero(chosen)
        return (flat % scores.shape[1]).astype(np.int32), scores.reshape(-1)[flat]

    def _keep_first(self, scores: NDArray[np.float32], start: int) -> None:
        """List what may be among the first: what reaches the first places of the rows so far.

        Of groups of rows, k have the k largest maxima, so at least k scores reach the k-th.
        """
        b, m = scores.shape
        k = len(self._best)
        if k == 0:
            return
        width = max(1, min(WIDTH, b // (4 * k)))
        groups = b // width
        if groups >= k:
            maxima = scores[: groups * width].reshape(groups, width, m).max(axis=1)
            best = np.partition(maxima, groups - k, axis=0)[groups - k :]
            with self._lock:
                self._best = np.partition(np.concatenate([self._best, best]), k, axis=0)[k:]
        level = self._best[0]
        chosen = scores >= level
        count = int(np.count_nonzero(chosen))
        with self._lock:
            self._listed += count
        if self.crowded:
            return
        flat = np.flatnonzero(chosen)
        row, column = np.divmod(flat, m)
        found = ((row + start).astype(np.int32), column.astype(np.int32), scores.reshape(-1)[flat])
        with self._lock:
            self._first.append(found)

    def result(self, cutoffs: tuple[int, ...]) -> tuple[Counted, NDArray[np.int64]]:
        """Return what is counted for every query, and its first places, when all rows were added.

        As `bench.metrics.ranks.rank_block` of the transposed scores.
        """
        at_least = np.zeros(len(self._own), dtype=np.int64)
        for place, listed in enumerate(self._near):
            items = self._item_at[place]
            having = items >= 0
            at_least[items[having]] += self._sure[place][having]
            own = np.full(len(items), np.inf, dtype=np.float32)
            own[having] = self._own[items[having]]
            column, score = (np.concatenate(parts) for parts in zip(*listed, strict=True))
            passed = np.bincount(column[score >= own[column]], minlength=len(items))
            at_least[items[having]] += passed[having]
        order = np.lexsort((-self._own, self._query))
        counted = counted_items(self._own[order], at_least[order], self._relevance.counts, cutoffs)
        return counted, self._first_places()

    def _first_places(self) -> NDArray[np.int64]:
        m, n = self._relevance.shape
        k = min(self._top, n)
        out = np.full((m, self._top), NO_ITEM, dtype=np.int64)
        if k == 0:
            return out
        row, column, score = (np.concatenate(parts) for parts in zip(*self._first, strict=True))
        kept = np.flatnonzero(score >= self._best[0][column])
        row, column, score = row[kept], column[kept], score[kept]
        relevant = self._relevance.gallery_codes[row] == self._relevance.query_codes[column]
        order = np.lexsort((row, relevant, -score, column))
        starts = starts_of(np.bincount(column, minlength=m))
        out[:, :k] = row[order][starts[:, None] + np.arange(k)]
        return out


def _bounds(
    a: NDArray[np.float32],
    b: NDArray[np.float32],
    i: NDArray[np.int64],
    j: NDArray[np.int64],
    rows: int = 4096,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return between what a[i] · b[j] lies, in whatever order float32 sums its r products.

    Within r·u / (1 − r·u) · |a|·|b| of the true value, u = 2⁻²⁴ (Higham, Accuracy and Stability of
    Numerical Algorithms, section 3.1).
    """
    r = a.shape[1]
    u = 2.0**-24 * (r + 2)
    of_a, of_b = (np.sqrt(np.einsum("ij,ij->i", c, c, dtype=np.float64)) for c in (a, b))
    true = np.empty(len(i))
    for start in range(0, len(i), rows):
        part = slice(start, start + rows)
        true[part] = np.einsum("ij,ij->i", a[i[part]], b[j[part]], dtype=np.float64)
    least = r * float(np.finfo(np.float32).tiny)  # below it, rounding is absolute
    slack = 1.001 * u / (1 - u) * of_a[i] * of_b[j] + least
    with np.errstate(over="ignore"):
        low, high = (true - slack).astype(np.float32), (true + slack).astype(np.float32)
    return np.nextafter(low, np.float32(-np.inf)), np.nextafter(high, np.float32(np.inf))


def _sum_of_columns(found: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return how many entries of every column are true, as sums of bytes: 255 rows fit in one."""
    total = np.zeros(found.shape[1], dtype=np.int64)
    for start in range(0, len(found), 255):
        total += np.add.reduce(found[start : start + 255].view(np.uint8), axis=0, dtype=np.uint8)
    return total


# More is looked at a block than where one direction is counted: of 25,000 × 5,000 scores, blocks of
# 2.5 M took 2 to 12 % less time than of 8 M. Products of fewer rows are slower.
SMALL_BLOCK, FEWEST_ROWS = 2_500_000, 400


def rank_both_ways(
    x: NDArray[np.floating[Any]] | Any,
    y: NDArray[np.floating[Any]] | Any,
    x_to_y: Relevance,
    y_to_x: Relevance,
    *,
    top: int = 5,
    block_scores: int | None = None,
) -> tuple[Ranks, Ranks]:
    """Rank the rows of y for every row of x, and those of x for every row of y.

    What two calls of `bench.metrics.rank_relevant` give, where both products have the same bits;
    relevant and other items are compared within one product in either case, and equal rows tie.
    One product serves both unless a side is sparse, a query of the shorter side has more than
    `MAX_PASSES` relevant items, or many rows of the longer side are the same.

    Parameters
    ----------
    x, y : arrays or csr_arrays of shape (n, r) and (m, r)
    x_to_y, y_to_x : Relevance
        Of n queries to m items, and of m queries to n items.
    top : int
    block_scores : int, optional
        See `bench.metrics.rank_projections`; by default about `SMALL_BLOCK`.

    Raises
    ------
    MetricError
        If shapes disagree, or a projection is not finite.
    """
    if x.shape[0] < y.shape[0]:
        of_y, of_x = rank_both_ways(y, x, y_to_x, x_to_y, top=top, block_scores=block_scores)
        return of_x, of_y
    rows, columns = checked_sides(x, y)
    n, m = rows.shape[0], columns.shape[1]
    if block_scores is None:
        block_scores = max(SMALL_BLOCK, min(BLOCK_SCORES, FEWEST_ROWS * m))
    x_to_y.check(n, m)
    y_to_x.check(m, n)

    def second() -> Ranks:
        queries, gallery = checked_sides(y, x)
        return ranked(queries, gallery, y_to_x, top, block_scores)

    if issparse(rows) or issparse(columns) or y_to_x.counts.max() > MAX_PASSES:
        return ranked(rows, columns, x_to_y, top, block_scores), second()
    equal = EqualRows.of(rows)
    if len(equal.repeated) * m > block_scores:
        return ranked(rows, columns, x_to_y, top, block_scores), second()
    same = np.zeros((0, m), dtype=np.float32)
    if len(equal.repeated):
        (same,) = of_blocks(lambda scores, _: scores.copy(), equal.repeated, columns, block_scores)
    queries = ColumnQueries(rows, columns, y_to_x, top)

    def both(scores: NDArray[np.float32], start: int) -> tuple[Counted, NDArray[np.int64]]:
        equal.tie(same, scores, start)
        queries.add(scores, start)
        return rank_block(scores, start, x_to_y, top)

    first = join_blocks(of_blocks(both, rows, columns, block_scores), x_to_y)
    if queries.crowded:
        return first, second()
    return first, join_blocks([queries.result(CUTOFFS)], y_to_x)

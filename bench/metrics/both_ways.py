"""Both directions of a retrieval from one product: x·yᵀ holds the scores of either."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse

from bench.metrics.column_queries import ColumnQueries
from bench.metrics.counting import MAX_PASSES, Counted
from bench.metrics.equal_rows import EqualRows
from bench.metrics.ranks import CUTOFFS, Ranks, join_blocks, rank_block, ranked
from bench.metrics.relevance import Relevance
from bench.metrics.score_blocks import BLOCK_SCORES, checked_sides, of_blocks

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

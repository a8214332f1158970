"""Both directions of a retrieval from one product: x·yᵀ holds the scores of either."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse

from bench.metrics.column_queries import ColumnQueries
from bench.metrics.counting import MAX_PASSES, Counted
from bench.metrics.ranks import CUTOFFS, Ranks, join_blocks, rank_block, ranked
from bench.metrics.relevance import Relevance
from bench.metrics.repeated_rows import RepeatedRows
from bench.metrics.score_blocks import BLOCK_SCORES, checked_sides, of_blocks


def rank_both_ways(
    x: NDArray[np.floating[Any]] | Any,
    y: NDArray[np.floating[Any]] | Any,
    x_to_y: Relevance,
    y_to_x: Relevance,
    *,
    top: int = 5,
    block_scores: int = BLOCK_SCORES,
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
    top, block_scores : int
        See `bench.metrics.rank_projections`.

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
    x_to_y.check(n, m)
    y_to_x.check(m, n)

    def second() -> Ranks:
        queries, gallery = checked_sides(y, x)
        return ranked(queries, gallery, y_to_x, top, block_scores)

    if issparse(rows) or issparse(columns) or y_to_x.counts.max() > MAX_PASSES:
        return ranked(rows, columns, x_to_y, top, block_scores), second()
    repeated = RepeatedRows.of(rows)
    if len(repeated.firsts) * m > block_scores:
        return ranked(rows, columns, x_to_y, top, block_scores), second()
    same = repeated.scores(columns)
    queries = ColumnQueries(rows, columns, y_to_x, top)

    def both(scores: NDArray[np.float32], start: int) -> tuple[Counted, NDArray[np.int64]]:
        repeated.put(same, scores, start)
        queries.add(scores, start)
        return rank_block(scores, start, x_to_y, top)

    first = join_blocks(of_blocks(both, rows, columns, block_scores), x_to_y)
    if queries.crowded:
        return first, second()
    return first, join_blocks([queries.result(CUTOFFS)], y_to_x)

"""Scores of all queries on all gallery items, a block of rows at a time.

The product is made in float32, whatever the projections are, and no block outlives its turn.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse

from bench.errors import MetricError
from bench.metrics.equal_rows import EqualColumns
from fitters.side_by_side import side_by_side

Result = TypeVar("Result")

# 8 M float32 scores are 32 MiB: large enough for the matrix product to run at full speed,
# small enough that the comparisons after it still find the block in the cache hierarchy.
BLOCK_SCORES = 8_000_000


def checked_sides(queries: Any, gallery: Any) -> tuple[Any, Any]:
    """Return queries (n, r) and gallery columns (r, g) in float32.

    Raises
    ------
    MetricError
        If shapes disagree, a side is empty, or a projection is not finite.
    """
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
        msg = (
            f"Queries and gallery must be matrices over one shared space, got shapes "
            f"{queries.shape} and {gallery.shape}. Project both with the same alignment."
        )
        raise MetricError(msg)
    if not queries.shape[0] or not gallery.shape[0]:
        msg = (
            f"There is nothing to rank: {queries.shape[0]:,} queries, {gallery.shape[0]:,} gallery "
            "items."
        )
        raise MetricError(msg)
    queries, columns = _in_float32(queries), _in_float32(gallery).T
    for name, rows in (("query", queries), ("gallery", columns)):
        if not np.isfinite(rows.data if issparse(rows) else rows).all():
            msg = f"A {name} projection is not finite: nothing can be ranked by it."
            raise MetricError(msg)
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

    return side_by_side(of_block, range(0, n, rows))

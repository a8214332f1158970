"""The first k gallery items of every query, without sorting a row.

A row is cut into groups of `WIDTH` items. The k-th largest of the groups' maxima is a score
that at least k items reach, and few more do: only those are sorted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.metrics.relevance import starts_of

#: Stands where the gallery has fewer items than places.
NO_ITEM = -1

#: Items in a group. Of 25,000 items with 5 places, 16 to 64 took the same time.
WIDTH = 32

# A row with more candidates than this many times its places is full of ties and is done alone,
# so that no list is ever longer than the block of scores.
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
    wanted = scores >= _reached_by_k(scores, k)[:, None]
    rows, positions = np.empty(0, np.int64), np.empty(0, np.int64)
    crowded: list[int] = []
    if np.count_nonzero(wanted) > _CROWDED * k * n:
        each = np.array([np.count_nonzero(row) for row in wanted])
        crowded = np.flatnonzero(each > _CROWDED * k).tolist()
        for row in crowded:
            candidates = _first_of_ties(
                scores[row], np.flatnonzero(wanted[row]), gallery_codes == query_codes[row], k
            )
            out[row, :k] = candidates
            wanted[row] = False
    rows, positions = np.divmod(np.flatnonzero(wanted), g)
    if not len(rows):
        return out
    relevant = gallery_codes[positions] == query_codes[rows]
    order = np.lexsort((positions, relevant, -scores[rows, positions], rows))
    having = np.delete(np.arange(n), crowded)
    starts = starts_of(np.bincount(rows, minlength=n))[having]
    out[having, :k] = positions[order][starts[:, None] + np.arange(k)]
    return out


def _reached_by_k(scores: NDArray[np.floating[Any]], k: int) -> NDArray[np.floating[Any]]:
    """Return, per row, a score that at least k of its items reach."""
    n, g = scores.shape
    groups = g // WIDTH
    if groups < 4 * k:
        return np.partition(scores, g - k, axis=1)[:, g - k]
    # Groups are strided, so that the maxima are whole-row operations. Items beyond the last
    # full group are in none: the bound holds without them.
    maxima = scores[:, : groups * WIDTH].reshape(n, WIDTH, groups).max(axis=1)
    return np.partition(maxima, groups - k, axis=1)[:, groups - k]


def _first_of_ties(
    row: NDArray[np.floating[Any]],
    candidates: NDArray[np.int64],
    relevant: NDArray[np.bool_],
    k: int,
) -> NDArray[np.int64]:
    values = row[candidates]
    last = np.partition(values, len(values) - k)[len(values) - k]
    tied = candidates[values == last]
    few = np.concatenate(
        [candidates[values > last], tied[~relevant[tied]][:k], tied[relevant[tied]][:k]]
    )
    return few[np.lexsort((few, relevant[few], -row[few]))][:k]

"""The first k gallery items of every query, without sorting a row.

A row is cut into groups of `WIDTH` items. The first k lie in the k groups with the largest
maxima: one pass over the scores finds them, and only those groups are looked at closer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.metrics.counting import count_true
from bench.metrics.relevance import starts_of

#: Stands where the gallery has fewer items than places.
NO_ITEM = -1

#: Items in a group. Of 5,000 and 25,000 items, 8 to 64 took about the same time.
WIDTH = 16

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
    n, g = scores.shape
    groups = g // WIDTH
    if groups < 4 * k:
        level = np.partition(scores, g - k, axis=1)[:, g - k]
        wanted = scores >= level[:, None]
        crowded = count_true(wanted) > _CROWDED * k
        wanted[crowded] = False
        return *np.divmod(np.flatnonzero(wanted), g), np.flatnonzero(crowded)
    # Groups are strided, so that the maxima are whole-row operations.
    maxima = scores[:, : groups * WIDTH].reshape(n, WIDTH, groups).max(axis=1)
    best = np.argpartition(maxima, groups - k, axis=1)[:, groups - k :]
    level = np.take_along_axis(maxima, best, axis=1).min(axis=1)
    # At least k items reach the level, in the k best groups or in the tail that is in no group;
    # in a further group only if its maximum ties with the level.
    crowded = np.count_nonzero(maxima >= level[:, None], axis=1) > k
    inside = best[:, :, None] + groups * np.arange(WIDTH)
    places = inside.reshape(n, k * WIDTH)
    if g > groups * WIDTH:
        tail = np.broadcast_to(np.arange(groups * WIDTH, g), (n, g - groups * WIDTH))
        places = np.concatenate([places, tail], axis=1)
    flat = places + g * np.arange(n)[:, None]
    wanted = scores.reshape(-1).take(flat) >= level[:, None]
    wanted[crowded] = False
    chosen = np.flatnonzero(wanted)
    return chosen // places.shape[1], places.ravel()[chosen], np.flatnonzero(crowded)


def _first_of_ties(
    row: NDArray[np.floating[Any]], relevant: NDArray[np.bool_], k: int
) -> NDArray[np.int64]:
    """Return the first k of one row, in a few passes over it and without sorting its ties."""
    last = np.partition(row, len(row) - k)[len(row) - k]
    above, tied = np.flatnonzero(row > last), np.flatnonzero(row == last)
    few = np.concatenate([above, tied[~relevant[tied]][:k], tied[relevant[tied]][:k]])
    return few[np.lexsort((few, relevant[few], -row[few]))][:k]

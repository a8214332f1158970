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
It has two relevant items, and of its first two places the second holds one: truncated average
precision (0 + 1/2) / 2 = 1/4.
Query c: its only relevant item scores 0.3; three non-relevant items score at least that, two
of them tied, so the rank is 4 and the average precision 1/4. Recall at 1 is 0 of 2 queries,
at 2 it is 1 of 2, at 4 it is 2 of 2.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import MetricError
from bench.metrics.counting import Counted, count_block
from bench.metrics.first_places import NO_ITEM, first_places
from bench.metrics.relevance import Relevance
from bench.metrics.score_blocks import BLOCK_SCORES, checked_sides, of_blocks

__all__ = [
    "CUTOFFS",
    "NO_ITEM",
    "Ranks",
    "first_of_gallery",
    "rank_blocks",
    "rank_projections",
    "rank_relevant",
    "ranks_from_blocks",
    "ranks_from_scores",
]

#: The k of true recall and precision at k. Hit recall needs none: it follows from the rank.
CUTOFFS = (1, 5, 10)


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
        Scores that a thread holds at once. It bounds memory and does not change the result of a
        block: a relevant item's score is read from the same product as all others.

    Raises
    ------
    MetricError
        If shapes disagree, a projection is not finite, or a query has no relevant item.
    """
    queries, columns = checked_sides(queries, gallery)
    relevance = Relevance.build(query_groups, gallery_groups, queries.shape[0], columns.shape[1])
    return ranked(queries, columns, relevance, top, block_scores)


def rank_relevant(
    queries: NDArray[np.floating[Any]] | Any,
    gallery: NDArray[np.floating[Any]] | Any,
    relevance: Relevance,
    *,
    top: int = 5,
) -> Ranks:
    """Do the same where `relevance` is known: it serves every projection of the same items.

    Raises
    ------
    MetricError
        If shapes disagree, or a projection is not finite.
    """
    queries, columns = checked_sides(queries, gallery)
    relevance.check(queries.shape[0], columns.shape[1])
    return ranked(queries, columns, relevance, top, BLOCK_SCORES)


def ranked(queries: Any, columns: Any, relevance: Relevance, top: int, block_scores: int) -> Ranks:
    """Rank the columns for every query, both checked."""

    def rank(scores: NDArray[np.float32], start: int) -> tuple[Counted, NDArray[np.int64]]:
        return rank_block(scores, start, relevance, top)

    return join_blocks(of_blocks(rank, queries, columns, block_scores), relevance)


def first_of_gallery(queries: Any, gallery: Any, k: int) -> NDArray[np.int64]:
    """Return the first k gallery positions of every query, whatever is relevant, shape (n, k).

    By score; at equal score the lower position first. `NO_ITEM` beyond the gallery.
    """
    queries, columns = checked_sides(queries, gallery)
    none, same = np.full(queries.shape[0], -1), np.zeros(columns.shape[1], dtype=np.int64)

    def first(scores: NDArray[np.float32], start: int) -> NDArray[np.int64]:
        return first_places(scores, none[start : start + len(scores)], same, k)

    return np.concatenate(of_blocks(first, queries, columns, BLOCK_SCORES))


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
    Relevance.build(query_groups, gallery_groups, *scores.shape)  # says what does not fit
    return ranks_from_blocks([scores], query_groups, gallery_groups, top=top)


def ranks_from_blocks(
    blocks: Iterable[NDArray[np.floating[Any]]],
    query_groups: NDArray[Any],
    gallery_groups: NDArray[Any],
    *,
    top: int = 5,
) -> Ranks:
    """Rank from scores that come in blocks of rows, together of shape (n, g).

    Raises
    ------
    MetricError
        If the blocks are not n rows of g scores, a score is NaN, or a query has no relevant item.
    """
    relevance = Relevance.build(
        query_groups, gallery_groups, len(query_groups), len(gallery_groups)
    )
    return rank_blocks(blocks, relevance, top=top)


def rank_blocks(
    blocks: Iterable[NDArray[np.floating[Any]]], relevance: Relevance, *, top: int = 5
) -> Ranks:
    """Do the same where `relevance` is known."""
    n, g = relevance.shape
    done, start = [], 0
    for scores in blocks:
        if scores.shape[1] != g or start + len(scores) > n:
            msg = (
                f"A block of scores has shape {scores.shape}; {n - start:,} queries are left, and "
                f"the gallery has {g:,} items."
            )
            raise MetricError(msg)
        if np.isnan(scores).any():
            msg = "A score is NaN: nothing can be ranked by it."
            raise MetricError(msg)
        done.append(rank_block(scores, start, relevance, top))
        start += len(scores)
    if start != n:
        msg = f"Scores have {start:,} rows for {n:,} queries."
        raise MetricError(msg)
    return join_blocks(done, relevance)


def rank_block(
    scores: NDArray[np.floating[Any]], start: int, relevance: Relevance, top: int
) -> tuple[Counted, NDArray[np.int64]]:
    """Return what is counted on a block of scores, and the first places of its queries."""
    codes = relevance.query_codes[start : start + len(scores)]
    return (
        count_block(scores, start, relevance, CUTOFFS),
        first_places(scores, codes, relevance.gallery_codes, top),
    )


def join_blocks(blocks: list[tuple[Counted, NDArray[np.int64]]], relevance: Relevance) -> Ranks:
    """Return the ranks of all queries from those of consecutive blocks."""
    counted, tops = zip(*blocks, strict=True)
    return Ranks(
        rank=np.concatenate([block.rank for block in counted]),
        average_precision=np.concatenate([block.average_precision for block in counted]),
        truncated_precision=np.concatenate([block.truncated_precision for block in counted]),
        hits=np.concatenate([block.hits for block in counted]),
        n_relevant=relevance.counts,
        top=np.concatenate(tops),
        gallery=len(relevance.gallery_codes),
    )

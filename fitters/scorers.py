"""Scores that correct for hubs, as projections: still one dot product for an image and a text.

A hub is a gallery item that is near to everything. The corrections below take from each score
something that depends on its query or on its gallery item alone, so they can be written into the
projections as columns more: whoever scores by dot product, block by block, needs no new code.
Nothing here is ever applied unless asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.sparse import csr_array, hstack, issparse
from scipy.special import logsumexp

from featstore.errors import lookup
from fitters.aligners.base import Projection
from fitters.errors import PairsError, SettingError
from fitters.pairs import Matrix

Scorer = Callable[..., tuple[Projection, Projection]]
"""(queries, gallery) → (queries, gallery) whose dot products are the corrected scores."""

BLOCK_SCORES = 4_000_000
"""Scores held at once: 32 MB."""


def plain(queries: Projection, gallery: Projection) -> tuple[Projection, Projection]:
    """Return both as they are: the score is their dot product."""
    return queries, gallery


def csls(
    queries: Projection, gallery: Projection, *, k: int = 10, block_scores: int = BLOCK_SCORES
) -> tuple[Projection, Projection]:
    """Correct by cross-domain similarity local scaling: 2 s(x, y) − r(x) − r(y).

    r(x) is the mean score of x with its `k` best gallery items, r(y) that of y with its `k` best
    queries.

    Parameters
    ----------
    queries, gallery : ndarray or csr_array of shape (n, r), (g, r)
        Projections of all queries and of the whole gallery: the correction looks at both, so that
        a score depends on what else is asked.
    k : int
        At most the number of items there are.
    block_scores : int
        Scores that are held at once.

    Returns
    -------
    queries, gallery : of shape (n, r + 2), (g, r + 2)
        float64, dense or CSR as given.

    References
    ----------
    Conneau et al., Word Translation Without Parallel Data, ICLR 2018, section 2.3.
    """
    _check(queries, gallery)
    if not float(k).is_integer() or k < 1:
        raise SettingError(
            f"The k of CSLS, its neighbours, must be an integer of at least 1; got {k!r}."
        )
    of_queries = _mean_of_best(queries, gallery, k, block_scores)
    of_gallery = _mean_of_best(gallery, queries, k, block_scores)
    ones = np.ones_like
    return (
        _beside(2.0 * queries, -of_queries, ones(of_queries)),
        _beside(gallery, ones(of_gallery), -of_gallery),
    )


def inverted_softmax(
    queries: Projection,
    gallery: Projection,
    *,
    temperature: float = 1 / 30,
    block_scores: int = BLOCK_SCORES,
) -> tuple[Projection, Projection]:
    """Correct by the inverted softmax: how much of a gallery item's mass goes to this query.

    The score is log softmax over the queries of s(x, y) / temperature, times the temperature:
    s(x, y) − temperature · log Σ_x' exp(s(x', y) / temperature).

    Parameters
    ----------
    queries, gallery : ndarray or csr_array of shape (n, r), (g, r)
        All queries and the whole gallery.
    temperature : float
        From 1e-6 to 1e6. The smaller, the more a gallery item answers to its best query alone.
    block_scores : int
        Scores that are held at once.

    Returns
    -------
    queries, gallery : of shape (n, r + 1), (g, r + 1)

    References
    ----------
    Smith et al., Offline bilingual word vectors, orthogonal transformations and the inverted
    softmax, ICLR 2017.
    """
    _check(queries, gallery)
    if not 1e-6 <= temperature <= 1e6:
        raise SettingError(f"A temperature is a number from 1e-6 to 1e6. Got {temperature}.")
    mass = np.concatenate(
        [logsumexp(s / temperature, axis=1) for s in _blocks(gallery, queries, block_scores)]
    )
    return _beside(queries, np.ones(queries.shape[0])), _beside(gallery, -temperature * mass)


def sinkhorn(
    queries: Projection,
    gallery: Projection,
    *,
    scale: float = 20.0,
    rounds: int = 30,
    block_scores: int = BLOCK_SCORES,
) -> tuple[Projection, Projection]:
    """Assign all queries to the gallery at once: entropic transport with uniform marginals.

    From L = scale · s(x, y), rows are brought to the mass 1 / n and columns to 1 / g in turn, in
    the log domain. What that adds to a row or a column is a number for it alone: the score is
    L + a(x) + b(y), the log of the transported mass, divided by the scale.

    Parameters
    ----------
    queries, gallery : ndarray or csr_array of shape (n, r), (g, r)
        All queries and the whole gallery. That every gallery item is the answer of equally many
        queries is taken for granted.
    scale : float
        Of the scores, from 1e-6 to 1e6: an inverse temperature.
    rounds : int
        At least 1; columns come last, so that they have their mass exactly.
    block_scores : int
        Scores that are held at once.

    Returns
    -------
    queries, gallery : of shape (n, r + 2), (g, r + 2)

    References
    ----------
    Cuturi, Sinkhorn Distances: Lightspeed Computation of Optimal Transport, NeurIPS 2013.
    """
    _check(queries, gallery)
    if not 1e-6 <= scale <= 1e6 or not float(rounds).is_integer() or rounds < 1:
        raise SettingError(
            "Sinkhorn takes a scale from 1e-6 to 1e6 and an integer number of rounds of at least "
            f"1. Got scale {scale} and rounds {rounds}."
        )
    n, g = queries.shape[0], gallery.shape[0]
    of_gallery = np.zeros(g)
    for _ in range(int(rounds)):
        of_queries, columns = [], np.full(g, -np.inf)
        for scores in _blocks(queries, gallery, block_scores):
            scores *= scale
            of_queries.append(-np.log(n) - logsumexp(scores + of_gallery, axis=1))
            of_block = logsumexp(scores + of_queries[-1][:, None], axis=0)
            columns = np.logaddexp(columns, of_block)
        of_gallery = -np.log(g) - columns
    by_query = np.concatenate(of_queries) / scale
    return (
        _beside(queries, by_query, np.ones(n)),
        _beside(gallery, np.ones(g), of_gallery / scale),
    )


SCORERS: dict[str, Scorer] = {
    "cosine": plain,
    "csls": csls,
    "inverted-softmax": inverted_softmax,
    "sinkhorn": sinkhorn,
}
"""The scorers by name."""

TRANSDUCTIVE = frozenset({"sinkhorn"})
"""Scorers that answer all queries together, from how often each answer is to be given."""


def labelled(direction: str, scorer: str) -> str:
    """Return what tables and figures call a direction that is scored by `scorer`."""
    return f"{direction} (transductive)" if scorer in TRANSDUCTIVE else direction


def scorer_named(name: str) -> Scorer:
    """Return the scorer called `name`.

    Raises
    ------
    SettingError
        If there is none; the message lists those that exist.
    """
    return lookup(SCORERS, name, what="scorer", error=SettingError)


def _check(queries: Projection, gallery: Projection) -> None:
    if queries.shape[1] != gallery.shape[1] or not queries.shape[0] or not gallery.shape[0]:
        raise PairsError(
            f"Queries {queries.shape} and gallery {gallery.shape} must be rows of one shared "
            "space, at least one each. Project both with the same alignment."
        )


def _blocks(left: Projection, right: Projection, block_scores: int) -> Any:
    """Yield the scores of blocks of rows of `left` with all of `right`, dense float64."""
    rows = max(1, block_scores // right.shape[0])
    for start in range(0, left.shape[0], rows):
        scores = left[start : start + rows] @ right.T
        yield np.asarray(scores.toarray() if issparse(scores) else scores, dtype=np.float64)


def _mean_of_best(left: Projection, right: Projection, k: int, block_scores: int) -> Matrix:
    """Return the mean of the k best scores of each row of `left`, shape (n,)."""
    k = min(k, right.shape[0])
    blocks = _blocks(left, right, block_scores)
    return np.concatenate(
        [np.partition(scores, -k, axis=1)[:, -k:].mean(axis=1) for scores in blocks]
    )


def _beside(rows: Projection, *columns: Matrix) -> Projection:
    more = np.stack(columns, axis=1)
    if issparse(rows):
        return hstack([rows, csr_array(more)], format="csr")
    return np.hstack([rows, more])

"""Scores that correct for hubs, as projections: still one dot product for an image and a text.

A hub is a gallery item that is near to everything. The corrections below take from each score
something that depends on its query or on its gallery item alone, so they can be written into the
projections as columns more: whoever scores by dot product, block by block, needs no new code.
Nothing here is ever applied unless asked for.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from scipy.sparse import csr_array, hstack, issparse
from scipy.special import logsumexp

from featstore.errors import lookup
from fitters.aligners import Projection
from fitters.errors import PairsError, SettingError, UnequalNamesWarning
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
    of_queries = _mean_of_best(queries, gallery, k, block_scores)
    of_gallery = _mean_of_best(gallery, queries, k, block_scores)
    return (
        _beside(2.0 * queries, -of_queries, np.ones_like(of_queries)),
        _beside(gallery, np.ones_like(of_gallery), -of_gallery),
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
    n, g = queries.shape[0], gallery.shape[0]
    of_gallery = np.zeros(g)
    for _ in range(rounds):
        of_queries, columns = [], np.full(g, -np.inf)
        for scores in _blocks(queries, gallery, block_scores):
            scores *= scale
            of_queries.append(-np.log(n) - logsumexp(scores + of_gallery, axis=1))
            columns = np.logaddexp(columns, logsumexp(scores + of_queries[-1][:, None], axis=0))
        of_gallery = -np.log(g) - columns
    return (
        _beside(queries, np.concatenate(of_queries) / scale, np.ones(n)),
        _beside(gallery, np.ones(g), of_gallery / scale),
    )


FEWEST_UNLABELLED = 10
"""Images by which names are standardised, at least."""

ENOUGH_UNLABELLED = 100
"""By fewer, what they miss of a name makes answers unequal, and no warning is given."""


def hub_corrected(
    queries: Projection,
    gallery: Projection,
    *,
    unlabelled: Projection | None = None,
    rng: np.random.Generator | None = None,
    block_scores: int = BLOCK_SCORES,
) -> tuple[Projection, Projection]:
    """Standardise the scores of each gallery item by those that unlabelled queries give it.

    The score is (s(x, y) − mean(y)) / (½ sd(y) + ½ mean sd), with the mean and the standard
    deviation of the scores of y with all unlabelled queries, and the mean of the latter over the
    gallery. An item that scores high with everything loses its head start. So does one that is the
    answer of many queries: use it only where answers are about equally frequent.

    Parameters
    ----------
    queries, gallery : ndarray or csr_array of shape (n, r), (g, r)
    unlabelled : ndarray or csr_array of shape (m, r), optional
        Queries that are not scored, at least `FEWEST_UNLABELLED`. None: the queries are cut into
        two halves at random, and each half is scored by the other. Never by itself: what a query
        adds to the mean and the deviation of its own answer would be taken off its score.
    rng : numpy Generator, optional
        Draws the halves. None: always the same of n queries.
    block_scores : int
        Scores that are held at once.

    Returns
    -------
    queries, gallery : of shape (n, r + 1), (g, r + 1); with halves twice as wide

    Raises
    ------
    PairsError
        If there are too few unlabelled queries, or queries to take halves of.

    Warns
    -----
    UnequalNamesWarning
        If the scores, with `ENOUGH_UNLABELLED`, say that names are not equally frequent; see
        `unequal`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> names, hub = np.eye(4), np.array([0.0, 0.0, 0.0, 0.6])
    >>> images = np.repeat(names, 25, axis=0) + 0.4 * rng.standard_normal((100, 4)) + hub
    >>> [
    ...     int(np.sum((x @ y.T).argmax(axis=1) == np.repeat(range(4), 25)))
    ...     for x, y in (plain(images, names), hub_corrected(images, names))
    ... ]
    [73, 92]
    """
    _check(queries, gallery)
    if unlabelled is not None:
        _check(unlabelled, gallery)
    have = queries.shape[0] // 2 if unlabelled is None else unlabelled.shape[0]
    if have < FEWEST_UNLABELLED:
        raise PairsError(
            f"Hubs are corrected by {FEWEST_UNLABELLED} unlabelled queries or more, or by halves "
            f"of twice as many; got {have if unlabelled is not None else queries.shape[0]:,}. Give "
            "images that are not scored, or use another scorer."
        )
    parts: list[tuple[Matrix, Any]] = [(np.ones(queries.shape[0]), unlabelled)]
    if unlabelled is None:
        first = np.zeros(queries.shape[0])
        first[(rng or np.random.default_rng(0)).permutation(len(first))[:have]] = 1.0
        parts = [(own, queries[np.flatnonzero(own == 0.0)]) for own in (first, 1.0 - first)]
    sides = []
    for own, others in parts:
        mean, scale = _moments(gallery, others, block_scores)
        sides.append(
            (
                _beside(_scaled(queries, own), own),
                _beside(_scaled(gallery, 1.0 / scale), -mean / scale),
            )
        )
    stack = partial(hstack, format="csr") if issparse(queries) else np.hstack
    scored = stack([x for x, _ in sides]), stack([y for _, y in sides])
    plainly, corrected = (
        np.concatenate([scores.argmax(axis=1) for scores in _blocks(x, y, block_scores)])
        for x, y in ((queries, gallery), scored)
    )
    if have >= ENOUGH_UNLABELLED and unequal(plainly, corrected, gallery.shape[0]):
        warnings.warn(
            f"By their scores alone, the {gallery.shape[0]:,} names are not equally often the "
            f"answer of these {queries.shape[0]:,} images. To correct for hubs takes that they "
            "are, and may halve accuracy, as with the seven classes of HAM10000. Use 'cosine'.",
            UnequalNamesWarning,
            stacklevel=2,
        )
    return scored


def unequal(plainly: Any, corrected: Any, n_names: int) -> bool:
    """Whether answers say that names are unequally frequent, whatever the labels are.

    Answers that meet the same name, as pairs, are counted against what equal frequencies expect.
    A hub has many plain answers, and loses them once scores are standardised; a frequent name keeps
    some. With ten images a name, the sign is more than 1 / 0.9 of the expected pairs in
    standardised answers, or 1 / 0.6 in those that both agree on; with fewer images, more than
    1 / 0.45 in the former: 517 names of one picture each, some of them hubs still, had 1 / 0.5. The
    excess is of four standard errors.

    Parameters
    ----------
    plainly, corrected : int64 arrays of shape (n,)
        The name that each image has most of, by plain and by standardised scores.
    n_names : int
    """
    agreed = corrected[corrected == plainly]
    looked_at = [(corrected, 0.45)]
    if len(plainly) >= 10 * n_names:
        looked_at = [(corrected, 0.9), (agreed, 0.6)]
    for answers, share in looked_at:
        counts = np.bincount(answers, minlength=n_names)
        expected = len(answers) * (len(answers) - 1) / (2 * n_names)
        pairs = float(np.sum(counts * (counts - 1))) / 2
        if pairs * share > expected and pairs > expected + 4 * np.sqrt(expected):
            return True
    return False


SCORERS: dict[str, Scorer] = {
    "cosine": plain,
    "csls": csls,
    "inverted-softmax": inverted_softmax,
    "sinkhorn": sinkhorn,
    "hub": hub_corrected,
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


def _moments(gallery: Projection, queries: Projection, block_scores: int) -> tuple[Matrix, Matrix]:
    """Return what is taken off the scores of each gallery item, and what they are divided by."""
    both = [(s.mean(axis=1), s.std(axis=1)) for s in _blocks(gallery, queries, block_scores)]
    mean, sd = (np.concatenate(side) for side in zip(*both, strict=True))
    scale = (sd + sd.mean()) / 2.0
    return mean, np.where(scale > 0.0, scale, 1.0)


def _scaled(rows: Projection, by: Matrix) -> Projection:
    """Return each row times a number of its own."""
    return csr_array(rows.multiply(by[:, None])) if issparse(rows) else rows * by[:, None]


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

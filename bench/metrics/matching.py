"""Whether paired rows match better than rows that are not paired.

Cosines of pairs beside those of all other combinations, how often a pair's is the higher one
(AUC), and how often random pairings reach the mean of the true one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse

from bench.errors import MetricError
from bench.metrics.neighbours import check_paired, unit_rows

#: Above so many scores, unmatched ones are a sample of this many.
MAX_UNMATCHED = 16_000_000

# Scores held at once: 32 MiB.
_BLOCK = 8_000_000


@dataclass(frozen=True)
class Matching:
    """What `match_pairs` found.

    Attributes
    ----------
    matched, unmatched : float
        Mean score of the pairs, and of what is not paired.
    auc : float
        P(a pair's score is above that of a combination that is no pair), ties one half.
    p : float
        Share of random pairings whose mean is at least that of the true one; the true one counts.
    """

    matched: float
    unmatched: float
    auc: float
    p: float


def match_pairs(
    x: NDArray[Any], y: NDArray[Any], *, n_permutations: int = 999, rng: np.random.Generator
) -> Matching:
    """Compare the scores of pairs with those of all other combinations.

    Parameters
    ----------
    x, y : arrays of shape (c, r), dense or CSR
        Projections in one space; the score is their dot product.
    n_permutations : int
    rng : Generator
        Draws the permutations, and the unmatched scores where there are more than
        `MAX_UNMATCHED`.
    """
    n = x.shape[0]
    if n != y.shape[0] or n < 2:
        msg = f"Matching needs at least 2 pairs; got {n:,} and {y.shape[0]:,} rows."
        raise MetricError(msg)
    own = _paired(x, y, np.arange(n))
    ordered = np.sort(own)
    partners = None
    if n * (n - 1) > MAX_UNMATCHED:
        # Another row for each: 1 to n - 1 places further on.
        each = MAX_UNMATCHED // n
        partners = (np.arange(n)[:, None] + rng.integers(1, n, size=(n, each))) % n
    below = ties = count = 0
    total = 0.0
    rows = max(2, _BLOCK // n)
    for start in range(0, n, rows):
        block = x[start : start + rows] @ y.T
        scores = np.asarray(block.toarray() if issparse(block) else block)
        here = np.arange(len(scores))
        if partners is None:
            other = np.ones(scores.shape, dtype=bool)
            other[here, here + start] = False
            values = scores[other]
        else:
            values = np.take_along_axis(scores, partners[start : start + rows], axis=1).ravel()
        low = np.searchsorted(ordered, values, side="left")
        high = np.searchsorted(ordered, values, side="right")
        # Pairs whose score is above the value, and pairs that tie with it.
        below += int(len(ordered) * len(values) - high.sum())
        ties += int((high - low).sum())
        total += float(values.sum(dtype=np.float64))
        count += len(values)
    observed = own.mean()
    reached = sum(
        _paired(x, y, rng.permutation(n)).mean() >= observed - 1e-9 for _ in range(n_permutations)
    )
    return Matching(
        matched=float(observed),
        unmatched=total / count,
        auc=(below + 0.5 * ties) / (n * count),
        p=(1 + reached) / (1 + n_permutations),
    )


def relative_rows(
    x: NDArray[np.floating[Any]],
    y: NDArray[np.floating[Any]],
    *,
    max_anchors: int = 2_000,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return every row by its cosines with the same rows of its own side, centred, unit length.

    Two spaces of any dimensions meet in what is similar to what. The dot product of two such
    rows is the correlation of their profiles, in which each row's cosine with itself is left
    out (set to the profile's mean).

    Parameters
    ----------
    x, y : arrays of shape (c, p) and (c, q)
    max_anchors : int
        Rows that all are compared with; drawn where there are more.

    Returns
    -------
    two float32 arrays of shape (c, a)
    """
    check_paired(x, y)
    n = len(x)
    anchors = np.arange(n)
    if n > max_anchors:
        anchors = np.sort(rng.choice(n, size=max_anchors, replace=False))
    sides = []
    for rows in (x, y):
        unit = unit_rows(rows - rows.mean(axis=0))
        profile = unit @ unit[anchors].T
        profile[anchors, np.arange(len(anchors))] = np.nan
        profile -= np.nanmean(profile, axis=1, keepdims=True)
        profile[anchors, np.arange(len(anchors))] = 0.0
        sides.append(unit_rows(profile))
    return sides[0], sides[1]


def _paired(x: Any, y: Any, order: NDArray[np.int64]) -> NDArray[np.float64]:
    if issparse(x):
        return np.asarray(x.multiply(y[order]).sum(axis=1), dtype=np.float64).ravel()
    scores: NDArray[np.float64] = np.einsum("nr,nr->n", x, y[order]).astype(np.float64)
    return scores

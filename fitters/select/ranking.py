"""The criterion of a choice: how high the true text of a held-out image ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fitters.pairs import Rows


@dataclass(frozen=True, eq=False)
class Gallery:
    """The distinct texts of some pairs, and which of them belong to each pair's image.

    Attributes
    ----------
    texts : ndarray of shape (g, q)
        Distinct rows: a text that two images share stands once, so it cannot compete with itself.
    positives : ndarray of int, shape (n, k)
        For each pair, the gallery rows whose text stands in the pair's group; filled with −1.
    """

    texts: Rows
    positives: npt.NDArray[np.intp]

    @classmethod
    def of(cls, texts: Rows, groups: npt.NDArray[Any]) -> Gallery:
        """Return the gallery of n pairs, `texts` of shape (n, q) and `groups` of shape (n,)."""
        distinct, text_of = np.unique(texts, axis=0, return_inverse=True)
        text_of = text_of.reshape(-1)
        codes = np.unique(groups, return_inverse=True)[1]
        links = np.unique(np.stack([codes, text_of], axis=1), axis=0)
        counts = np.bincount(links[:, 0])
        by_group = np.full((len(counts), counts.max()), -1, dtype=np.intp)
        place = np.arange(len(links)) - np.repeat(np.cumsum(counts) - counts, counts)
        by_group[links[:, 0], place] = links[:, 1]
        return cls(distinct, by_group[codes])


def reciprocal_ranks(
    scores: npt.NDArray[np.floating[Any]], positives: npt.NDArray[np.intp]
) -> npt.NDArray[np.float64]:
    """Return 1 / rank of the best positive of each query.

    Parameters
    ----------
    scores : ndarray of shape (n, g)
        Of n queries with g gallery rows, higher is better.
    positives : ndarray of int, shape (n, k)
        Gallery rows that count as right for each query; −1 fills.

    Returns
    -------
    ndarray of shape (n,)
        rank = 1 + the number of wrong rows that score at least as high: a tie counts against the
        query, so that a map which sends everything to one point earns nothing.
    """
    held = np.where(
        positives >= 0, np.take_along_axis(scores, np.maximum(positives, 0), axis=1), -np.inf
    )
    best = held.max(axis=1, keepdims=True)
    right = (held == best).sum(axis=1)
    above = (scores >= best).sum(axis=1)
    inverse: npt.NDArray[np.float64] = 1.0 / (1 + above - right)
    return inverse

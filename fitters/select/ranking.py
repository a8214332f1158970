"""The criteria of a choice by rank: how high the true text of a held-out image stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import issparse

from fitters.errors import SettingError
from fitters.pairs import Pairs, Rows
from fitters.settings import Metric

if TYPE_CHECKING:
    from fitters.aligners.base import Projection

METRICS: dict[str, str] = {
    "mrr": "mean reciprocal rank of the true text among the texts of the held-out fold",
    "top-1": "share of held-out images whose true text ranks first among the fold's texts",
    "top-5": "share of held-out images whose true text ranks in the first five of the fold's texts",
    "top-10": "share of held-out images whose true text ranks in the first ten of the fold's texts",
}
"""What a choice by rank can go by: the metrics that are reported. Of zero-shot classification,
top-1 is the accuracy; of retrieval, top-k is the recall at k."""

BLOCK_SCORES = 4_000_000
"""Scores that `HeldOut` ranks at a time: 32 MB, whatever the size of a fold."""


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


def metric_of(reciprocal: npt.NDArray[np.float64], metric: str) -> npt.NDArray[np.float64]:
    """Return what each query adds to a mean of `METRICS`, from its reciprocal rank.

    Raises
    ------
    SettingError
        If the metric is unknown.
    """
    check_metric(metric)
    if metric == "mrr":
        return reciprocal
    reached: npt.NDArray[np.float64] = (
        reciprocal > 1 / (int(metric.removeprefix("top-")) + 0.5)
    ).astype(np.float64)
    return reached


def check_metric(metric: str) -> None:
    """Raise SettingError unless `metric` is one of `METRICS`."""
    if metric not in METRICS:
        raise SettingError(f"A choice by rank goes by one of {', '.join(METRICS)}. Got {metric!r}.")


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What the pairs of a held-out fold ask: where each image's text ranks.

    Attributes
    ----------
    images : ndarray of shape (m, p)
        An image with several captions asks once, and counts for all of them.
    gallery : Gallery
        The distinct texts; its `positives` are of the images, shape (m, k).
    counts : ndarray of int, shape (m,)
        Pairs that each image stands for.
    """

    images: Rows
    gallery: Gallery
    counts: npt.NDArray[np.intp]

    @classmethod
    def of(cls, held: Pairs) -> HeldOut:
        """Return the questions of some pairs, in which those of one image stand together."""
        gallery, groups = Gallery.of(held.y, held.row_groups), held.row_groups
        fresh = np.ones(held.n, dtype=bool)
        fresh[1:] = (held.x[1:] != held.x[:-1]).any(axis=1) | (groups[1:] != groups[:-1])
        first = np.flatnonzero(fresh)
        requested = Gallery(gallery.texts, gallery.positives[first])
        return cls(held.x[first], requested, np.diff(first, append=held.n))

    def total(self, queries: Projection, gallery: Projection, metric: Metric) -> float:
        """Return the sum of a metric over the pairs.

        Parameters
        ----------
        queries, gallery : ndarray or csr_array of shape (m, r), (g, r)
            The images and the gallery's texts in one space: the score is the dot product.
        metric : str
            One of `METRICS`.
        """
        rows, total = max(1, BLOCK_SCORES // gallery.shape[0]), 0.0
        for start in range(0, queries.shape[0], rows):
            here = slice(start, start + rows)
            scores = queries[here] @ gallery.T
            dense = scores.toarray() if issparse(scores) else scores
            found = reciprocal_ranks(dense, self.gallery.positives[here])
            total += float(metric_of(found, metric) @ self.counts[here])
        return total

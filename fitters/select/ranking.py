"""The criteria of a choice by rank: how high the true text of a held-out image stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.sparse import issparse

from featstore.errors import lookup
from featstore.matrices import matrix
from fitters.errors import PairsError, SettingError
from fitters.pairs import Pairs, Rows, rows_or_labels
from fitters.settings import Metric

if TYPE_CHECKING:
    from fitters.aligners import Projection

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
        first, text_of = _distinct(texts)
        return cls(texts[first], _positives(text_of, groups))


def _distinct(rows: npt.NDArray[Any]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return where each distinct row, or label, stands first, and which of them each row is."""
    first, code = np.unique(rows, axis=0, return_index=True, return_inverse=True)[1:]
    return first, code.reshape(-1)


def _positives(text_of: npt.NDArray[np.intp], groups: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """Return the gallery rows of each pair's group, shape (n, k), filled with −1."""
    codes = np.unique(groups, return_inverse=True)[1]
    links = np.unique(np.stack([codes, text_of], axis=1), axis=0)
    counts = np.bincount(links[:, 0])
    by_group = np.full((len(counts), counts.max()), -1, dtype=np.intp)
    place = np.arange(len(links)) - np.repeat(np.cumsum(counts) - counts, counts)
    by_group[links[:, 0], place] = links[:, 1]
    return by_group[codes]


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
    return 1.0 / (1 + (scores >= best).sum(axis=1) - right)


def criterion_named(metric: str) -> str:
    """Return the text of one of `METRICS`; raise SettingError if there is none of this name."""
    return lookup(METRICS, metric, what="metric of a choice by rank", error=SettingError)


def metric_of(reciprocal: npt.NDArray[np.float64], metric: str) -> npt.NDArray[np.float64]:
    """Return what each query adds to a mean of `METRICS`, from its reciprocal rank."""
    if metric == "mrr":
        return reciprocal
    return (reciprocal > 1 / (int(metric.removeprefix("top-")) + 0.5)).astype(np.float64)


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


Direction = Literal["x->y", "y->x", "both"]

SCORINGS: dict[str, Metric] = {
    "mrr": "mrr", "top-1": "top-1", "top-5": "top-5", "top-10": "top-10",
    "r@1": "top-1", "r@5": "top-5", "r@10": "top-10",
}  # fmt: skip
"""Names that `scoring` takes, in any case, and the metric of each."""


@dataclass(frozen=True, eq=False)
class RankScorer:
    """Scores a fitted estimator by ranks, 0 to 1; see `scoring`, which makes it.

    Attributes
    ----------
    name : str
        One of `SCORINGS`.
    direction : {"x->y", "y->x", "both"}
    texts : ndarray of shape (c, q) or None
    """

    name: str
    direction: Direction = "x->y"
    texts: Rows | None = None

    def __call__(
        self, estimator: Any, X: Any, y: Any, *, groups: npt.NDArray[Any] | None = None
    ) -> float:
        """Return the mean of the metric over the pairs (X_i, y_i), or over both directions.

        Parameters
        ----------
        estimator : Alignment, aligner, Pipeline that ends in one, or a search over these
        X : array_like of shape (n, p)
            As the estimator takes them.
        y : array_like of shape (n, q) or (n,)
            Text embeddings, or labels: of class texts their row numbers.
        groups : ndarray of shape (n,), optional
            All texts of a pair's group are right, and all its images. None: all texts that stand
            beside an equal image, and all images beside an equal text.
        """
        last = getattr(estimator, "best_estimator_", estimator)
        last = last[-1] if hasattr(last, "steps") else last
        # Of a pipeline, the steps before change the images; an aligner alone has no `transform`.
        images = getattr(estimator, "transform", None) or estimator.project_x
        x, rows = images(X), rows_or_labels(y)
        if len(rows) != x.shape[0]:
            raise PairsError(
                f"{x.shape[0]:,} images and {len(rows):,} texts are no pairs to score."
            )
        if self.texts is not None:
            return self._mean(x, last.project_y(self.texts), _rows_of(rows, self.texts)[:, None])
        sides = [(x, rows_or_labels(X)), (last.project_y(rows), rows)]
        found = []
        for way, (asked, answers) in {"x->y": sides, "y->x": sides[::-1]}.items():
            if self.direction in (way, "both"):
                first, answer_of = _distinct(answers[1])
                by = _distinct(asked[1])[1] if groups is None else groups
                found.append(self._mean(asked[0], answers[0][first], _positives(answer_of, by)))
        return float(np.mean(found))

    def _mean(
        self, queries: Projection, gallery: Projection, positives: npt.NDArray[np.intp]
    ) -> float:
        n = queries.shape[0]
        if queries.shape[1:] != gallery.shape[1:]:
            raise PairsError(
                f"Images and texts are projected to shapes {queries.shape} and {gallery.shape}: no "
                "shared space. Both must have as many columns."
            )
        held = HeldOut(queries, Gallery(gallery, positives), np.ones(n, dtype=np.intp))
        return float(held.total(queries, gallery, SCORINGS[self.name]) / n)


def _rows_of(y: npt.NDArray[Any], texts: Rows) -> npt.NDArray[np.intp]:
    """Return the row of `texts` that each text or row number is; of equal rows the first."""
    if y.ndim == 1 and y.dtype.kind in "iu":
        rows = np.where((y >= 0) & (y < len(texts)), y, -1)
    else:
        first, code = _distinct(np.concatenate([texts, y]))
        rows = np.where(first < len(texts), first, -1)[code[len(texts) :]]
    if (rows < 0).any():
        raise PairsError(
            f"{(rows < 0).sum():,} of {len(y):,} rows of y are none of the {len(texts):,} class "
            f"texts (first: row {np.flatnonzero(rows < 0)[0]:,}). Pass the text of each image's "
            "class as it stands there, or its row number."
        )
    return rows.astype(np.intp)


def scoring(
    name: str = "mrr", *, direction: Direction = "x->y", texts: Rows | None = None
) -> RankScorer:
    """Return a scorer for ``scoring=`` of scikit-learn's searches and cross-validation.

    scikit-learn takes names of its own scorers alone: ``scoring="r@1"`` is its error that lists
    them. Write ``scoring=fitters.scoring("r@1")``, or leave it out: ``Alignment(scoring="r@1")``
    scores itself so.

    Parameters
    ----------
    name : {"mrr", "r@1", "r@5", "r@10", "top-1", "top-5", "top-10"}
        Mean reciprocal rank, or the share of queries with a right answer among the first k: the hit
        recall of a retrieval, and with class texts the accuracy. A tie counts against.
    direction : {"x->y", "y->x", "both"}
        Who asks: images, texts, or both, and the mean of the two counts.
    texts : ndarray of shape (c, q), optional
        Class texts as the estimator takes them: zero-shot, where each image ranks all of them. The
        y to be scored is the text of each image's class, or its row number here. None: the gallery
        is the distinct texts that are scored together, or the distinct images.

    Raises
    ------
    SettingError
        If there is no such name or direction, or `texts` and a direction from texts.

    Examples
    --------
    >>> from sklearn.model_selection import cross_val_score
    >>> x = np.random.default_rng(0).standard_normal((40, 8))
    >>> both = scoring("r@5", direction="both")
    >>> cross_val_score(Alignment(penalty=0.01), x, x[:, ::-1], scoring=both, cv=2)
    array([1., 1.])
    """
    lookup(SCORINGS, name.lower(), what="scoring", error=SettingError)
    if direction not in ("x->y", "y->x", "both"):
        raise SettingError(f"A direction is 'x->y', 'y->x' or 'both'. Got {direction!r}.")
    if texts is not None and direction != "x->y":
        raise SettingError("Class texts are ranked for images. Leave the direction at 'x->y'.")
    return RankScorer(name.lower(), direction, None if texts is None else matrix(texts, "texts"))

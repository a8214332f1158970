"""mini-vec2vec: a rotation between two spaces from their geometry alone, without a pair.

It is the strict control of everything that is fitted on pairs: what it reaches follows from how the
rows of each side lie to one another, and from nothing that says which belongs to which.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import _fit_context
from sklearn.utils._param_validation import Interval

from fitters.aligners.base import (
    BaseAligner,
    mean_rows,
    validate_pairs,
)
from fitters.aligners.solvers import polar_factor
from fitters.moments.transform import normalize_rows, unit_or_zero
from fitters.pairs import Matrix, Rows
from fitters.select.grid import Choice, Search
from fitters.sources import Sources
from fitters.spectrum import eigen_gram

CENTRES, STARTS = 20, 30
"""Cluster centres that a round matches, and starts of the search for the matching."""

SAMPLE, ASKED, NEIGHBOURS, CLUSTERS = 10_000, 1_000, 50, 500
"""Rows of a round, rows of a refinement, neighbours that are averaged, clusters of the last step.

Of few rows less: a tenth as many centres as rows, a twentieth as neighbours, half as clusters.
"""


@dataclass(repr=False, eq=False, kw_only=True)
class MiniVec2VecAligner(BaseAligner):
    """Align two spaces by matching clusters of their rows; which rows are pairs is not looked at.

    Both sides are brought to their first r = min(p, q) principal axes and to unit length. A round
    clusters both, and matches the centres by the quadratic assignment of their double-centred
    Grams. Each row is then described by its cosines to the centres of all rounds, a row of x is
    paired with the mean of the rows of y that are described most alike, and R is the rotation of
    these pairs. Each refinement takes the mean of the nearest rows of y to x R instead, and goes
    half of the way to the new rotation; the last one does so with clusters of many rows.

    Parameters
    ----------
    rounds : int
        Matchings of centres.
    refinements : int
    center : bool
        Subtract the mean of each side first; False where rows come centred.
    seed : int
        Draws the rows, the clusters and the starts.

    Attributes
    ----------
    map_x_, map_y_ : ndarray of shape (p, r), (q, r)
        Principal axes of each side, those of x turned by R.
    mean_x_, mean_y_ : ndarray of shape (p,), (q,)
        What is subtracted on each side; 0 if not `center`.
    n_features_in_ : int
        p.

    Notes
    -----
    The different rows of each side are sorted first: fitted on y in another order, it is the same.

    References
    ----------
    Dar, mini-vec2vec: Scaling Universal Geometry Alignment with Linear Transformations, 2025,
    arXiv 2510.02348. There nothing is seeded, and R stays the mean of rotations that it is.

    Examples
    --------
    >>> images = np.random.default_rng(0).standard_normal((40, 8))
    >>> turn = np.linalg.qr(images[:8])[0]
    >>> made = MiniVec2VecAligner(rounds=2, refinements=3).fit(images, images @ turn)
    >>> made.project_x(images).shape
    (40, 8)
    """

    method: ClassVar[str] = "mini-vec2vec"
    mixes: ClassVar[bool] = False
    rounds: int = 30
    refinements: int = 100
    center: bool = True
    seed: int = 0
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "rounds": [Interval(Integral, 1, None, closed="left")],
        "refinements": [Interval(Integral, 0, None, closed="left")],
        "center": ["boolean"],
        "seed": [Interval(Integral, 0, None, closed="left")],
    }

    def tune(self, data: Sources[Any], search: Search) -> Choice:  # noqa: ARG002
        """Draw the seed: there is nothing to choose."""
        return Choice({"seed": int(search.rng.integers(2**31))})

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit(self, X: Rows, y: Rows) -> Self:
        """Fit on the rows of both sides, as if they were in no order.

        Parameters
        ----------
        X : ndarray of shape (n, p)
        y : ndarray of shape (n, q) or (n,)
        """
        x64, y64, weight = validate_pairs(self, X, y, None)
        self.mean_x_, self.mean_y_ = mean_rows(x64, y64, weight, centre=self.center)
        sides = [
            np.unique(rows - mean, axis=0)
            for rows, mean in ((x64, self.mean_x_), (y64, self.mean_y_))
        ]
        r = min(side.shape[1] for side in sides)
        axes = [eigen_gram(side.T @ side)[1][:, ::-1][:, :r] for side in sides]
        # Where few axes are left, rows that differ may be one here.
        x, y = (
            np.unique(unit_or_zero(side @ own), axis=0)
            for side, own in zip(sides, axes, strict=True)
        )
        rng = np.random.default_rng(self.seed)
        rotation = self._refined(x, y, self._first(x, y, rng), rng)
        self.map_x_, self.map_y_ = axes[0] @ rotation, axes[1]
        return self

    def _first(self, x: Matrix, y: Matrix, rng: np.random.Generator) -> Matrix:
        """Return the rotation between rows that are described alike by the matched centres."""
        matched = [_matched_centres(x, y, rng) for _ in range(self.rounds)]
        of_x, of_y = (np.concatenate(centres) for centres in zip(*matched, strict=True))
        described = unit_or_zero(x @ of_x.T), unit_or_zero(y @ of_y.T)
        return polar_factor(x.T @ _mean_of_nearest(described[0], described[1], y))[0]

    def _refined(self, x: Matrix, y: Matrix, rotation: Matrix, rng: np.random.Generator) -> Matrix:
        for _ in range(self.refinements):
            asked = x[rng.permutation(len(x))[:ASKED]]
            target = _mean_of_nearest(unit_or_zero(asked @ rotation), y, y)
            rotation = (rotation + polar_factor(asked.T @ target)[0]) / 2
        k = min(CLUSTERS, len(x) // 2, len(y) // 2)
        if k > 1:
            centres = _centres(x, k, rng)
            towards = _centres(y, k, rng, start=centres @ rotation)
            rotation = (rotation + polar_factor(centres.T @ towards)[0]) / 2
        return polar_factor(rotation)[0]

    def project_x(self, x: Rows) -> Matrix:
        """Return x in the shared space: shape (n, r), float64, unit rows."""
        return normalize_rows(self.about_mean(x, "x") @ self.map_x_, what="x")

    def project_y(self, y: Rows) -> Matrix:
        """Return y in the shared space: shape (n, r), float64, unit rows."""
        return normalize_rows(self.about_mean(y, "y") @ self.map_y_, what="y")


def _matched_centres(x: Matrix, y: Matrix, rng: np.random.Generator) -> tuple[Matrix, Matrix]:
    """Return unit cluster centres of a sample of both sides, in an order that matches them."""
    from scipy.optimize import quadratic_assignment

    fewest = min(len(x), len(y))
    k = min(fewest, max(2, min(CENTRES, fewest // 10)))
    sides = [unit_or_zero(_centres(s[rng.permutation(len(s))[:SAMPLE]], k, rng)) for s in (x, y)]
    grams = [_double_centred(side @ side.T) for side in sides]
    options = {"maximize": True, "rng": rng}
    found = [quadratic_assignment(*grams, method="2opt", options=options) for _ in range(STARTS)]
    return sides[0], sides[1][max(found, key=lambda one: float(one.fun)).col_ind]


def _double_centred(gram: Matrix) -> Matrix:
    rows = gram - gram.mean(axis=0)
    return rows - rows.mean(axis=1, keepdims=True)


def _centres(
    rows: Matrix, k: int, rng: np.random.Generator, *, start: Matrix | None = None
) -> Matrix:
    """Return the centres of k clusters, those that grow from `start` in its order."""
    from sklearn.cluster import KMeans

    found = KMeans(
        k,
        init="k-means++" if start is None else start,
        n_init=1,
        random_state=int(rng.integers(2**31)),
    )
    return np.asarray(found.fit(rows).cluster_centers_, dtype=np.float64)


def _mean_of_nearest(rows: Matrix, others: Matrix, values: Matrix) -> Matrix:
    """Return the mean of `values` of the others that are nearest to each row."""
    k = min(NEIGHBOURS, max(1, len(others) // 20))
    nearest = np.argpartition(-(rows @ others.T), k - 1, axis=1)[:, :k]
    return values[nearest].mean(axis=1)

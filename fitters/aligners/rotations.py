"""Rotations between two spaces: Procrustes, and mini-vec2vec, which sees no pair.

Orthogonal Procrustes has no penalty to choose. mini-vec2vec finds the rotation from the geometry of
the two spaces alone. It is the strict control of everything that is fitted on pairs: what it
reaches follows from how the rows of each side lie to one another, and from nothing that says which
belongs to which.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import _fit_context
from sklearn.utils._param_validation import Interval

from fitters.aligners.base import BaseAligner, FromMoments, mean_rows, validate_pairs
from fitters.moments import Moments
from fitters.pairs import Matrix, Rows
from fitters.select.grid import Choice, Search
from fitters.select.held_out import Folded, cross_validate
from fitters.solvers import determined, eigen_gram, polar_factor, truncation_gap
from fitters.sources import Sources, normalize_rows, unit_or_zero


@dataclass(repr=False, eq=False, kw_only=True)
class ProcrustesAligner(FromMoments):
    """Align by the (semi-)orthogonal map that takes one space nearest to the other.

    Maximises tr(Rᵀ Σ w a bᵀ) over semi-orthogonal R. The side with fewer columns is mapped into
    the other, which is the shared space. For p = q and a cross of full rank this is
    ``scipy.linalg.orthogonal_procrustes`` (which needs equal dimensions), mapping x into y.

    Fewer pairs than columns, or rank-deficient rows, say nothing about some directions, and a
    rotation would turn them as LAPACK happens to. There R is 0: of all maps that are as good, the
    one of least norm, a partial isometry between the directions that the pairs determine. It does
    not depend on the order or the layout of the rows, nor, beyond their size, on their rounding
    errors. See `fitters.solvers.polar_factor`.

    Parameters
    ----------
    center : bool
        Subtract the means first; the projections are taken about these means too.
    rank : int, optional
        Keep only so many leading directions of Σ w x yᵀ: R = U_k V_kᵀ. All that are determined if
        None or if there are fewer.

    Attributes
    ----------
    rotation_ : ndarray of shape (p, q)
        R: x R lies in the space of y, y Rᵀ in the space of x.
    singular_values_ : ndarray of shape (min(p, q),)
        Of Σ w x yᵀ, descending.
    gap_ : float
        (s_k − s_k+1) / s_1 at the rank k that is kept; without truncation, the smallest kept over
        the largest singular value. Near 0, small errors of the rows turn R much, and with `rank`
        which directions are kept is chance.
    rank_ : int
        k: directions in which R is not 0.
    mean_x_, mean_y_ : ndarray of shape (p,), (q,)
        What is subtracted on each side; 0 if not `center`.
    n_features_in_ : int
        p.
    feature_names_in_ : ndarray of shape (p,)
        Only if X had string column names.

    References
    ----------
    Schönemann, A generalized solution of the orthogonal Procrustes problem, 1966.

    Examples
    --------
    >>> images = np.random.default_rng(0).standard_normal((40, 8))
    >>> turn = np.linalg.qr(images[:8])[0]
    >>> made = ProcrustesAligner().fit(images, images @ turn)
    >>> f"{(made.project_x(images) * made.project_y(images @ turn)).sum(axis=1).min():.2f}"
    '1.00'
    """

    method: ClassVar[str] = "procrustes"
    reads_few_rows = True
    center: bool = True
    rank: int | None = None
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "center": ["boolean"],
        "rank": [Interval(Integral, 1, None, closed="left"), None],
    }

    def tune(self, data: Sources[Any], search: Search) -> Choice:
        """Choose the mixing weight by the rank of the texts of held-out pairs, in closed form."""
        axes = search.axes(mixed=data.mixed)
        if not axes["weight"].searched:
            return search.chosen(axes, None)
        folded = Folded.of(data, search, axes)
        surface = cross_validate(
            "procrustes", real=folded.real, folds=folded.folds, prototypes=folded.prototypes,
            weights=axes["weight"], metric=search.metric,
        )  # fmt: skip
        return search.chosen(axes, surface)

    def _fit_rows(self, x: Matrix, y: Matrix, weight: Matrix) -> Self:
        mean_x, mean_y = mean_rows(x, y, weight, centre=self.center)
        weighted = weight[:, None] * (x - mean_x)
        return self._fit_cross(weighted.T @ (y - mean_y), mean_x, mean_y)

    def _fit(self, moments: Moments) -> Self:
        about = moments.centred if self.center else moments.uncentred
        return self._fit_cross(about.sxy, about.shift_x, about.shift_y)

    def _fit_cross(self, cross: Matrix, mean_x: Matrix, mean_y: Matrix) -> Self:
        self.rotation_, self.singular_values_ = polar_factor(cross, self.rank)
        self.gap_ = truncation_gap(self.singular_values_, self.rank_)
        self.mean_x_, self.mean_y_ = mean_x, mean_y
        return self

    @property
    def rank_(self) -> int:
        """Directions in which R is not 0."""
        return determined(self.singular_values_, self.rank)

    def project_x(self, x: Rows) -> Matrix:
        """Return x in the shared space: shape (n, max(p, q)), float64, unit rows."""
        rows = self.about_mean(x, "x")
        p, q = self.rotation_.shape
        return normalize_rows(rows @ self.rotation_ if p <= q else rows, what="x")

    def project_y(self, y: Rows) -> Matrix:
        """Return y in the shared space: shape (n, max(p, q)), float64, unit rows."""
        rows = self.about_mean(y, "y")
        p, q = self.rotation_.shape
        return normalize_rows(rows if p <= q else rows @ self.rotation_.T, what="y")


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

"""Maps by singular vectors: Procrustes, CCA, CSA and PLS, and mini-vec2vec, which sees no pair.

Orthogonal Procrustes has no penalty to choose. mini-vec2vec finds the rotation from the geometry of
the two spaces alone. It is the strict control of everything that is fitted on pairs: what it
reaches follows from how the rows of each side lie to one another, and from nothing that says which
belongs to which.
"""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import _fit_context
from sklearn.utils._param_validation import Interval

from fitters.aligners import (
    BaseAligner,
    Constraints,
    FromMoments,
    changed_copy,
    mean_rows,
    refits_of,
    validate_pairs,
)
from fitters.moments import Moments
from fitters.pairs import Matrix, Rows
from fitters.select import Axis, Choice, Search
from fitters.select.held_out import Folded, cross_validate, validate_by_refitting
from fitters.settings import MOST
from fitters.solvers import (
    determined,
    eigen_gram,
    leading_directions,
    polar_factor,
    relative_penalty,
    solve_cca,
    truncation_gap,
)
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
    _parameter_constraints: ClassVar[Constraints] = {
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
        return self._fit_cross((weight[:, None] * (x - mean_x)).T @ (y - mean_y), mean_x, mean_y)

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


COMPONENTS = [Interval(Integral, 1, None, closed="left"), None]
"""The constraint of `n_components`."""


class DirectionsAligner(FromMoments):
    """Base of aligners that map both sides, centred, into r paired directions.

    Directions that the pairs say nothing about (fewer pairs than columns, rank-deficient rows) are
    left out: those whose strength is not above 1e-6 of the largest. LAPACK would choose them, and
    they would count in the length that a cosine divides by. Directions of one strength may come
    turned among themselves, which changes no score unless `n_components` cuts between them.

    Attributes
    ----------
    weights_x_, weights_y_ : ndarray of shape (p, r), (q, r)
        One column a direction. The largest entry of a column of `weights_x_` is positive.
    strengths_ : ndarray of shape (r,)
        How strongly the two sides of a direction go together, descending.
    gap_ : float
        (s_r − s_r+1) / s_1 of the strengths: near 0, which directions were kept is chance.
    mean_x_, mean_y_ : ndarray of shape (p,), (q,)
        What is subtracted on each side.
    n_features_in_ : int
        p.
    """

    n_components: int | None

    def tune(self, data: Sources[Any], search: Search) -> Choice:
        """Choose the number of directions with penalty and mixing weight, by fitting again.

        One fit with all directions serves every number of them.
        """
        if "n_components" not in search.options or search.config.n_components != "auto":
            return super().tune(data, search)
        axes = search.axes(mixed=data.mixed, coarse=True)
        folded = Folded.of(data, search, axes)
        refit = refits_of(changed_copy(self, n_components=None), folded, search.options)
        # Of few pairs, what is fitted without a larger fold has fewer directions.
        first = {name: axis.values[0] for name, axis in axes.items()}
        fits: list[Any] = [refit(fold, first) for fold in np.unique(folded.folds).tolist()]
        numbers = _numbers(min(len(fit.strengths_) for fit in fits))
        surface = validate_by_refitting(
            refit, real=folded.real, folds=folded.folds, metric=search.metric,
            axes=axes | {"components": Axis(tuple(numbers), searched=False)},
        )  # fmt: skip
        choice = search.chosen(axes, surface)
        kept = {"n_components": round(surface.chosen["components"])}
        return replace(choice, params=choice.params | kept)

    @abstractmethod
    def _solve(self, about: Moments) -> tuple[Matrix, Matrix, Matrix]:
        """Return all directions of x, their strengths and those of y, from centred moments."""

    def _fit(self, moments: Moments) -> Self:
        about = moments.centred
        self.mean_x_, self.mean_y_ = about.shift_x, about.shift_y
        left, values, right = self._solve(about)
        # Where nothing goes together one direction is left, as good as any.
        kept = max(determined(values, self.n_components), 1)
        self.gap_ = truncation_gap(values, kept)
        self.weights_x_, self.weights_y_ = left[:, :kept], right[:, :kept]
        self.strengths_ = values[:kept]
        return self

    def truncated(self, n_components: int) -> Self:
        """Return a copy that keeps only the first directions, as fitting with fewer would."""
        fewer = copy.copy(self)
        fewer.n_components = n_components
        for name, kept in (("weights_x_", self.weights_x_[:, :n_components]),
                           ("weights_y_", self.weights_y_[:, :n_components]),
                           ("strengths_", self.strengths_[:n_components])):  # fmt: skip
            setattr(fewer, name, kept)
        return fewer

    def project_x(self, x: Rows) -> Matrix:
        """Return x in the shared space: shape (n, r), float64."""
        return self._weighed(normalize_rows(self.about_mean(x, "x") @ self.weights_x_, what="x"))

    def project_y(self, y: Rows) -> Matrix:
        """Return y in the shared space: shape (n, r), float64."""
        return self._weighed(normalize_rows(self.about_mean(y, "y") @ self.weights_y_, what="y"))

    def _weighed(self, unit: Matrix) -> Matrix:
        return unit


def _numbers(most: int) -> list[int]:
    """Return about three numbers an octave up to `most`, which is one of them."""
    steps = np.geomspace(1, most, 1 + 3 * max(1, round(np.log2(most))) if most > 1 else 1)
    return sorted({round(step) for step in steps} | {most})


@dataclass(repr=False, eq=False, kw_only=True)
class CCAAligner(DirectionsAligner):
    """Align by canonical correlation analysis; the score is the cosine of the projections.

    Finds the directions of both sides, uncorrelated within a side, whose correlation is largest;
    see `fitters.solvers.solve_cca`.

    Parameters
    ----------
    n_components : int, optional
        Directions kept, by descending correlation; all that are determined if None or if
        there are fewer.
    alpha : float
        Shrinkage, not negative: what is added to the diagonal of both covariances.
    relative : bool
        True: alpha counts in units of the mean variance of a column of its side. False: as it is,
        on covariances divided by n − 1 (with weights, Σ w − 1). The "CCA" of the head-recycling
        experiments is ``CCAAligner(200, alpha=1e-6, relative=False)``: a real ridge for unit rows,
        whose mean variance at 768 columns is 1.3e-3.

    Attributes
    ----------
    strengths_ : ndarray of shape (r,)
        Singular values of the whitened cross-covariance, descending. Without shrinkage they are the
        canonical correlations; with it they are below the correlations of the projected rows.

    See `DirectionsAligner` for the others.

    References
    ----------
    Hotelling, Relations between two sets of variates, 1936.

    Examples
    --------
    >>> images = np.random.default_rng(0).standard_normal((40, 8))
    >>> texts = images[:, :5]
    >>> made = CCAAligner(3).fit(images, texts)
    >>> made.project_x(images).shape, made.strengths_.round(1)
    ((40, 3), array([0.9, 0.9, 0.9]))
    """

    method: ClassVar[str] = "cca"
    n_components: int | None = field(default=None, kw_only=False)
    alpha: float = 0.1
    relative: bool = True
    _parameter_constraints: ClassVar[Constraints] = {
        "n_components": COMPONENTS,
        "alpha": [Interval(Real, 0, MOST, closed="left")],
        "relative": ["boolean"],
    }

    def _solve(self, about: Moments) -> tuple[Matrix, Matrix, Matrix]:
        # A weight counts as so many rows, so that n - 1 is Σ w - 1; lighter ones are proportions.
        unit = 1.0 / (about.weight - 1 if about.weight > 1 else about.weight)
        cov_xx, cov_xy, cov_yy = about.sxx * unit, about.sxy * unit, about.syy * unit
        alphas = [
            relative_penalty(cov, float(self.alpha)) if self.relative else float(self.alpha)
            for cov in (cov_xx, cov_yy)
        ]
        return solve_cca(cov_xx, cov_xy, cov_yy, *alphas)


class CSAAligner(CCAAligner):
    """Align by canonical correlations, and weigh each direction of the cosine by its strength.

    The score of x and y is Σ_i s_i z_i w_i, with z and w the unit projections onto the first r
    canonical directions and s their strengths: the weights come after the normalisation. Both
    projections carry √s, so that the score is their dot product; their rows are not of unit length.

    Parameters and attributes are those of `CCAAligner`. With ``alpha=0`` and pairs enough for both
    covariances to have full rank, s are the correlations of the projected training rows, as in the
    source. With shrinkage, which is the default, they are singular values of the shrunk problem,
    below those correlations.

    Notes
    -----
    The source keeps a fixed number of directions a dataset, and adds 1e-6 to the diagonals:
    ``CSAAligner(n, alpha=1e-6, relative=False)``. It measures s as ``diag(ZᵀW) / n`` of the
    projected rows, which differs from ours by the factor (n − 1) / n and that 1e-6.

    References
    ----------
    Li et al., CSA: Data-efficient Mapping of Unimodal Features to Multimodal Features, ICLR 2025.

    Examples
    --------
    >>> images = np.random.default_rng(0).standard_normal((40, 8))
    >>> texts = images[:, :5]
    >>> made = CSAAligner(3).fit(images, texts)
    >>> bool((np.linalg.norm(made.project_x(images), axis=1) <= 1).all())
    True
    """

    method: ClassVar[str] = "csa"
    unit_rows: ClassVar[bool] = False

    def _weighed(self, unit: Matrix) -> Matrix:
        return unit * np.sqrt(self.strengths_)


@dataclass(repr=False, eq=False, kw_only=True)
class PLSAligner(DirectionsAligner):
    """Align by the directions of both sides that covary most: those of Σ w x yᵀ = U diag(s) Vᵀ.

    Where CCA divides by the spread within each side, PLS does not: it follows what is large as well
    as common. The score is the cosine of x U_r and y V_r. It is
    ``sklearn.cross_decomposition.PLSSVD(scale=False)``.

    Parameters
    ----------
    n_components : int, optional
        Directions kept, by descending covariance; all that are determined if None or if
        there are fewer.

    Attributes
    ----------
    strengths_ : ndarray of shape (r,)
        Singular values of Σ w x yᵀ.

    See `DirectionsAligner` for the others.

    References
    ----------
    Wegelin, A survey of partial least squares methods, 2000.

    Examples
    --------
    >>> images = np.random.default_rng(0).standard_normal((40, 8))
    >>> texts = images[:, :5]
    >>> made = PLSAligner(2).fit(images, texts)
    >>> made.project_x(images).shape
    (40, 2)
    """

    method: ClassVar[str] = "pls"
    n_components: int | None = field(default=None, kw_only=False)
    _parameter_constraints: ClassVar[Constraints] = {"n_components": COMPONENTS}

    def _solve(self, about: Moments) -> tuple[Matrix, Matrix, Matrix]:
        return leading_directions(about.sxy)


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

    Which clusters match can turn on a rounding of the rows. So several starts are made, and that is
    kept whose rows of x are nearest to the rows of y that they find; no pair is looked at.

    Parameters
    ----------
    rounds : int
        Matchings of centres.
    refinements : int
    starts : int
        Fits with other draws, of which the best is kept. 1 says nothing of how far they agree.
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
    agreement_ : float
        Mean cosine of the rows of x by the rotation that is kept and by each of the other starts,
        from -1 to 1; NaN of one start. Well below 1 the answer is a draw, which another seed or
        another rounding of the rows changes.
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
    starts: int = 3
    center: bool = True
    seed: int = 0
    _parameter_constraints: ClassVar[Constraints] = {
        "rounds": [Interval(Integral, 1, None, closed="left")],
        "refinements": [Interval(Integral, 0, None, closed="left")],
        "starts": [Interval(Integral, 1, None, closed="left")],
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
        *given, weight = validate_pairs(self, X, y, None)
        # Means of rows in another order differ by a rounding, which can turn a choice of clusters.
        x64, y64 = (rows[np.lexsort(rows.T)] for rows in given)
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
        rotations = []
        for start in range(self.starts):
            rng = np.random.default_rng([self.seed, start] if start else self.seed)
            rotations.append(self._refined(x, y, self._first(x, y, rng), rng))
        distances = [_to_what_it_finds(x @ rotation, y) for rotation in rotations]
        best = rotations.pop(int(np.argmin(distances)))
        # Rows of x are of unit length, and so is what a rotation makes of them.
        cosines = [np.sum((x @ best) * (x @ other)) / len(x) for other in rotations]
        self.agreement_ = float(np.mean(cosines)) if cosines else math.nan
        self.map_x_, self.map_y_ = axes[0] @ best, axes[1]
        return self

    @property
    def facts_(self) -> dict[str, Any]:
        """How far the starts agree, as one of the facts of a fit."""
        return {"agreement": self.agreement_} if self.starts > 1 else {}

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


def _to_what_it_finds(rows: Matrix, others: Matrix) -> float:
    """Return the mean squared distance of unit rows to the direction of the others near them."""
    found = unit_or_zero(_mean_of_nearest(rows, others, others))
    return float(np.mean(np.sum((rows - found) ** 2, axis=1)))


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
    return values[np.argpartition(-(rows @ others.T), k - 1, axis=1)[:, :k]].mean(axis=1)

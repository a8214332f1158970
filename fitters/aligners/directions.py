"""Canonical directions: CCA, CSA and PLS."""

from __future__ import annotations

import copy
from abc import abstractmethod
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.utils._param_validation import Interval

from fitters.aligners.base import (
    FromMoments,
    changed_copy,
    refits_of,
)
from fitters.moments import Moments
from fitters.pairs import Matrix, Rows
from fitters.select.grid import Choice, Search
from fitters.select.held_out import Folded, choose_components
from fitters.settings import MOST
from fitters.solvers import (
    determined,
    leading_directions,
    relative_penalty,
    solve_cca,
    truncation_gap,
)
from fitters.sources import Sources, normalize_rows

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
        surface = choose_components(
            refits_of(changed_copy(self, n_components=None), folded, search.options),
            real=folded.real, folds=folded.folds,
            penalties=axes["penalty"], weights=axes["weight"], metric=search.metric,
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
        rows = self.about_mean(x, "x")
        return self._weighed(normalize_rows(rows @ self.weights_x_, what="x"))

    def project_y(self, y: Rows) -> Matrix:
        """Return y in the shared space: shape (n, r), float64."""
        rows = self.about_mean(y, "y")
        return self._weighed(normalize_rows(rows @ self.weights_y_, what="y"))

    def _weighed(self, unit: Matrix) -> Matrix:
        return unit


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
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
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
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {"n_components": COMPONENTS}

    def _solve(self, about: Moments) -> tuple[Matrix, Matrix, Matrix]:
        return leading_directions(about.sxy)

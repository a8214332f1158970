"""Orthogonal Procrustes: a rotation between two spaces, and no penalty to choose."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any, ClassVar, Self

from sklearn.utils._param_validation import Interval

from fitters.aligners.base import FromMoments, mean_rows
from fitters.aligners.solvers import determined, polar_factor, truncation_gap
from fitters.moments.moments import Moments
from fitters.moments.transform import normalize_rows
from fitters.pairs import Matrix, Rows
from fitters.select.grid import Choice, Search
from fitters.select.held_out import cross_validate
from fitters.select.refitting import Folded
from fitters.sources import Sources


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
    errors. See `fitters.aligners.solvers.polar_factor`.

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

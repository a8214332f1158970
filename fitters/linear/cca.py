"""Canonical correlation analysis, plain, and with directions weighted by strength (CSA)."""

from __future__ import annotations

from numbers import Real
from typing import Any, ClassVar

import numpy as np
from sklearn.utils._param_validation import Interval

from fitters.linear.directions import COMPONENTS, DirectionsAligner
from fitters.linear.solvers import relative_penalty, solve_cca
from fitters.moments.moments import Moments
from fitters.rows import Matrix


class CCAAligner(DirectionsAligner):
    """Align by canonical correlation analysis; the score is the cosine of the projections.

    Finds the directions of both sides, uncorrelated within a side, whose correlation is largest;
    see `fitters.linear.solvers.solve_cca`.

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
    """

    method: ClassVar[str] = "cca"
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "n_components": COMPONENTS,
        "alpha": [Interval(Real, 0, None, closed="left")],
        "relative": ["boolean"],
    }

    def __init__(
        self, n_components: int | None = None, *, alpha: float = 0.1, relative: bool = True
    ) -> None:
        self.n_components = n_components
        self.alpha = alpha
        self.relative = relative

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
    """

    method: ClassVar[str] = "csa"
    unit_rows: ClassVar[bool] = False

    def _weighed(self, unit: Matrix) -> Matrix:
        weighed: Matrix = unit * np.sqrt(self.strengths_)
        return weighed

"""Partial least squares by one singular value decomposition."""

from __future__ import annotations

from typing import Any, ClassVar

from fitters.linear.directions import COMPONENTS, DirectionsAligner
from fitters.linear.solvers import leading_directions
from fitters.moments.moments import Moments
from fitters.rows import Matrix


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
    """

    method: ClassVar[str] = "pls"
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {"n_components": COMPONENTS}

    def __init__(self, n_components: int | None = None) -> None:
        self.n_components = n_components

    def _solve(self, about: Moments) -> tuple[Matrix, Matrix, Matrix]:
        return leading_directions(about.sxy)

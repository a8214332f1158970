"""Leave one group out, in closed form: what a ridge fit predicts for rows it never saw.

Rows come multiplied by the root of their weight. With H = A (AᵀA + αI)⁻¹ Aᵀ and residuals
E = B − H B, the residuals of a group I in a fit without I are (I − H_II)⁻¹ E_I. In the dual,
with G = (AAᵀ + αI)⁻¹ = (I − H) / α, they are (G_II)⁻¹ (G B)_I. Both are exact for a fixed α and
for preprocessing that does not depend on the rows left out.

Left out are groups, not rows: a class that shares its name with another would predict itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fitters.aligners.solvers import eigen_gram, invert_spectrum
from fitters.errors import SelectionError, SettingError
from fitters.kept import Kept, digest_of
from fitters.moments.transform import unit_or_zero
from fitters.pairs import Pairs
from fitters.select.grid import PENALTIES, Axis, Surface, search
from fitters.select.ranking import BLOCK_SCORES, reciprocal_ranks

Matrix = npt.NDArray[np.float64]
LeaveOutCriterion = Literal["cosine", "rank"]

CRITERIA: dict[str, str] = {
    "cosine": "mean cosine of the left-out prediction of a name and its true row",
    "rank": "mean reciprocal rank of the true name among the left-out predictions of all names",
}
"""What leave-one-group-out can score by."""

MOST_QUERIES = 2000

SURFACES: Kept[Surface] = Kept(2_000_000, lambda surface: surface.scores.nbytes)
"""Every draw and number of real pairs of a sweep asks for these of the same prototypes."""

LOWEST_DUAL = 1e-2
"""Smallest relative penalty where there are no more rows than columns.

Centred rows sum to 0, so the row left out is minus the sum of the others, on both sides: a fit that
interpolates predicts it almost exactly (measured: reciprocal rank 1.0 at 1e-4, 0.12 at 1e-2).
"""


class LeftOut:
    """Left-out predictions of b from a for any penalty, from one eigendecomposition.

    Parameters
    ----------
    a, b : ndarray of shape (n, p), (n, q)
        Predicting and predicted rows, float64, transformed; no centring is done.
    groups : ndarray of shape (n,)
        What is left out together.
    weight : ndarray of shape (n,)
        Mass of each row, above 0.
    asked : ndarray of shape (n, p), optional
        What the fit without a row is asked instead of its own a; see `fitters.pairs.Pairs`.
    """

    _reach: Matrix | None = None
    """Asked rows in the eigenbasis, None where each row asks by itself."""

    def __init__(
        self,
        a: Matrix,
        b: Matrix,
        groups: npt.NDArray[Any],
        weight: Matrix,
        asked: Matrix | None = None,
    ) -> None:
        self._prepare(b, groups, weight)
        rows = self._root * a
        self.dual = len(a) <= a.shape[1]
        self._values, self._vectors = eigen_gram(rows @ rows.T if self.dual else rows.T @ rows)
        self.mean_square = float(np.sum(rows * rows)) / a.shape[1]
        # (n, r) rows in the eigenbasis and (r, q) targets seen from it.
        self._basis = self._vectors if self.dual else rows @ self._vectors
        self._seen = self._basis.T @ self._b
        if asked is not None:
            self._reach = asked @ (rows.T @ self._vectors if self.dual else self._vectors)

    @classmethod
    def of_normal_equations(
        cls,
        gram: Matrix,
        cross: Matrix,
        a: Matrix,
        b: Matrix,
        groups: npt.NDArray[Any],
        weight: Matrix,
        asked: Matrix | None = None,
    ) -> LeftOut:
        """Return the left-out predictions of some of the rows that a fit is made of.

        Parameters
        ----------
        gram, cross : ndarray of shape (p, p), (p, q)
            AᵀWA and AᵀWB of all rows.
        a, b, groups, weight, asked
            As for the class, of the rows that are asked about: whole groups.
        """
        left_out = cls.__new__(cls)
        left_out._prepare(b, groups, weight)
        left_out.dual = False
        left_out._values, left_out._vectors = eigen_gram(gram)
        left_out.mean_square = float(np.trace(gram)) / len(gram)
        left_out._basis = left_out._root * a @ left_out._vectors
        left_out._seen = left_out._vectors.T @ cross
        if asked is not None:
            left_out._reach = asked @ left_out._vectors
        return left_out

    def _prepare(self, b: Matrix, groups: npt.NDArray[Any], weight: Matrix) -> None:
        parts = parts_of(groups)
        self.n_groups = len(parts)
        self._several = [part for part in parts if len(part) > 1]
        self._mates = mates_of(parts)
        self._root = np.sqrt(weight)[:, None]
        self._b = self._root * b

    @cached_property
    def _towards(self) -> Matrix:
        return self._b @ self._seen.T

    @cached_property
    def _cross(self) -> Matrix:
        """Products of the rows that ask with all rows of b."""
        return self._b[asking_of(len(self._b))] @ self._b.T

    @cached_property
    def _square(self) -> Matrix:
        return self._seen @ self._seen.T

    @cached_property
    def _lengths(self) -> Matrix:
        lengths: Matrix = np.einsum("nq,nq->n", self._b, self._b)
        return lengths

    def predict(self, alpha: float, requested: npt.NDArray[np.intp] | None = None) -> Matrix:
        """Return the prediction of each row by the fit without its group, shape (n, q).

        `alpha` is the absolute penalty, above 0 in the dual (n ≤ p). With `requested`, positions of
        rows, only theirs are computed, shape (len(requested), q).
        """
        rows = slice(None) if requested is None else requested
        inverse = invert_spectrum(self._values, alpha)
        scaled = self._basis[rows] * inverse
        # Dual: rows of G, and G B. Primal: rows of H, and H B.
        fitted = scaled @ self._seen
        own = np.einsum("nr,nr->n", scaled, self._basis[rows])[:, None]
        b = self._b[rows]
        residual = fitted / own if self.dual else (b - fitted) / (1 - own)
        place = np.arange(len(self._b))
        if requested is not None:
            place = np.full(len(self._b), -1)
            place[requested] = np.arange(len(requested))
        apart: list[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], Matrix]] = []
        for part in self._several:
            inside = place[part] >= 0
            if inside.any():
                of_part = self._residual(part, self._basis[part] * inverse)
                residual[place[part][inside]] = of_part[inside]
                apart.append((place[part][inside], part, of_part))
        if self._reach is None:
            predicted: Matrix = (b - residual) / self._root[rows]
            return predicted
        # A fit without a group is the fit less the kernels between it and the group's residuals.
        reach = self._reach[rows] * inverse
        predicted = reach @ self._seen
        between = np.einsum("nr,nr->n", reach, self._basis[rows])
        correction = between[:, None] * residual
        for at, part, of_part in apart:
            correction[at] = (reach[at] @ self._basis[part].T) @ of_part
        predicted -= correction
        return predicted

    def mean_cosine(self, alpha: float) -> float:
        """Return the mean over rows of the cosine of left-out prediction and target.

        Equal to the mean cosine of `predict` and b, without forming a prediction of shape (n, q)
        for the rows that are a group of their own.
        """
        if self._reach is not None:
            return mean_cosine(self.predict(alpha), self._b, np.sqrt(self._lengths))
        _, _, _, dots, squares = self._multiples(alpha)
        for part, predicted in self._of_several(alpha):
            dots[part] = np.einsum("nq,nq->n", predicted, self._b[part])
            squares[part] = np.einsum("nq,nq->n", predicted, predicted)
        norms = np.sqrt(np.maximum(squares, 0.0) * self._lengths)
        return float(np.mean(np.divide(dots, norms, out=np.zeros_like(dots), where=norms > 0)))

    def _multiples(self, alpha: float) -> tuple[Matrix, Matrix, Matrix, Matrix, Matrix]:
        """Return f in the eigenbasis, factors u and v, and products of u f + v b.

        f is a row of H B, or of G B in the dual, and u f + v b a positive multiple of what is
        predicted for a row that is a group of its own. Its products are with b and with itself.
        """
        scaled = self._basis * invert_spectrum(self._values, alpha)
        own = np.einsum("nr,nr->n", scaled, self._basis)
        # f·b and |f|², from products in the small space.
        dot = np.einsum("nr,nr->n", scaled, self._towards)
        square = np.einsum("nr,nr->n", scaled @ self._square, scaled)
        u, v = (-np.ones_like(own), own) if self.dual else (np.ones_like(own), -own)
        dots = u * dot + v * self._lengths
        squares = u * u * square + 2 * u * v * dot + v * v * self._lengths
        return scaled, u, v, dots, squares

    def _of_several(self, alpha: float) -> Iterator[tuple[npt.NDArray[np.intp], Matrix]]:
        """Yield the groups of several rows, and what is predicted for these."""
        inverse = invert_spectrum(self._values, alpha)
        for part in self._several:
            yield part, self._b[part] - self._residual(part, self._basis[part] * inverse)

    def mean_reciprocal_rank(self, alpha: float) -> float:
        """Return the mean reciprocal rank of a row's own name among all left-out predictions.

        Each target ranks the left-out predictions of all groups by cosine; those of its own group
        are right. At most `MOST_QUERIES` rows ask, evenly spread. As for the cosine, products are
        those of the small space, but for the groups of several rows.
        """
        if self._reach is not None:
            return rank_own_names(self.predict(alpha), self._b, self._mates)
        scaled, u, v, _, squares = self._multiples(alpha)
        several = list(self._of_several(alpha))
        for part, predicted in several:
            squares[part] = np.einsum("nq,nq->n", predicted, predicted)
        norms = np.sqrt(np.maximum(squares, 0.0))
        inverse = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
        asking, found = asking_of(len(norms)), []
        rows = max(1, BLOCK_SCORES // len(norms))
        for start in range(0, len(asking), rows):
            block = asking[start : start + rows]
            scores = u * (self._towards[block] @ scaled.T)
            scores += v * self._cross[start : start + rows]
            for part, predicted in several:
                scores[:, part] = self._b[block] @ predicted.T
            found.append(reciprocal_ranks(scores * inverse, self._mates[block]))
        return float(np.concatenate(found).mean())

    def _residual(self, part: npt.NDArray[np.intp], scaled: Matrix) -> Matrix:
        block = scaled @ self._basis[part].T
        fitted = scaled @ self._seen
        if self.dual:
            return np.linalg.solve(block, fitted)
        return np.linalg.solve(np.eye(len(part)) - block, self._b[part] - fitted)


class KernelLeftOut:
    """Left-out predictions of kernel ridge regression for any penalty, of whatever is predicted.

    The prediction of row i without its group is Σ_j H_ij b_j, where H depends on the predicting
    rows, their groups and their weights alone. With G = (√W K √W + αI)⁻¹ and a group I, the rows of
    H are -W_I^(-1/2) (G_II)⁻¹ G_I √W, and 0 in the columns of I itself: nothing cancels.

    Parameters
    ----------
    values, vectors : ndarray of shape (n,), (n, n)
        Of √W K √W; see `fitters.aligners.kernel_solvers.decompose_kernel`.
    groups : ndarray of shape (n,)
        What is left out together.
    weight : ndarray of shape (n,)
        Mass of each row, above 0.
    asked : ndarray of shape (n, n), optional
        Kernel between the row by which each is asked for and all rows; None: each by itself. A row
        of H is then (Q_i - Q_iI (G_II)⁻¹ G_I) √W, with Q the asked rows of K √W G.
    """

    def __init__(
        self,
        values: Matrix,
        vectors: Matrix,
        groups: npt.NDArray[Any],
        weight: Matrix,
        asked: Matrix | None = None,
    ) -> None:
        self._values, self._vectors = values, vectors
        parts = parts_of(groups)
        self._several = [part for part in parts if len(part) > 1]
        self._root = np.sqrt(weight)
        self._asked = None if asked is None else (asked * self._root) @ vectors

    def operator(self, alpha: float) -> Matrix:
        """Return H at the absolute penalty `alpha`, above 0; shape (n, n)."""
        half = self._vectors * np.sqrt(invert_spectrum(self._values, alpha))
        operator: Matrix = half @ half.T
        if self._asked is not None:
            return self._asked_operator(operator, alpha)
        blocks = [(part, operator[part]) for part in self._several]
        own = operator.diagonal().copy()
        np.fill_diagonal(operator, 0.0)
        operator *= (-1 / (own * self._root))[:, None]
        for part, of_part in blocks:
            within = of_part[:, part]
            of_part[:, part] = 0.0
            operator[part] = -np.linalg.solve(within, of_part) / self._root[part, None]
        operator *= self._root
        return operator

    def _asked_operator(self, inverse: Matrix, alpha: float) -> Matrix:
        """Return H for rows that are asked for by others, with `inverse` = G."""
        assert self._asked is not None
        reach: Matrix = (self._asked * invert_spectrum(self._values, alpha)) @ self._vectors.T
        share = reach.diagonal() / inverse.diagonal()
        operator = reach - share[:, None] * inverse
        np.fill_diagonal(operator, 0.0)
        for part in self._several:
            within = np.ix_(part, part)
            operator[part] = reach[part] - reach[within] @ np.linalg.solve(
                inverse[within], inverse[part]
            )
            operator[within] = 0.0
        operator *= self._root
        return operator


def parts_of(groups: npt.NDArray[Any]) -> list[npt.NDArray[np.intp]]:
    """Return the rows of each group, in order of their sorted labels.

    Raises
    ------
    SelectionError
        If there is one group only.
    """
    codes = np.unique(groups, return_inverse=True)[1]
    if not codes.any():
        raise SelectionError(
            f"All {len(codes):,} rows belong to one group: leaving it out leaves nothing to fit. "
            "Give more classes, or fix the penalty."
        )
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.cumsum(np.bincount(codes))[:-1])


def mates_of(parts: list[npt.NDArray[np.intp]]) -> npt.NDArray[np.intp]:
    """Return the rows of each row's group, filled up with -1; shape (n, size of the largest)."""
    n = sum(len(part) for part in parts)
    mates = np.full((n, max(len(part) for part in parts)), -1, dtype=np.intp)
    for part in parts:
        mates[part, : len(part)] = part
    return mates


def mean_cosine(predicted: npt.NDArray[Any], targets: npt.NDArray[Any], lengths: Matrix) -> float:
    """Return the mean cosine of rows and targets of these lengths, shape (n,)."""
    norms = lengths * np.sqrt(np.einsum("nq,nq->n", predicted, predicted))
    dots = np.einsum("nq,nq->n", predicted, targets).astype(np.float64)
    cosines = np.divide(dots, norms, out=np.zeros_like(dots), where=norms > 0)
    return float(cosines.mean())


def rank_own_names(predicted: Matrix, b: Matrix, mates: npt.NDArray[np.intp]) -> float:
    """Return the mean reciprocal rank of a row's own group among the predictions, by cosine."""
    gallery = unit_or_zero(predicted)
    asking = asking_of(len(gallery))
    return float(reciprocal_ranks(b[asking] @ gallery.T, mates[asking]).mean())


def asking_of(n: int) -> npt.NDArray[np.intp]:
    """Return which of n rows ask for the rank of their name: evenly spread, `MOST_QUERIES`."""
    return np.unique(np.linspace(0, n - 1, min(n, MOST_QUERIES)).round().astype(np.intp))


def leave_one_group_out(
    pairs: Pairs,
    *,
    direction: str = "y->x",
    penalties: Axis = PENALTIES,
    criterion: LeaveOutCriterion = "cosine",
) -> Surface:
    """Choose the penalty of a ridge fit from prototypes alone.

    Parameters
    ----------
    pairs : Pairs
        Transformed rows, no centring is done; `groups` are the names.
    direction : {"y->x", "x->y"}
        As `RidgeAligner`.
    penalties : Axis
        Relative: α = penalty · tr(aᵀa) / p, of all rows.
    criterion : {"cosine", "rank"}
        Mean cosine of the left-out prediction and its target; or the mean reciprocal rank of the
        true name, where each head row (of more than `MOST_QUERIES` so many, evenly spread) ranks
        the left-out predictions of all names.

    Returns
    -------
    Surface
        Over weight (1, given) × penalty. Costs one eigendecomposition of min(n, p) and a product a
        penalty.

    Raises
    ------
    SettingError
        If the criterion is unknown.
    SelectionError
        If there is one group only.
    """
    if criterion not in CRITERIA:
        raise SettingError(f"criterion must be one of {', '.join(CRITERIA)}. Got {criterion!r}.")
    used = pairs.take(pairs.row_weight > 0)
    a, b = (used.y, used.x) if direction == "y->x" else (used.x, used.y)
    asked = used.asked if direction == "y->x" else None

    def surface() -> Surface:
        grid = penalties
        left_out = LeftOut(
            a.astype(np.float64, copy=False),
            b.astype(np.float64, copy=False),
            used.row_groups,
            used.row_weight,
            None if asked is None else asked.astype(np.float64, copy=False),
        )
        score = left_out.mean_cosine if criterion == "cosine" else left_out.mean_reciprocal_rank
        if left_out.dual:
            grid = grid.at_least(LOWEST_DUAL)

        def evaluate(at: Mapping[str, Matrix]) -> Matrix:
            scores = [score(float(penalty) * left_out.mean_square) for penalty in at["penalty"]]
            return np.array([scores])

        return search(
            evaluate,
            {"weight": Axis.fixed(1.0), "penalty": grid},
            criterion=CRITERIA[criterion],
            n_queries=len(asking_of(used.n)) if criterion == "rank" else used.n,
            n_folds=left_out.n_groups,
            of_ranks=criterion == "rank",
        )

    made_of = used.row_groups, used.row_weight, penalties, criterion
    return SURFACES.get(digest_of(a, b, asked, *made_of), surface)

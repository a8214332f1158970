"""Choose width and penalty of kernel ridge from prototypes alone: closed-form leave-one-name-out.

What leaving out a group does depends on the texts alone: see `KernelLeftOut`. One
eigendecomposition a width gives every penalty, and serves a head and its controls, which have the
same texts. It is exact for preprocessing that does not depend on the rows left out;
docs/accuracy.md says how far refitting that too moves the criterion.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import scipy.linalg

from fitters.errors import SettingError
from fitters.feature_maps.nystroem import NystroemMap
from fitters.kept import Kept, digest_of
from fitters.kernel.solvers import decompose_kernel
from fitters.pairs import Pairs
from fitters.select.curve import Axis, geometric
from fitters.select.leave_out import (
    CRITERIA,
    Criterion,
    KernelLeftOut,
    LeftOut,
    mates_of,
    parts_of,
    rank_own_names,
)
from fitters.select.surface import Measured, Surface, explore

Matrix = npt.NDArray[np.float64]
Precision = Literal["float64", "float32"]

GAMMAS = Axis((0.5, 1.0, 2.0, 4.0, 8.0), lowest=2.0**-5, highest=2.0**7)
"""Inverse squared widths; unit rows are up to 4 apart, most of them about 2."""

KERNEL_PENALTIES = Axis(geometric(1e-3, 1e0, 2), lowest=1e-5, highest=1e2)
"""Penalties on a kernel whose diagonal is 1."""

EXACT_ROWS = 2048
"""Up to so many prototypes the choice is that of the exact solution."""

CHOICE_LANDMARKS = 1024
"""Beyond, that of the Nyström solution from so many landmarks, scored on `EXACT_ROWS` rows."""


def choose_on_prototypes(
    pairs: Pairs,
    *,
    direction: str = "y->x",
    gammas: Axis = GAMMAS,
    penalties: Axis = KERNEL_PENALTIES,
    criterion: Criterion = "cosine",
    precision: Precision = "float64",
    rng: np.random.Generator,
) -> Surface:
    """Return the leave-one-name-group-out surface over gamma × penalty.

    Parameters
    ----------
    pairs : Pairs
        Transformed rows, no centring is done; `groups` are the names.
    direction : {"y->x", "x->y"}
        As `KernelRidgeAligner`.
    gammas, penalties : Axis
        Absolute values; the grid widens itself.
    criterion : {"cosine", "rank"}
        As for `leave_one_group_out`. "rank" is for at most `EXACT_ROWS` prototypes.
    precision : {"float64", "float32"}
        Of the products with what is predicted, by "cosine" and of at most `EXACT_ROWS` prototypes:
        in float32 a score is off by about 1e-8, and what the texts decide at each point of the grid
        is kept for the next rows with the same texts.
    rng : numpy.random.Generator
        Draws the landmarks, where there are more than `EXACT_ROWS` prototypes.

    Raises
    ------
    SettingError
        If the criterion is unknown, or "rank" with too many prototypes.
    SelectionError
        If there is one group only.
    """
    if criterion not in CRITERIA:
        msg = f"criterion must be one of {', '.join(CRITERIA)}. Got {criterion!r}."
        raise SettingError(msg)
    used = pairs.take(pairs.row_weight > 0)
    exact = used.n <= EXACT_ROWS
    if not exact and criterion == "rank":
        msg = (
            f"Criterion 'rank' takes at most {EXACT_ROWS:,} prototypes; there are {used.n:,}. "
            "Use 'cosine'."
        )
        raise SettingError(msg)
    sides = (used.y, used.x) if direction == "y->x" else (used.x, used.y)
    a, b = (np.asarray(side, np.float64) for side in sides)
    if exact:
        texts = digest_of(a, used.row_groups, used.row_weight)
        # Every draw and number of real pairs of a sweep asks this again of the same prototypes.
        return _SURFACES.get(
            digest_of(texts, b, gammas, penalties, criterion, precision),
            lambda: _exact_surface(texts, a, b, used, gammas, penalties, criterion, precision),
        )
    at = rng.permutation(used.n)[:CHOICE_LANDMARKS]
    if penalties.searched:
        # Coming back to a width costs more here than all penalties do: none is left for later.
        penalties = replace(penalties, values=_whole(penalties))
    return _landmark_surface(a, b, used, gammas, penalties, at)


_SURFACES: Kept[Surface] = Kept(
    4_000_000, lambda surface: surface.scores.nbytes + surface.errors.nbytes
)

# In float32, for 1,000 texts 4 MB a point of the grid; that of the demo's head has 45 points.
_OPERATORS: Kept[npt.NDArray[Any]] = Kept(190_000_000, lambda operator: operator.nbytes)


def _exact_surface(
    texts: bytes,
    a: Matrix,
    b: Matrix,
    used: Pairs,
    gammas: Axis,
    penalties: Axis,
    criterion: Criterion,
    precision: Precision,
) -> Surface:
    """Return the surface of the exact solution; `texts` is the digest of all but b."""
    groups, weight = used.row_groups, used.row_weight
    parts = parts_of(groups)
    mates = mates_of(parts)
    targets, triangular = (b, False) if criterion == "rank" else _reduced(b)
    lengths = np.linalg.norm(b, axis=1)
    narrow = precision == "float32" and criterion == "cosine"
    if narrow:
        targets = targets.astype(np.float32)

    @lru_cache(maxsize=1)
    def at_width(gamma: float) -> KernelLeftOut:
        return KernelLeftOut(*decompose_kernel(a, weight, gamma), groups, weight)

    def operator(gamma: float, alpha: float) -> npt.NDArray[Any]:
        def make() -> npt.NDArray[Any]:
            return at_width(gamma).operator(alpha).astype(targets.dtype, copy=False)

        return _OPERATORS.get(digest_of(texts, gamma, alpha), make) if narrow else make()

    def score(gamma: float, alpha: float) -> tuple[float, float]:
        left_out = operator(gamma, alpha)
        if criterion == "rank":
            return rank_own_names(left_out @ targets, targets, mates), 0.0
        predicted = _times_lower(left_out, targets) if triangular else left_out @ targets
        return _mean_cosine(predicted, targets, lengths)

    def evaluate(values: Mapping[str, Matrix]) -> Measured:
        shape = len(values["penalty"]), len(values["gamma"])
        scores, errors = np.empty(shape), np.empty(shape)
        for j, gamma in enumerate(values["gamma"]):
            for i, alpha in enumerate(values["penalty"]):
                scores[i, j], errors[i, j] = score(float(gamma), float(alpha))
        return scores, errors

    return explore(
        evaluate,
        {"penalty": penalties, "gamma": gammas},
        criterion=CRITERIA[criterion],
        n_queries=used.n,
        n_folds=len(parts),
    )


def _landmark_surface(
    a: Matrix,
    b: Matrix,
    used: Pairs,
    gammas: Axis,
    penalties: Axis,
    at: npt.NDArray[np.intp],
) -> Surface:
    """Return the surface of the Nyström solution from the landmarks `at`."""
    spread = np.unique(np.linspace(0, used.n - 1, EXACT_ROWS).round().astype(np.intp))
    # Whoever is asked about leaves with all of the same name.
    known = np.flatnonzero(np.isin(used.row_groups, used.row_groups[spread]))
    asked = np.searchsorted(known, spread)
    targets = b[known[asked]]
    lengths = np.linalg.norm(targets, axis=1)
    groups, weight = used.row_groups, used.row_weight

    def evaluate(values: Mapping[str, Matrix]) -> Measured:
        shape = len(values["penalty"]), len(values["gamma"])
        scores, errors = np.empty(shape), np.empty(shape)
        for j, gamma in enumerate(values["gamma"]):
            features = NystroemMap.of_landmarks(a[at], float(gamma))
            gram, cross = features.normal_equations(a, b, weight)
            left_out = LeftOut.of_normal_equations(
                gram, cross, features.apply(a[known]), b[known], groups[known], weight[known]
            )
            for i, alpha in enumerate(values["penalty"]):
                predicted = left_out.predict(float(alpha), asked)
                scores[i, j], errors[i, j] = _mean_cosine(predicted, targets, lengths)
        return scores, errors

    return explore(
        evaluate,
        {"penalty": penalties, "gamma": gammas},
        criterion=CRITERIA["cosine"],
        n_queries=len(asked),
        n_folds=int(groups.max()) + 1,
    )


def _reduced(b: Matrix) -> tuple[Matrix, bool]:
    """Return rows with the inner products of b in fewer columns, and whether they are triangular.

    With b bᵀ = L Lᵀ, L lower triangular, every cosine of combinations of rows of b is that of the
    same combinations of L, at half the products of a square matrix.
    """
    n, p = b.shape
    if p <= n:
        return b, False
    products = b @ b.T
    # Centred rows are dependent: what is added is the rounding of the products.
    products[np.diag_indices(n)] += 10 * np.finfo(np.float64).eps * np.trace(products)
    try:
        lower = np.asarray(np.linalg.cholesky(products), np.float64)
    except np.linalg.LinAlgError:
        return b, False
    return lower, True


def _times_lower(operator: npt.NDArray[Any], lower: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return operator @ lower, which is triangular."""
    (multiply,) = scipy.linalg.get_blas_funcs(("trmm",), (lower, operator))
    # BLAS has its matrices by columns, where ours are by rows: it sees both transposed.
    product: npt.NDArray[Any] = multiply(1.0, lower.T, operator.T, side=0, lower=0).T
    return product


def _mean_cosine(
    predicted: npt.NDArray[Any], targets: npt.NDArray[Any], lengths: Matrix
) -> tuple[float, float]:
    """Return the mean cosine of rows and targets of these lengths, and its standard error."""
    norms = lengths * np.sqrt(np.einsum("nq,nq->n", predicted, predicted))
    dots = np.einsum("nq,nq->n", predicted, targets).astype(np.float64)
    cosines = np.divide(dots, norms, out=np.zeros_like(dots), where=norms > 0)
    return float(cosines.mean()), float(cosines.std(ddof=1) / np.sqrt(len(cosines)))


def _whole(axis: Axis) -> tuple[float, ...]:
    """Return the values of an axis from its lowest to its highest."""
    room = 64
    return axis.beyond("low", room) + axis.values + axis.beyond("high", room)

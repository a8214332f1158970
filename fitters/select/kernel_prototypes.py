"""Choose width and penalty of kernel ridge from prototypes alone: closed-form leave-one-name-out.

For a group I, with G = (K + alpha D⁻¹)⁻¹ and A = G B, the left-out residual is (G_II)⁻¹ A_I: one
eigendecomposition a width gives every penalty. It is exact for preprocessing that does not depend
on the rows left out; docs/accuracy.md says how far refitting that too moves the criterion.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from hashlib import sha256

import numpy as np
import numpy.typing as npt

from fitters.errors import SettingError
from fitters.feature_maps.kernels import gaussian
from fitters.feature_maps.nystroem import NystroemMap
from fitters.pairs import Pairs
from fitters.select.curve import Axis, geometric
from fitters.select.leave_out import CRITERIA, Criterion, LeftOut
from fitters.select.surface import Measured, Surface, explore

Matrix = npt.NDArray[np.float64]

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
        return _surface(_Question(a, b, used, gammas, penalties, criterion))
    at = rng.permutation(used.n)[:CHOICE_LANDMARKS]
    if penalties.searched:
        # Coming back to a width costs more here than all penalties do: none is left for later.
        penalties = replace(penalties, values=_whole(penalties))
    return _surface.__wrapped__(_Question(a, b, used, gammas, penalties, criterion, at))


@dataclass(frozen=True, eq=False)
class _Question:
    """All that a surface depends on; two are equal if every byte of them is."""

    a: Matrix
    b: Matrix
    used: Pairs
    gammas: Axis
    penalties: Axis
    criterion: Criterion
    at: npt.NDArray[np.intp] | None = None

    @cached_property
    def digest(self) -> bytes:
        used, digest = self.used, sha256()
        for rows in (self.a, self.b, used.row_groups, used.row_weight):
            digest.update(repr((rows.shape, rows.dtype.str)).encode())
            digest.update(np.ascontiguousarray(rows).data)
        digest.update(repr((self.gammas, self.penalties, self.criterion)).encode())
        return digest.digest()

    def __hash__(self) -> int:
        return hash(self.digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Question) and self.digest == other.digest


# Every draw and number of real pairs of a sweep asks this again of the same prototypes. For 1,000
# rows of 384 and 1,280 values it takes 5 seconds of one core, and the digest 10 milliseconds.
@lru_cache(maxsize=2)
def _surface(question: _Question) -> Surface:
    a, b, used, at = question.a, question.b, question.used, question.at
    gammas, penalties, criterion = question.gammas, question.penalties, question.criterion
    exact = at is None
    asked = known = np.arange(used.n)
    if not exact:
        spread = np.unique(np.linspace(0, used.n - 1, EXACT_ROWS).round().astype(np.intp))
        # Whoever is asked about leaves with all of the same name.
        known = np.flatnonzero(np.isin(used.row_groups, used.row_groups[spread]))
        asked = np.searchsorted(known, spread)
    targets = b[known[asked]]
    lengths = np.linalg.norm(targets, axis=1)

    # A grid that widens along the penalty comes back to the same widths: all are kept, 18 MB each
    # for 1,000 rows of 1,280 values.
    @lru_cache(maxsize=len(_whole(gammas)) if exact else 1)
    def left_out(gamma: float) -> LeftOut:
        groups, weight = used.row_groups, used.row_weight
        if at is None:
            return LeftOut.of_kernel(gaussian(a, a, gamma), b, groups, weight)
        features = NystroemMap.of_landmarks(a[at], gamma)
        gram, cross = features.normal_equations(a, b, weight)
        return LeftOut.of_normal_equations(
            gram, cross, features.apply(a[known]), b[known], groups[known], weight[known]
        )

    def score(fit: LeftOut, alpha: float) -> tuple[float, float]:
        if criterion == "rank":
            return fit.mean_reciprocal_rank(alpha), 0.0
        predicted = fit.predict(alpha, None if exact else asked)
        norms = lengths * np.linalg.norm(predicted, axis=1)
        dots = np.einsum("nq,nq->n", predicted, targets)
        cosines = np.divide(dots, norms, out=np.zeros_like(dots), where=norms > 0)
        return float(cosines.mean()), float(cosines.std(ddof=1) / np.sqrt(len(cosines)))

    def evaluate(values: Mapping[str, Matrix]) -> Measured:
        shape = len(values["penalty"]), len(values["gamma"])
        scores, errors = np.empty(shape), np.empty(shape)
        for j, gamma in enumerate(values["gamma"]):
            fit = left_out(float(gamma))
            for i, alpha in enumerate(values["penalty"]):
                scores[i, j], errors[i, j] = score(fit, float(alpha))
        return scores, errors

    return explore(
        evaluate,
        {"penalty": penalties, "gamma": gammas},
        criterion=CRITERIA[criterion],
        n_queries=len(asked),
        n_folds=int(used.row_groups.max()) + 1,
    )


def _whole(axis: Axis) -> tuple[float, ...]:
    """Return the values of an axis from its lowest to its highest."""
    room = 64
    return axis.beyond("low", room) + axis.values + axis.beyond("high", room)

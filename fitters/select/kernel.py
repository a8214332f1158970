"""Held-out scores of kernel ridge in closed form.

What leaving out a group does depends on the texts alone: see `KernelLeftOut`. One
eigendecomposition a width gives every penalty, and serves a head and its controls, which have the
same texts. It is exact for preprocessing that does not depend on the rows left out;
docs/accuracy.md says how far refitting that too moves the criterion.

Of real pairs R without prototypes, the system is S = K_RR + alpha D_R⁻¹ and r = B_R; the residual
of a held-out fold F is ((S⁻¹)_FF)⁻¹ (S⁻¹ r)_F: exact, with one inverse for all folds.

On both sources the prototypes P keep width and penalty that leaving out names chose for them, and
the real pairs R correct what their fit f leaves of their images. With the prototypes eliminated,

    S = K_RR - K_RP (K_PP + penalty D_P⁻¹)⁻¹ K_PR
    r = B_R - K_RP (K_PP + penalty D_P⁻¹)⁻¹ B_P = B_R - f(R)
    f_ν(t) = f(t) + S_tR (S + ν D_R⁻¹)⁻¹ r

where ν is the noise of a real pair: ν = ∞ is the fit on the prototypes alone, and ν = 0 believes
the pairs to the letter. It is not chosen. A few pairs cannot tell its values apart, so the fits are
averaged, each by how well it ranks held-out pairs (`weigh_noise`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import scipy.linalg

from fitters.aligners.kernel_solvers import DOUBLE_ROWS, decompose_kernel, solve_first
from fitters.aligners.solvers import eigen_gram
from fitters.errors import PairsError, SettingError
from fitters.feature_maps import NystroemMap, gaussian
from fitters.kept import Kept, digest_of
from fitters.moments.transform import unit_or_zero
from fitters.pairs import Pairs
from fitters.select.grid import Axis, Choice, Surface, folds_of_pairs, geometric, search
from fitters.select.leave_out import (
    CRITERIA,
    SURFACES,
    KernelLeftOut,
    LeaveOutCriterion,
    LeftOut,
    mates_of,
    mean_cosine,
    parts_of,
    rank_own_names,
)
from fitters.select.ranking import METRICS, Gallery, metric_of, reciprocal_ranks
from fitters.settings import Validation

Matrix = npt.NDArray[np.float64]
Precision = Literal["float64", "float32"]

GAMMAS = Axis((0.5, 1.0, 2.0, 4.0, 8.0), lowest=2.0**-5, highest=2.0**7)
"""Inverse squared widths; unit rows are up to 4 apart, most of them about 2."""

KERNEL_PENALTIES = Axis(geometric(1e-3, 1e0, 2), lowest=1e-5, highest=1e2)
"""Penalties on a kernel whose diagonal is 1."""

SINGLE_LOWEST = 1e-3
"""The lowest for more than `DOUBLE_ROWS` prototypes, whose kernel has a float32 factor."""

TIED = 1e-5
"""Mean cosines that are apart by no more are equal. Towards penalty 0 they rise without end, by
less and less: of those that cannot be told apart the largest penalty is taken."""

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
    criterion: LeaveOutCriterion = "cosine",
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
        raise SettingError(f"criterion must be one of {', '.join(CRITERIA)}. Got {criterion!r}.")
    used = pairs.take(pairs.row_weight > 0)
    exact = used.n <= EXACT_ROWS
    if used.n > DOUBLE_ROWS:
        penalties = penalties.at_least(SINGLE_LOWEST)
    if not exact and criterion == "rank":
        raise SettingError(
            f"Criterion 'rank' takes at most {EXACT_ROWS:,} prototypes; there are {used.n:,}. "
            "Use 'cosine'."
        )
    sides = (used.y, used.x) if direction == "y->x" else (used.x, used.y)
    a, b = (np.asarray(side, np.float64) for side in sides)
    asked = None
    if used.asked is not None and direction == "y->x":
        asked = np.asarray(used.asked, np.float64)
    if exact:
        texts = digest_of(a, asked, used.row_groups, used.row_weight)
        return SURFACES.get(
            digest_of(texts, b, gammas, penalties, criterion, precision),
            lambda: _exact_surface(
                texts, a, b, asked, used, gammas, penalties, criterion, precision
            ),
        )
    at = rng.permutation(used.n)[:CHOICE_LANDMARKS]
    if penalties.searched:
        # Coming back to a width costs more here than all penalties do: none is left for later.
        penalties = replace(penalties, values=_whole(penalties))
    return _landmark_surface(a, b, asked, used, gammas, penalties, at)


# In float32, for 1,000 texts 4 MB a point of the grid; that of the demo's head has 45 points.
_OPERATORS: Kept[npt.NDArray[Any]] = Kept(190_000_000, lambda operator: operator.nbytes)


def _exact_surface(
    texts: bytes,
    a: Matrix,
    b: Matrix,
    asked: Matrix | None,
    used: Pairs,
    gammas: Axis,
    penalties: Axis,
    criterion: LeaveOutCriterion,
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
        between = None if asked is None else gaussian(asked, a, gamma)
        return KernelLeftOut(*decompose_kernel(a, weight, gamma), groups, weight, between)

    def operator(gamma: float, alpha: float) -> npt.NDArray[Any]:
        def make() -> npt.NDArray[Any]:
            return at_width(gamma).operator(alpha).astype(targets.dtype, copy=False)

        return _OPERATORS.get(digest_of(texts, gamma, alpha), make) if narrow else make()

    def score(gamma: float, alpha: float) -> float:
        left_out = operator(gamma, alpha)
        if criterion == "rank":
            return rank_own_names(left_out @ targets, targets, mates)
        predicted = _times_lower(left_out, targets) if triangular else left_out @ targets
        return mean_cosine(predicted, targets, lengths)

    def evaluate(values: Mapping[str, Matrix]) -> Matrix:
        scores = np.empty((len(values["penalty"]), len(values["gamma"])))
        for j, gamma in enumerate(values["gamma"]):
            for i, alpha in enumerate(values["penalty"]):
                scores[i, j] = score(float(gamma), float(alpha))
        return scores

    return search(
        evaluate,
        {"penalty": penalties, "gamma": gammas},
        criterion=CRITERIA[criterion],
        n_queries=used.n,
        n_folds=len(parts),
        of_ranks=criterion == "rank",
        tied=TIED,
    )


def _landmark_surface(
    a: Matrix,
    b: Matrix,
    asked: Matrix | None,
    used: Pairs,
    gammas: Axis,
    penalties: Axis,
    at: npt.NDArray[np.intp],
) -> Surface:
    """Return the surface of the Nyström solution from the landmarks `at`."""
    spread = np.unique(np.linspace(0, used.n - 1, EXACT_ROWS).round().astype(np.intp))
    # A class is left out with all classes of its name.
    known = np.flatnonzero(np.isin(used.row_groups, used.row_groups[spread]))
    requested = np.searchsorted(known, spread)
    targets = b[known[requested]]
    lengths = np.linalg.norm(targets, axis=1)
    groups, weight = used.row_groups, used.row_weight

    def evaluate(values: Mapping[str, Matrix]) -> Matrix:
        scores = np.empty((len(values["penalty"]), len(values["gamma"])))
        for j, gamma in enumerate(values["gamma"]):
            features = NystroemMap.of_landmarks(a[at], float(gamma))
            gram, cross = features.normal_equations(a, b, weight)
            left_out = LeftOut.of_normal_equations(
                gram, cross, features.apply(a[known]), b[known], groups[known], weight[known],
                None if asked is None else features.apply(asked[known]),
            )  # fmt: skip
            for i, alpha in enumerate(values["penalty"]):
                predicted = left_out.predict(float(alpha), requested)
                scores[i, j] = mean_cosine(predicted, targets, lengths)
        return scores

    return search(
        evaluate,
        {"penalty": penalties, "gamma": gammas},
        criterion=CRITERIA["cosine"],
        n_queries=len(requested),
        n_folds=int(groups.max()) + 1,
        tied=TIED,
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


def _whole(axis: Axis) -> tuple[float, ...]:
    """Return the values of an axis from its lowest to its highest."""
    room = 64
    return axis.beyond("low", room) + axis.values + axis.beyond("high", room)


VALIDATIONS: dict[str, str] = {
    **METRICS,
    "cosine": "mean cosine of a held-out image and the row predicted from its text",
    "squared": "minus the mean squared error of the row predicted from a held-out text",
}
"""What cross-validation over real pairs can score by."""


def explained_by(
    prototypes: Pairs, real: Matrix, gamma: float, penalty: float, rng: np.random.Generator
) -> tuple[Matrix, Matrix]:
    """Return what the prototypes, eliminated, take from K_RR and from B_R.

    Parameters
    ----------
    prototypes : Pairs
        Transformed, weights above 0. Of more than `EXACT_ROWS` the Nyström kernel of
        `CHOICE_LANDMARKS` stands for theirs.
    real : Matrix of shape (k, q)
        Texts of the real pairs.
    gamma, penalty : float
        Of the prototypes.
    rng : numpy.random.Generator
        Draws the landmarks.
    """
    a, b = prototypes.y.astype(np.float64), prototypes.x.astype(np.float64)
    if prototypes.n <= EXACT_ROWS:
        # The final fit solves the same system, and adds the real pairs to it.
        solution = solve_first(a, b, gamma, penalty / prototypes.row_weight)
        return solution.eliminate(a, real)[1:]
    landmarks = rng.permutation(prototypes.n)[:CHOICE_LANDMARKS]
    root = np.sqrt(prototypes.row_weight)[:, None]
    features = NystroemMap.of_landmarks(a[landmarks], gamma)
    mapped = root * features.apply(a)
    values, vectors = eigen_gram(mapped.T @ mapped)
    reach = vectors.T @ features.apply(real).T
    seen = vectors.T @ (mapped.T @ (root * b))
    inverse = 1 / (values + penalty)
    return reach.T @ ((inverse * values)[:, None] * reach), reach.T @ (inverse[:, None] * seen)


@dataclass(frozen=True, eq=False)
class Fold:
    """Rows of one held-out fold, the first row of each distinct text, and what is right."""

    rows: npt.NDArray[np.intp]
    first: npt.NDArray[np.intp]
    positives: npt.NDArray[np.intp]

    @classmethod
    def of(cls, real: Pairs, rows: npt.NDArray[np.intp]) -> Fold:
        """Return the fold of these rows of `real`."""
        held = real.take(rows)
        first = np.unique(held.y, axis=0, return_index=True)[1]
        return cls(rows, first, Gallery.of(held.y, held.row_groups).positives)


def cross_validate_kernel(
    *,
    real: Pairs,
    folds: npt.NDArray[np.integer[Any]],
    gammas: Axis = GAMMAS,
    penalties: Axis = KERNEL_PENALTIES,
    criterion: Validation = "mrr",
) -> Surface:
    """Return the validation surface of text → image kernel ridge over penalty × gamma.

    Parameters
    ----------
    real : Pairs
        The K training pairs, transformed; nothing else of the data enters.
    folds : ndarray of int, shape (K,)
        From `folds_by_group`; each fold is held out once, its texts are its gallery.
    gammas, penalties : Axis
        Absolute values; the grid widens itself.
    criterion : str
        One of `VALIDATIONS`.

    Notes
    -----
    The transforms are those of the final fit, so the held-out images take part in the mean that
    centres them; their texts and their pairing take part in nothing.
    """
    check_validation(real, folds, criterion)
    texts, images = real.y.astype(np.float64), real.x.astype(np.float64)
    parts = [Fold.of(real, np.flatnonzero(folds == fold)) for fold in np.unique(folds)]
    own = 1 / real.row_weight

    @cache  # a grid that widens along the penalty comes back to the same widths
    def kernel_at(gamma: float) -> Matrix:
        return gaussian(texts, texts, gamma)

    def evaluate(values: Mapping[str, Matrix]) -> Matrix:
        scores = np.empty((len(values["penalty"]), len(values["gamma"])))
        for j, gamma in enumerate(values["gamma"]):
            for i, alpha in enumerate(values["penalty"]):
                system = kernel_at(float(gamma)) + np.diag(alpha * own)
                predicted = held_out_predictions(system, images, images, parts)
                scores[i, j] = score_predictions(predicted, images, parts, criterion).mean()
        return scores

    return search(
        evaluate,
        {"penalty": penalties, "gamma": gammas},
        criterion=VALIDATIONS[criterion],
        n_queries=real.n,
        n_folds=len(parts),
        of_ranks=criterion in METRICS,
    )


def check_validation(real: Pairs, folds: npt.NDArray[np.integer[Any]], criterion: str) -> None:
    """Raise unless real pairs can be validated by these folds and this criterion.

    Raises
    ------
    SettingError
        If the criterion is unknown.
    PairsError
        If a pair has no fold or no mass.
    """
    if criterion not in VALIDATIONS:
        raise SettingError(f"criterion must be one of {', '.join(VALIDATIONS)}. Got {criterion!r}.")
    if folds.shape != (real.n,):
        raise PairsError(f"folds must have one entry a pair, shape ({real.n},). Got {folds.shape}.")
    if (real.row_weight <= 0).any():
        raise PairsError(
            "A real pair of weight 0 can be neither fitted nor held out. Leave it out."
        )


def held_out_predictions(
    system: Matrix, targets: Matrix, images: Matrix, parts: list[Fold]
) -> Matrix:
    """Return the prediction of every row when its fold was held out."""
    inverse = np.linalg.inv(system)
    dual = inverse @ targets
    predicted = np.empty_like(images)
    for part in parts:
        rows = part.rows
        left = np.linalg.inv(inverse[np.ix_(rows, rows)]) @ dual[rows]
        predicted[rows] = images[rows] - left
    return predicted


def score_predictions(
    predicted: Matrix, images: Matrix, parts: list[Fold], criterion: str, *, unit: bool = True
) -> Matrix:
    """Return the criterion of every row, the texts of its fold being the gallery.

    Predictions are ranked by cosine, or by dot product if not `unit`.
    """
    if criterion == "squared":
        left = images - predicted
        squares: Matrix = -np.einsum("nd,nd->n", left, left)
        return squares
    if unit:
        predicted = unit_or_zero(predicted)
    if criterion == "cosine":
        cosines: Matrix = np.einsum("nd,nd->n", predicted, images) / np.linalg.norm(images, axis=1)
        return cosines
    scores = np.empty(len(images))
    for part in parts:
        of_fold = images[part.rows] @ predicted[part.rows][part.first].T
        scores[part.rows] = metric_of(reciprocal_ranks(of_fold, part.positives), criterion)
    return scores


NOISE = (0.03, 0.1, 0.32, 1.0, 3.2, 10.0, 32.0, 100.0, np.inf)
"""Noise of a real pair; without end the pairs say nothing. Of kernel ridge on a kernel whose
diagonal is 1, of ridge that of a prototype is 1."""

MOST_PAIRS = EXACT_ROWS
"""Of more real pairs, so many that are drawn say how noisy a pair is."""

#: So many standard errors decide that the prototypes alone have no say beside the mixed fit.
TOO_MUCH = 2.0


@dataclass(frozen=True, eq=False)
class NoiseWeights:
    """How much each noise of the real pairs counts, and what it was found by.

    Attributes
    ----------
    criterion : str
        As in words.
    scores, scores_without : ndarray of shape (9,), (8,)
        Mean over held-out real pairs of the fit at each value of `NOISE`, and without the
        prototypes at each finite one.
    weights, weights_without : ndarray of shape (9,), (8,)
        Share of each; all add to 1.
    score : float
        Of the averaged fit.
    score_with_first : float
        Of its cosine and that of the prototypes alone, added by `first_share`.
    first_share : float
        What the cosine of the prototypes alone counts beside that of the averaged fit: what the
        fits with prototypes weigh, or 0 where held-out pairs speak clearly against it.
    n_queries, n_folds : int
    """

    criterion: str
    scores: Matrix
    scores_without: Matrix
    weights: Matrix
    weights_without: Matrix
    score: float
    score_with_first: float
    first_share: float
    n_queries: int
    n_folds: int

    def chosen(self, choice: Choice, facts: dict[str, Any]) -> Choice:
        """Return what was chosen on the prototypes, with these shares of the noises beside it."""
        shares = {
            "noises": dict(zip(NOISE, self.weights.tolist(), strict=True)),
            "without": dict(zip(NOISE, self.weights_without.tolist(), strict=False)),
        }
        return Choice(
            choice.params | {"first_share": self.first_share},
            facts=facts | {"mix": None, **self.to_facts()},
            axes=choice.axes,
            of_fit=shares,
        )

    def to_facts(self) -> dict[str, Any]:
        """Return it as plain values for JSON; noise without end is null."""
        return {
            "criterion": self.criterion,
            "score": self.score_with_first if self.first_share else self.score,
            "score_without_first": self.score,
            "first_share": self.first_share,
            "edges": [],
            "n_queries": self.n_queries,
            "n_folds": self.n_folds,
            "noises": [value if np.isfinite(value) else None for value in NOISE],
            "scores": self.scores.tolist(),
            "noise_weights": self.weights.tolist(),
            "scores_without_head": self.scores_without.tolist(),
            "noise_weights_without_head": self.weights_without.tolist(),
        }


def pairs_to_weigh(
    real: Pairs, n_folds: int, rng: np.random.Generator
) -> tuple[Pairs, npt.NDArray[np.intp]]:
    """Return at most `MOST_PAIRS` of the real pairs, whole groups, and their folds.

    Raises
    ------
    SelectionError
        If all pairs are of one group.
    """
    if real.n > MOST_PAIRS:
        _, codes, sizes = np.unique(real.row_groups, return_inverse=True, return_counts=True)
        order = rng.permutation(len(sizes))
        drawn = order[: max(2, int(np.searchsorted(np.cumsum(sizes[order]), MOST_PAIRS, "right")))]
        real = real.take(np.isin(codes, drawn))
    return real, folds_of_pairs(real, n_folds, "mix", rng)


def weigh_noise(
    real: Pairs,
    folds: npt.NDArray[np.integer[Any]],
    *,
    kernel: Matrix,
    covered: Matrix,
    explained: Matrix,
    unit: float = 1.0,
    criterion: Validation = "mrr",
) -> NoiseWeights:
    """Return how much each noise of the real pairs counts, with the prototypes and without them.

    With m the mean of a held-out score, m* the largest and SE its standard error, a fit weighs
    exp(2 (m - m*) / SE): those that held-out pairs cannot tell from the best count nearly alike,
    and with many pairs only the best remain. Prototypes that carry no class lose their weight to
    the fits without them.

    Parameters
    ----------
    real : Pairs
        Transformed, K of them; the prototypes are in the training of every fold.
    folds : ndarray of int, shape (K,)
        From `folds_by_group`; each fold is held out once, its texts are its gallery.
    kernel, covered : ndarray of shape (K, K)
        Between the real texts, and what the prototypes take from it.
    explained : ndarray of shape (K, p)
        What the fit on the prototypes alone predicts of the images.
    unit : float
        What a noise of 1 is on this kernel.
    criterion : str
        One of `VALIDATIONS`.

    Raises
    ------
    SettingError, PairsError
        As `check_validation`.
    """
    check_validation(real, folds, criterion)
    images = real.x.astype(np.float64)
    parts = [Fold.of(real, np.flatnonzero(folds == fold)) for fold in np.unique(folds)]

    def held_out(system: Matrix, targets: Matrix) -> list[Matrix]:
        return [
            images - targets + held_out_predictions(
                system + np.diag(unit * noise / real.row_weight), targets, targets, parts
            )
            for noise in NOISE[:-1]
        ]  # fmt: skip

    predictions = held_out(kernel - covered, images - explained)
    predictions += [explained, *held_out(kernel, images)]
    scores = np.array([score_predictions(p, images, parts, criterion) for p in predictions])
    means = scores.mean(axis=1)
    best = int(means.argmax())
    weights = np.array(means == means[best], np.float64)
    if error := float(scores[best].std()) / np.sqrt(real.n):
        weights = np.exp(2 * (means - means[best]) / error)
    weights /= weights.sum()
    mixed = np.zeros_like(images)
    for weight, predicted in zip(weights, predictions, strict=True):
        mixed += weight * predicted
    first_share = float(weights[: len(NOISE)].sum())
    # A sum of cosines is no prediction of an image: only its ranks can be judged.
    by = "mrr" if criterion in ("cosine", "squared") else criterion
    alone, both = (
        score_predictions(rows, images, parts, by, unit=False)
        for rows in (
            unit_or_zero(mixed),
            unit_or_zero(mixed) + first_share * unit_or_zero(explained),
        )
    )
    lost = alone - both
    if lost.mean() > TOO_MUCH * float(lost.std()) / np.sqrt(real.n):
        first_share = 0.0
    n = len(NOISE)
    return NoiseWeights(
        VALIDATIONS[criterion], means[:n], means[n:], weights[:n], weights[n:],
        float(alone.mean()), float(both.mean()), first_share, real.n, len(parts),
    )  # fmt: skip

"""How much real pairs count beside prototypes: fits averaged over how noisy the pairs may be.

The prototypes P keep width and penalty that leaving out names chose for them, and the real pairs R
correct what their fit f leaves of their images. With the prototypes eliminated,

    S = K_RR - K_RP (K_PP + penalty D_P⁻¹)⁻¹ K_PR
    r = B_R - K_RP (K_PP + penalty D_P⁻¹)⁻¹ B_P = B_R - f(R)
    f_ν(t) = f(t) + S_tR (S + ν D_R⁻¹)⁻¹ r

where ν is the noise of a real pair: ν = ∞ is the fit on the prototypes alone, and ν = 0 believes
the pairs to the letter. It is not chosen. A few pairs cannot tell its values apart, so the fits are
averaged, each by how well it ranks held-out pairs (`weigh_noise`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fitters.errors import PairsError
from fitters.kernels import NystroemMap, decompose_kernel, solve_first
from fitters.pairs import Matrix, Pairs
from fitters.select import Axis, Choice, Surface, choose, folds_of_pairs
from fitters.select.left_out import CHOICE_LANDMARKS, EXACT_ROWS, GAMMAS, KERNEL_PENALTIES
from fitters.select.ranking import METRICS, Gallery, metric_of, reciprocal_ranks
from fitters.settings import Validation
from fitters.solvers import Spectrum, eigen_gram, solve_ridge
from fitters.sources import unit_or_zero

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
        return solve_first(a, b, gamma, penalty / prototypes.row_weight).eliminate(a, real)[1:]
    features = NystroemMap.of_landmarks(a[rng.permutation(prototypes.n)[:CHOICE_LANDMARKS]], gamma)
    return explained_by_features(
        *features.normal_equations(a, b, prototypes.row_weight), features.apply(real), penalty
    )


def explained_by_features(
    gram: Matrix, cross: Matrix, reach: Matrix, penalty: float
) -> tuple[Matrix, Matrix]:
    """Return the same where the kernel is that of features, by their moments and those of R."""
    # What is predicted of the kernels of R, and of the images.
    found = reach @ solve_ridge(gram, np.hstack([gram @ reach.T, cross]), penalty)
    return found[:, : len(reach)], found[:, len(reach) :]


class HeldOutPairs:
    """Real pairs in folds: how well the rows that are predicted for them rank, or fit.

    Parameters
    ----------
    real : Pairs
        Transformed, K of them.
    folds : ndarray of int, shape (K,)
        From `folds_by_group`; each fold is held out once, its texts are its gallery.
    criterion : str
        One of `VALIDATIONS`.

    Raises
    ------
    PairsError
        If a pair has no mass.
    """

    def __init__(self, real: Pairs, folds: npt.NDArray[np.integer[Any]], criterion: str) -> None:
        if (real.row_weight <= 0).any():
            raise PairsError(
                "A real pair of weight 0 can be neither fitted nor held out. Leave it out."
            )
        self.images, self.criterion = real.x.astype(np.float64), criterion
        self._root = np.sqrt(real.row_weight)[:, None]
        self.parts = [np.flatnonzero(folds == fold) for fold in np.unique(folds)]
        self._galleries = []
        for rows in self.parts:
            held = real.take(rows)
            first = np.unique(held.y, axis=0, return_index=True)[1]
            self._galleries.append((rows[first], Gallery.of(held.y, held.row_groups).positives))

    def decomposed(self, kernel: Matrix) -> tuple[Matrix, Matrix]:
        """Return the decomposition of a kernel between the pairs, by their masses."""
        return eigen_gram(self._root * kernel * self._root.T)

    def predicted(
        self, decomposed: tuple[Matrix, Matrix], targets: Matrix, noises: Iterable[float]
    ) -> list[Matrix]:
        """Return the prediction of every row when its fold was held out, at each noise."""
        spectrum = Spectrum.of_kernel(decomposed, self._root * targets)
        return [spectrum.left_out(noise, self.parts) / self._root for noise in noises]

    def scores(self, predicted: Matrix, criterion: str = "", *, unit: bool = True) -> Matrix:
        """Return the criterion of every row, the texts of its fold being the gallery.

        Predictions are ranked by cosine, or by dot product if not `unit`.
        """
        by, images = criterion or self.criterion, self.images
        if by == "squared":
            return -((images - predicted) ** 2).sum(axis=1)
        if unit:
            predicted = unit_or_zero(predicted)
        if by == "cosine":
            return np.einsum("nd,nd->n", predicted, unit_or_zero(images))
        scores = np.empty(len(images))
        for rows, (first, positives) in zip(self.parts, self._galleries, strict=True):
            scores[rows] = metric_of(
                reciprocal_ranks(images[rows] @ predicted[first].T, positives), by
            )
        return scores


ROUNDING = 1e-10
"""A prediction this short beside the longest image is 0, and ties with everything: a narrow kernel
of few pairs leaves it no more digits than a sum rounds away, and its rank would be noise."""


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
    real, folds, criterion
        As for `HeldOutPairs`; nothing else of the data enters.
    gammas, penalties : Axis
        Absolute values; the grid widens itself.

    Notes
    -----
    The transforms are those of the final fit, so the held-out images take part in the mean that
    centres them; their texts and their pairing take part in nothing.
    """
    held = HeldOutPairs(real, folds, criterion)
    texts = real.y.astype(np.float64)
    least = ROUNDING * np.linalg.norm(held.images, axis=1).max()

    def evaluate(at: Mapping[str, Matrix]) -> Matrix:
        curves = []
        for gamma in at["gamma"].tolist():
            decomposed = decompose_kernel(texts, real.row_weight, gamma)
            found = held.predicted(decomposed, held.images, at["penalty"])
            for predicted in found:
                predicted[np.linalg.norm(predicted, axis=1) < least] = 0.0
            curves.append([held.scores(predicted).mean() for predicted in found])
        return np.array(curves).T

    return choose(
        evaluate, {"penalty": penalties, "gamma": gammas}, criterion=VALIDATIONS[criterion],
        n_queries=real.n, n_folds=len(held.parts), of_ranks=criterion in METRICS,
    )  # fmt: skip


NOISE = (0.03, 0.1, 0.32, 1.0, 3.2, 10.0, 32.0, 100.0, np.inf)
"""Noise of a real pair; without end the pairs say nothing. Of kernel ridge on a kernel whose
diagonal is 1, of ridge that of a prototype is 1."""

MOST_PAIRS = EXACT_ROWS
"""Of more real pairs, so many that are drawn say how noisy a pair is."""

#: So many standard errors decide that the prototypes alone have no say beside the mixed fit.
TOO_MUCH = 2.0


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
    choice: Choice,
    real: Pairs,
    folds: npt.NDArray[np.integer[Any]],
    *,
    kernel: Matrix,
    covered: Matrix,
    explained: Matrix,
    unit: float = 1.0,
    criterion: Validation = "mrr",
) -> Choice:
    """Add to a choice how much each noise of the real pairs counts, with prototypes and without.

    With m the mean of a held-out score, m* the largest and SE its standard error, a fit weighs
    exp(2 (m - m*) / SE): those that held-out pairs cannot tell from the best count nearly alike,
    and with many pairs only the best remain. Prototypes that carry no class lose their weight to
    the fits without them.

    Parameters
    ----------
    choice : Choice
        What was chosen on the prototypes.
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

    Returns
    -------
    Choice
        With `first_share` among its parameters: what the cosine of the prototypes alone counts
        beside that of the averaged fit, which is what the fits with prototypes weigh, or 0 where
        held-out pairs speak clearly against it. Its facts hold the mean of the held-out scores and
        the weight of each of `NOISE`, and of each finite one without the prototypes; all weights
        add to 1.

    Raises
    ------
    SettingError, PairsError
        As `HeldOutPairs`.
    """
    held = HeldOutPairs(real, folds, criterion)
    finite = [unit * noise for noise in NOISE[:-1]]
    beyond = held.predicted(held.decomposed(kernel - covered), held.images - explained, finite)
    predictions = [explained + part for part in beyond]
    alone_too = held.predicted(held.decomposed(kernel), held.images, finite)
    predictions += [explained, *alone_too]
    scores = np.array([held.scores(predicted) for predicted in predictions])
    means = scores.mean(axis=1)
    best = int(means.argmax())
    weights = np.array(means == means[best], np.float64)
    if error := float(scores[best].std()) / np.sqrt(real.n):
        weights = np.exp(2 * (means - means[best]) / error)
    weights /= weights.sum()
    weighed = (weight * rows for weight, rows in zip(weights, predictions, strict=True))
    mixed = unit_or_zero(sum(weighed, np.zeros_like(explained)))
    first_share = float(weights[: len(NOISE)].sum())
    # A sum of cosines is no prediction of an image: only its ranks can be judged.
    by = "mrr" if criterion in ("cosine", "squared") else criterion
    alone, both = (
        held.scores(rows, by, unit=False)
        for rows in (mixed, mixed + first_share * unit_or_zero(explained))
    )
    lost = alone - both
    if lost.mean() > TOO_MUCH * float(lost.std()) / np.sqrt(real.n):
        first_share = 0.0
    n, score = len(NOISE), float(alone.mean())
    facts: dict[str, Any] = {"of_prototypes": choice.facts} if choice.facts else {}
    facts |= {
        "mix": None,
        "criterion": VALIDATIONS[criterion],
        "score": float(both.mean()) if first_share else score,
        "score_without_first": score,
        "first_share": first_share,
        "edges": [],
        "n_queries": real.n,
        "n_folds": len(held.parts),
        # In JSON noise without end is null.
        "noises": [value if np.isfinite(value) else None for value in NOISE],
        "scores": means[:n].tolist(),
        "noise_weights": weights[:n].tolist(),
        "scores_without_head": means[n:].tolist(),
        "noise_weights_without_head": weights[n:].tolist(),
    }
    shares = {
        "noises": dict(zip(NOISE, weights[:n].tolist(), strict=True)),
        "without": dict(zip(NOISE, weights[n:].tolist(), strict=False)),
    }
    params = choice.params | {"first_share": first_share}
    return Choice(params, facts=facts, axes=choice.axes, of_fit=shares)

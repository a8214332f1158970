"""Gaussian discriminant analysis beside the prototypes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fitters.aligners.solvers import solve_ridge
from fitters.few_shot.class_moments import ClassMoments, fold_of
from fitters.few_shot.learner import (
    LinearClassifier,
    Scale,
    ShotLearner,
    Shots,
    evenly,
    log_losses,
    own_scale,
)
from fitters.pairs import Matrix

#: Candidate weights of the Gaussian log density beside the prototypes; 0 leaves zero-shot.
WEIGHTS = (0.0, *(float(value) for value in np.geomspace(1e-3, 10, 9)))

# A scatter smaller than this share of the rows' squared length is rounding.
_NOTHING = 1e-12


def gaussian_weights(moments: ClassMoments) -> tuple[Matrix, Matrix]:
    """Return W (c, r) and b (c,): log densities x · w_c + b_c, less what all classes share.

    The classes are Gaussians of one covariance::

        P = (Σ̂ + tr(Σ̂) / (N − 1) · I)⁻¹,   Σ̂ = scatter / (N − 1)
        w_c = P μ_c,   b_c = −μ_cᵀ P μ_c / 2

    with the class means μ_c, N rows, and equal priors. Where rows do not scatter around their means
    (one row a class) P = I: the nearest mean. A class without rows gets the mean of the others:
    no evidence for or against it.

    Kubokawa and Srivastava, J. Multivariate Anal. 2008, for the shrinkage. Wang et al. (ICLR 2024)
    multiply P by r / (N − 1), which makes the weight of the density depend on the number of rows.
    """
    n = max(float(moments.counts.sum()) - 1.0, 1.0)
    scatter = moments.scatter / n
    trace = float(np.trace(scatter))
    having = moments.counts > 0
    means = moments.means[having]
    if trace > _NOTHING * float(np.trace(moments.products)):
        weight = solve_ridge(scatter, means.T, trace / n).T
    else:
        weight = means
    bias = -0.5 * np.sum(weight * means, axis=1)
    weights = np.tile(weight.mean(axis=0), (len(having), 1))
    biases = np.full(len(having), bias.mean())
    weights[having], biases[having] = weight, bias
    return weights, biases


@dataclass(kw_only=True)
class GDA(ShotLearner):
    """Zero-shot scores plus the log density of a Gaussian around every class's mean.

        scores = scale · x Tᵀ + α (x Wᵀ + b)

    with prototypes T and W, b of `gaussian_weights`, whose rows are the shots' views at unit length
    (one row a shot where there are none). Wang et al., A Hard-to-Beat Baseline for Training-Free
    CLIP-based Adaptation, ICLR 2024; their α is r / (N − 1) of this one, N rows of r columns.

    α is the one with the least log-loss on shots that are left out: shots of a class lie in
    different folds, each with all its views, and the moments of a fold are subtracted from those
    of all. With no class of two shots α is 0, which is zero-shot. Without prototypes it is the
    Gaussians alone, and nothing is chosen. With no shot it is the prototypes. No validation row is
    looked at.

    Parameters
    ----------
    scale : float or "auto"
        "auto" is `fitters.few_shot.learner.own_scale`.
    weights : sequence of float
        Tried for α.
    folds : int
    """

    scale: Scale = "auto"
    weights: Sequence[float] = WEIGHTS
    folds: int = 5

    def _learn(self, shots: Shots) -> LinearClassifier:
        """Add up the moments, leave every fold out for α, and solve with all."""
        rows, labels = shots.unit_views
        moments = ClassMoments.of(rows, labels, shots.n_classes)
        weight, bias = gaussian_weights(moments)
        if shots.prototypes is None:
            return LinearClassifier(weight.astype(np.float32), bias.astype(np.float32))
        scale = own_scale(shots, self.scale)
        alpha, left_out = self._choose(shots, moments, scale)
        facts = {"alpha": alpha, "scale": scale, "folds": float(left_out)}
        mixed = scale * shots.prototypes + alpha * weight
        bias = alpha * bias
        return LinearClassifier(mixed.astype(np.float32), bias.astype(np.float32), facts)

    def _choose(self, shots: Shots, moments: ClassMoments, scale: float) -> tuple[float, int]:
        """Return α and the number of folds that it was chosen by; 0 and 0 where there are none."""
        assert shots.prototypes is not None
        rows, labels = shots.unit_views
        fold = fold_of(shots.labels, self.folds)
        of_view = np.repeat(fold, len(rows) // len(fold))
        losses: list[list[Matrix]] = []
        for number in range(self.folds):
            part = of_view == number
            rest = moments - ClassMoments.of(rows[part], labels[part], shots.n_classes)
            held = np.flatnonzero((fold == number) & (rest.counts[shots.labels] > 0))
            if not len(held) or rest.counts.max() < 2:
                # Nothing to score, or nothing that scatters: another density than that of all.
                continue
            weight, bias = gaussian_weights(rest)
            held = held[evenly(len(held), shots.n_classes * self.folds)]
            x, own = shots.x[held].astype(np.float64), shots.labels[held]
            first, density = scale * (x @ shots.prototypes.T), x @ weight.T + bias
            losses.append([log_losses(first + alpha * density, own) for alpha in self.weights])
        if not losses:
            return 0.0, 0
        means = [np.concatenate(of_alpha).mean() for of_alpha in zip(*losses, strict=True)]
        return self.weights[int(np.argmin(np.round(means, 9)))], len(losses)

"""CLAP and ZS-LP: prototypes trained on the shots, held near where they started, or not."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from fitters.few_shot.learner import (
    LinearClassifier,
    Rows,
    Scale,
    ShotLearner,
    Shots,
    scale_of,
    starting_weights,
    without_bias,
)
from fitters.moments.transform import normalize_rows

#: Step of the first epoch.
WARM_UP = 1e-5


@dataclass(kw_only=True)
class CLAP(ShotLearner):
    """Cosine classifier that starts from the prototypes and pays for leaving them.

        loss = cross-entropy of softmax(scale · x · p_c / ‖p_c‖) + mean over c of λ_c ‖p_c − t_c‖²

    λ_c is the mean probability that the starting prototypes t give class c's shots for c, so that
    prototypes that are good already are held. Silva-Rodríguez et al., CLAP, CVPR 2024, with
    penalty "l2" and fixed λ. `penalty=False` is its ZS-LP: the same without the second term.

    SGD with momentum 0.9, the first epoch at 1e-5, then from `learning_rate` as a cosine to 0. An
    epoch is max(1, n // batch) batches from a shuffle of all views of the n shots, as in the
    original, so that views make no epoch longer. Nothing is chosen on validation rows but, with the
    shots, the scale; the last epoch counts.

    Without prototypes it starts from class means. A class without a shot has λ = 1. With no shot
    it is the prototypes.

    Parameters
    ----------
    penalty : bool
    scale : float or "auto"
        See `fitters.few_shot.learner.scale_of`.
    length : float
        ‖t_c‖. The original leaves CLIP's texts at their raw length, and a step of a longer row
        turns it less and costs more; prototypes here are of length 1, and are scaled.
    epochs, batch_size : int
    learning_rate : float
    seed : int
        Of the order of the rows.
    """

    penalty: bool = True
    scale: Scale = "auto"
    length: float = 10.0
    epochs: int = 300
    learning_rate: float = 0.1
    batch_size: int = 256
    seed: int = 0

    def _learn(self, shots: Shots) -> LinearClassifier:
        """Train the prototypes."""
        start = starting_weights(shots)
        scale = scale_of(shots, start, self.scale)
        x, labels = shots.unit_views
        anchors = (self.length * start).astype(np.float32)
        pull = held_by(shots, start, scale) if self.penalty else np.zeros(shots.n_classes, "f4")
        rows, speed = anchors.copy(), np.zeros_like(anchors)
        steps = max(1, len(shots.labels) // self.batch_size)
        rng = np.random.default_rng(self.seed)
        for epoch in range(self.epochs):
            rate = np.float32(self._rate(epoch))
            order = rng.permutation(len(x))
            for step in range(steps):
                batch = order[step * self.batch_size : (step + 1) * self.batch_size]
                slope = _slope(rows, x[batch], labels[batch], scale)
                slope += (2 / shots.n_classes) * pull[:, None] * (rows - anchors)
                speed = 0.9 * speed + slope
                rows = rows - rate * speed
        weight = np.float32(scale) * normalize_rows(rows, what="trained prototypes")
        return without_bias(weight, {"scale": scale})

    def _rate(self, epoch: int) -> float:
        if epoch == 0:
            return WARM_UP
        return float(self.learning_rate * 0.5 * (1 + np.cos(np.pi * (epoch - 1) / self.epochs)))


def held_by(shots: Shots, start: Rows, scale: float) -> npt.NDArray[np.float32]:
    """Return λ: the mean softmax probability of the own class over a class's views, shape (c,)."""
    x, labels = shots.unit_views
    likely = softmax(np.float32(scale) * (x @ start.T), axis=1)[np.arange(len(labels)), labels]
    counts = np.bincount(labels, minlength=shots.n_classes)
    sums = np.bincount(labels, weights=likely, minlength=shots.n_classes)
    means: npt.NDArray[np.float64] = np.divide(
        sums, counts, out=np.ones(shots.n_classes), where=counts > 0
    )
    return means.astype(np.float32)


def _slope(
    rows: Rows, x: Rows, labels: npt.NDArray[np.int64], scale: float
) -> npt.NDArray[np.float32]:
    """Return the gradient of the mean cross-entropy in the prototypes, shape (c, r)."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = rows / lengths
    error = softmax(np.float32(scale) * (x @ unit.T), axis=1)
    error[np.arange(len(labels)), labels] -= 1
    of_unit = np.float32(scale / len(labels)) * (error.T @ x)
    # A unit row only turns: what points along it has no effect.
    along = np.einsum("cr,cr->c", of_unit, unit)[:, None] * unit
    return (of_unit - along) / lengths


@dataclass(kw_only=True)
class ZSLP(CLAP):
    """ZS-LP: a linear probe that starts from the prototypes; `CLAP` without its penalty."""

    penalty: bool = field(default=False, init=False)

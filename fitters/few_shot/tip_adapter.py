"""Tip-Adapter: a cache of shots beside the prototypes, nothing trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fitters.few_shot.learner import Classifier, Labels, Rows, Shots, reciprocal_rank
from fitters.few_shot.linear_classifier import without_bias
from fitters.few_shot.logit_scale import Scale, scale_of, starting_weights

#: Weights of the cache beside the prototypes that are tried, and how fast a shot's influence falls.
ALPHAS = (0.0, *(float(10.0**power) for power in np.arange(-1.0, 2.75, 0.25)))
BETAS = tuple(float(2.0**power) for power in np.arange(-1.0, 5.5, 0.5))

#: The original's first values for ImageNet, taken where there are no validation rows.
ALPHA, BETA = 1.17, 1.0

# Cosines with keys held at once.
_BLOCK = 4_000_000


@dataclass(frozen=True, eq=False)
class Cache:
    """Shots as keys, the class of each as its value.

    A key counts for mean / own number of keys of a class: 1 where all classes have equally many,
    as in the original, whose sums would else go to the classes of most shots.

    Attributes
    ----------
    keys : array of shape (n, r)
    labels : int64 array of shape (n,)
    n_classes : int
    """

    keys: Rows
    labels: Labels
    n_classes: int

    @property
    def mass(self) -> npt.NDArray[np.float32]:
        """What a key of each class counts for, shape (c,); 0 for a class that has none."""
        counts = np.bincount(self.labels, minlength=self.n_classes)
        mean = len(self.labels) / np.count_nonzero(counts)
        mass = np.divide(mean, counts, out=np.zeros(self.n_classes), where=counts > 0)
        return mass.astype(np.float32)

    def logits(self, x: Rows, beta: float) -> npt.NDArray[np.float32]:
        """Return mass · Σ over the keys of a class of exp(−β (1 − x · key)), shape (m, c)."""
        return next(iter(self.paths(x, (beta,))))

    def paths(self, x: Rows, betas: Sequence[float]) -> list[npt.NDArray[np.float32]]:
        """Return the logits for every β: the cosines are computed once."""
        order = np.argsort(self.labels, kind="stable")
        counts = np.bincount(self.labels, minlength=self.n_classes)
        having = np.flatnonzero(counts)
        starts, mass = (np.cumsum(counts) - counts)[having], self.mass[having]
        found = [np.zeros((len(x), self.n_classes), dtype=np.float32) for _ in betas]
        size = max(1, _BLOCK // max(1, len(order)))
        for start in range(0, len(x), size):
            block = slice(start, start + size)
            gap = x[block] @ self.keys[order].T - np.float32(1.0)
            for logits, beta in zip(found, betas, strict=True):
                near = np.exp(np.float32(beta) * gap)
                logits[block, having] = mass * np.add.reduceat(near, starts, axis=1)
        return found


@dataclass(frozen=True, eq=False)
class TipClassifier:
    """Scores scale · x Tᵀ + α · cache(x); without prototypes T the cache alone.

    Attributes
    ----------
    cache : Cache
    prototypes : array of shape (c, r) or None
    scale, alpha, beta : float
    facts : dict
    """

    cache: Cache
    prototypes: Rows | None
    scale: float
    alpha: float
    beta: float
    facts: Mapping[str, float] = field(default_factory=dict)

    def scores(self, x: Rows) -> npt.NDArray[np.float32]:
        """Return a score for every class, shape (m, c)."""
        cached = self.cache.logits(x, self.beta)
        if self.prototypes is None:
            return cached
        scores: npt.NDArray[np.float32] = np.float32(self.scale) * (x @ self.prototypes.T)
        scores += np.float32(self.alpha) * cached
        return scores


class TipAdapter:
    """Zero-shot scores plus those of the shots that are near.

        scores = scale · x Tᵀ + α · exp(−β (1 − x Kᵀ)) L

    with prototypes T, keys K (the mean of each shot's augmented views at unit length, or the shot
    where there are no views) and their one-hot labels L, times `Cache.mass` where classes have
    unequally many. Zhang et al., Tip-Adapter, ECCV 2022.

    α and β are the pair with the best mean reciprocal rank on the validation rows, of equal ones
    the α nearest `ALPHA`, then the β nearest `BETA` in their ratio; these two without validation
    rows. Without prototypes only β plays a part. With no shot it is the prototypes.

    Parameters
    ----------
    scale : float or "auto"
        The original writes 100, CLIP's. "auto" is `fitters.few_shot.logit_scale.scale_of`.
    alphas, betas : sequence of float
        Tried. The original's steps are linear, in ranges that it sets for every dataset.
    """

    def __init__(
        self,
        *,
        scale: Scale = "auto",
        alphas: Sequence[float] = ALPHAS,
        betas: Sequence[float] = BETAS,
    ) -> None:
        self.scale: Scale = scale
        self.alphas, self.betas = tuple(alphas), tuple(betas)

    def fit(self, shots: Shots) -> Classifier:
        """Fill the cache, and choose α and β."""
        if not len(shots.labels):
            assert shots.prototypes is not None
            return without_bias(shots.prototypes)
        cache = Cache(shots.mean_views, shots.labels, shots.n_classes)
        scale = scale_of(shots, starting_weights(shots), self.scale)
        alpha, beta = self.choose(shots, cache, scale, self.alphas)
        return classifier_of(shots, cache, scale, alpha, beta)

    def choose(
        self, shots: Shots, cache: Cache, scale: float, alphas: Sequence[float]
    ) -> tuple[float, float]:
        """Return α and β by the validation rows."""
        if not shots.has_validation:
            return ALPHA, BETA
        x, labels = shots.validation_x, shots.validation_labels
        assert x is not None
        assert labels is not None
        weights: Sequence[float] = (1.0,)
        first = np.zeros((len(x), shots.n_classes), dtype=np.float32)
        if shots.prototypes is not None:
            weights = alphas
            first = np.float32(scale) * (x @ shots.prototypes.T)
        values = [
            (
                reciprocal_rank(first + np.float32(alpha) * cached, labels),
                -_far(alpha, ALPHA), -_far(beta, BETA), -alpha, -beta,
            )
            for beta, cached in zip(self.betas, cache.paths(x, self.betas), strict=True)
            for alpha in weights
        ]  # fmt: skip
        *_, alpha, beta = max(values)
        return -alpha, -beta


def _far(value: float, published: float) -> float:
    """Return how far a value is from the published one, as the logarithm of their ratio."""
    return float(abs(np.log(value / published))) if value > 0 else float("inf")


def classifier_of(
    shots: Shots,
    cache: Cache,
    scale: float,
    alpha: float,
    beta: float,
    facts: Mapping[str, float] | None = None,
) -> TipClassifier:
    """Return the classifier with what was chosen as its facts."""
    told = {"beta": beta}
    if shots.prototypes is not None:
        told |= {"alpha": alpha, "scale": scale}
    return TipClassifier(cache, shots.prototypes, scale, alpha, beta, told | dict(facts or {}))

"""Tip-Adapter and Tip-Adapter-F."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featstore.errors import needs_extra
from fitters.few_shot.learner import (
    Classifier,
    Labels,
    Rows,
    Scale,
    ShotLearner,
    Shots,
    reciprocal_rank,
    scale_of,
    starting_weights,
)

#: Candidate weights of the cache beside the prototypes, and rates at which shots lose influence.
ALPHAS = (0.0, *(float(10.0**power) for power in np.arange(-1.0, 2.75, 0.25)))
BETAS = tuple(float(2.0**power) for power in np.arange(-1.0, 5.5, 0.5))

#: The original's first values for ImageNet, taken where there are no validation rows.
ALPHA, BETA = 1.17, 1.0

# Cosines with keys that are held at once.
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
    epoch : int, optional
        Of the training of the keys.
    """

    cache: Cache
    prototypes: Rows | None
    scale: float
    alpha: float
    beta: float
    epoch: int | None = None

    @property
    def facts(self) -> Mapping[str, float]:
        """What was chosen, by name."""
        mixed = {} if self.prototypes is None else {"alpha": self.alpha, "scale": self.scale}
        trained = {} if self.epoch is None else {"epoch": float(self.epoch)}
        return {"beta": self.beta} | mixed | trained

    def scores(self, x: Rows) -> npt.NDArray[np.float32]:
        """Return a score for every class, shape (m, c)."""
        cached = self.cache.logits(x, self.beta)
        if self.prototypes is None:
            return cached
        scores: npt.NDArray[np.float32] = np.float32(self.scale) * (x @ self.prototypes.T)
        scores += np.float32(self.alpha) * cached
        return scores


@dataclass(kw_only=True)
class TipAdapter(ShotLearner):
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
        The original writes 100, CLIP's. "auto" is `fitters.few_shot.learner.scale_of`.
    alphas, betas : sequence of float
        Tried. The original's steps are linear, in ranges that it sets for every dataset.
    """

    scale: Scale = "auto"
    alphas: Sequence[float] = ALPHAS
    betas: Sequence[float] = BETAS

    def _learn(self, shots: Shots) -> Classifier:
        """Fill the cache, and choose α and β."""
        cache = Cache(shots.mean_views, shots.labels, shots.n_classes)
        scale = scale_of(shots, starting_weights(shots), self.scale)
        return TipClassifier(cache, shots.prototypes, scale, *self.choose(shots, cache, scale))

    def choose(self, shots: Shots, cache: Cache, scale: float) -> tuple[float, float]:
        """Return α and β by the validation rows."""
        if not shots.has_validation:
            return ALPHA, BETA
        x, labels = shots.validation
        weights: Sequence[float] = (1.0,)
        first = np.zeros((len(x), shots.n_classes), dtype=np.float32)
        if shots.prototypes is not None:
            weights = self.alphas
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


@dataclass(kw_only=True)
class TipAdapterF(ShotLearner):
    """Tip-Adapter whose keys learn; prototypes and labels stay.

    Starts from Tip-Adapter's keys and trains them, with α and β at `ALPHA` and `BETA`, for the
    cross-entropy of the shots: AdamW (decay 0.01, ε 1e-4), the rate falling as a cosine by step. An
    epoch sees every shot once, as its view number (epoch mod v) where there are views. The epoch
    with the best mean reciprocal rank on the validation rows is kept, of equal ones the first, the
    untrained keys included; without validation rows the last. Then α and β are chosen as by
    `TipAdapter`. Zhang et al., Tip-Adapter, ECCV 2022; the original keeps the epoch that is best on
    test rows, and sets the α that it trains with for every dataset.

    Without prototypes the scale stands before the cache in training, so that the softmax has
    something to be sharp by. With no shot it is the prototypes. Needs torch.

    Parameters
    ----------
    scale : float or "auto"
        See `TipAdapter`.
    epochs, batch_size : int
    learning_rate : float
    seed : int
        Of the order of the shots.
    """

    scale: Scale = "auto"
    epochs: int = 20
    learning_rate: float = 1e-3
    batch_size: int = 256
    seed: int = 0

    def _learn(self, shots: Shots) -> Classifier:
        """Train the keys, and choose epoch, α and β."""
        cache = Cache(shots.mean_views, shots.labels, shots.n_classes)
        scale = scale_of(shots, starting_weights(shots), self.scale)
        trained, epoch = self._train(shots, cache, scale)
        chosen = TipAdapter().choose(shots, trained, scale)
        return TipClassifier(trained, shots.prototypes, scale, *chosen, epoch)

    def _train(self, shots: Shots, cache: Cache, scale: float) -> tuple[Cache, int]:
        """Return the cache of the best epoch, and its number; 0 is the untrained one."""
        with needs_extra("The learner tip-adapter-f", "train"):
            import torch
        from fitters.trained.base import blas_threads

        by_prototypes = shots.prototypes is not None
        weight = ALPHA if by_prototypes else scale
        x = _by_view(shots)
        labels = torch.from_numpy(shots.labels)
        one_hot = torch.nn.functional.one_hot(labels, shots.n_classes)
        values = one_hot * torch.from_numpy(cache.mass)
        rng = np.random.default_rng(self.seed)

        def value(made: Cache) -> float:
            return shots.value(TipClassifier(made, shots.prototypes, scale, ALPHA, BETA).scores)

        best = (value(cache), 0, cache)
        with blas_threads():
            prototypes = torch.from_numpy(shots.prototypes) if by_prototypes else None
            keys = torch.from_numpy(cache.keys.copy()).requires_grad_()
            optimiser = torch.optim.AdamW([keys], lr=self.learning_rate, eps=1e-4, foreach=False)
            steps = self.epochs * -(-len(shots.labels) // self.batch_size)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
            for epoch in range(1, self.epochs + 1):
                order = rng.permutation(len(shots.labels))
                for start in range(0, len(order), self.batch_size):
                    batch = torch.from_numpy(order[start : start + self.batch_size])
                    rows = torch.from_numpy(x[(epoch - 1) % len(x)])[batch]
                    logits = weight * (torch.exp(BETA * (rows @ keys.T - 1)) @ values)
                    if prototypes is not None:
                        logits = logits + scale * (rows @ prototypes.T)
                    loss = torch.nn.functional.cross_entropy(logits, labels[batch])
                    optimiser.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimiser.step()
                    schedule.step()
                made = Cache(keys.detach().numpy().copy(), shots.labels, shots.n_classes)
                reached = value(made)
                if reached > best[0] or not shots.has_validation:
                    best = (reached, epoch, made)
        return best[2], best[1]


def _by_view(shots: Shots) -> Rows:
    """Return unit rows to train on, shape (v, n, r): every view, or the shots themselves."""
    if shots.views is None:
        return shots.x[None]
    rows, _ = shots.unit_views
    by_view: Rows = np.ascontiguousarray(rows.reshape(shots.views.shape).swapaxes(0, 1))
    return by_view

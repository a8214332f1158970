"""Tip-Adapter-F: Tip-Adapter's keys trained by gradient descent."""

from __future__ import annotations

import numpy as np

from featstore.errors import needs_extra
from fitters.few_shot.learner import Classifier, Rows, Shots, reciprocal_rank
from fitters.few_shot.linear_classifier import without_bias
from fitters.few_shot.logit_scale import Scale, scale_of, starting_weights
from fitters.few_shot.tip_adapter import ALPHA, BETA, Cache, TipAdapter, classifier_of


class TipAdapterF:
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

    def __init__(
        self,
        *,
        scale: Scale = "auto",
        epochs: int = 20,
        learning_rate: float = 1e-3,
        batch_size: int = 256,
        seed: int = 0,
    ) -> None:
        self.scale: Scale = scale
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.seed = seed

    def fit(self, shots: Shots) -> Classifier:
        """Train the keys, and choose epoch, α and β.

        Raises
        ------
        MissingPackageError
            If torch is not installed.
        """
        if not len(shots.labels):
            assert shots.prototypes is not None
            return without_bias(shots.prototypes)
        tip = TipAdapter()
        cache = Cache(shots.mean_views, shots.labels, shots.n_classes)
        scale = scale_of(shots, starting_weights(shots), self.scale)
        trained, epoch = self._train(shots, cache, scale)
        chosen = tip.choose(shots, trained, scale, tip.alphas)
        return classifier_of(shots, trained, scale, *chosen, {"epoch": float(epoch)})

    def _train(self, shots: Shots, cache: Cache, scale: float) -> tuple[Cache, int]:
        """Return the cache of the best epoch, and its number; 0 is the untrained one."""
        with needs_extra("The learner tip-adapter-f", "train"):
            import torch
        from fitters.trained.precision import blas_threads

        by_prototypes = shots.prototypes is not None
        weight = ALPHA if by_prototypes else scale
        x = _by_view(shots)
        labels = torch.from_numpy(shots.labels)
        one_hot = torch.nn.functional.one_hot(labels, shots.n_classes)
        values = one_hot * torch.from_numpy(cache.mass)
        rng = np.random.default_rng(self.seed)
        best = (_value(shots, cache, scale), 0, cache)
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
                value = _value(shots, made, scale)
                if value > best[0] or not shots.has_validation:
                    best = (value, epoch, made)
        return best[2], best[1]


def _value(shots: Shots, cache: Cache, scale: float) -> float:
    if not shots.has_validation:
        return 0.0
    assert shots.validation_x is not None
    assert shots.validation_labels is not None
    scores = classifier_of(shots, cache, scale, ALPHA, BETA).scores(shots.validation_x)
    return reciprocal_rank(scores, shots.validation_labels)


def _by_view(shots: Shots) -> Rows:
    """Return unit rows to train on, shape (v, n, r): every view, or the shots themselves."""
    if shots.views is None:
        return shots.x[None]
    rows, _ = shots.unit_views
    by_view: Rows = np.ascontiguousarray(rows.reshape(shots.views.shape).swapaxes(0, 1))
    return by_view

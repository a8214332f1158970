"""Cross-modal adaptation: prototypes are shots too, half of every batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featstore.errors import needs_extra
from fitters.errors import SettingError
from fitters.few_shot.learner import (
    LinearClassifier,
    Rows,
    Scale,
    ShotLearner,
    Shots,
    scale_of,
    without_bias,
)

#: Steps between two evaluations on the validation rows, and steps in which the rate rises.
EVERY, WARM_UP = 100, 50

#: Learning rate at the start of the warm-up.
FIRST_RATE = 1e-5


@dataclass(kw_only=True)
class CrossModal(ShotLearner):
    """Linear probe on shots and prototypes alike, which starts from the prototypes.

        scores = scale · x Wᵀ

    Lin et al., Multimodality Helps Unimodality, CVPR 2023, linear head. Every batch is half shots,
    half prototypes, each a row of its class; AdamW, the rate rising for 50 steps from 1e-5 and
    falling as a cosine. Every 100 steps, the start included, the mean reciprocal rank on the
    validation rows is taken; the best weights of all learning rates are kept, of equal ones the
    last of the rate that is listed first: few rows are soon all right, and do not speak for the
    start. Without validation rows the last step of the first rate.

    The original has several texts a class, here it is one, their mean; it makes 12,800 steps, with
    batches of 8 and of 32 and decays 0, 1e-4 and 0.01. Needs prototypes, and torch. With no shot it
    is the prototypes.

    Parameters
    ----------
    scale : float or "auto"
        The original has 100, CLIP's; "auto" is `fitters.few_shot.learner.scale_of`.
    learning_rates : sequence of float
    weight_decay : float
    steps, batch_size : int
    seed : int
        Of the order of rows.
    """

    scale: Scale = "auto"
    learning_rates: Sequence[float] = (1e-3, 1e-4)
    weight_decay: float = 0.01
    steps: int = 1600
    batch_size: int = 32
    seed: int = 0

    def _learn(self, shots: Shots) -> LinearClassifier:
        """Train with every rate, and keep the best weights; SettingError without prototypes."""
        if shots.prototypes is None:
            raise SettingError(
                "cross-modal takes the prototypes as shots, and there are none. Give some (of a "
                "run: prototypes=names or head), or take logistic-probe."
            )
        scale = scale_of(shots, shots.prototypes, self.scale)
        weight, step = shots.prototypes, 0
        best = shots.value(without_bias(weight).scores)
        rates = self.learning_rates if shots.has_validation else self.learning_rates[:1]
        for rate in reversed(rates):
            for at, rows in self._train(shots, scale, rate):
                value = shots.value(without_bias(rows).scores)
                if value >= best:
                    best, weight, step = value, rows, at
        return without_bias(np.float32(scale) * weight, {"scale": scale, "epoch": float(step)})

    def _train(self, shots: Shots, scale: float, rate: float) -> list[tuple[int, Rows]]:
        """Return (step, weights) after every `EVERY` steps and the last."""
        with needs_extra("The learner cross-modal", "train"):
            import torch
        from fitters.trained.base import blas_threads

        assert shots.prototypes is not None
        x, labels = shots.x, shots.labels
        rng = np.random.default_rng(self.seed)
        half = max(1, self.batch_size // 2)
        images = _endless(len(x), half, self.steps, rng)
        texts = _endless(shots.n_classes, half, self.steps, rng)
        found: list[tuple[int, Rows]] = []
        with blas_threads():
            rows = torch.from_numpy(np.concatenate([x, shots.prototypes]))
            target = torch.from_numpy(np.concatenate([labels, np.arange(shots.n_classes)]))
            weight = torch.from_numpy(shots.prototypes.copy()).requires_grad_()
            # foreach=False: a third of the time on a CPU, where there is one parameter.
            optimiser = torch.optim.AdamW(
                [weight], lr=rate, weight_decay=self.weight_decay, foreach=False
            )
            for step in range(self.steps):
                optimiser.param_groups[0]["lr"] = self._rate(step, rate)
                batch = torch.from_numpy(np.concatenate([images[step], len(x) + texts[step]]))
                logits = scale * (rows[batch] @ weight.T)
                loss = torch.nn.functional.cross_entropy(logits, target[batch])
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                if (step + 1) % EVERY == 0 or step + 1 == self.steps:
                    found.append((step + 1, weight.detach().numpy().copy()))
        return found

    def _rate(self, step: int, rate: float) -> float:
        if step < WARM_UP:
            return FIRST_RATE + (rate - FIRST_RATE) * step / WARM_UP
        return float(0.5 * rate * (1 + np.cos(np.pi * (step - WARM_UP) / self.steps)))


def _endless(
    n: int, size: int, steps: int, rng: np.random.Generator
) -> list[npt.NDArray[np.int64]]:
    """Return `steps` batches of at most `size` of n rows, from one shuffle after another."""
    size = min(size, n)
    a_pass = n // size
    passes = [rng.permutation(n)[: a_pass * size] for _ in range(-(-steps // a_pass))]
    return list(np.concatenate(passes).reshape(-1, size)[:steps])

"""Stochastic gradient descent as CoOp's code does it: rate by epoch, after a slow first epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fitters.errors import DivergedError, SettingError


@dataclass(frozen=True)
class Descent:
    """How contexts are trained; the values are CoOp's.

    Attributes
    ----------
    epochs : int or None
        None: 50 for one shot a class, 100 for up to four, 200 for more, as in CoOp's scripts.
    batch_size : int
        The last batch of an epoch is left out where it is not full, unless it is the only one.
    learning_rate, momentum, weight_decay : float
        Of plain SGD; the decay is an L2 term and pulls contexts to 0.
    warmup_epochs : int
        First epochs with `warmup_rate`; a cosine over `epochs` begins after them.
    warmup_rate : float
    """

    epochs: int | None = None
    batch_size: int = 32
    learning_rate: float = 2e-3
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup_epochs: int = 1
    warmup_rate: float = 1e-5

    def __post_init__(self) -> None:
        if (self.epochs is not None and self.epochs < 0) or self.batch_size < 1:
            msg = (
                "Epochs are 0 or more and a batch has 1 row or more; got "
                f"{self.epochs} and {self.batch_size}."
            )
            raise SettingError(msg)

    def epochs_for(self, shots: int) -> int:
        """Return the epochs for so many shots of a class."""
        if self.epochs is not None:
            return self.epochs
        return 50 if shots <= 1 else 100 if shots <= 4 else 200

    def rate(self, epoch: int, epochs: int) -> float:
        """Return the learning rate of an epoch, counted from 0.

        The cosine is counted from the end of the warm-up but over all epochs, so that its last
        epochs are never reached: so does the original's scheduler.
        """
        if epoch < self.warmup_epochs:
            return self.warmup_rate
        turn = math.pi * (epoch - self.warmup_epochs) / epochs
        return self.learning_rate * (1 + math.cos(turn)) / 2


def descend(
    parameters: Sequence[Tensor],
    loss_of: Callable[[Tensor], Tensor],
    n: int,
    epochs: int,
    descent: Descent,
    rng: np.random.Generator,
) -> None:
    """Train `parameters` in place.

    Parameters
    ----------
    parameters : sequence of tensors
        Leaves that need a gradient.
    loss_of : callable
        Row numbers of a batch → its mean loss.
    n : int
        Rows.
    epochs : int
    descent : Descent
    rng : numpy Generator
        Draws the order of the rows of every epoch.

    Raises
    ------
    DivergedError
        If a loss is not finite.
    """
    optimiser = torch.optim.SGD(
        list(parameters),
        lr=descent.learning_rate,
        momentum=descent.momentum,
        weight_decay=descent.weight_decay,
    )
    size = min(descent.batch_size, n)
    for epoch in range(epochs):
        for group in optimiser.param_groups:
            group["lr"] = descent.rate(epoch, epochs)
        order = torch.from_numpy(rng.permutation(n))
        for start in range(0, n - size + 1, size):
            loss = loss_of(order[start : start + size])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            value = float(loss.detach())
            if not math.isfinite(value):
                msg = (
                    f"The training diverged: a loss of epoch {epoch + 1} is {value}. Use a smaller "
                    f"learning rate than {descent.learning_rate:g}."
                )
                raise DivergedError(msg)

"""The training loop: read it from top to bottom.

`train` runs one stage after the other. An epoch is one pass over a stage's rows in a new order;
after it, held-out pairs are scored, the state is written if it is time, and the caller is told.
"""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from fitters.errors import DivergedError
from fitters.trained.batches import Batch, Mixture, Stream
from fitters.trained.checkpoint import (
    Checkpoint,
    module_tensors,
    optimiser_tensors,
    restore_optimiser,
    with_prefix,
)
from fitters.trained.optimisers import make_optimiser
from fitters.trained.progress import EpochDone, OnEpoch
from fitters.trained.schedule import rate_factor
from fitters.trained.validation import mean_reciprocal_rank


class Objective(nn.Module):
    """What is trained: heads, and the loss of a batch."""

    @abstractmethod
    def outputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return what the heads make of a batch: the part that runs in bfloat16, if any does."""

    @abstractmethod
    def loss(self, batch: Batch, outputs: tuple[Tensor, ...], step: int) -> Tensor:
        """Return the loss to go down on, a scalar; `step` counts from 0 within a stage."""

    @abstractmethod
    def project(self, side: str, rows: Tensor) -> Tensor:
        """Return rows of x or y in the shared space, not normalised."""

    def undecayed(self) -> list[nn.Parameter]:
        """Return parameters without weight decay."""
        return []

    def after_step(self) -> None:
        """Bring parameters back into their range."""


@dataclass(frozen=True)
class TrainingSettings:
    """How to train; see `fitters.trained.mlp.MLPAligner` for what each means."""

    optimizer: str
    betas: tuple[float, float] | None
    weight_decay: float
    schedule: str
    warmup_epochs: float
    floor: float
    batch_size: int
    clip: float | None
    patience: int | None
    flat: float | None
    precision: Literal["float32", "bf16"]


@dataclass(frozen=True, eq=False)
class Stage:
    """Rows to go through, how often, and at which highest learning rate."""

    batches: Stream | Mixture
    epochs: int
    learning_rate: float


@dataclass(frozen=True, eq=False)
class Generators:
    """Where randomness comes from: first parameters, order of rows, dropout masks."""

    first: torch.Generator
    order: torch.Generator
    masks: torch.Generator

    @classmethod
    def of(cls, seed: int) -> Generators:
        """Return three independent generators of one seed."""
        words = np.random.SeedSequence(seed).generate_state(3, np.uint64)
        made = [torch.Generator().manual_seed(int(word >> np.uint64(1))) for word in words]
        return cls(*made)


@dataclass(eq=False)
class _Stand:
    """How far a training has come."""

    stage: int = 0
    epoch: int = 0
    history: list[dict[str, Any]] | None = None
    best_metric: float | None = None
    best_state: dict[str, Tensor] | None = None
    bad: int = 0

    @property
    def told(self) -> list[dict[str, Any]]:
        """One entry an epoch."""
        self.history = [] if self.history is None else self.history
        return self.history


def train(
    objective: Objective,
    stages: Sequence[Stage],
    settings: TrainingSettings,
    generators: Generators,
    *,
    held: Batch | None = None,
    checkpoint: Checkpoint | None = None,
    on_epoch: OnEpoch | None = None,
) -> list[dict[str, Any]]:
    """Train `objective` in place and return one record an epoch: stage, loss, metric.

    Parameters
    ----------
    held : Batch, optional
        Pairs to score after every epoch; needed for ``settings.patience``, and then the best
        epoch's parameters are the result.
    checkpoint : Checkpoint, optional
        Where the state is kept, and read from if there is one.

    Raises
    ------
    DivergedError
        If the loss is no longer finite.
    """
    stand, found = _Stand(), checkpoint.read() if checkpoint is not None else None
    if found is not None:
        stand = _restore(found, objective, generators)
    begun, done_before = time.monotonic(), len(stand.told)
    for number, stage in enumerate(stages[stand.stage :], start=stand.stage):
        optimiser = _optimiser(objective, stage, settings)
        if found is not None and number == found[1]["stage"]:
            restore_optimiser(optimiser, found[0])
        elif number:
            stand.epoch, stand.best_metric, stand.best_state, stand.bad = 0, None, None, 0
        stand.stage = number
        while stand.epoch < stage.epochs and not _ended(stand, settings):
            loss = _one_epoch(objective, optimiser, stage, stand.epoch, settings, generators.order)
            metric = None
            if held is not None:
                objective.eval()
                metric = mean_reciprocal_rank(held, objective.project)
            best = _note(stand, loss, metric, objective, keep=settings.patience is not None)
            last = stand.epoch == stage.epochs or _ended(stand, settings)
            if checkpoint is not None and (last or checkpoint.due()):
                _write(checkpoint, stand, objective, optimiser, generators)
            if on_epoch is not None:
                seconds = time.monotonic() - begun
                left = sum(s.epochs for s in stages[number:]) - stand.epoch
                pace = seconds / (len(stand.told) - done_before)
                on_epoch(
                    EpochDone(
                        number + 1, len(stages), stand.epoch, stage.epochs, loss, metric, best,
                        seconds, 0.0 if last and number + 1 == len(stages) else pace * left,
                    )
                )  # fmt: skip
        if stand.best_state is not None:
            objective.load_state_dict(stand.best_state)
    objective.eval()
    return stand.told


def _one_epoch(
    objective: Objective,
    optimiser: torch.optim.Optimizer,
    stage: Stage,
    epoch: int,
    settings: TrainingSettings,
    order: torch.Generator,
) -> float:
    """Go through the rows once and return the mean loss of the batches."""
    objective.train()
    steps = stage.batches.steps(settings.batch_size)
    in_bf16 = settings.precision == "bf16"
    total = torch.zeros((), dtype=torch.float64)
    n = 0
    for batch in stage.batches.epoch(settings.batch_size, order):
        step = epoch * steps + n
        rate = stage.learning_rate * rate_factor(
            step,
            steps,
            stage.epochs,
            schedule=settings.schedule,
            warmup_epochs=settings.warmup_epochs,
            floor=settings.floor,
        )
        for group in optimiser.param_groups:
            group["lr"] = rate
        with torch.autocast("cpu", dtype=torch.bfloat16) if in_bf16 else nullcontext():
            outputs = objective.outputs(batch)
        loss = objective.loss(batch, tuple(out.float() for out in outputs), step)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if settings.clip is not None:
            nn.utils.clip_grad_norm_(objective.parameters(), settings.clip)
        optimiser.step()
        objective.after_step()
        total += loss.detach()
        n += 1
    mean = float(total) / n
    if not math.isfinite(mean):
        msg = (
            f"The training diverged: the loss of epoch {epoch + 1} is {mean}. Use a smaller "
            f"learning rate than {stage.learning_rate:g}, or a warm-up."
        )
        raise DivergedError(msg)
    return mean


def _optimiser(
    objective: Objective, stage: Stage, settings: TrainingSettings
) -> torch.optim.Optimizer:
    free = objective.undecayed()
    names = {id(parameter) for parameter in free}
    decayed = [p for p in objective.parameters() if id(p) not in names]
    optimiser = make_optimiser(
        settings.optimizer,
        decayed,
        rate=stage.learning_rate,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
    )
    if free:
        optimiser.add_param_group({"params": free, "weight_decay": 0.0})
    return optimiser


def _note(
    stand: _Stand, loss: float, metric: float | None, objective: Objective, *, keep: bool
) -> bool:
    """Count the epoch; keep the parameters if they are the best so far."""
    stand.epoch += 1
    stand.told.append({"stage": stand.stage + 1, "loss": loss, "metric": metric})
    if metric is None or (stand.best_metric is not None and metric <= stand.best_metric):
        stand.bad += 1
        return False
    stand.best_metric, stand.bad = metric, 0
    if keep:
        stand.best_state = {n: t.detach().clone() for n, t in objective.state_dict().items()}
    return True


def _ended(stand: _Stand, settings: TrainingSettings) -> bool:
    """Return whether the stage stops before its last epoch."""
    if settings.patience is not None and stand.bad >= settings.patience:
        return True
    return settings.flat is not None and _is_flat(
        [told["loss"] for told in stand.told if told["stage"] == stand.stage + 1], settings.flat
    )


def _is_flat(losses: Sequence[float], slope: float) -> bool:
    """Return whether the loss, as a mean of ten epochs, has fallen too little five times running.

    It is looked at from the 22nd epoch on: ICIS's code waits until the number of the epoch, counted
    from 0, is above 20. So 26 epochs are the fewest.
    """
    falls = [
        (np.mean(losses[end - 20 : end - 10]) - np.mean(losses[end - 10 : end])) / 10
        for end in range(max(len(losses) - 4, 0), len(losses) + 1)
        if end > 21
    ]
    return len(falls) == 5 and bool(max(falls) < slope)


def _write(
    checkpoint: Checkpoint,
    stand: _Stand,
    objective: Objective,
    optimiser: torch.optim.Optimizer,
    generators: Generators,
) -> None:
    tensors = module_tensors("now", objective) | optimiser_tensors(optimiser)
    if stand.best_state is not None:
        tensors |= module_tensors("best", stand.best_state)
    for name in ("order", "masks"):
        tensors[f"generator.{name}"] = getattr(generators, name).get_state()
    facts = {"stage": stand.stage, "epoch": stand.epoch, "history": stand.told}
    checkpoint.write(tensors, {**facts, "best_metric": stand.best_metric, "bad": stand.bad})


def _restore(
    found: tuple[dict[str, Tensor], dict[str, Any]], objective: Objective, generators: Generators
) -> _Stand:
    tensors, facts = found
    objective.load_state_dict(with_prefix("now", tensors))
    for name in ("order", "masks"):
        getattr(generators, name).set_state(tensors[f"generator.{name}"])
    return _Stand(
        facts["stage"],
        facts["epoch"],
        facts["history"],
        facts["best_metric"],
        with_prefix("best", tensors) or None,
        facts["bad"],
    )

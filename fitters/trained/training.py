"""Train a head: batches, optimisers, schedule and the held-out score.

`train` runs one stage after the other. An epoch is one pass over a stage's rows in a new order;
after it, held-out pairs are scored, and `on_epoch` is called.
"""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from featstore.errors import needs_extra
from fitters.errors import DivergedError, SelectionError
from fitters.settings import EpochDone, OnEpoch

if TYPE_CHECKING:
    from fitters.trained.base import ArrayRows, Schedule


def make_optimiser(objective: Objective, schedule: Schedule) -> torch.optim.Optimizer:
    """Return the optimiser of a schedule; what an objective leaves undecayed has no decay.

    Raises
    ------
    MissingPackageError
        If Lion is asked for and timm is not there.
    """
    free = objective.undecayed()
    rest = [p for p in objective.parameters() if all(p is not one for one in free)]
    groups: list[dict[str, Any]] = [
        {"params": rest},
        *([{"params": free, "weight_decay": 0.0}] if free else []),
    ]
    how: dict[str, Any] = {
        "lr": float(schedule.learning_rate), "weight_decay": float(schedule.weight_decay)
    }  # fmt: skip
    if schedule.optimizer == "adagrad":
        return torch.optim.Adagrad(groups, **how)
    lion = schedule.optimizer == "lion"
    betas = zip((schedule.beta1, schedule.beta2), (0.9, 0.99 if lion else 0.999), strict=True)
    how["betas"] = tuple(float(own if given is None else given) for given, own in betas)
    if lion:
        with needs_extra("The optimiser lion", "train"):
            from timm.optim import Lion
        return Lion(groups, **how)
    # Fused: one pass over each parameter instead of six; the same numbers up to rounding.
    cls = torch.optim.Adam if schedule.optimizer == "adam" else torch.optim.AdamW
    return cls(groups, **how, fused=True)


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows that a step is made on: x (b, p), y (b, q), groups (b,)."""

    x: Tensor
    y: Tensor
    groups: Tensor

    def __len__(self) -> int:
        return len(self.x)

    def at(self, rows: Tensor | slice) -> Batch:
        """Return the batch of these rows."""
        return Batch(self.x[rows], self.y[rows], self.groups[rows])

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        return Batch(self.x.to(device), self.y.to(device), self.groups.to(device))

    @property
    def same(self) -> Tensor | None:
        """Where rows i ≠ j share a group, shape (b, b); None if none do."""
        if len(np.unique(self.groups.cpu().numpy())) == len(self):
            return None
        equal = self.groups[:, None] == self.groups[None, :]
        equal.fill_diagonal_(fill_value=False)
        return equal


def join(batches: Sequence[Batch]) -> Batch:
    """Return one batch of the rows of several."""
    if len(batches) == 1:
        return batches[0]
    return Batch(
        torch.cat([batch.x for batch in batches]),
        torch.cat([batch.y for batch in batches]),
        torch.cat([batch.groups for batch in batches]),
    )


@dataclass(eq=False)
class Stream:
    """The rows of some sources, once an epoch, every order equally likely."""

    sources: Sequence[ArrayRows]

    @cached_property
    def rows(self) -> Batch:
        """All of them."""
        return join([as_batch(source) for source in self.sources])

    def steps(self, batch_size: int) -> int:
        """Return batches an epoch."""
        return -(-len(self.rows) // batch_size)

    def epoch(self, batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
        """Yield batches of `batch_size` rows, the last one of what is left."""
        order = torch.randperm(len(self.rows), generator=generator)
        for start in range(0, len(order), batch_size):
            yield self.rows.at(order[start : start + batch_size])


def as_batch(source: ArrayRows) -> Batch:
    """Return the rows of a source as tensors."""
    return Batch(*map(torch.from_numpy, (source.x, source.y, source.groups)))


MOST_ROWS = 4096
"""Held-out rows that are scored at most."""


def split_source(
    source: ArrayRows, fraction: float, generator: torch.Generator
) -> tuple[ArrayRows, ArrayRows]:
    """Return the rows to train on and those held out, `fraction` of the groups, none split.

    Raises
    ------
    SelectionError
        If either side would be empty.
    """
    labels, codes = np.unique(source.groups, return_inverse=True)
    n_held = round(fraction * len(labels))
    if not 0 < n_held < len(labels):
        raise SelectionError(
            f"{fraction:.0%} of {len(labels):,} groups cannot be held out for early stopping. Give "
            "more pairs, or train without patience."
        )
    chosen = torch.randperm(len(labels), generator=generator)[:n_held].numpy()
    held: npt.NDArray[np.bool_] = np.isin(codes, chosen)
    return source.take(np.flatnonzero(~held)), source.take(np.flatnonzero(held)[:MOST_ROWS])


def mean_reciprocal_rank(held: Batch, project: Callable[[str, Tensor], Tensor]) -> float:
    """Return the mean of 1 / rank of the best own text of each x, among the texts of `held`.

    Own texts are those of the row's group. A wrong text that scores as high counts against it.
    """
    with torch.no_grad():
        x, y = (normalize(project(side, getattr(held, side)), dim=1) for side in ("x", "y"))
        scores = x @ y.T
        own = held.groups[:, None] == held.groups[None, :]
        best = scores.masked_fill(~own, -torch.inf).amax(dim=1, keepdim=True)
        above = ((scores >= best) & ~own).sum(dim=1)
        return float((1.0 / (1 + above).double()).mean())


class Objective(nn.Module):
    """What is trained: heads, and the loss of a batch."""

    @abstractmethod
    def outputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return what the heads make of a batch: the part that runs in bfloat16, if any does."""

    @abstractmethod
    def loss(self, batch: Batch, outputs: tuple[Tensor, ...], step: int) -> Tensor:
        """Return the loss to minimise, a scalar; `step` counts from 0 within a stage."""

    @abstractmethod
    def project(self, side: str, rows: Tensor) -> Tensor:
        """Return rows of x or y in the shared space, not normalised."""

    def undecayed(self) -> list[nn.Parameter]:
        """Return parameters without weight decay."""
        return []

    def after_step(self) -> None:
        """Bring parameters back into their range."""


@dataclass(frozen=True, eq=False)
class Stage:
    """Rows to go through, how often, at which highest learning rate, and when they are enough.

    With `flat` it ends when the loss, as a mean over ten epochs, has fallen by less than this an
    epoch five times running; see `_is_flat`.
    """

    batches: Stream
    epochs: int
    learning_rate: float
    flat: float | None = None


@dataclass(frozen=True, eq=False)
class Generators:
    """Random generators: of the first parameters, the order of rows, and dropout masks.

    The masks are drawn on the device of the training, all else on the CPU.
    """

    first: torch.Generator
    order: torch.Generator
    masks: torch.Generator

    @classmethod
    def of(cls, seed: int, device: torch.device | str = "cpu") -> Generators:
        """Return three independent generators of one seed."""
        words = np.random.SeedSequence(seed).generate_state(3, np.uint64)
        made = [
            torch.Generator(place).manual_seed(int(word >> np.uint64(1)))
            for word, place in zip(words, ("cpu", "cpu", device), strict=True)
        ]
        return cls(*made)


@dataclass(eq=False)
class _Stand:
    """Progress of a training."""

    stage: int
    history: list[dict[str, Any]]
    epoch: int = 0
    best_metric: float | None = None
    best_state: dict[str, Tensor] | None = None
    bad: int = 0

    def ended(self, stage: Stage, patience: int | None) -> bool:
        """Return whether a stage is over."""
        if self.epoch >= stage.epochs or (patience is not None and self.bad >= patience):
            return True
        own = [epoch["loss"] for epoch in self.history if epoch["stage"] == self.stage + 1]
        return stage.flat is not None and _is_flat(own, stage.flat)


def train(
    objective: Objective,
    stages: Sequence[Stage],
    schedule: Schedule,
    generators: Generators,
    *,
    precision: Literal["float32", "bf16"] = "float32",
    held: Batch | None = None,
    on_epoch: OnEpoch | None = None,
) -> list[dict[str, Any]]:
    """Train `objective` in place, where it is, and return one record an epoch.

    A record has stage, loss and metric. Batches are put together on the CPU.

    Parameters
    ----------
    precision : {"float32", "bf16"}
        Of the heads; losses and updates are float32.
    held : Batch, optional
        Pairs to score after every epoch; needed for ``schedule.patience``, and then the best
        epoch's parameters are the result.

    Raises
    ------
    DivergedError
        If the loss or a parameter is no longer finite.
    """
    history: list[dict[str, Any]] = []
    held = None if held is None else held.to(_device_of(objective))
    begun = time.monotonic()
    for number, stage in enumerate(stages):
        optimiser, stand = make_optimiser(objective, schedule), _Stand(number, history)
        while not stand.ended(stage, schedule.patience):
            loss = _one_epoch(
                objective, optimiser, stage, stand.epoch, schedule, generators.order, precision
            )
            metric = None
            if held is not None:
                objective.eval()
                metric = mean_reciprocal_rank(held, objective.project)
            best = _note(stand, loss, metric, objective, keep=schedule.patience is not None)
            last = stand.ended(stage, schedule.patience)
            if last:
                _check_parameters(objective, stand.epoch, stage)
            if on_epoch is not None:
                seconds = time.monotonic() - begun
                left = sum(s.epochs for s in stages[number:]) - stand.epoch
                pace = seconds / len(history)
                on_epoch(
                    EpochDone(
                        number + 1, len(stages), stand.epoch, stage.epochs, loss, metric, best,
                        seconds, 0.0 if last and number + 1 == len(stages) else pace * left,
                    )
                )  # fmt: skip
        if stand.best_state is not None:
            objective.load_state_dict(stand.best_state)
    objective.eval()
    return history


def _device_of(objective: Objective) -> torch.device:
    return next(objective.parameters()).device


def _one_epoch(
    objective: Objective,
    optimiser: torch.optim.Optimizer,
    stage: Stage,
    epoch: int,
    schedule: Schedule,
    order: torch.Generator,
    precision: Literal["float32", "bf16"],
) -> float:
    """Train for one epoch and return the mean loss of the batches."""
    objective.train()
    size = int(schedule.batch_size)
    steps = stage.batches.steps(size)
    device = _device_of(objective)
    total = torch.zeros((), dtype=torch.float64, device=device)
    n = 0
    for drawn in stage.batches.epoch(size, order):
        batch = drawn.to(device)
        step = epoch * steps + n
        rate = stage.learning_rate * schedule.factor(step, steps, stage.epochs)
        for group in optimiser.param_groups:
            group["lr"] = rate
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            outputs = objective.outputs(batch)
        loss = objective.loss(batch, tuple(out.float() for out in outputs), step)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if schedule.clip is not None:
            nn.utils.clip_grad_norm_(objective.parameters(), float(schedule.clip))
        optimiser.step()
        objective.after_step()
        total += loss.detach()
        n += 1
    mean = float(total) / n
    if not math.isfinite(mean):
        raise DivergedError(
            f"The training diverged: the loss of epoch {epoch + 1} is {mean}. Use a smaller "
            f"learning rate than {stage.learning_rate:g}, or a warm-up."
        )
    return mean


def _check_parameters(objective: Objective, epoch: int, stage: Stage) -> None:
    """Raise DivergedError if the last step of an epoch left a parameter that is not finite.

    The loss of the next epoch would show it. So it is looked for only where no epoch follows, or
    the parameters are written: at each epoch it took 13 % of the time of the paper's head.
    """
    if not all(bool(value.isfinite().all()) for value in objective.parameters()):
        raise DivergedError(
            f"The training diverged: a parameter is not finite after epoch {epoch}. Use a smaller "
            f"learning rate than {stage.learning_rate:g}, or a warm-up."
        )


def _note(
    stand: _Stand, loss: float, metric: float | None, objective: Objective, *, keep: bool
) -> bool:
    """Count the epoch; keep the parameters if they are the best so far."""
    stand.epoch += 1
    stand.history.append({"stage": stand.stage + 1, "loss": loss, "metric": metric})
    if metric is None or (stand.best_metric is not None and metric <= stand.best_metric):
        stand.bad += 1
        return False
    stand.best_metric, stand.bad = metric, 0
    if keep:
        stand.best_state = {n: t.detach().clone() for n, t in objective.state_dict().items()}
    return True


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

"""Train a head: batches, optimisers, schedule and the held-out score.

`train` runs one stage after the other. An epoch is one pass over a stage's rows in a new order;
after it, held-out pairs are scored, and `on_epoch` is called.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
    from fitters.pairs import Pairs
    from fitters.trained.base import Schedule, TrainedAligner


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

    @classmethod
    def of(cls, *sources: Pairs) -> Batch:
        """Return the rows of some sources; no group of one is a group of another."""
        x, y = (
            np.concatenate([getattr(one, side) for one in sources], dtype=np.float32)
            for side in ("x", "y")
        )
        firsts = np.cumsum([0, *(one.n for one in sources[:-1])])
        groups = [one.row_groups + first for one, first in zip(sources, firsts, strict=True)]
        return cls(*map(torch.from_numpy, (x, y, np.concatenate(groups))))

    def at(self, rows: Tensor, device: torch.device) -> Batch:
        """Return the batch of these rows on a device."""
        return Batch(*(own[rows].to(device) for own in (self.x, self.y, self.groups)))

    @property
    def same(self) -> Tensor | None:
        """Where rows i ≠ j share a group, shape (b, b); None if none do."""
        if len(np.unique(self.groups.cpu().numpy())) == len(self):
            return None
        equal = self.groups[:, None] == self.groups[None, :]
        equal.fill_diagonal_(fill_value=False)
        return equal


MOST_ROWS = 4096
"""Held-out rows that are scored at most."""


def split_source(source: Pairs, fraction: float, generator: torch.Generator) -> tuple[Pairs, Batch]:
    """Return the pairs to train on and those held out, `fraction` of the groups, none split.

    Raises
    ------
    SelectionError
        If either side would be empty.
    """
    codes = source.row_groups
    n = int(codes.max()) + 1
    n_held = round(fraction * n)
    if not 0 < n_held < n:
        raise SelectionError(
            f"{fraction:.0%} of {n:,} groups cannot be held out for early stopping. Give more "
            "pairs, or train without patience."
        )
    chosen = torch.randperm(n, generator=generator)[:n_held].numpy()
    held: npt.NDArray[np.bool_] = np.isin(codes, chosen)
    return source.take(~held), Batch.of(source.take(np.flatnonzero(held)[:MOST_ROWS]))


def mean_reciprocal_rank(held: Batch, project: Callable[[str, Tensor], Tensor]) -> float:
    """Return the mean of 1 / rank of the best own text of each x, among the texts of `held`.

    Own texts are those of the row's group. A wrong text that scores as high counts against it.
    """
    with torch.no_grad():
        x, y = (normalize(project(side, getattr(held, side)), dim=1) for side in ("x", "y"))
        scores = x @ y.T
        own = held.groups[:, None] == held.groups[None, :]
        best = scores.masked_fill(~own, -torch.inf).amax(dim=1, keepdim=True)
        return float((1.0 / (1 + ((scores >= best) & ~own).sum(dim=1)).double()).mean())


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


def train(
    objective: Objective,
    stages: Sequence[tuple[Batch, int]],
    schedule: TrainedAligner,
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
    stages : sequence of (Batch, int)
        Rows to go through, and how often. With ``schedule.flat`` a stage ends when the loss, as a
        mean over ten epochs, has fallen by less than this an epoch five times running.
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
    history, device = list[dict[str, Any]](), next(objective.parameters()).device
    held = None if held is None else held.at(torch.arange(len(held)), device)
    for number, (rows, epochs) in enumerate(stages, start=1):
        optimiser, own, best = make_optimiser(objective, schedule), list[dict[str, Any]](), None
        while not _ended(own, epochs, schedule):
            loss = _one_epoch(
                objective, optimiser, rows, (len(own), epochs), schedule, generators.order,
                precision,
            )  # fmt: skip
            own.append({"stage": number, "loss": loss, "metric": None})
            if held is not None:
                objective.eval()
                own[-1]["metric"] = mean_reciprocal_rank(held, objective.project)
                if _epochs_since_best(own) == 0:
                    best = {n: t.detach().clone() for n, t in objective.state_dict().items()}
            # The loss of the next epoch would show what is not finite. So parameters are looked at
            # only where none follows: at each epoch it took 13 % of the time of the paper's head.
            looked_at = [*objective.parameters()] if _ended(own, epochs, schedule) else []
            if not (math.isfinite(loss) and all(bool(one.isfinite().all()) for one in looked_at)):
                raise DivergedError(
                    f"The training diverged: after epoch {len(own)}, of loss {loss}, a parameter "
                    f"is not finite. Use a smaller learning rate than {schedule.learning_rate:g}, "
                    "or a warm-up."
                )
            if on_epoch is not None:
                on_epoch(EpochDone(number, len(stages), len(own), epochs, loss, own[-1]["metric"]))
        if best is not None:
            objective.load_state_dict(best)
        history += own
    objective.eval()
    return history


def _ended(own: Sequence[dict[str, Any]], epochs: int, schedule: TrainedAligner) -> bool:
    """Return whether a stage is over, by the records of its epochs."""
    if len(own) >= epochs:
        return True
    if own and schedule.patience is not None and _epochs_since_best(own) >= schedule.patience:
        return True
    return schedule.flat is not None and _is_flat([one["loss"] for one in own], schedule.flat)


def _epochs_since_best(own: Sequence[dict[str, Any]]) -> int:
    return len(own) - 1 - int(np.argmax([one["metric"] for one in own]))


def _one_epoch(
    objective: Objective,
    optimiser: torch.optim.Optimizer,
    rows: Batch,
    at: tuple[int, int],
    schedule: Schedule,
    order: torch.Generator,
    precision: Literal["float32", "bf16"],
) -> float:
    """Train for one epoch, number `at` from 0 of so many, and return the mean loss of a batch."""
    objective.train()
    device, (epoch, epochs) = next(objective.parameters()).device, at
    batches = torch.split(torch.randperm(len(rows), generator=order), int(schedule.batch_size))
    total = torch.zeros((), dtype=torch.float64, device=device)
    for step, drawn in enumerate(batches, start=epoch * len(batches)):
        batch = rows.at(drawn, device)
        rate = float(schedule.learning_rate) * schedule.factor(step, len(batches), epochs)
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
    return float(total) / len(batches)


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

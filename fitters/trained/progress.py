"""What a training tells while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class EpochDone:
    """One epoch was trained.

    Attributes
    ----------
    stage, n_stages : int
        From 1; two in sequential training.
    epoch, n_epochs : int
        Within the stage, from 1.
    loss : float
        Mean over the epoch's batches.
    metric : float or None
        Mean reciprocal rank of held-out pairs; None without validation.
    best : bool
        Whether the metric is the best so far.
    seconds : float
        Since this call began to train.
    seconds_left : float
        At the pace so far, if it does not stop early.
    """

    stage: int
    n_stages: int
    epoch: int
    n_epochs: int
    loss: float
    metric: float | None
    best: bool
    seconds: float
    seconds_left: float

    def __str__(self) -> str:
        stage = f"stage {self.stage}/{self.n_stages}, " if self.n_stages > 1 else ""
        metric = "" if self.metric is None else f", held-out MRR {self.metric:.3f}"
        return (
            f"{stage}epoch {self.epoch}/{self.n_epochs}: loss {self.loss:.4f}{metric}, "
            f"{self.seconds_left:.0f} s left"
        )


OnEpoch = Callable[[EpochDone], None]

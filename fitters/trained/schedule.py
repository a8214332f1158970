"""The learning rate over the steps of a training: warm-up, then constant or a cosine."""

from __future__ import annotations

import math

SCHEDULES = ("constant", "cosine", "cosine-epochs")
"""`cosine-epochs` changes the rate between epochs only, as the paper's code."""


def rate_factor(
    step: int,
    steps_an_epoch: int,
    epochs: int,
    *,
    schedule: str,
    warmup_epochs: float = 0.0,
    floor: float = 0.0,
) -> float:
    """Return what the learning rate is multiplied by at `step`, counted from 0.

    Parameters
    ----------
    schedule : str
        One of `SCHEDULES`. A cosine falls from 1 to `floor`; its last step (or epoch) is one
        short of it, as in ``torch.optim.lr_scheduler.CosineAnnealingLR``.
    warmup_epochs : float
        The rate rises linearly from `floor` to 1 over these first; a cosine begins after them.
    floor : float
        Between 0 and 1.
    """
    warm = round(warmup_epochs * steps_an_epoch)
    if step < warm:
        return floor + (1 - floor) * (step + 1) / warm
    if schedule == "constant":
        return 1.0
    total = epochs * steps_an_epoch - warm
    done = step - warm
    if schedule == "cosine-epochs":
        done = done // steps_an_epoch * steps_an_epoch
    return floor + (1 - floor) * (1 + math.cos(math.pi * done / max(total, 1))) / 2

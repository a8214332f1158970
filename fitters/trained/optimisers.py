"""The optimisers by name: torch's, and Lion from timm."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from featstore.errors import needs_extra


def make_optimiser(
    name: str,
    parameters: Iterable[nn.Parameter],
    *,
    rate: float,
    betas: tuple[float, float] | None,
    weight_decay: float,
) -> torch.optim.Optimizer:
    """Return the optimiser; `weight_decay` is decoupled in adamw and lion, an L2 term elsewhere.

    Raises
    ------
    MissingPackageError
        If Lion is asked for and timm is not there.
    """
    held = list(parameters)
    if name == "lion":
        with needs_extra("The optimiser lion", "train"):
            from timm.optim import Lion
        pair = (0.9, 0.99) if betas is None else betas
        lion: torch.optim.Optimizer = Lion(held, lr=rate, weight_decay=weight_decay, betas=pair)
        return lion
    if name == "adagrad":
        return torch.optim.Adagrad(held, lr=rate, weight_decay=weight_decay)
    # Fused: one pass over each parameter instead of six; the same numbers up to rounding.
    cls = torch.optim.Adam if name == "adam" else torch.optim.AdamW
    pair = (0.9, 0.999) if betas is None else betas
    return cls(held, lr=rate, weight_decay=weight_decay, fused=True, betas=pair)

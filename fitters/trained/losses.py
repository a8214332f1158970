"""The losses: functions of paired rows, and of nothing else.

`weight` is one mass a row whose mean over the data is 1, or None for all alike. `same` marks, for
the losses that contrast, pairs (i, j), i ≠ j, that are no negatives because row i and row j are of
one group, such as classes of one name: they are left out.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize


def cosine_loss(predicted: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the mean of 1 − cos(predicted_i, target_i): ``CosineEmbeddingLoss`` with y = 1."""
    cosines = torch.nn.functional.cosine_similarity(predicted, target, dim=1)
    return _mean(1 - cosines, weight)


def mse_loss(predicted: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the mean squared difference over rows and columns: ``MSELoss``."""
    return _mean((predicted - target).square().mean(dim=1), weight)


def infonce_loss(
    x: Tensor,
    y: Tensor,
    scale: Tensor | float,
    *,
    same: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    """Return the symmetric cross-entropy of each row's own partner among all in the batch.

    Parameters
    ----------
    x, y : Tensor of shape (b, r)
        Brought to unit length here.
    scale : float or Tensor
        1 / temperature.

    References
    ----------
    Radford et al., Learning Transferable Visual Models from Natural Language Supervision, 2021,
    figure 3.
    """
    logits = scale * (normalize(x, dim=1) @ normalize(y, dim=1).T)
    if same is not None:
        logits = logits.masked_fill(same, -math.inf)
    own = logits.diagonal()
    of_x = torch.logsumexp(logits, dim=1) - own
    of_y = torch.logsumexp(logits, dim=0) - own
    return _mean((of_x + of_y) / 2, weight)


def siglip_loss(
    x: Tensor,
    y: Tensor,
    scale: Tensor | float,
    bias: Tensor | float,
    *,
    same: Tensor | None = None,
    weight: Tensor | None = None,
    mean_over_pairs: bool = False,
) -> Tensor:
    """Return −Σ_ij log σ(±(scale · cos_ij + bias)) / b: each pair a yes or no of its own.

    Parameters
    ----------
    x, y : Tensor of shape (b, r)
        Brought to unit length here.
    mean_over_pairs : bool
        Divide by b² instead of b, as SAIL's code does; a learning rate means b times less then.

    References
    ----------
    Zhai et al., Sigmoid Loss for Language Image Pre-Training, 2023, algorithm 1.
    """
    logits = scale * (normalize(x, dim=1) @ normalize(y, dim=1).T) + bias
    signs = 2 * torch.eye(len(x), dtype=logits.dtype) - 1
    losses = -logsigmoid(signs * logits)
    if same is not None:
        losses = losses.masked_fill(same, 0)
    of_rows = losses.sum(dim=1)
    return _mean(of_rows / len(x) if mean_over_pairs else of_rows, weight)


def devise_loss(
    x: Tensor,
    y: Tensor,
    *,
    margin: float = 0.1,
    same: Tensor | None = None,
    weight: Tensor | None = None,
    order: Tensor | None = None,
) -> Tensor:
    """Return the mean over i of Σ_j≠i max(0, margin − x_i·y_i + x_i·y_j).

    Parameters
    ----------
    x, y : Tensor of shape (b, r)
        Taken as they are: the caller makes the true side unit rows.
    order : Tensor of int, shape (b,), optional
        Look at the j in this order and stop at the first that violates the margin, as the
        original describes; None sums them all.

    References
    ----------
    Frome et al., DeViSE: A Deep Visual-Semantic Embedding Model, NeurIPS 2013, eq. 1.
    """
    scores = x @ y.T
    hinge = (margin - scores.diagonal()[:, None] + scores).clamp(min=0)
    hinge = hinge.masked_fill(torch.eye(len(x), dtype=torch.bool), 0)
    if same is not None:
        hinge = hinge.masked_fill(same, 0)
    if order is not None:
        hinge = hinge[:, order]
        violated = hinge > 0
        hinge = hinge * (violated & (violated.cumsum(dim=1) == 1))
    return _mean(hinge.sum(dim=1), weight)


def first_bias(batch: int) -> float:
    """Return SigLIP's first bias, log(p / (1 − p)) with p = 1 / batch: as many yes as there are."""
    p = 1 / max(batch, 2)
    return math.log(p / (1 - p))


def _mean(of_rows: Tensor, weight: Tensor | None) -> Tensor:
    return of_rows.mean() if weight is None else (weight * of_rows).mean()

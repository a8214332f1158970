"""STRUCTURE's regulariser: who is near whom before a head should be near whom after it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

TINY = 1e-12
"""The original adds it to every probability."""


def structure_penalty(
    before: Tensor,
    after: Tensor,
    *,
    temperature: float = 0.05,
    levels: int = 1,
    legacy: bool = False,
) -> Tensor:
    """Return the Jensen–Shannon divergence between similarity distributions of a batch.

    With unit rows, centred by the batch's mean, S = X Xᵀ / temperature and P = softmax(S) by rows,
    level l compares the l-th matrix powers of P before and after; the levels' mean is returned.

    Parameters
    ----------
    before, after : Tensor of shape (b, k), (b, d)
        Rows that go into a head, and what comes out.
    levels : int
        Steps of the walk between rows, at least 1.
    legacy : bool
        The original takes KL(M‖P) where Jensen–Shannon has KL(P‖M), M being the mean of both, and
        adds 1e-12 to every probability.

    References
    ----------
    Gröger et al., With Limited Data for Multimodal Alignment, Let the STRUCTURE Guide You, 2025.
    """
    p, q = _neighbours(before, temperature), _neighbours(after, temperature)
    p_walk, q_walk = p, q
    total = torch.zeros((), dtype=after.dtype)
    for level in range(levels):
        if level:
            p_walk, q_walk = p_walk @ p, q_walk @ q
        middle = (p_walk + q_walk) / 2
        if legacy:
            sides = tuple((middle + TINY, side + TINY) for side in (p_walk, q_walk))
        else:
            sides = ((p_walk, middle), (q_walk, middle))
        total = total + sum(_divergence(a, b) for a, b in sides) / 2
    return total / levels


def _neighbours(rows: Tensor, temperature: float) -> Tensor:
    unit = normalize(rows, dim=1)
    unit = unit - unit.mean(dim=0)
    return torch.softmax(unit @ unit.T / temperature, dim=1)


def _divergence(p: Tensor, q: Tensor) -> Tensor:
    """Return the mean over rows of KL(p‖q)."""
    tiny = torch.finfo(p.dtype).tiny
    return (p * (p.clamp(min=tiny).log() - q.clamp(min=tiny).log())).sum(dim=1).mean()

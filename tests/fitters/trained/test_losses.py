"""Losses: by hand, against open_clip, torch and scipy."""

import math

import numpy as np
import pytest
import torch
from open_clip.loss import ClipLoss, SigLipLoss
from scipy.spatial.distance import jensenshannon
from torch.nn.functional import normalize

from fitters.trained.modules import (
    devise_loss,
    first_bias,
    infonce_loss,
    siglip_loss,
    structure_penalty,
)
from tests.assertions import assert_close


def drawn(n=6, d=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(n, d, generator=generator, dtype=torch.float64) for _ in "xy")


@pytest.mark.parametrize("seed", [0, 1])
def test_contrastive_losses_are_open_clips(seed):
    x, y = (normalize(rows, dim=1) for rows in drawn(seed=seed))
    assert_close(infonce_loss(3 * x, y, 14.0), ClipLoss()(x, y, 14.0))
    theirs = SigLipLoss()(x, y, torch.tensor(10.0), torch.tensor(-4.0))
    assert_close(siglip_loss(x, 2 * y, 10.0, -4.0), theirs)
    assert first_bias(4) == pytest.approx(math.log(1 / 3))


def test_rows_of_one_name_are_no_negatives():
    x, y = drawn(3)
    same = torch.zeros(3, 3, dtype=torch.bool)
    same[0, 1] = same[1, 0] = True
    # Row 0 alone against row 2, and so on: what the loss is without the masked pairs.
    logits = 5 * normalize(x, dim=1) @ normalize(y, dim=1).T
    kept = ~same
    expected = 0.0
    for i in range(3):
        of_x = torch.logsumexp(logits[i][kept[i]], 0) - logits[i, i]
        of_y = torch.logsumexp(logits[:, i][kept[:, i]], 0) - logits[i, i]
        expected += float(of_x + of_y) / 6
    assert_close(infonce_loss(x, y, 5.0, same=same), expected)
    signs = 2 * torch.eye(3, dtype=torch.float64) - 1
    terms = torch.log1p(torch.exp(-signs * (logits - 1)))
    assert_close(siglip_loss(x, y, 5.0, -1.0, same=same), (terms * kept).sum() / 3)
    hinge = (0.1 - (x @ y.T).diagonal()[:, None] + x @ y.T).clamp(min=0) * kept
    assert_close(devise_loss(x, y, same=same), (hinge.sum() - 3 * 0.1) / 3)


def test_structure_is_scipys_jensen_shannon():
    x, y = drawn(7)
    rows = []
    for side in (x, y):
        unit = normalize(side, dim=1)
        unit = (unit - unit.mean(dim=0)).numpy()
        powers = np.exp(unit @ unit.T / 0.5)
        rows.append(powers / powers.sum(axis=1, keepdims=True))
    one = np.mean([jensenshannon(a, b) ** 2 for a, b in zip(*rows, strict=True)])
    assert_close(structure_penalty(x, y, temperature=0.5), one)
    assert_close(structure_penalty(x, 3 * x) + 1, 1.0)

"""Heads: their gradients, first weights, and where they draw from."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import gelu

from fitters.trained.modules import (
    HEADS,
    Autoencoder,
    Dropout,
    FeatureDropout,
    build_head,
    draw_from,
    initialise,
)
from tests.assertions import assert_close, assert_same

K, D, H = 5, 3, 7


def made(name, seed=0, *, bias=True, dropout=None, gate=-2.0):
    if name == "autoencoder":
        with torch.device("meta"):
            head = Autoencoder(K, H)
    else:
        head = build_head(name, K, D, width=H, dropout=dropout, bias=bias, gate=gate)
    initialise(head, torch.Generator().manual_seed(seed))
    return head


@pytest.mark.parametrize("name", HEADS)
def test_gradients_of_heads_and_the_residual_by_hand(name):
    """The others' formulas are held against their sources in test_transcriptions.py."""
    head = made(name).double().eval()
    x = torch.randn(4, K, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    if name == "residual":
        # Its last layer begins at 0, and so would the bend.
        with torch.no_grad():
            head.up.weight.copy_(torch.linspace(-1, 1, D * H).reshape(D, H))
        w = head.state_dict()
        bend = gelu(x @ w["down.weight"].T) @ w["up.weight"].T
        by_hand = x @ w["project.weight"].T + bend / (1 + torch.exp(-w["gate"]))
        assert_close(head(x).detach(), by_hand)
    assert torch.autograd.gradcheck(head, (x.requires_grad_(),))


def test_initial_weights_are_within_their_bounds_and_of_the_seed():
    one, again, other = made("paper"), made("paper"), made("paper", seed=1)
    for key, value in one.state_dict().items():
        assert_same(value.numpy(), again.state_dict()[key].numpy())
    assert not torch.equal(one.up.weight, other.up.weight)
    assert one.up.weight.abs().max() <= 1 / math.sqrt(K)
    assert one.up.weight.abs().max() > 0.8 / math.sqrt(K)
    assert float(one.norm.weight.detach().sum()) == D
    sail = made("sail")
    assert sail.gate.weight.abs().max() <= math.sqrt(6 / (K + H))
    assert not sail.gate.bias.any()
    weight = made("residual").project.weight.detach().double()
    assert_close(weight @ weight.T, np.eye(D), "float32", times=10)
    assert float(made("residual", gate=1.5).gate.detach()) == 1.5
    assert 0.005 < float(made("autoencoder").encode[0].weight.detach().std()) < 0.05


def test_dropout_keeps_the_mean_and_feature_dropout_does_not():
    ones = torch.ones(400, 500)
    dropout, thin = Dropout(0.25), FeatureDropout(0.5, 0.3)
    for module in (dropout, thin):
        draw_from(module, torch.Generator().manual_seed(0))
    dropped = dropout(ones)
    assert set(dropped.unique().tolist()) == {0.0, float(np.float32(1 / 0.75))}
    assert float(dropped.mean()) == pytest.approx(1, abs=0.01)
    means = torch.tensor([float(thin(ones[:20]).mean()) for _ in range(400)])
    thinned = means < 1
    assert float(thinned.double().mean()) == pytest.approx(0.3, abs=0.08)
    assert float(means[thinned].mean()) == pytest.approx(0.5, abs=0.01)
    assert torch.equal(dropout.eval()(ones), ones)
    assert torch.equal(thin.eval()(ones), ones)

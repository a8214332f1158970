"""The bend of the residual head, dropout, and the learning rate.

The formulas of the other heads are held against their sources in test_transcriptions.py.
"""

import numpy as np
import pytest
import torch
from torch.nn.functional import gelu

from fitters.trained.base import Schedule
from fitters.trained.modules import Dropout, FeatureDropout, build_head, draw_from, initialise
from tests.assertions import assert_close


def test_the_residual_by_hand():
    head = build_head("residual", 5, 3, width=7, dropout=None, bias=True, gate=-2.0)
    initialise(head, torch.Generator().manual_seed(0))
    head.double().eval()
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        # Its last layer begins at 0, and so would the bend.
        head.up.weight.copy_(torch.linspace(-1, 1, 21).reshape(3, 7))
    w = head.state_dict()
    bend = gelu(x @ w["down.weight"].T) @ w["up.weight"].T
    assert_close(head(x).detach(), x @ w["project.weight"].T + bend / (1 + torch.exp(-w["gate"])))
    assert float(w["gate"]) == -2.0


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


@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_the_cosine_is_torchs(floor):
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=6, eta_min=floor)
    for epoch in range(6):
        for step in (3 * epoch, 3 * epoch + 2):
            ours = Schedule(schedule="cosine-epochs", floor=floor).factor(step, 3, 6)
            assert ours == pytest.approx(optimiser.param_groups[0]["lr"])
        optimiser.step()
        theirs.step()


def test_warm_up_and_then():
    def factors(curve):
        schedule = Schedule(schedule=curve, warmup_epochs=2, floor=0.5)
        return [schedule.factor(step, 2, 4) for step in range(8)]

    assert factors("constant") == pytest.approx([0.625, 0.75, 0.875, 1, 1, 1, 1, 1])
    around = 0.25 * 2**-0.5
    assert factors("cosine")[4:] == pytest.approx([1, 0.75 + around, 0.75, 0.75 - around])

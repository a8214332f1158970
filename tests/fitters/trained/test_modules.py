"""The bend of the residual head, dropout, the learning rate, and losses without some negatives.

The other heads and losses are held against their sources in test_transcriptions.py.
"""

import numpy as np
import pytest
import torch
from torch.nn.functional import gelu, normalize

from fitters.trained.base import Schedule
from fitters.trained.modules import (
    Dropout,
    FeatureDropout,
    build_head,
    devise_loss,
    draw_from,
    infonce_loss,
    initialise,
    siglip_loss,
)
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


def test_rows_of_one_name_are_no_negatives():
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(3, 4, generator=generator, dtype=torch.float64) for _ in "xy")
    same = torch.zeros(3, 3, dtype=torch.bool)
    same[0, 1] = same[1, 0] = True
    # Row 0 alone against row 2, and so on: what the loss is without the masked pairs.
    logits = 5 * normalize(x, dim=1) @ normalize(y, dim=1).T
    kept = ~same
    expected = 0.0
    for i in range(3):
        of_x = torch.logsumexp(logits[i][kept[i]], 0) - logits[i, i]
        expected += float(of_x + (torch.logsumexp(logits[:, i][kept[:, i]], 0) - logits[i, i])) / 6
    assert_close(infonce_loss(x, y, 5.0, same=same), expected)
    terms = torch.log1p(torch.exp(-(2 * torch.eye(3, dtype=torch.float64) - 1) * (logits - 1)))
    assert_close(siglip_loss(x, y, 5.0, -1.0, same=same), (terms * kept).sum() / 3)
    hinge = (0.1 - (x @ y.T).diagonal()[:, None] + x @ y.T).clamp(min=0) * kept
    assert_close(devise_loss(x, y, same=same), (hinge.sum() - 3 * 0.1) / 3)

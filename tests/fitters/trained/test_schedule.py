"""The learning rate, against torch's scheduler and by hand."""

import pytest
import torch

from fitters.trained.base import Schedule


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

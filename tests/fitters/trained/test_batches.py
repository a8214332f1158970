"""Batches: every row once an epoch."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fitters import MLPAligner, Pairs
from fitters.trained.training import Batch, Generators, Objective, train


class Seen(Objective):
    """Notes the batches that it is given."""

    def __init__(self):
        super().__init__()
        self.weight, self.batches = torch.nn.Parameter(torch.ones(1)), []

    def outputs(self, batch):
        self.batches.append(batch)
        return (self.weight * batch.x,)

    def loss(self, batch, outputs, step):
        return outputs[0].mean()

    def project(self, side, rows):
        raise NotImplementedError


@settings(max_examples=30)
@given(st.integers(1, 60), st.integers(0, 40), st.integers(2, 17))
def test_an_epoch_has_every_row_once(n, m, size):
    rows = np.arange(n + m, dtype=np.float32)[:, None]
    sources = [
        Pairs(rows[part], -rows[part]) for part in (slice(n), slice(n, None)) if len(rows[part])
    ]
    objective, schedule = Seen(), MLPAligner(batch_size=size)
    train(objective, [(Batch.of(*sources), 2)], schedule, Generators.of(0))
    found = objective.batches
    assert len(found) == 2 * -(-(n + m) // size)
    for epoch in (found[: len(found) // 2], found[len(found) // 2 :]):
        assert [len(batch) for batch in epoch[:-1]] == [size] * (len(epoch) - 1)
        x = torch.cat([batch.x for batch in epoch])
        assert sorted(x[:, 0].tolist()) == list(range(n + m))
        assert torch.equal(x, -torch.cat([batch.y for batch in epoch]))
        assert torch.equal(x[:, 0].long(), torch.cat([batch.groups for batch in epoch]))


def test_groups_say_what_is_no_negative():
    one = Pairs(np.ones((3, 2)), np.ones((3, 1)), np.array([4, 5, 4]))
    two = Pairs(np.ones((2, 2)), np.ones((2, 1)), np.array([4, 5]))
    batch = Batch.of(one, two)
    equal = batch.groups[:, None] == batch.groups[None, :]
    assert torch.equal(batch.same, equal & ~torch.eye(5, dtype=torch.bool))
    assert int(batch.same.sum()) == 2
    assert Batch.of(two).same is None

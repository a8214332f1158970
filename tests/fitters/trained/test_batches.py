"""Batches: every row once an epoch."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from fitters.trained.base import ArrayRows
from fitters.trained.training import Stream


def rows(n, first=0):
    numbers = np.arange(first, first + n, dtype=np.float32)[:, None]
    return ArrayRows(np.repeat(numbers, 3, axis=1), -numbers, np.arange(n) + first)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@given(st.integers(1, 60), st.integers(0, 40), st.integers(2, 17))
def test_an_epoch_has_every_row_once(n, m, size):
    sources = [rows(n), rows(m, first=n)] if m else [rows(n)]
    stream = Stream(sources)
    found = list(stream.epoch(size, generator()))
    assert len(found) == stream.steps(size)
    assert [len(batch) for batch in found[:-1]] == [size] * (len(found) - 1)
    x = torch.cat([batch.x for batch in found])
    assert sorted(x[:, 0].tolist()) == list(range(n + m))
    assert torch.equal(x[:, :1], -torch.cat([batch.y for batch in found]))
    assert torch.equal(x[:, 0].long(), torch.cat([batch.groups for batch in found]))


def test_groups_say_what_is_no_negative():
    one = ArrayRows(np.ones((3, 2)), np.ones((3, 1)), np.array([4, 5, 4]))
    two = ArrayRows(np.ones((2, 2)), np.ones((2, 1)), np.array([7, 8]))
    (batch,) = Stream([one, two]).epoch(8, generator())
    equal = batch.groups[:, None] == batch.groups[None, :]
    assert torch.equal(batch.same, equal & ~torch.eye(5, dtype=torch.bool))
    assert int(batch.same.sum()) == 2
    (alone,) = Stream([two]).epoch(8, generator())
    assert alone.same is None

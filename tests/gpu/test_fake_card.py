"""What a fake card gives arrives late, as a card's does, and nothing stays behind.

That it sees each kind of race show the mutants of `tests.mutants.table`; that memory ends, a card
dies and gradients are torch's, the jobs of test_on_fake_cards.py.
"""

from __future__ import annotations

import threading

import pytest
import torch
from packaging.specifiers import SpecifierSet

from tests.gpu import fake_card
from tests.gpu.fake_card import Card
from tests.gpu.guard import TORCH, CannotBuildError, load_guard


def test_nothing_arrives_before_somebody_waits_and_the_host_sees_what_depends_on_it(cards):
    with cards():
        values = torch.ones(3, device="cuda") * 2
        assert (values.device, values.is_cuda) == (torch.device("cuda:0"), True)
        assert values.tolist() == [2.0] * 3
        values = torch.arange(6.0).to("cuda")
        assert values[values > 3].tolist() == [4.0, 5.0]
        assert float(values.max()) == 5.0
        there = values.to("cpu", non_blocking=True)
        assert there.isnan().all()
        torch.cuda.synchronize()
        assert there.tolist() == list(range(6))
        with pytest.raises(RuntimeError, match="on the CPU"):
            values + torch.ones(6)


def test_two_cards_do_not_mix(cards):
    with cards(Card(), Card(name="second", capability=(7, 5))):
        assert torch.cuda.device_count() == 2
        one, other = torch.ones(2, device="cuda:0"), torch.ones(2, device="cuda:1")
        with pytest.raises(RuntimeError, match="tensors on cuda:"):
            one + other
        assert torch.cuda.get_device_capability("cuda:1") == (7, 5)
        with torch.cuda.device(1):
            assert torch.ones(1, device="cuda").device == torch.device("cuda:1")
        with pytest.raises(RuntimeError, match="invalid device ordinal"):
            torch.ones(1, device="cuda:2")


def test_the_range_of_torch_is_pinned_and_others_are_refused(can_have_cards, monkeypatch):
    installed = torch.__version__.partition("+")[0]
    assert installed in SpecifierSet(TORCH)
    for version in ("2.6.0", "99.0.0+cpu"):
        monkeypatch.setattr(torch, "__version__", version)
        with pytest.raises(CannotBuildError, match=f"torch {TORCH} without CUDA"):
            load_guard()


def test_nothing_stays_of_the_cards(can_have_cards):
    before = torch.cuda.Stream, torch.Tensor.backward, torch.inference_mode, threading.Thread.run
    with fake_card.fake_cards():
        assert torch.cuda.is_available()
    assert not torch.cuda.is_available()
    after = torch.cuda.Stream, torch.Tensor.backward, torch.inference_mode, threading.Thread.run
    assert after == before

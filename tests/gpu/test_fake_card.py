"""What the fake card sees: small programs with a race each, and the same without.

The races that a batch could have in the product are mutants, see `tests.mutants.table`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from packaging.specifiers import SpecifierSet

from tests.gpu import fake_card
from tests.gpu.fake_card import Card, Machine
from tests.gpu.guard import TORCH, CannotBuildError, load_guard

#: Programs are given whether they are right, and return what they read.
Program = Callable[[bool], torch.Tensor | float]
PROGRAMS: dict[str, tuple[Program, float, str]] = {}

#: What a race looks like: a report, or values that are wrong.
WAIT, FREED, PINNED, WRONG = "does not wait for", "without record_stream", "pinned memory is", ""


def program(expected: float, seen: str) -> Callable[[Program], Program]:
    """Add a program to the table."""

    def add(of: Program) -> Program:
        PROGRAMS[of.__name__] = of, expected, seen
        return of

    return add


def moved(value: float, stream: object, host: torch.Tensor | None = None) -> torch.Tensor:
    """Begin a copy of four values to the card, on a stream."""
    host = torch.full((4,), value).pin_memory() if host is None else host.fill_(value)
    with torch.cuda.stream(stream):
        return host.to("cuda", non_blocking=True)


@program(expected=8.0, seen=WAIT)
def wait_for_a_stream(right):
    copies = torch.cuda.Stream()
    values = moved(2.0, copies)
    if right:
        torch.cuda.current_stream().wait_stream(copies)
    values.record_stream(torch.cuda.current_stream())
    return values.sum().item()


@program(expected=8.0, seen=FREED)
def record_the_stream(right):
    copies = torch.cuda.Stream()
    values = moved(2.0, copies)
    torch.cuda.current_stream().wait_stream(copies)
    if right:
        values.record_stream(torch.cuda.current_stream())
    total = values.sum()
    del values
    return total.item()


@program(expected=8.0, seen=WRONG)
def wait_for_an_event(right):
    host = torch.empty(1, pin_memory=True)
    host.copy_(torch.ones(8, device="cuda").sum()[None], non_blocking=True)
    arrived = torch.cuda.current_stream().record_event()
    if right:
        arrived.synchronize()
    return host.clone()


@program(expected=1.0, seen=PINNED)
def reuse_pinned_memory_of_vectors(right):
    host = torch.empty(1, pin_memory=True)
    host.copy_(torch.ones(1, device="cuda"), non_blocking=True)
    arrived = torch.cuda.current_stream().record_event()
    if right:
        arrived.synchronize()
        return host.clone()
    host.copy_(torch.zeros(1, device="cuda"), non_blocking=True)
    arrived.synchronize()
    return host.clone()


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_without_a_race_gives_its_values_and_one_with_a_race_is_seen(name, cards):
    run, expected, seen = PROGRAMS[name]
    with cards():
        assert float(run(True)) == expected
    with fake_card.fake_cards() as machine:
        given = float(run(False))
    if seen:
        assert any(seen in one for one in machine.reports)
    else:
        assert given != expected


@pytest.fixture
def machine(cards) -> Iterator[Machine]:
    with cards() as machine:
        yield machine


def test_nothing_is_computed_before_somebody_waits_and_the_host_sees_what_depends_on_it(machine):
    values = torch.ones(3, device="cuda") * 2
    assert (values.device, values.is_cuda) == (torch.device("cuda:0"), True)
    assert not torch.cuda.current_stream().query()
    torch.cuda.synchronize()
    assert torch.cuda.current_stream().query()
    assert values.tolist() == [2.0] * 3
    values = torch.arange(6.0).to("cuda")
    assert values[values > 3].tolist() == [4.0, 5.0]
    assert float(values.max()) == 5.0
    assert values.to("cpu", non_blocking=True).isnan().all()
    with pytest.raises(RuntimeError, match="on the CPU"):
        values + torch.ones(6)


def test_gradients_are_those_of_torch(machine):
    torch_rng = torch.Generator().manual_seed(0)
    rows = torch.randn(5, 4, generator=torch_rng)
    net = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.GELU(), torch.nn.Linear(6, 3))
    grads = []
    for device in ("cuda", "cpu"):
        net.to(device).zero_grad()
        out = net(rows.to(device))
        (out.softmax(1).log()[:, 0] * out.sum(1)).mean().backward()
        grads.append([one.grad.cpu() for one in net.parameters()])
    exact = torch.autograd.grad(
        (out.softmax(1).log()[:, 0] * out.sum(1)).mean(), list(net.parameters())
    )
    for ours, own, theirs in zip(*grads, exact, strict=True):
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(own, theirs)


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


def test_memory_ends_and_comes_back(cards):
    with cards(Card(memory=4096)) as machine:
        held = torch.zeros(512, device="cuda")
        assert machine.card().used == 2048
        with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
            torch.zeros(1024, device="cuda")
        view = held[:1]
        del held
        assert machine.card().used == 2048
        del view
        assert machine.card().used == 0


def test_a_card_dies_for_good(cards):
    with cards(Card(dies_after=2)):
        values = torch.ones(2, device="cuda") * 2
        for _ in range(2):
            with pytest.raises(RuntimeError, match="illegal memory access"):
                values.cpu()


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

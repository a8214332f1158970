"""The simulation of docs/measurements/scaling.md: by hand, or by its laws where it is random."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.scaling.schedule import CALM, SLOW, ratios
from tests.scaling.simulate import POLICIES, Cluster, Outcome, simulate


def _run(n: int, cluster: Cluster, policy: str, part: int = 1, seed: int = 0) -> Outcome:
    return simulate(n, cluster, policy, part, np.random.default_rng(seed))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("policy", "part", "seconds"),
    [
        ("static", 1, 0.5 + 9),  # shares of 3, 3, 2, 2 blocks of 3 s, begun once
        ("queue", 1, 3 * 3.5),  # 4 + 4 + 2 parts
        ("queue", 2, 2 * 6.5),  # 5 parts of 2 blocks: a worker has two of them
        ("queue", 5, 0.5 + 15),  # 2 parts: two workers have none
        ("duplicates", 5, 0.5 + 15),  # and copying the two helps nobody
    ],
)
def test_equal_workers_that_never_fail_by_hand(policy: str, part: int, seconds: float) -> None:
    found = _run(10, Cluster(4, block_seconds=3, hand_over=0.5), policy, part)
    assert found.makespan == pytest.approx(seconds)
    assert found.ideal == pytest.approx(7.5)
    assert found.losses == 0


def test_one_slow_worker_by_hand() -> None:
    """Worker 0 or 1 needs 10 s a block, the other 1 s; three blocks."""
    cluster = Cluster(2, slow=0.5, slowness=10)
    static = [_run(3, cluster, "static", seed=seed).makespan for seed in range(8)]
    assert set(static) == {10.0, 20.0}  # the first share has two blocks
    # The fast one does two blocks in 2 s; the third is the slow one's, until 10 s ...
    assert _run(3, cluster, "queue").makespan == pytest.approx(10)
    # ... or until the idle one has repeated it, from 2 s to 3 s.
    repeated = _run(3, cluster, "duplicates")
    assert repeated.makespan == pytest.approx(3)
    assert repeated.done.tolist() == [1, 1, 1]
    assert repeated.wasted == pytest.approx(3 / 6)  # 3 s of the slow one, of 6 s that both spent
    assert repeated.ideal == pytest.approx(3 / 1.1)


def test_a_lost_worker_goes_on_after_its_last_block() -> None:
    """One worker: its time is that of the blocks, of broken ones, and of absences."""
    cluster = Cluster(1, block_seconds=2, mean_up=7, away=5)
    found = _run(40, cluster, "static", seed=3)
    assert found.losses > 3
    assert found.parts == found.losses + 1
    broken = found.makespan - 80 - 5 * found.losses
    assert 0 < broken < 2 * found.losses
    assert found.wasted == pytest.approx(broken / (80 + broken))
    assert found.done.tolist() == [1] * 40


@given(
    n=st.integers(1, 60), workers=st.integers(1, 9), part=st.integers(1, 20),
    policy=st.sampled_from(sorted(POLICIES)), seed=st.integers(0, 2**16),
    slow=st.floats(0, 1), mean_up=st.sampled_from([float("inf"), 30.0, 4.0]),
)  # fmt: skip
def test_every_block_is_done_and_is_published_once(
    n: int, workers: int, part: int, policy: str, seed: int, slow: float, mean_up: float
) -> None:
    cluster = Cluster(workers, 1.0, 0.3, slow, 3.0, mean_up, away=2.0, hand_over=0.1)
    found = _run(n, cluster, policy, part, seed)
    assert (found.published == 1).all()
    assert (found.done >= 1).all()
    assert found.makespan >= found.ideal * (1 - 1e-12)
    assert 0 <= found.wasted < 1
    if policy != "duplicates":
        assert (found.done == 1).all()
    again = _run(n, cluster, policy, part, seed)
    assert (again.makespan, again.parts, again.losses) == (
        found.makespan, found.parts, found.losses,
    )  # fmt: skip


def test_the_document_shows_what_the_simulation_says() -> None:
    page = Path(__file__).parents[1] / "docs" / "measurements" / "scaling.md"
    text = page.read_text(encoding="utf-8")
    lines = [line.split("|")[1:] for line in text.splitlines() if line.startswith("| ")]
    shown = {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines}
    assert shown["static"][:2] == [f"{ratios(one, 'static', 1)[0]:.2f}" for one in (CALM, SLOW)]
    assert shown["queue, 4"][:2] == [f"{ratios(one, 'queue', 4)[0]:.2f}" for one in (CALM, SLOW)]
    assert shown["duplicates, 4"][1] == f"{ratios(SLOW, 'duplicates', 4)[0]:.2f}"

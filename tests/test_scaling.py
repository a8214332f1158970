"""The simulation of docs/measurements/scaling.md: by hand, or by its laws where it is random."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.scaling.schedule import CALM, SLOW, ratios
from tests.scaling.simulate import Cluster, Outcome, simulate


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


def test_the_document_shows_what_the_simulation_says() -> None:
    page = Path(__file__).parents[1] / "docs" / "measurements" / "scaling.md"
    text = page.read_text(encoding="utf-8")
    lines = [line.split("|")[1:] for line in text.splitlines() if line.startswith("| ")]
    shown = {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines}
    assert shown["static"][:2] == [f"{ratios(one, 'static', 1)[0]:.2f}" for one in (CALM, SLOW)]
    assert shown["queue, 4"][:2] == [f"{ratios(one, 'queue', 4)[0]:.2f}" for one in (CALM, SLOW)]
    assert shown["duplicates, 4"][1] == f"{ratios(SLOW, 'duplicates', 4)[0]:.2f}"

"""Doses of a head against a straight line through the same numbers by other means."""

import numpy as np
import polars as pl
import pytest

from bench import read_results
from bench.statistics import DrawSums, two_term
from bench.suites.demo import dose_table
from tests.bench.results_by_hand import hand_run, write_ranks

SIZES, DRAWS, N = (10, 30, 100), range(4), 24
QUERIES = [f"q{i:02d}" for i in range(N)]
CLUSTERS = [f"c{i // 2:02d}" for i in range(N)]


@pytest.fixture
def hits(tmp_path, rng):
    """Write runs of every dose; return (source, clusters, size, by) → hits of its draws."""
    written = {}
    doses = [
        *(("head", 0, size, "random", DRAWS) for size in SIZES),
        *(("head", 0, size, "nearest", (0,)) for size in SIZES[:2]),
        ("head", 0, 0, "random", (0,)),
        *(("shuffled-within", n, 0, "random", DRAWS) for n in (4, 40)),
        ("shuffled", 0, 0, "random", DRAWS),
        ("random", 0, 0, "random", DRAWS),
    ]
    for place, (source, clusters, size, by, draws) in enumerate(doses):
        for seed in draws:
            own = rng.random(N) < 0.1 + 0.08 * place
            run = hand_run(
                source, seed=seed, eval="all-names", clusters=clusters, head_size=size, head_by=by
            )
            ranks = np.where(own, 1, 9)
            write_ranks(tmp_path, run, ranks, queries=QUERIES, clusters=CLUSTERS)
            written.setdefault((source, clusters, size, by), []).append(own.astype(float))
    return written


def test_slopes_are_least_squares_over_draws_and_clusters(tmp_path, hits):
    found = dose_table(tmp_path, read_results(tmp_path))
    found = found.filter(pl.col("direction") == "image→name")
    levels = {dose: own["level"].to_list() for (dose,), own in found.group_by(["dose"])}
    # The whole head has 100 prototypes in these files; the control at random rows is no dose.
    assert levels == {
        "classes": [10, 30, 100, 100], "nearest classes": [10, 30], "clusters of names": [1, 4, 40],
    }  # fmt: skip
    keys = {
        "classes": [("head", 0, size, "random") for size in (*SIZES, 0)],
        "nearest classes": [("head", 0, size, "nearest") for size in SIZES[:2]],
        "clusters of names": [
            ("shuffled", 0, 0, "random"), ("shuffled-within", 4, 0, "random"),
            ("shuffled-within", 40, 0, "random"),
        ],
    }  # fmt: skip
    for dose, own in keys.items():
        rows = found.filter(pl.col("dose") == dose)
        x = np.log10(levels[dose])
        means = [np.mean(hits[key]) for key in own]
        np.testing.assert_allclose(rows["value"], means, atol=1e-12)
        assert rows["slope"].to_list() == pytest.approx([np.polyfit(x, means, 1)[0]] * len(own))
        # A line for every query of every draw, and the mean of their slopes with its interval.
        n_draws = max(len(hits[key]) for key in own)
        lines = [
            np.polyfit(x, [hits[key][draw % len(hits[key])][query] for key in own], 1)[0]
            for draw in range(n_draws)
            for query in range(N)
        ]
        sums = DrawSums.of(
            np.array(lines), np.repeat(np.arange(n_draws), N), np.tile(CLUSTERS, n_draws)
        )
        interval = two_term(sums).interval()
        assert (rows["slope_low"][0], rows["slope_high"][0]) == pytest.approx(interval)
    drawn = found.filter(pl.col("n_draws") == 4)
    assert drawn["sd"].null_count() == 0
    assert found.filter(pl.col("n_draws") == 1)["sd"].null_count() == 3

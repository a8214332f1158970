"""Bold values: only where every rival is beaten by more than chance."""

import numpy as np
import pytest

from bench.cells import CELL
from bench.results import read_results
from bench.tables import result_lines, result_table
from bench.winners import winners
from tests.bench.results_by_hand import hand_run, ranks_with, write_ranks


def won(root, metrics=("top-1",)):
    found = winners(root, read_results(root), metrics=metrics, n_resamples=500, n_flips=999)
    return {(metric, dict(zip(CELL, key, strict=True))["source"]) for metric, key in found}


def write(root, shares, rng, n=120):
    for source, share in shares.items():
        run = hand_run(source, 16)
        write_ranks(root, run, ranks_with(rng, n, share))


def test_a_clear_winner_is_bold(tmp_path, rng):
    write(tmp_path, {"head": 0.8, "random": 0.2, "none": 0.2}, rng)
    assert won(tmp_path) == {("top-1", "head")}
    rows = read_results(tmp_path)
    bold = winners(tmp_path, rows, metrics=("top-1",), n_resamples=500, n_flips=999)
    headings, lines = result_lines(result_table(rows, ["top-1"]), bold)
    marked = [line for line in lines if "**" in line[headings.index("top-1 %")]]
    assert [line[headings.index("fitted on")] for line in marked] == ["real + head weights"]


def test_nothing_is_bold_inside_the_noise(tmp_path, rng):
    ranks = ranks_with(rng, 120, 0.5)
    write_ranks(tmp_path, hand_run("none", 16), np.full(120, 9))
    write_ranks(tmp_path, hand_run("random", 16), ranks)
    better = ranks.copy()
    better[np.flatnonzero(ranks > 1)[0]] = 1  # one query more
    write_ranks(tmp_path, hand_run("head", 16), better)
    assert won(tmp_path) == set()


def test_one_cell_alone_wins_nothing(tmp_path, rng):
    write(tmp_path, {"head": 0.9}, rng)
    assert won(tmp_path) == set()


def test_each_number_of_pairs_has_its_own_winner(tmp_path, rng):
    write(tmp_path, {"head": 0.8, "none": 0.2}, rng)
    write_ranks(tmp_path, hand_run("head", "all"), ranks_with(rng, 120, 0.1))
    write_ranks(tmp_path, hand_run("none", "all"), ranks_with(rng, 120, 0.9))
    assert won(tmp_path) == {("top-1", "head"), ("top-1", "none")}


@pytest.mark.parametrize("seed", range(3))
def test_rivals_that_are_alike_rarely_win(tmp_path, seed):
    """Eight cells of one and the same accuracy: the best of them is luck."""
    rng = np.random.default_rng(seed)
    for method in ("ridge", "procrustes", "pls", "cca"):
        for source in ("head", "random"):
            write_ranks(tmp_path, hand_run(source, 16, method=method), ranks_with(rng, 150, 0.5))
    assert won(tmp_path) == set()

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from scipy.stats import binomtest

from bench.comparisons import PAIRED_METRICS, SCHEMA, compare, with_holm
from bench.results import read_results
from tests.bench.results_by_hand import hand_run, ranks_with, write_ranks, write_study


def run_compare(root, **options):
    return compare(root, read_results(root), n_resamples=500, n_flips=499, **options)


def only(frame, **equal):
    found = frame.filter(*[pl.col(name) == value for name, value in equal.items()])
    assert found.height == 1, found
    return found.row(0, named=True)


def test_differences_are_those_of_the_queries(tmp_path):
    head, real, mixed = [1, 1, 9, 4], [1, 7, 9, 4], [1, 1, 1, 12]
    for source, k, ranks in (("head", 0, head), ("none", 16, real), ("head", 16, mixed)):
        write_ranks(tmp_path, hand_run(source, k), ranks)
    found = run_compare(tmp_path, metrics=PAIRED_METRICS)
    assert found.schema == pl.Schema(SCHEMA)
    row = only(found, comparison="over-parts", metric="top-1")
    assert (row["a"], row["b"], row["difference"]) == (0.75, 0.5, 0.25)
    assert (row["side_a"], row["side_b"]) == ("16 real + head weights", "head weights")
    assert (row["n_queries"], row["n_clusters"], row["n_seeds"], row["gallery"]) == (4, 4, 1, 20)
    assert row["chance"] == pytest.approx(1 / 20)
    row = only(found, comparison="over-real", metric="top-1")
    assert (row["side_b"], row["difference"]) == ("16 real pairs", 0.5)
    row = only(found, comparison="over-real", metric="MRR")
    expected = np.mean([1 / a - 1 / b for a, b in zip(mixed, real, strict=True)])
    assert row["difference"] == pytest.approx(expected)


def test_the_better_part_is_chosen_per_metric(tmp_path):
    # The head alone has more first places, the real pairs alone more in the first ten.
    for source, k, ranks in (
        ("head", 0, [1, 1, 20, 20]), ("none", 16, [1, 9, 9, 9]), ("head", 16, [1, 1, 1, 20]),
    ):  # fmt: skip
        write_ranks(tmp_path, hand_run(source, k), ranks)
    found = run_compare(tmp_path)
    first = only(found, comparison="over-parts", metric="top-1")
    ten = only(found, comparison="over-parts", metric="top-10")
    assert (first["side_b"], first["difference"]) == ("head weights", 0.25)
    assert (ten["side_b"], ten["difference"]) == ("16 real pairs", -0.25)


def test_order_of_the_queries_in_a_file_does_not_matter(tmp_path, rng):
    ranks = {source: ranks_with(rng, 50, 0.4) for source in ("head", "random")}
    names = np.array([f"q{i:02d}" for i in range(50)])
    for folder, shuffle in (("a", False), ("b", True)):
        for source, values in ranks.items():
            order = rng.permutation(50) if shuffle else np.arange(50)
            write_ranks(
                tmp_path / folder, hand_run(source), values[order], queries=names[order].tolist()
            )
    assert_frame_equal(run_compare(tmp_path / "a"), run_compare(tmp_path / "b"))


def test_a_single_run_is_paired_with_the_mean_of_the_draws(tmp_path):
    names = ["q0", "q1", "q2"]
    write_ranks(tmp_path, hand_run("head", eval="all-names"), [1, 1, 5], queries=names)
    for seed, ranks in enumerate(([1, 9, 9], [9, 9, 9])):
        run = hand_run("random", seed=seed, eval="all-names")
        write_ranks(tmp_path, run, ranks, queries=names)
    row = only(run_compare(tmp_path), comparison="over-control", metric="top-1")
    assert (row["a"], row["b"]) == (pytest.approx(2 / 3), pytest.approx(1 / 6))
    assert (row["n_queries"], row["source"]) == (3, "random")


def test_held_out_sides_with_other_seeds_are_compared_where_both_ran(tmp_path):
    for seed in (0, 1, 2):
        write_ranks(tmp_path, hand_run("head", seed=seed), [1, 2, 1])
    for seed in (1, 2):
        write_ranks(tmp_path, hand_run("random", seed=seed), [1, 2, 9])
    row = only(run_compare(tmp_path), comparison="over-control", metric="top-1")
    assert row["n_queries"] == 6
    assert row["difference"] == pytest.approx(1 / 3)


def test_sides_that_share_no_query_are_left_out(tmp_path):
    write_ranks(tmp_path, hand_run("head", seed=0), [1, 2])
    write_ranks(tmp_path, hand_run("random", seed=1), [1, 2])
    assert "over-control" not in set(run_compare(tmp_path)["comparison"])


def test_clusters_are_what_is_resampled(tmp_path, rng):
    ranks = {
        source: ranks_with(rng, 200, share) for source, share in (("head", 0.6), ("random", 0.4))
    }
    for folder, clusters in (("one", None), ("ten", [f"c{i // 10}" for i in range(200)])):
        for source, values in ranks.items():
            # Within a cluster of ten all agree: ten rows are worth one.
            same = values if clusters is None else np.repeat(values[::10], 10)
            write_ranks(tmp_path / folder, hand_run(source), same, clusters=clusters)
    one, ten = (
        only(run_compare(tmp_path / f), comparison="over-control", metric="top-1")
        for f in ("one", "ten")
    )
    assert (one["n_clusters"], ten["n_clusters"]) == (200, 20)
    assert ten["high"] - ten["low"] > 2 * (one["high"] - one["low"])


def test_a_source_alone_against_chance_has_wilsons_interval_and_no_p(tmp_path):
    write_ranks(tmp_path, hand_run("random"), [1] + [9] * 199, gallery=200)
    row = only(run_compare(tmp_path), comparison="over-chance", metric="top-1")
    theirs = binomtest(1, 200).proportion_ci(method="wilson")
    assert row["difference"] == pytest.approx(0.0, abs=1e-12)
    assert row["low"] == pytest.approx(theirs.low - 1 / 200)
    assert row["high"] == pytest.approx(theirs.high - 1 / 200)
    assert row["p"] is None
    # No hit at all is not evidence of being below chance.
    write_ranks(tmp_path, hand_run("shuffled"), [9] * 200, gallery=200)
    row = only(run_compare(tmp_path), comparison="over-chance", metric="top-1", source="shuffled")
    assert row["low"] < 0 < row["high"]


def test_a_study_has_every_comparison_and_is_reproducible(tmp_path, rng):
    write_study(tmp_path, rng)
    found = run_compare(tmp_path)
    cells = found.filter(pl.col("metric") == "top-1").group_by("comparison").len()
    assert dict(cells.iter_rows()) == {
        "over-chance": 4,  # ConSE, head, random, shuffled
        "over-real": 6,  # three sources, two numbers of pairs
        "over-control": 6,  # two controls, three numbers of pairs
        "over-conse": 3,
        "over-parts": 2,
    }
    assert set(found["direction"]) == {"image→name", "image→caption", "caption→image"}
    assert_frame_equal(found, run_compare(tmp_path))
    gain = only(found, comparison="over-control", metric="top-1", n_pairs="0", source="random")
    assert gain["low"] > 0
    assert gain["p"] < 0.01


def test_only_metrics_that_are_means_are_compared(tmp_path):
    write_ranks(tmp_path, hand_run("head"), [1, 2])
    assert run_compare(tmp_path, metrics=["median_rank"]).is_empty()


def test_both_sides_have_their_spread_and_the_gain_is_relative_too(tmp_path):
    hits = {"head": [[1, 1, 1, 2], [1, 1, 2, 2]], "random": [[1, 2, 2, 2], [2, 2, 2, 2]]}
    for source, seeds in hits.items():
        for seed, ranks in enumerate(seeds):
            write_ranks(tmp_path, hand_run(source, seed=seed), ranks)
    row = only(run_compare(tmp_path), comparison="over-control", metric="top-1")
    assert (row["a"], row["b"], row["difference"]) == (0.625, 0.125, 0.5)
    assert row["a_sd"] == pytest.approx(np.std([0.75, 0.5], ddof=1))
    assert row["b_sd"] == pytest.approx(np.std([0.25, 0.0], ddof=1))
    assert row["difference_sd"] == pytest.approx(0.0)
    assert row["relative"] == pytest.approx(4.0)
    assert row["n_seeds"] == 2


def test_one_run_has_no_spread_and_nothing_is_no_base(tmp_path):
    write_ranks(tmp_path, hand_run("head"), [1, 2])
    write_ranks(tmp_path, hand_run("random"), [2, 2])
    row = only(run_compare(tmp_path), comparison="over-control", metric="top-1")
    assert row["a_sd"] is None
    assert row["difference_sd"] is None
    assert row["relative"] is None


def test_p_values_are_corrected_over_the_table_that_is_shown(tmp_path, rng):
    write_study(tmp_path, rng)
    found = run_compare(tmp_path)
    known = found.filter(pl.col("p").is_not_null())
    assert (known["p_holm"] >= known["p"]).all()
    smallest = known["p"].min()
    assert known["p_holm"].min() == pytest.approx(min(1.0, smallest * known.height))
    assert found.filter(pl.col("p").is_null())["p_holm"].null_count() > 0
    few = with_holm(found.filter(pl.col("comparison") == "over-parts"))
    assert few["p_holm"].min() == pytest.approx(min(1.0, few["p"].min() * few.height))


def test_cells_that_differ_in_the_mix_are_compared_with_their_own_controls(tmp_path):
    for mix, ranks in ((0.5, [1, 1, 2, 2]), (2.0, [1, 2, 2, 2])):
        write_ranks(tmp_path, hand_run("head", 16, mix=mix, penalty=0.1), ranks)
        write_ranks(tmp_path, hand_run("random", 16, mix=mix, penalty=0.1), [2, 2, 2, 2])
    write_ranks(tmp_path, hand_run("none", 16, mix=1.0, penalty=0.1), [1, 2, 2, 2])
    found = run_compare(tmp_path).filter(pl.col("metric") == "top-1")
    gains = {
        (row["comparison"], row["mix"]): row["difference"]
        for row in found.filter(pl.col("method") == "ridge").iter_rows(named=True)
        if row["side_a"] == "16 real + head weights"
    }
    assert gains == {
        ("over-control", "0.5"): 0.5, ("over-control", "2.0"): 0.25,
        ("over-real", "0.5"): 0.25, ("over-real", "2.0"): 0.0,
    }  # fmt: skip

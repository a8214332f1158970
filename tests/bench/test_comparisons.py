import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from scipy import stats

from bench import compare, read_results
from bench.cells import ARENA, CELL, chance_and_gallery, read_arenas, read_cells
from bench.comparisons import (
    PAIRED_METRICS,
    Claim,
    bold_cells,
    compare_choices,
    primary_family,
)
from bench.report.verdict import judged
from bench.statistics import DrawSums, proportion_interval, two_term
from bench.tables import result_table
from tests.bench.results_by_hand import hand_run, ranks_with, write_ranks


def run_compare(root, **options):
    return compare(root, read_results(root), **options)


def only(frame, **equal):
    found = frame.filter(**equal)
    assert found.height == 1, found
    return found.row(0, named=True)


def test_differences_are_those_of_the_queries(tmp_path):
    head, real, mixed = [1, 1, 19, 4], [1, 7, 9, 4], [1, 1, 1, 12]
    for source, k, ranks in (("head", 0, head), ("none", 16, real), ("head", 16, mixed)):
        write_ranks(tmp_path, hand_run(source, k), ranks)
    found = run_compare(tmp_path, metrics=PAIRED_METRICS)
    assert {*found.schema.dtypes()} == {pl.String, pl.Float64, pl.Int64, pl.Boolean}
    row = only(found, comparison="over-parts", metric="top-1")
    assert (row["a"], row["b"], row["difference"]) == (0.75, 0.5, 0.25)
    assert (row["side_a"], row["side_b"]) == ("16 real + head weights", "head weights")
    assert (row["n_queries"], row["n_clusters"], row["n_seeds"], row["gallery"]) == (4, 4, 1, 20)
    assert row["chance"] == pytest.approx(1 / 20)
    # The t-test of the four differences: one draw has no other part.
    theirs = stats.ttest_1samp([0, 0, 1, 0], 0.0)
    assert row["p"] == pytest.approx(theirs.pvalue)
    assert (row["low"], row["high"]) == pytest.approx(tuple(theirs.confidence_interval()))
    # The better part is chosen per metric: of the pairs alone more are in the first ten.
    ten = only(found, comparison="over-parts", metric="top-10")
    assert (ten["side_b"], ten["difference"]) == ("16 real pairs", -0.25)
    row = only(found, comparison="over-real", metric="top-1")
    assert (row["side_b"], row["difference"]) == ("16 real pairs", 0.5)
    row = only(found, comparison="over-real", metric="MRR")
    expected = np.mean([1 / a - 1 / b for a, b in zip(mixed, real, strict=True)])
    assert row["difference"] == pytest.approx(expected)


def test_draws_and_clusters_are_both_counted(tmp_path, rng):
    """The row of a table is the two-term estimate of the differences, and says its parts."""
    rows = []
    for seed in range(5):
        clusters = [f"c{i % 20}" for i in range(60)]
        names = [f"q{i}" for i in range(60)]
        mine, theirs = ranks_with(rng, 60, 0.5), ranks_with(rng, 60, 0.3)
        for source, ranks in (("head", mine), ("none", theirs)):
            run = hand_run(source, 16, seed)
            write_ranks(tmp_path, run, ranks, clusters=clusters, queries=names, pool=80.0)
        rows += [
            (seed, c, (a == 1) * 1.0 - (b == 1))
            for c, a, b in zip(clusters, mine, theirs, strict=True)
        ]
    row = only(run_compare(tmp_path), comparison="over-real", metric="top-1")
    draws, clusters, values = (np.array(column) for column in zip(*rows, strict=True))
    expected = two_term(DrawSums.of(values, draws, clusters), overlap=0.2)
    assert row["overlap"] == 0.2
    assert row["difference"] == pytest.approx(values.mean())
    assert (row["low"], row["high"]) == pytest.approx(expected.interval())
    assert (row["p"], row["df"]) == pytest.approx((expected.p_value(), expected.df))
    assert row["draw_error"] == pytest.approx(np.sqrt(expected.of_draws))
    assert row["cluster_error"] == pytest.approx(np.sqrt(expected.of_clusters))
    assert row["population"] == "new classes, new splits and pairs"


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


@pytest.mark.parametrize("seeds", [1, 20])  # of a head that no seed changes
def test_one_head_is_ranked_among_the_draws_of_its_control(seeds, tmp_path, rng):
    names = [f"q{i}" for i in range(40)]
    for seed in range(seeds):
        run = hand_run("head", seed=seed, eval="all-names")
        write_ranks(tmp_path, run, [1] * 9 + [9] * 31, queries=names)
    hits = rng.permutation(np.r_[np.arange(19) % 8, 12])  # one of twenty draws is better
    for seed, own in enumerate(hits):
        run = hand_run("random", seed=seed, eval="all-names")
        write_ranks(tmp_path, run, [1] * own + [9] * (40 - own), queries=names)
    row = only(run_compare(tmp_path), comparison="over-control", metric="top-1")
    assert (row["a"], row["b"]) == (pytest.approx(9 / 40), pytest.approx(hits.mean() / 40))
    assert (row["control_rank"], row["n_controls"], row["test"]) == (2, 20, "rank among 20 draws")
    assert row["p"] == pytest.approx(2 / 21)
    assert row["control_best"] == 12 / 40
    assert row["control_sd"] == pytest.approx(np.std(hits / 40, ddof=1))
    error = np.std(hits / 40, ddof=1) * np.sqrt(1 + 1 / 20)
    assert (row["draw_error"], row["control_error"]) == (None, pytest.approx(error))
    assert row["high"] == pytest.approx(row["difference"] + stats.t.ppf(0.975, 19) * error)


def test_control_draws_on_every_split_are_ranked_by_their_means_over_splits(tmp_path, rng):
    means = {"head": [], **{c: [] for c in range(19)}}
    for seed in range(3):
        for key in means:
            ranks = ranks_with(rng, 30, 0.4 if key == "head" else 0.1)
            means[key].append(np.mean(ranks == 1))
            run = (
                hand_run("head", 16, seed)
                if key == "head"
                else hand_run("random", 16, seed, control_draw=key)
            )
            write_ranks(tmp_path, run, ranks)
    row = only(run_compare(tmp_path), comparison="over-control", metric="top-1")
    controls = np.array([np.mean(means[c]) for c in range(19)])
    assert row["n_controls"] == 19
    assert row["control_rank"] == 1 + np.sum(controls >= np.mean(means["head"]))
    # The interval asks what p asks: of the head and one more draw, not of the mean of the draws.
    error = np.std(controls, ddof=1) * np.sqrt(1 + 1 / 19)
    half = stats.t.ppf(0.975, 18) * error
    assert (row["control_error"], row["df"]) == (pytest.approx(error), 18)
    assert row["high"] - row["low"] == pytest.approx(2 * half)
    assert row["low"] + half == pytest.approx(row["difference"])
    assert row["population"].startswith("one more draw of the control")
    assert row["b"] == pytest.approx(controls.mean())
    assert row["n_seeds"] == 3
    # Beside anything else, the mean of the draws has a variance of its own.
    cells = read_cells(tmp_path, read_results(tmp_path))
    (control,) = (cell for cell in cells if cell.source == "random")
    variance = np.var(controls, ddof=1) / 19
    assert Claim("a-b", control, None, "top-1").control_part() == pytest.approx((variance, 18))


def test_one_run_stands_beside_every_draw_of_the_other_side(tmp_path):
    """Where every seed scores the same images, what is drawn is compared draw by draw."""
    names = ["q0", "q1", "q2"]
    fixed = {"eval": "split", "task": "zero_shot"}
    write_ranks(tmp_path, hand_run("head", 0, **fixed), [1, 1, 5], queries=names)
    for seed, ranks in enumerate(([1, 9, 9], [1, 9, 1])):
        write_ranks(tmp_path, hand_run("head", 16, seed, **fixed), ranks, queries=names)
        write_ranks(tmp_path, hand_run("none", 16, seed, **fixed), [9, 9, 9], queries=names)
    row = only(run_compare(tmp_path), comparison="over-parts", metric="top-1")
    assert (row["a"], row["b"]) == (pytest.approx(1 / 2), pytest.approx(2 / 3))
    assert (row["n_seeds"], row["n_queries"], row["n_clusters"]) == (2, 6, 3)


def test_sides_that_share_no_query_are_left_out(tmp_path):
    write_ranks(tmp_path, hand_run("head", seed=0), [1, 2])
    write_ranks(tmp_path, hand_run("random", seed=1), [1, 3])
    assert "over-control" not in set(run_compare(tmp_path)["comparison"])
    # The same seed over other queries, as after a changed limit, is no pair either.
    write_ranks(tmp_path, hand_run("shuffled", seed=0), [1, 2], queries=["x", "y"])
    assert "over-control" not in set(run_compare(tmp_path)["comparison"])
    # Where both sides ran, they are compared.
    write_ranks(tmp_path, hand_run("head", seed=1), [1, 1])
    row = only(run_compare(tmp_path), comparison="over-control", metric="top-1")
    assert (row["n_queries"], row["difference"]) == (2, 0.5)


def test_a_source_alone_against_chance_has_the_interval_of_a_share_and_no_p(tmp_path):
    ranks = [1] + [9] * 199
    write_ranks(tmp_path, hand_run("random"), ranks, gallery=200)
    row = only(run_compare(tmp_path), comparison="over-chance", metric="top-1")
    low, high = proportion_interval(DrawSums((np.array(ranks) == 1)[None] * 1.0, np.ones((1, 200))))
    assert row["difference"] == pytest.approx(0.0, abs=1e-12)
    assert (row["low"], row["high"]) == pytest.approx((low - 1 / 200, high - 1 / 200))
    assert row["p"] is None
    # No hit at all is not evidence of being below chance.
    write_ranks(tmp_path, hand_run("shuffled"), [9] * 200, gallery=200)
    row = only(run_compare(tmp_path), comparison="over-chance", metric="top-1", source="shuffled")
    assert row["low"] < 0 < row["high"]


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


def test_the_primary_family_is_named_beforehand_and_corrected_alone(written_study):
    found = run_compare(written_study)
    primary = found.filter(pl.col("family").is_not_null())
    named = primary.select("direction", "metric", "comparison", "n_pairs", "source").rows()
    assert set(named) == {
        ("image→name", "top-1", "over-control", "0", "random"),
        ("image→name", "top-1", "over-control", "0", "shuffled"),
        ("image→name", "top-1", "over-parts", "16", "head"),
        ("image→name", "top-1", "over-parts", "all", "head"),
    }
    assert set(primary["family"]) == {4}
    assert primary["p_holm"].min() == pytest.approx(min(1.0, 4 * primary["p"].min()))
    rest = found.filter(pl.col("family").is_null())
    assert rest["p_holm"].null_count() == rest.height
    assert not rest["bold"].any()
    # What is looked at changes no correction.
    part = run_compare(written_study, metrics=["top-1"]).drop_nulls("family")
    assert primary.join(part, on=[*["comparison", "n_pairs", "source"], "p_holm"]).height == 4


def test_a_family_of_more_than_twenty_and_tasks_have_nothing_primary(tmp_path, rng):
    for method in ("ridge", "procrustes", "pls", "cca", "csa", "ridge-both", "mean-shift"):
        for k in (0, 4, 8, 16):
            for source in ("head",) if k == 0 else ("head", "none"):
                run = hand_run(source, k, method=method, eval="split")
                write_ranks(tmp_path / "wide", run, ranks_with(rng, 12, 0.5))
    rows = read_results(tmp_path / "wide")
    found = compare(tmp_path / "wide", rows, metrics=["top-1"])
    assert found.filter(comparison="over-parts").height > 20
    few = rows.filter(pl.col("method").is_in(["ridge", "pls"]))
    named = few.with_columns(suite=pl.lit("task"))
    sizes = [len(primary_family(own, read_arenas(tmp_path / "wide", own)))
             for own in (rows, few, named)]  # fmt: skip
    assert sizes == [0, 6, 0]


@pytest.mark.parametrize(
    ("pool", "k", "seeds", "bold"),
    [(500.0, 16, 10, True), (500.0, 16, 5, False), (50.0, 16, 10, False), (None, 16, 10, False),
     (500.0, "all", 10, False)],
    ids=["enough", "few draws", "large overlap", "unknown pool", "all pairs"],
)  # fmt: skip
def test_bold_needs_draws_and_a_pool(tmp_path, rng, pool, k, seeds, bold):
    for seed in range(seeds):
        for source, n, share in (("head", 0, 0.3), ("none", k, 0.2), ("head", k, 0.9)):
            ranks = ranks_with(rng, 80, share)
            write_ranks(tmp_path, hand_run(source, n, seed), ranks, pool=pool)
    found = run_compare(tmp_path)
    row = only(found, comparison="over-parts", metric="top-1")
    assert row["p_holm"] < 0.001
    assert row["bold"] is bold
    marked = {
        dict(zip(CELL, key, strict=True))["n_pairs"] for _, key in bold_cells(found, ["top-1"])
    }
    assert marked == ({str(k)} if bold else set())
    if k == "all":
        assert "this pool of pairs" in row["population"]


def test_a_head_alone_is_bold_only_over_every_control(tmp_path, rng):
    for seed in range(10):
        shares = (("head", 0.6), ("random", 0.1), ("shuffled", 0.6))
        for source, share in shares:
            write_ranks(tmp_path, hand_run(source, 0, seed), ranks_with(rng, 80, share))
    found = run_compare(tmp_path)
    over = {r["source"]: r["bold"] for r in found.iter_rows(named=True) if r["family"]}
    assert over == {"random": True, "shuffled": False}
    assert bold_cells(found, ["top-1"]) == set()


def test_means_count_a_draw_by_its_queries(tmp_path):
    write_ranks(tmp_path, hand_run("head", seed=0), [1], gallery=10)
    write_ranks(tmp_path, hand_run("head", seed=1), [9] * 9, gallery=20)
    rows = read_results(tmp_path)
    table = result_table(rows, ["top-1"]).filter(method="ridge")
    assert table["top-1"].item() == pytest.approx(0.1)
    block = next(iter(rows.group_by(ARENA)))[1]
    assert chance_and_gallery(block)["top-1"] == pytest.approx((0.1 / 10 + 0.9 / 20 + 0, 19.0))
    (cell,) = read_cells(tmp_path, block)
    assert cell.mean("top-1") == pytest.approx(0.1)


def test_cells_that_differ_in_the_mix_are_compared_with_their_own_controls(tmp_path):
    for mix, ranks in ((0.5, [1, 1, 2, 2]), (2.0, [1, 2, 2, 2])):
        write_ranks(tmp_path, hand_run("head", 16, mix=mix, penalty=0.1), ranks)
        write_ranks(tmp_path, hand_run("random", 16, mix=mix, penalty=0.1), [2, 2, 2, 2])
    write_ranks(tmp_path, hand_run("none", 16, mix=1.0, penalty=0.1), [1, 2, 2, 2])
    found = run_compare(tmp_path).filter(metric="top-1")
    gains = {
        (row["comparison"], row["mix"]): row["difference"]
        for row in found.filter(method="ridge").iter_rows(named=True)
        if row["side_a"] == "16 real + head weights"
    }
    assert gains == {
        ("over-control", "0.5"): 0.5, ("over-control", "2.0"): 0.25,
        ("over-real", "0.5"): 0.25, ("over-real", "2.0"): 0.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("hits", "draws", "stands"),
    [(30, 19, "better"), (2, 19, "better"), (1, 19, "same"), (30, 2, "undecided")],
)
def test_a_head_beside_draws_without_a_hit(tmp_path, hits, draws, stands):
    """30 images: draws that are all alike do not keep a perfect head from its verdict."""
    names = [f"q{i}" for i in range(30)]
    head = np.where(np.arange(30) < hits, 1, 7)
    write_ranks(tmp_path, hand_run("head", eval="split"), head, queries=names)
    for draw in range(draws):
        run = hand_run("random", eval="split", control_draw=draw)
        write_ranks(tmp_path, run, np.full(30, 7), queries=names)
    row = only(run_compare(tmp_path), comparison="over-control", metric="top-1")
    assert row["high"] - row["low"] > 1 / 30
    assert judged([row])[0]["stands"] == stands


@pytest.mark.parametrize("draws", [1, 18, 19])
def test_fewer_than_nineteen_control_draws_make_nothing_bold(tmp_path, rng, draws):
    """A head alone on a fixed split: nothing but the control is drawn."""
    names = [f"q{i}" for i in range(60)]
    write_ranks(tmp_path, hand_run("head", eval="split"), ranks_with(rng, 60, 0.9), queries=names)
    for draw in range(draws):
        run = hand_run("random", eval="split", control_draw=draw)
        write_ranks(tmp_path, run, ranks_with(rng, 60, 0.1), queries=names)
    row = only(run_compare(tmp_path), comparison="over-control", metric="top-1")
    assert row["bold"] is (draws == 19)
    if draws == 1:
        assert (row["p"], row["test"]) == (None, "fewer than two control draws")
    else:
        assert (row["control_rank"], row["n_controls"]) == (1, draws)
        assert row["p_holm"] < 0.001


def test_an_unfinished_control_draw_is_left_out_and_never_paired(tmp_path, rng):
    """18 of 19 draws on every split, one of them on two of three: the rank is among 18."""
    for seed in range(3):
        write_ranks(tmp_path, hand_run("head", 0, seed), ranks_with(rng, 30, 0.5))
        for draw in range(19):
            if (seed, draw) != (1, 4):
                run = hand_run("random", 0, seed, control_draw=draw)
                write_ranks(tmp_path, run, ranks_with(rng, 30, 0.1))
    row = only(run_compare(tmp_path), comparison="over-control", metric="top-1")
    assert (row["control_rank"], row["n_controls"]) == (1, 18)
    assert row["bold"] is False  # fewer than 19
    alone = only(run_compare(tmp_path), comparison="over-chance", metric="top-1", source="random")
    assert alone["control_error"] > 0


def test_an_unknown_pool_is_unknown_on_either_side(tmp_path, rng):
    for folder, pool in (("old", None), ("new", 500.0)):
        for seed in range(4):
            ranks = ranks_with(np.random.default_rng(seed), 30, 0.5)
            write_ranks(tmp_path / folder, hand_run("head", 16, seed), ranks, pool=pool)
    sides = [f"{tmp_path}/{folder}:ridge/head/16" for folder in ("old", "new")]
    for a, b in (sides, sides[::-1]):
        found = compare_choices(a, b, metrics=["top-1"])
        assert found["overlap"].item() is None
        assert "this pool" in found["population"].item()

"""`bench.statistics` against scipy, statsmodels, an analysis of variance and definitions."""

import itertools
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from bench.errors import MetricError
from bench.metrics.summary import chance_levels
from bench.statistics import (
    DrawSums,
    against_controls,
    against_leader,
    against_paired_controls,
    compare,
    effective_df,
    holm,
    proportion_interval,
    two_term,
)
from tests import validation
from tests.assertions import assert_close
from tests.spaces import simulate


def one_run(values):
    """One draw, a row a cluster."""
    values = np.asarray(values, float)
    return DrawSums(values[None], np.ones((1, len(values))))


def test_one_run_with_equal_clusters_is_the_t_test(rng):
    values = rng.normal(0.2, 1, size=31)
    found = two_term(one_run(values))
    theirs = stats.ttest_1samp(values, 0.0)
    assert found.p_value() == pytest.approx(theirs.pvalue, rel=1e-12)
    assert found.interval() == pytest.approx(tuple(theirs.confidence_interval()), rel=1e-12)
    assert found.interval(0.8) == pytest.approx(tuple(theirs.confidence_interval(0.8)), rel=1e-12)


@pytest.mark.parametrize("missing", [math.nan, math.inf])
def test_a_query_without_a_value_is_named_and_not_averaged(missing):
    a, b = [1.0, 0.5, 0.25, 1.0], [0.0, 0.5, 0.5, 1.0]
    for sides in ((a, [*b[:2], missing, missing]), ([*a[:2], missing, missing], b)):
        with pytest.raises(MetricError, match=r"^2 of 4 queries have no finite .* row 2, a .*as 0"):
            compare(*sides)
    assert compare(a, b).mean == pytest.approx(0.1875)


def test_unequal_clusters_are_the_sandwich_of_statsmodels(rng):
    """CR0 of an intercept, each residual sum corrected by its own leverage, is CR2 of a mean."""
    sizes = rng.integers(1, 9, size=12)
    groups = np.repeat(np.arange(12), sizes)
    y = rng.normal(size=12)[groups] + rng.normal(size=len(groups))
    fit = sm.OLS(y, np.ones(len(y))).fit(
        cov_type="cluster", cov_kwds={"groups": groups, "use_correction": False}
    )
    sums = DrawSums.of(y, np.zeros(len(y)), groups)
    found = two_term(sums)
    uncorrected = np.sum((sums.total[0] - found.mean * sizes) ** 2) / len(y) ** 2
    assert float(fit.cov_params()[0, 0]) == pytest.approx(uncorrected, rel=1e-12)
    # CR2 by its definition: each cluster's residuals times (I - H_cc)^(-1/2).
    n, corrected = len(y), 0.0
    for c in range(12):
        own = y[groups == c] - found.mean
        values, vectors = np.linalg.eigh(np.eye(len(own)) - np.full((len(own),) * 2, 1 / n))
        corrected += ((vectors @ np.diag(values**-0.5) @ vectors.T) @ own).sum() ** 2 / n**2
    assert found.of_clusters == pytest.approx(corrected, rel=1e-10)


@given(st.lists(st.integers(1, 40), min_size=2, max_size=12))
def test_degrees_of_freedom_are_those_of_the_quadratic_form(sizes):
    """(tr G)² / tr G² of the CR2 variance, independent clusters with variance like their size."""
    h = np.array(sizes) / sum(sizes)
    c = len(h)
    # Residual sums R = (I - h 1') S of cluster sums S with variance proportional to h.
    project = np.eye(c) - np.outer(h, np.ones(c))
    form = np.diag(np.sqrt(h)) @ project.T @ np.diag(1 / (1 - h)) @ project @ np.diag(np.sqrt(h))
    expected = np.trace(form) ** 2 / np.trace(form @ form)
    assert effective_df(h) == pytest.approx(expected, rel=1e-9)
    assert effective_df(np.full(c, 1 / c)) == pytest.approx(c - 1)
    assert effective_df(h) <= c - 1 + 1e-9


def test_crossed_draws_are_an_analysis_of_variance(rng):
    s, c = 6, 15
    y = rng.normal(size=(s, 1)) + rng.normal(size=(1, c)) + rng.normal(size=(s, c))
    found = two_term(DrawSums(y, np.ones_like(y)))
    draws = c * np.var(y.mean(axis=1), ddof=1)  # mean squares of the two ways
    clusters = s * np.var(y.mean(axis=0), ddof=1)
    assert found.of_draws == pytest.approx(draws / (s * c), rel=1e-12)
    assert found.of_clusters == pytest.approx(clusters / (s * c), rel=1e-12)
    assert (found.df_draws, found.df_clusters) == (pytest.approx(s - 1), pytest.approx(c - 1))
    expected = (draws + clusters) ** 2 / (draws**2 / (s - 1) + clusters**2 / (c - 1))
    assert found.df == pytest.approx(expected)


def test_draws_with_other_queries_by_hand():
    # Draw 0 has 2 + 2 queries of clusters a and b, draw 1 has 4 of c; mean 3 / 8.
    sums = DrawSums(
        np.array([[2.0, 0.0, 0.0], [0.0, 0.0, 1.0]]), np.array([[2.0, 2.0, 0.0], [0.0, 0.0, 4.0]])
    )
    found = two_term(sums)
    assert found.mean == 3 / 8
    # Residual sums: draws 2 - 4·3/8 = .5 and 1 - 1.5 = -.5; clusters 1.25, -.75, -.5.
    assert found.of_draws == pytest.approx((0.25 / 0.5 + 0.25 / 0.5) / 64)
    assert found.of_clusters == pytest.approx((1.5625 / 0.75 + 0.5625 / 0.75 + 0.25 / 0.5) / 64)


def test_the_factor_for_overlapping_subsets(rng):
    y = rng.normal(size=(10, 8))
    plain, wider = (two_term(DrawSums(y, np.ones_like(y)), overlap=f) for f in (0.0, 0.2))
    assert wider.of_draws == pytest.approx(plain.of_draws * (1 + 10 * 0.2 / 0.8))
    assert wider.of_clusters == plain.of_clusters


def test_one_cluster_says_nothing():
    found = two_term(DrawSums(np.array([[3.0]]), np.array([[4.0]])))
    assert found.interval() == (-math.inf, math.inf)
    assert found.p_value() == 1.0
    assert proportion_interval(DrawSums(np.array([[3.0]]), np.array([[4.0]]))) == (0.0, 1.0)


def test_where_nothing_varies_p_is_that_of_the_signs():
    found = two_term(one_run([1.0] * 4))
    assert found.p_value() == 2 / 2**4
    # Of four clusters that agree, the share that does not is below 1 - 0.025^(1/4) = 0.602.
    assert found.interval() == pytest.approx((1 - 2 * 0.6024, 1.0), abs=1e-3)
    assert two_term(one_run([0.0] * 3)).p_value() == 1.0
    low, high = two_term(one_run([0.0] * 1000)).interval()
    assert -0.004 < low < 0 < high < 0.004


def test_the_variance_of_control_draws_is_part_of_every_number(rng):
    """Three variances by hand: of draws, of clusters, and of the mean of the control draws."""
    plain = two_term(DrawSums(rng.normal(size=(4, 9)), np.ones((4, 9))))
    found = replace(plain, of_controls=0.3, df_controls=18.0)
    parts = [(plain.of_draws, 3.0), (plain.of_clusters, 8.0), (0.3, 18.0)]
    variance = sum(own for own, _ in parts)
    df = variance**2 / sum(own**2 / df for own, df in parts)
    assert found.error == pytest.approx(math.sqrt(variance))
    assert found.df == pytest.approx(df)
    half = stats.t.ppf(0.975, df) * math.sqrt(variance)
    assert found.interval() == pytest.approx((plain.mean - half, plain.mean + half))
    assert found.p_value() == pytest.approx(2 * stats.t.sf(abs(plain.mean) / variance**0.5, df))
    hits = DrawSums(np.array([[3.0, 0, 2, 1, 0, 2]]), np.full((1, 6), 5.0))
    low, high = proportion_interval(hits)
    wider = proportion_interval(hits, of_controls=0.02, df_controls=18.0)
    assert wider[0] < low < high < wider[1]


def test_a_leader_is_corrected_by_all_pairs_of_its_board_by_hand():
    # Four entries: 6 pairs; once one is behind, 3 of three; then 1 of two.
    np.testing.assert_allclose(against_leader(np.array([0.2, 0.004, 0.03])), [0.2, 0.024, 0.09])
    # None is below one before it, and none above 1.
    np.testing.assert_allclose(against_leader(np.array([0.05, 0.04, 0.06])), [0.24, 0.24, 0.24])
    np.testing.assert_allclose(against_leader(np.array([0.5, 0.6])), [1.0, 1.0])


def test_few_hits_beside_large_clusters_have_the_variance_of_agreeing_rows():
    """Of 40 rows in 4 clusters, two hits in small ones: the large ones say next to nothing."""
    sums = DrawSums(np.array([[1.0, 1, 0, 0]]), np.array([[4.0, 4, 16, 16]]))
    share, size, hits = 2 / 40, sums.count[0], sums.total[0]
    within = np.sum(hits - hits**2 / size) / (40 - 4)
    between = np.sum(size * (hits / size - share) ** 2) / 3
    agreement = (between - within) / (between + (((40 - np.sum(size**2) / 40) / 3) - 1) * within)
    by_size = share * (1 - share) * np.sum(size * (1 + (size - 1) * agreement)) / 40**2
    plain = two_term(sums)
    assert by_size > plain.of_clusters
    n = share * (1 - share) / by_size
    n *= (stats.t.ppf(0.975, 39) / stats.t.ppf(0.975, plain.df_clusters)) ** 2
    expected = stats.beta.ppf(0.975, share * n + 1, n - share * n)
    assert proportion_interval(sums)[1] == pytest.approx(expected)


def test_sides_with_other_queries_are_refused():
    with pytest.raises(MetricError, match=r"differ \(3 and 4\)"):
        one_run([1, 2, 3]) - DrawSums(np.ones((1, 3)), np.array([[1.0, 2.0, 1.0]]))
    with pytest.raises(MetricError, match="same queries on both sides"):
        one_run([1, 2, 3]) - one_run([1, 2])
    with pytest.raises(MetricError, match="Every value needs"):
        DrawSums.of(np.ones(3), np.zeros(2), np.zeros(3))
    with pytest.raises(MetricError, match="at least one query"):
        DrawSums(np.zeros((1, 2)), np.zeros((1, 2)))


@pytest.mark.parametrize(("hits", "n"), [(0, 40), (1, 517), (20, 40), (517, 517)])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_a_share_of_single_rows_is_nearly_clopper_pearson(hits, n, confidence):
    values = np.r_[np.ones(hits), np.zeros(n - hits)]
    ours = proportion_interval(one_run(values), confidence=confidence)
    theirs = stats.binomtest(hits, n).proportion_ci(confidence, method="exact")
    # t with n - 1 degrees of freedom for the normal, and n - 1 for n in the variance.
    assert ours == pytest.approx((theirs.low, theirs.high), abs=2.5 / n**1.5 + 1e-9)
    assert ours[0] <= hits / n <= ours[1]


def test_a_share_whose_clusters_agree_counts_clusters():
    hits = np.repeat([1.0, 0.0], [6, 14])
    once = proportion_interval(one_run(hits))
    tenfold = proportion_interval(DrawSums(hits[None] * 10, np.full((1, 20), 10.0)))
    # Rows of a cluster are worth one; t with 199 degrees of freedom for 19 is all that differs.
    assert tenfold == pytest.approx(once, abs=0.03)
    low, high = proportion_interval(DrawSums(np.zeros((1, 5)), np.full((1, 5), 100.0)))
    assert low == 0.0
    assert high > 0.5


@given(
    st.integers(2, 12).flatmap(
        lambda c: st.tuples(
            st.lists(st.integers(1, 6), min_size=c, max_size=c),
            st.lists(st.floats(0, 1), min_size=c, max_size=c),
        )
    )
)
def test_a_share_lies_in_its_interval(drawn):
    sizes, shares = (np.array(part, float) for part in drawn)
    hits = np.round(sizes * shares)
    low, high = proportion_interval(DrawSums(hits[None], sizes[None]))
    assert 0.0 <= low <= hits.sum() / sizes.sum() <= high <= 1.0


def test_a_head_among_its_controls_by_hand():
    controls = np.arange(1, 20) / 100  # .01 … .19
    found = against_controls(0.155, controls)
    assert (found.rank, found.n_controls, found.by) == (5, 19, "rank")
    assert found.p_above == pytest.approx(5 / 20)
    assert found.p_below == pytest.approx(16 / 20)
    # A tie counts against the head.
    assert against_controls(0.15, controls).p_above == pytest.approx(6 / 20)


def test_beyond_all_controls_p_is_of_a_new_draw(rng):
    controls = rng.normal(size=25)
    found = against_controls(6.0, controls)
    # A prediction interval: one new value against 25, as a two-sample t-test with n = 1.
    theirs = stats.ttest_ind([6.0], controls, alternative="greater")
    assert (found.by, found.rank) == ("t", 1)
    assert found.p_above == pytest.approx(theirs.pvalue, rel=1e-10)


def test_counts_near_chance_are_not_taken_as_normal():
    """Three hits among draws of one or two: of counts this is nothing rare."""
    controls = np.array([1, 0, 2, 1, 1, 0, 1, 2, 1, 1, 0, 1, 2, 1, 0, 1, 1, 1, 2]) / 570
    plain = against_controls(4 / 570, controls)
    counts = against_controls(4 / 570, controls, n_rows=570)
    assert (plain.by, counts.by) == ("t", "t")
    assert plain.p_above < 0.001 < counts.p_above < 0.1
    # Far above, every scale agrees.
    assert against_controls(0.2, controls, n_rows=570).p_above < 1e-6


def test_few_controls_are_taken_as_normal_and_equal_ones_by_rank():
    assert against_controls(0.5, [0.1, 0.2, 0.3]).by == "t"
    same = against_controls(0.5, [0.0] * 19)
    assert (same.p_above, same.p_below) == (0.05, 1.0)


def test_draws_without_a_hit_have_the_noise_of_half_a_hit():
    """A perfect head beside 19 draws of nothing, 30 queries: by hand, on the log scale."""
    found = against_controls(1.0, [0.0] * 19, n_rows=30)
    half = 0.5 / 30
    sd = math.sqrt(half * (1 - half) / 30) / half
    t = math.log(30.5 / 0.5) / (sd * math.sqrt(1 + 1 / 19))
    assert (found.by, found.rank) == ("t", 1)
    assert found.p_above == pytest.approx(stats.t.sf(t, 18), rel=1e-9)
    low, high = found.interval(1.0)
    assert 0.9 < low < 1.0 < high
    # One hit is what one more draw may have; two, and p is never above that of the rank.
    one, two = (against_controls(hits / 30, [0.0] * 19, n_rows=30) for hits in (1, 2))
    assert one.interval(1 / 30)[0] < 0 < two.interval(2 / 30)[0]
    assert two.p_above == 0.05
    # Values that are no counts vary in finer steps.
    fine = 0.013 + 1e-4 * np.arange(20)
    assert against_controls(0.02, fine, n_rows=30).error == pytest.approx(
        fine.std(ddof=1) * math.sqrt(1 + 1 / 20)
    )


@given(st.integers(2, 30), st.integers(1, 200), st.integers(0, 200), st.integers(0, 200))
def test_no_interval_of_equal_draws_is_of_width_zero(m, n, drawn, own):
    control, head = min(drawn, n) / n, min(own, n) / n
    for found in (
        against_controls(head, [control] * m),
        against_controls(head, [control] * m, n_rows=n),
        against_paired_controls([head] * m, [control] * m),
        against_paired_controls([head] * m, [control] * m, n_rows=n),
    ):
        low, high = found.interval(head - control)
        assert low <= head - control <= high
        assert high - low > 0.01
        # A head that is as good as the draws is never better, or worse.
        assert head != control or min(found.p_above, found.p_below) > 0.5 - 1e-9


def test_paired_draws_that_are_all_alike_know_their_queries():
    paired = partial(against_paired_controls, [0.5] * 10, [0.2] * 10)
    assert paired().p_above == pytest.approx(1 / 11)
    assert paired(n_rows=100).p_above < 1e-6
    # The draw of the fewest queries decides.
    fewest = paired(n_rows=np.array([10] * 9 + [100]))
    assert fewest == paired(n_rows=10)
    assert fewest.error > 9 * paired(n_rows=100).error
    with pytest.raises(MetricError, match="got 2 of the head and 3 of the control"):
        against_paired_controls([0.5] * 2, [0.2] * 3)
    with pytest.raises(MetricError, match=r"two control draws or more; got 1\."):
        against_controls(0.5, [0.2])


def test_paired_controls_count_the_heads_own_deviation(rng):
    own, controls = rng.normal(1, 1, size=12), rng.normal(size=12)
    found = against_paired_controls(own, controls)
    t = stats.ttest_rel(own, controls, alternative="greater").statistic / math.sqrt(
        1 + 12
    )  # the 1 / m of the plain test becomes 1 + 1 / m
    assert found.p_above == pytest.approx(stats.t.sf(t, 11), rel=1e-10)
    assert found.rank is None


def test_holm_is_the_closed_test_of_bonferroni(rng):
    """The p of one is the largest of all sets that hold it (Marcus, Peritz and Gabriel, 1976)."""
    for size in (1, 2, 7, 9):
        p = np.round(rng.uniform(size=size) ** 3, 3)  # with ties
        sets = [s for n in range(1, size + 1) for s in itertools.combinations(range(size), n)]
        tests = {s: min(1.0, len(s) * p[[*s]].min()) for s in sets}
        closed = [max(value for s, value in tests.items() if i in s) for i in range(size)]
        np.testing.assert_allclose(holm(p), closed, rtol=1e-12)
    assert holm(np.array([])).tolist() == []


VALUES = hnp.arrays(np.float64, st.integers(2, 40), elements=st.integers(-50, 50).map(float))


def sums_of(rows, seed):
    """The rows in a few draws and clusters."""
    rng = np.random.default_rng(seed)
    return DrawSums.of(
        rows, rng.integers(0, 3, size=len(rows)), rng.integers(0, max(2, len(rows) // 2), len(rows))
    )


@given(VALUES, st.integers(0, 9))
def test_the_interval_is_about_the_mean_and_leaves_zero_out_where_p_is_small(rows, seed):
    found = two_term(sums_of(rows, seed))
    low, high = found.interval()
    assert low <= found.mean <= high
    wider = found.interval(0.99)
    assert wider[0] <= low
    assert wider[1] >= high
    assert 0.0 <= found.p_value() <= 1.0
    assert found.mean == pytest.approx(rows.mean())
    assume(found.variance > 1e-12)
    assume(min(abs(low), abs(high)) > 1e-9)
    assert (found.p_value() < 0.05) == (low > 0 or high < 0)


@given(VALUES, st.integers(0, 9), st.integers(-20, 20), st.sampled_from([-1.0, 0.5, 4.0]))
def test_a_shift_moves_the_interval_and_a_scale_stretches_it(rows, seed, shift, scale):
    plain = two_term(sums_of(rows, seed))
    moved = two_term(sums_of(scale * rows + shift, seed))
    # Where nothing varies the values are taken to lie in [-1, 1], which a scale leaves.
    assume(np.isfinite(plain.variance) and plain.variance > 1e-12)
    ends = sorted(scale * end + shift for end in plain.interval())
    assert moved.interval() == pytest.approx(ends, abs=1e-8)
    assert moved.df == pytest.approx(plain.df, nan_ok=True)


@given(VALUES, st.integers(0, 9), st.randoms(use_true_random=False))
def test_order_of_draws_and_clusters_and_cells_that_were_not_tested_do_not_matter(
    rows, seed, random
):
    sums = sums_of(rows, seed)
    draws, clusters = list(range(len(sums.total))), list(range(sums.total.shape[1]))
    random.shuffle(draws)
    random.shuffle(clusters)
    moved = (np.pad(part[np.ix_(draws, clusters)], 2) for part in (sums.total, sums.count))
    one, two = two_term(sums), two_term(DrawSums(*moved))
    assert two.interval() == pytest.approx(one.interval())
    assert two.of_draws == pytest.approx(one.of_draws)
    assert (two.n_rows, two.n_clusters, two.n_draws) == (one.n_rows, one.n_clusters, one.n_draws)


@given(st.integers(1, 30), st.integers(2, 25), st.integers(0, 5))
def test_more_hits_move_a_share_up(size, c, seed):
    rng = np.random.default_rng(seed)
    hits = rng.integers(0, size + 1, size=c).astype(float)
    count = np.full((1, c), float(size))
    low, high = proportion_interval(DrawSums(hits[None], count))
    mirrored = proportion_interval(DrawSums(size - hits[None], count))
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-9)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=12), st.integers(20, 40))
def test_chance_of_mixed_counts_is_the_mean_of_its_parts(counts, gallery):
    metrics = ["R@1", "R@5", "MRR", "mAP"]
    together = chance_levels(np.array(counts), gallery, metrics)
    parts = [chance_levels(np.array([count]), gallery, metrics) for count in counts]
    mean = [np.mean([part[metric] for part in parts]) for metric in metrics]
    assert_close(np.array(list(together.values())), np.array(mean))


@pytest.mark.parametrize(
    "check", [*validation.SIMULATIONS, simulate.gates], ids=lambda check: check.__name__
)
def test_what_make_validate_statistics_checks_holds_at_small_size(check):
    """15 trials a cell; a rate fails only beyond the 0.1 % quantile of its goal."""
    rows = list(check(15, np.random.default_rng([3, len(check.__name__)]), strict=False))
    assert not [f"{r['name']}, {r['setting']}: {r['value']}" for r in rows if r["holds"] is False]
    assert sum(r["holds"] is not None for r in rows) >= 3

import numpy as np
import pytest
from scipy import stats

from bench.errors import MetricError
from bench.statistics import (
    cluster_bootstrap,
    cluster_sums,
    holm,
    mean_differences,
    mean_sd,
    paired_difference,
    sign_flip_p,
    wilson_interval,
)


def test_mean_and_sample_deviation():
    found = mean_sd([0.1, 0.2, 0.6])
    assert found.mean == pytest.approx(0.3)
    assert found.sd == pytest.approx(np.sqrt((0.04 + 0.01 + 0.09) / 2))
    assert found.n == 3


def test_one_seed_has_no_deviation():
    assert np.isnan(mean_sd([0.5]).sd)
    with pytest.raises(MetricError, match="no value"):
        mean_sd([])


def test_cluster_sums_by_hand():
    rows = np.array([[1.0, 0.0], [2.0, 1.0], [-4.0, 0.0], [0.5, 1.0]])
    sums, sizes = cluster_sums(rows, np.array(["b", "a", "b", "a"]))
    assert sums.tolist() == [[2.5, 2.0], [-3.0, 0.0]]
    assert sizes.tolist() == [2.0, 2.0]


def test_singleton_clusters_agree_with_scipy(rng):
    values = rng.exponential(size=120)
    low, high = cluster_bootstrap(values[:, None], np.ones(120), rng=rng, n_resamples=20_000)[0]
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=rng
    ).confidence_interval
    # Two Monte-Carlo quantiles at 20,000 draws: each is good to about 2 % of the width.
    width = theirs.high - theirs.low
    assert abs(low - theirs.low) < 0.05 * width
    assert abs(high - theirs.high) < 0.05 * width


def test_duplicated_rows_in_a_cluster_do_not_narrow_the_interval(rng):
    values = rng.normal(size=60)
    clusters = np.arange(60)
    once = paired_difference(values, 0.0, clusters, rng=np.random.default_rng(1))
    tenfold = paired_difference(
        np.repeat(values, 10), 0.0, np.repeat(clusters, 10), rng=np.random.default_rng(1)
    )
    assert (once.low, once.high) == pytest.approx((tenfold.low, tenfold.high))
    assert once.p == tenfold.p
    assert (tenfold.n_rows, tenfold.n_clusters) == (600, 60)


def clustered(rng, n_clusters=60):
    """Rows whose cluster has a random effect of its own; the true mean is 0.25."""
    sizes = rng.integers(1, 6, size=n_clusters)
    effects = rng.normal(0.25, 1.0, size=n_clusters)
    clusters = np.repeat(np.arange(n_clusters), sizes)
    return effects[clusters] + rng.normal(0, 0.5, size=len(clusters)), clusters


def test_the_interval_covers_the_truth_and_ignoring_clusters_would_not(rng):
    covered, naive = 0, 0
    trials = 400
    for _ in range(trials):
        values, clusters = clustered(rng)
        column = values[:, None]
        low, high = cluster_bootstrap(*cluster_sums(column, clusters), rng=rng, n_resamples=400)[0]
        covered += low <= 0.25 <= high
        low, high = cluster_bootstrap(column, np.ones(len(values)), rng=rng, n_resamples=400)[0]
        naive += low <= 0.25 <= high
    # Percentile intervals of 60 clusters cover slightly less than 95 %; four binomial
    # standard errors at 400 trials are 0.044.
    assert 0.90 <= covered / trials <= 0.99
    assert naive / trials < 0.85


def test_p_values_are_uniform_under_the_null(rng):
    draws = []
    for _ in range(400):
        values, clusters = clustered(rng)
        centred = values[:, None] - 0.25
        draws.append(sign_flip_p(cluster_sums(centred, clusters)[0], rng=rng, n_flips=199)[0])
    draws = np.array(draws)
    # Binomial standard error at 400 trials: 0.011 at p = 0.05, 0.025 at p = 0.5.
    assert abs(np.mean(draws <= 0.05) - 0.05) < 0.045
    assert abs(np.mean(draws <= 0.50) - 0.50) < 0.10


def test_sign_flips_agree_with_full_enumeration():
    sums = np.array([0.4, 1.0, -0.2, 0.7, 0.9, 0.1, 0.3])
    signs = np.array(np.meshgrid(*[[-1, 1]] * 7)).reshape(7, -1)
    exact = np.mean(np.abs(signs.T @ sums) >= abs(sums.sum()) - 1e-12)
    found = sign_flip_p(sums[:, None], rng=np.random.default_rng(0), n_flips=40_000)[0]
    # Standard error of a share near 0.05 at 40,000 draws: 0.001.
    assert found == pytest.approx(exact, abs=0.005)


def test_sign_flips_agree_with_scipy_for_pairs(rng):
    a, b = rng.normal(0.3, 1, size=12), rng.normal(size=12)
    theirs = stats.permutation_test(
        (a, b), lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples",
        vectorized=True, n_resamples=np.inf,
    ).pvalue  # fmt: skip
    found = paired_difference(a, b, np.arange(12), rng=rng, n_flips=40_000)
    assert found.p == pytest.approx(theirs, abs=0.01)


def test_no_difference_is_no_evidence(rng):
    values = rng.normal(size=30)
    found = paired_difference(values, values, np.arange(30), rng=rng)
    assert (found.mean, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)


def test_many_comparisons_at_once_equal_one_at_a_time(rng):
    differences, clusters = rng.normal(0.1, 1, size=(90, 4)), rng.integers(0, 25, size=90)
    together = mean_differences(differences, clusters, rng=np.random.default_rng(5))
    for column, found in enumerate(together):
        alone = paired_difference(
            differences[:, column], 0.0, clusters, rng=np.random.default_rng(5)
        )
        assert (found.mean, found.low, found.high) == pytest.approx(
            (alone.mean, alone.low, alone.high), rel=1e-12
        )
        assert (found.p, found.n_rows, found.n_clusters) == (alone.p, 90, alone.n_clusters)


def test_swapping_the_sides_mirrors_the_interval(rng):
    a, b, clusters = rng.normal(size=80), rng.normal(size=80), rng.integers(0, 30, size=80)
    forth = paired_difference(a, b, clusters, rng=np.random.default_rng(3))
    back = paired_difference(b, a, clusters, rng=np.random.default_rng(3))
    assert back.mean == pytest.approx(-forth.mean)
    assert (back.low, back.high) == pytest.approx((-forth.high, -forth.low))
    assert back.p == pytest.approx(forth.p)


def test_the_same_generator_gives_the_same_answer(rng):
    a, clusters = rng.normal(size=50), rng.integers(0, 20, size=50)
    one, two = (paired_difference(a, 0.1, clusters, rng=np.random.default_rng(9)) for _ in "ab")
    assert one == two


@pytest.mark.parametrize(("hits", "n"), [(0, 40), (1, 517), (20, 40), (517, 517)])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_wilson_equals_scipy(hits, n, confidence):
    theirs = stats.binomtest(hits, n).proportion_ci(confidence, method="wilson")
    ours = wilson_interval(hits / n, n, confidence=confidence)
    assert ours == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_unequal_sides_are_refused(rng):
    with pytest.raises(MetricError, match="same queries on both sides"):
        paired_difference(np.ones(3), np.ones(1), np.arange(3), rng=rng)
    with pytest.raises(MetricError, match="one cluster id"):
        paired_difference(np.ones(3), 0.0, np.arange(2), rng=rng)


def test_holm_by_hand():
    # Sorted .01 .02 .03 .04 times 4 3 2 1 = .04 .06 .06 .04; none below the one before it.
    assert holm(np.array([0.04, 0.01, 0.03, 0.02])).tolist() == pytest.approx(
        [0.06, 0.04, 0.06, 0.06]
    )
    assert holm(np.array([0.5, 0.9])).tolist() == [1.0, 1.0]
    assert holm(np.array([])).tolist() == []
    with pytest.raises(MetricError, match="between 0 and 1"):
        holm(np.array([0.1, np.nan]))


def test_holm_equals_statsmodels(rng):
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    for size in (1, 2, 7, 300):
        p = np.round(rng.uniform(size=size) ** 3, 3)  # with ties
        theirs = multitest.multipletests(p, method="holm")[1]
        np.testing.assert_allclose(holm(p), theirs, rtol=1e-12)


def test_holm_keeps_the_familywise_error(rng):
    """Under 20 true hypotheses, a table has a false rejection in at most 5 % of the cases."""
    rejected = [holm(rng.uniform(size=20)).min() <= 0.05 for _ in range(2_000)]
    # Binomial standard error at 2,000 tables: 0.005.
    assert abs(np.mean(rejected) - 0.05) < 0.02
    uncorrected = [rng.uniform(size=20).min() <= 0.05 for _ in range(2_000)]
    assert np.mean(uncorrected) > 0.5


def test_paired_bootstrap_agrees_with_scipy(rng):
    a = rng.normal(0.3, 1, size=80)
    b = a + rng.normal(0.1, 0.5, size=80)
    ours = paired_difference(a, b, np.arange(80), rng=rng, n_resamples=20_000)
    theirs = stats.bootstrap(
        (a, b), lambda x, y, axis: np.mean(x - y, axis=axis), paired=True, n_resamples=20_000,
        method="percentile", vectorized=True, rng=rng,
    ).confidence_interval  # fmt: skip
    width = theirs.high - theirs.low
    assert abs(ours.low - theirs.low) < 0.05 * width
    assert abs(ours.high - theirs.high) < 0.05 * width

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bench.metrics import chance_levels
from bench.statistics import cluster_sums, mean_differences, mean_sd, paired_difference
from tests.assertions import assert_close, assert_same

values = hnp.arrays(np.float64, st.integers(2, 40), elements=st.integers(-50, 50).map(float))
FEW = {"n_resamples": 60, "n_flips": 59}


def clusters_of(rows, seed):
    return np.random.default_rng(seed).integers(0, max(2, len(rows) // 2), size=len(rows))


def difference(rows, clusters, seed=0):
    return paired_difference(rows, 0.0, clusters, rng=np.random.default_rng(seed), **FEW)


@given(values, st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_the_interval_is_ordered_and_within_the_data(rows, seed):
    found = difference(rows, clusters_of(rows, seed))
    assert found.low <= found.high
    assert rows.min() - 1e-9 <= found.low
    assert found.high <= rows.max() + 1e-9
    assert 1 / 60 <= found.p <= 1.0


@given(values, st.integers(0, 9), st.integers(-20, 20))
@settings(max_examples=40, deadline=None)
def test_a_shift_moves_the_mean_and_both_ends(rows, seed, shift):
    clusters = clusters_of(rows, seed)
    plain, moved = difference(rows, clusters), difference(rows + shift, clusters)
    for name in ("mean", "low", "high"):
        assert getattr(moved, name) == pytest.approx(getattr(plain, name) + shift, abs=1e-9)


@given(values, st.integers(0, 9), st.sampled_from([0.5, 2.0, 4.0]))
@settings(max_examples=40, deadline=None)
def test_a_scale_stretches_the_interval_and_leaves_p(rows, seed, scale):
    clusters = clusters_of(rows, seed)
    plain, stretched = difference(rows, clusters), difference(scale * rows, clusters)
    assert stretched.low == pytest.approx(scale * plain.low)
    assert stretched.p == plain.p


@given(values, st.integers(0, 9), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_order_of_the_rows_does_not_matter(rows, seed, random):
    clusters = clusters_of(rows, seed)
    order = list(range(len(rows)))
    random.shuffle(order)
    one, two = difference(rows, clusters), difference(rows[order], clusters[order])
    # Whole numbers: sums in another order are the same.
    assert (one.mean, one.low, one.high, one.p) == (two.mean, two.low, two.high, two.p)


@given(values, st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_names_of_the_clusters_do_not_matter(rows, seed):
    clusters = clusters_of(rows, seed)
    named = np.array([f"description {code:03d}" for code in clusters])
    assert difference(rows, clusters) == difference(rows, named)


@given(values, st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_cluster_sums_keep_everything(rows, seed):
    clusters = clusters_of(rows, seed)
    sums, sizes = cluster_sums(rows[:, None], clusters)
    assert sums.sum() == rows.sum()
    assert sizes.sum() == len(rows)
    expected = [rows[clusters == code].sum() for code in np.unique(clusters)]
    assert_same(sums[:, 0], np.array(expected))


@given(values)
@settings(max_examples=60, deadline=None)
def test_mean_and_deviation_are_numpys(rows):
    found = mean_sd(rows)
    assert found.mean == pytest.approx(np.mean(rows))
    assert found.sd == pytest.approx(np.std(rows, ddof=1))


def test_more_clusters_narrow_the_interval_by_the_square_root(rng):
    widths = []
    for n in (100, 1600):
        rows = rng.normal(size=(n, 200))
        found = mean_differences(rows, np.arange(n), rng=rng, n_resamples=400, n_flips=1)
        widths.append(np.mean([d.high - d.low for d in found]))
    # Sixteen times the data: a quarter of the width, within the noise of 200 repetitions.
    assert widths[0] / widths[1] == pytest.approx(4.0, rel=0.05)


def test_a_large_effect_reaches_the_smallest_p(rng):
    found = difference(np.full(40, 0.3), np.arange(40))
    assert found.p == pytest.approx(1 / 60)
    assert (found.low, found.high) == pytest.approx((0.3, 0.3))


@given(st.integers(1, 60), st.data())
@settings(max_examples=100, deadline=None)
def test_chance_is_a_probability_that_grows_with_k_and_with_relevant_items(gallery, data):
    relevant = data.draw(st.integers(1, gallery))
    cuts = [f"R@{k}" for k in range(1, gallery + 1)]
    levels = list(chance_levels(np.array([relevant]), gallery, cuts).values())
    assert np.all(np.diff(levels) >= -1e-12)
    assert levels[-1] == pytest.approx(1.0)
    assert levels[0] == pytest.approx(relevant / gallery)
    assume(relevant < gallery)
    more = chance_levels(np.array([relevant + 1]), gallery)
    fewer = chance_levels(np.array([relevant]), gallery)
    assert more["R@1"] > fewer["R@1"]
    assert more["MRR"] > fewer["MRR"]
    assert more["mAP"] > fewer["mAP"]
    assert more["median_rank"] <= fewer["median_rank"]


@given(st.lists(st.integers(1, 20), min_size=1, max_size=12), st.integers(20, 40))
@settings(max_examples=60, deadline=None)
def test_chance_of_mixed_counts_is_the_mean_of_its_parts(counts, gallery):
    metrics = ["R@1", "R@5", "MRR", "mAP"]
    together = chance_levels(np.array(counts), gallery, metrics)
    parts = [chance_levels(np.array([count]), gallery, metrics) for count in counts]
    mean = [np.mean([part[metric] for part in parts]) for metric in metrics]
    assert_close(np.array(list(together.values())), np.array(mean))

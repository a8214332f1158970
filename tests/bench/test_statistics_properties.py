import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bench.metrics.summary import chance_levels
from bench.statistics import DrawSums, proportion_interval, two_term
from tests.assertions import assert_close

values = hnp.arrays(np.float64, st.integers(2, 40), elements=st.integers(-50, 50).map(float))


def sums_of(rows, seed):
    """The rows in a few draws and clusters."""
    rng = np.random.default_rng(seed)
    return DrawSums.of(
        rows, rng.integers(0, 3, size=len(rows)), rng.integers(0, max(2, len(rows) // 2), len(rows))
    )


@given(values, st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_the_interval_is_ordered_about_the_mean_and_widens_with_confidence(rows, seed):
    found = two_term(sums_of(rows, seed))
    low, high = found.interval()
    assert low <= found.mean <= high
    wider = found.interval(0.99)
    assert wider[0] <= low
    assert wider[1] >= high
    assert 0.0 <= found.p_value() <= 1.0
    assert found.mean == pytest.approx(rows.mean())


@given(values, st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_p_is_below_five_percent_exactly_where_the_interval_leaves_zero_out(rows, seed):
    found = two_term(sums_of(rows, seed))
    low, high = found.interval()
    assume(found.variance > 1e-12)
    assume(min(abs(low), abs(high)) > 1e-9)
    assert (found.p_value() < 0.05) == (low > 0 or high < 0)


@given(values, st.integers(0, 9), st.integers(-20, 20), st.sampled_from([0.5, 2.0, 4.0]))
@settings(max_examples=40, deadline=None)
def test_a_shift_moves_the_interval_and_a_scale_stretches_it(rows, seed, shift, scale):
    plain = two_term(sums_of(rows, seed))
    moved = two_term(sums_of(scale * rows + shift, seed))
    # Where nothing varies the values are taken to lie in [-1, 1], which a scale leaves.
    assume(np.isfinite(plain.variance) and plain.variance > 1e-12)
    assert moved.interval() == pytest.approx(
        tuple(scale * end + shift for end in plain.interval()), abs=1e-8
    )
    assert moved.df == pytest.approx(plain.df, nan_ok=True)


@given(values, st.integers(0, 9), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_order_of_draws_and_clusters_does_not_matter(rows, seed, random):
    sums = sums_of(rows, seed)
    draws, clusters = list(range(len(sums.total))), list(range(sums.total.shape[1]))
    random.shuffle(draws)
    random.shuffle(clusters)
    moved = DrawSums(sums.total[np.ix_(draws, clusters)], sums.count[np.ix_(draws, clusters)])
    one, two = two_term(sums), two_term(moved)
    assert two.interval() == pytest.approx(one.interval())
    assert (two.n_rows, two.n_clusters, two.n_draws) == (one.n_rows, one.n_clusters, one.n_draws)


@given(values, st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_cells_that_were_not_tested_count_for_nothing(rows, seed):
    sums = sums_of(rows, seed)
    wider = DrawSums(np.pad(sums.total, 2), np.pad(sums.count, 2))
    one, two = two_term(sums), two_term(wider)
    assert (two.n_rows, two.n_clusters, two.n_draws) == (one.n_rows, one.n_clusters, one.n_draws)
    assert two.interval() == pytest.approx(one.interval())
    assert two.of_draws == pytest.approx(one.of_draws)


@given(st.integers(1, 30), st.integers(2, 25), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_more_hits_move_a_share_up(size, c, seed):
    rng = np.random.default_rng(seed)
    hits = rng.integers(0, size + 1, size=c).astype(float)
    count = np.full((1, c), float(size))
    low, high = proportion_interval(DrawSums(hits[None], count))
    mirrored = proportion_interval(DrawSums(size - hits[None], count))
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-9)


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

"""Similarities and gaps of spaces beside other implementations, loops and enumeration."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import special_ortho_group
from sklearn.neighbors import NearestNeighbors

from bench.errors import MetricError
from bench.metrics.geometry import (
    Calibrated,
    LinearCKA,
    MeanCCA,
    MutualKNN,
    biased_cka,
    calibrate,
    centroid_gap,
    cka_chance,
    draw_orders,
    linear_separability,
    mutual_knn,
    mutual_knn_by_size,
    nearest_rows,
    unbiased_cka,
    unit_rows,
)
from featstore import open_store
from featstore.testing import item_table, write_set
from fitters.errors import ZeroRowError
from tests.oracles import unit

ALL = (LinearCKA(), LinearCKA(unbiased=True), MeanCCA(), MutualKNN(3))
names = pytest.mark.parametrize("similarity", ALL, ids=lambda one: one.name)


def canonical(x, y):
    """Squared canonical correlations by least squares: eigenvalues of Pxy, explicit projectors."""
    a, b = (unit_rows(rows).astype(float) for rows in (x, y))
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    both = (a @ np.linalg.pinv(a)) @ (b @ np.linalg.pinv(b))
    return np.trace(both) / min(np.linalg.matrix_rank(a), np.linalg.matrix_rank(b))


def value_of(similarity, x, y):
    """The number from its definition, without the module under test."""
    if isinstance(similarity, LinearCKA):
        return (unbiased_cka if similarity.unbiased else biased_cka)(x, y)
    if isinstance(similarity, MutualKNN):
        return mutual_knn(x, y, [similarity.k])[similarity.k]
    return canonical(x, y)


def layers(rng, n, *dims):
    return [rng.normal(size=(n, d)) for d in dims]


@names
def test_values_and_draws_are_those_of_a_loop(rng, similarity):
    xs, ys = layers(rng, 60, 4, 5), layers(rng, 60, 3, 5, 4)
    ys[1] += xs[1]
    drawn = draw_orders(60, 19, rng=rng)
    found = calibrate(xs, ys, similarity, drawn)
    for i, j in itertools.product(range(2), range(3)):
        assert found.observed[i, j] == pytest.approx(value_of(similarity, xs[i], ys[j]), abs=1e-6)
        for k, order in enumerate(drawn):
            want = value_of(similarity, xs[i], ys[j][order])
            assert found.null[k, i, j] == pytest.approx(want, abs=1e-6)
    # One permutation for all layers: the draws of the best pair are the best of every draw.
    best = [max(value_of(similarity, x, y[o]) for x in xs for y in ys) for o in drawn]
    assert found.searched().p == (1 + sum(b >= found.observed.max() - 1e-12 for b in best)) / 20


def test_a_wide_view_is_reduced_to_a_tenth_of_its_rows(rng):
    x, y = layers(rng, 50, 200, 70)
    similarity = MeanCCA()
    onto = similarity.prepared(x) * np.sqrt(5)
    np.testing.assert_allclose(onto @ onto, onto, atol=1e-12)
    assert np.trace(onto) == pytest.approx(5)
    centred = unit_rows(x).astype(float) - unit_rows(x).astype(float).mean(axis=0)
    held = np.linalg.svd(centred, compute_uv=False)[:5]
    assert np.linalg.norm(onto @ centred) == pytest.approx(np.linalg.norm(held))
    found = similarity.expected(similarity.prepared(x), similarity.prepared(y))
    assert found == pytest.approx(5 / 49)


@names
def test_the_mean_over_all_permutations_is_the_closed_form(rng, similarity):
    """Exactly, over all 720 orders of 6 rows."""
    x, y = layers(rng, 6, 3, 9)
    found = calibrate([x], [y], similarity, np.array(list(itertools.permutations(range(6)))))
    assert found.expected[0, 0] == pytest.approx(found.null.mean(), abs=1e-12)
    if similarity == LinearCKA():
        assert cka_chance(x, y) == pytest.approx(found.null.mean(), rel=1e-5)


@names
def test_related_views_are_found_and_equal_ones_have_score_1(rng, similarity):
    x = rng.normal(size=(60, 5))
    near = x + 0.3 * rng.normal(size=x.shape)
    drawn = draw_orders(60, 99, rng=rng)
    related = calibrate([x], [near], similarity, drawn).pair()
    assert related.p == 0.01
    assert 0 < related.score < 1
    assert related.expected < related.value
    same = calibrate([x], [x], similarity, drawn).pair()
    assert (same.value, same.score, same.adjusted) == pytest.approx((1, 1, 1), abs=1e-6)


@given(
    st.lists(st.integers(0, 9), min_size=19, max_size=60), st.integers(0, 9),
    st.sampled_from([0.05, 0.1, 0.25, 0.5]),
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_the_score_is_above_0_exactly_where_p_is_at_most_alpha(null, value, alpha):
    """With ties, too: that is why threshold and p count the value itself."""
    found = Calibrated.of(value / 10, np.array(null) / 10, 0.2, alpha)
    assert (found.score > 0) == (found.p <= alpha)
    # Both from their definitions, by counting.
    n = len(null) + 1
    assert found.p == (1 + sum(v >= value for v in null)) / n
    ordered = sorted([*null, value])
    at = ordered[next(r for r in range(1, n + 1) if r >= (1 - alpha) * n - 1e-9) - 1] / 10
    assert found.score == pytest.approx(max(0, value / 10 - at) / (1 - at))


def test_rows_that_do_not_vary_are_refused_or_have_no_score(rng):
    x, y = np.repeat(rng.normal(size=(1, 4)), 30, axis=0), rng.normal(size=(30, 4))
    # Of equal rows the first are the neighbours of all: whatever the order, a count of chance.
    found = calibrate([x], [y], MutualKNN(3), draw_orders(30, 19, rng=rng)).pair()
    assert found.score == 0
    for similarity, what in ((LinearCKA(), "CKA"), (MeanCCA(), "canonical correlations")):
        with pytest.raises(MetricError, match=f"do not vary have no {what}"):
            similarity.prepared(x)


def test_what_cannot_be_calibrated(rng):
    x, y = layers(rng, 30, 3, 4)
    drawn = draw_orders(30, 19, rng=rng)
    with pytest.raises(MetricError, match=r"x has 20 rows and y has 30: they are not pairs"):
        calibrate([x], [y[:20]], LinearCKA(), drawn)
    with pytest.raises(MetricError, match=r"18 permutations cannot show a level of 0.05.* 19\."):
        calibrate([x], [y], LinearCKA(), drawn[:18])
    with pytest.raises(MetricError, match="at least 4 pairs; got 3"):
        LinearCKA(unbiased=True).prepared(x[:3])
    with pytest.raises(MetricError, match="30 neighbours of a row need at least 31 rows"):
        calibrate([x], [y], MutualKNN(30), drawn)
    with pytest.raises(MetricError, match="at least 4 pairs"):
        unbiased_cka(np.eye(3), np.eye(3))
    with pytest.raises(ZeroRowError, match="no direction: row 1"):
        nearest_rows(np.array([[1.0, 0], [0, 0], [1, 1]]), 1)


@pytest.fixture
def paired(tmp_path, rng):
    """Two noisy views of 300 latent points as pairs, and the same with the second one mixed up."""
    ids = [f"i{i:03d}" for i in range(300)]
    items, latent = item_table(ids, class_id=ids), rng.normal(size=(300, 6))
    views = [np.concatenate([latent, rng.normal(size=(300, d))], axis=1) for d in (1, 2)]
    views.append(rng.permutation(views[1]))
    keys = [write_set(tmp_path, v, items, encoder=e) for v, e in zip(views, "abc", strict=True)]
    x, *others = (open_store(tmp_path).view(key) for key in keys)
    return [x.pair_by("class_id", y) for y in others]


def test_mutual_knn_of_stored_views_is_that_of_arrays_and_falls_with_the_gallery(paired, rng):
    pairs, apart = paired
    found = mutual_knn_by_size(pairs, 5, [300, 40], n_queries=300, n_permutations=99, rng=rng)
    assert [*found] == [40, 300]
    assert found[40].value > found[300].value > found[300].expected == 5 / 299
    few = mutual_knn_by_size(pairs, 5, [300], n_queries=40, n_permutations=19, rng=rng)[300]
    assert few.p == 0.05
    every = mutual_knn_by_size(pairs, 5, [300], n_queries=300, n_permutations=99, rng=rng)[300]
    assert every.value == pytest.approx(mutual_knn(*pairs.numpy(), [5])[5], abs=1e-9)
    assert abs(few.value - every.value) < 0.1
    none = mutual_knn_by_size(apart, 5, [40, 300], n_queries=40, rng=rng)
    assert all(one.p > 0.05 and abs(one.value - one.expected) < 0.05 for one in none.values())


def test_a_null_of_queries_among_themselves_has_the_mean_of_chance(paired, rng):
    found = mutual_knn_by_size(paired[0], 5, [60], n_queries=20, n_permutations=999, rng=rng)[60]
    # The threshold of a level is what a share of the null reaches; its mean is k / (n - 1).
    assert found.expected == 5 / 59
    assert found.p == 0.001
    for sizes in ([], [5], [301]):
        with pytest.raises(MetricError, match=r"5 neighbours hold from 6 to 300 items; got"):
            mutual_knn_by_size(paired[0], 5, sizes, rng=rng)
    assert found.expected < found.threshold < found.expected + 4 * np.sqrt(found.expected / 100)


@pytest.mark.parametrize("block", [7, 8_000_000])
def test_nearest_rows_are_sklearns(rng, block):
    rows = rng.normal(size=(700, 9))
    found = nearest_rows(rows, 6, block_scores=block)
    theirs = NearestNeighbors(n_neighbors=7, metric="cosine").fit(rows).kneighbors(rows)[1]
    np.testing.assert_array_equal(found, theirs[:, 1:])


def test_mutual_knn_by_sets_and_its_chance_level(rng):
    x, y = rng.normal(size=(120, 6)), rng.normal(size=(120, 11))
    y[:, :6] += x
    for k, value in mutual_knn(x, y, [3, 10]).items():
        pairs = zip(nearest_rows(x, k), nearest_rows(y, k), strict=True)
        assert value == pytest.approx(np.mean([len(set(a) & set(b)) / k for a, b in pairs]))
        assert value > 2 * k / 119
    assert mutual_knn(x, x @ special_ortho_group.rvs(6, random_state=1), [5]) == {5: 1.0}
    for k in ([5, 0], [-1], [120], []):
        with pytest.raises(MetricError, match=r"119 other rows; got k .* Take k from 1 to 119\."):
            mutual_knn(x, y, k)


def mean_over_broken_ties(x, y, k, rng, draws=2000):
    """The share in common where ties are broken at random, each side by itself."""
    sides = []
    for rows in (x, y):
        cosines = np.round(unit(rows) @ unit(rows).T, 6)
        np.fill_diagonal(cosines, -2)
        noise = rng.random((draws, *cosines.shape))
        near = np.zeros(noise.shape, bool)
        np.put_along_axis(near, np.lexsort((noise, -cosines[None] + 0 * noise))[..., :k], True, -1)
        sides.append(near)
    return (sides[0] & sides[1]).sum(-1).mean() / k


def test_ties_of_mutual_knn_share_the_places_whatever_the_order_of_the_rows(rng):
    n, same = 40, np.ones((40, 3))
    for k in (1, 5, 39):
        assert mutual_knn(same, same, [k])[k] == pytest.approx(k / (n - 1))
        assert mutual_knn(same, rng.normal(size=(n, 4)), [k])[k] == pytest.approx(k / (n - 1))
    # Copies in pairs and triples on one side, in fours on the other: the ends of some lists tie.
    x, y = rng.normal(size=(8, 5))[np.arange(20) % 8], rng.normal(size=(5, 4))[np.arange(20) // 4]
    found = mutual_knn(x, y, [4])[4]
    assert found == pytest.approx(mean_over_broken_ties(x, y, 4, rng), abs=0.01)
    order = rng.permutation(20)
    assert mutual_knn(x[order], y[order], [4])[4] == pytest.approx(found, abs=1e-12)
    similarity = MutualKNN(4)
    one, other = similarity.prepared(x), similarity.prepared(y)
    assert np.sum(one * other) == pytest.approx(found, abs=1e-12)
    assert similarity.expected(one, other) == pytest.approx(4 / 19)


def hsic_biased(k, m):
    n = len(k)
    h = np.eye(n) - 1 / n
    return np.trace(k @ h @ m @ h) / (n - 1) ** 2


def hsic_unbiased(k, m):
    n, one = len(k), np.ones(len(k))
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    middle = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    return (np.trace(k @ m) + middle - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3))


@pytest.mark.parametrize(
    ("ours", "hsic"), [(biased_cka, hsic_biased), (unbiased_cka, hsic_unbiased)]
)
def test_cka_is_that_of_the_written_out_kernels(rng, ours, hsic):
    x, y = rng.normal(size=(50, 8)), rng.normal(size=(50, 5))
    y += x[:, :5]
    k, m = unit(x) @ unit(x).T, unit(y) @ unit(y).T
    assert ours(x, y) == pytest.approx(hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m)), rel=1e-5)
    turned = x @ special_ortho_group.rvs(8, random_state=0)
    assert ours(x, 3 * turned) == pytest.approx(1.0, abs=1e-5)


def test_gaps_of_one_cloud_and_of_two(rng):
    near = rng.normal(size=(120, 8)), rng.normal(size=(90, 8))
    far = near[0] + 3.0, near[1] - 3.0
    distance, level, p = centroid_gap(*far, n_permutations=99, rng=np.random.default_rng(0))
    assert p == 1 / 100
    assert distance == pytest.approx(
        np.linalg.norm(unit(far[0]).mean(axis=0) - unit(far[1]).mean(axis=0)), rel=1e-5
    )
    assert distance > 5 * level
    assert linear_separability(*far, rng=rng) == 1.0
    assert centroid_gap(*near, n_permutations=99, rng=np.random.default_rng(0))[2] > 0.05
    assert abs(linear_separability(*near, rng=rng) - 0.5) < 0.15
    with pytest.raises(MetricError, match="one space"):
        centroid_gap(near[0], near[1][:, :3], rng=rng)


def test_a_direction_that_separates_does_so_whatever_the_sizes(rng):
    x, y = rng.normal(size=(400, 5)), rng.normal(size=(40, 5))
    x[:, 0] += 4.0
    assert linear_separability(x, y, rng=rng) > 0.9

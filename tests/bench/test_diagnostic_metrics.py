"""Diagnostics beside other implementations: scikit-learn, scipy, n × n kernels written out."""

import numpy as np
import pytest
from scipy.stats import skew, special_ortho_group
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from bench.errors import MetricError
from bench.metrics.geometry import (
    _discriminant,
    biased_cka,
    centroid_gap,
    covariance_spectrum,
    linear_separability,
    match_pairs,
    mutual_knn,
    mutual_knn_chance,
    nearest_rows,
    neural_collapse,
    occurrence_skew,
    occurrence_skew_chance,
    relative_rows,
    spectrum_summary,
    unbiased_cka,
)
from tests.oracles import unit


@pytest.mark.parametrize("block", [7, 8_000_000])
def test_nearest_rows_are_sklearns(rng, block):
    rows = rng.normal(size=(700, 9))
    found = nearest_rows(rows, 6, block_scores=block)
    theirs = NearestNeighbors(n_neighbors=7, metric="cosine").fit(rows).kneighbors(rows)[1]
    np.testing.assert_array_equal(found, theirs[:, 1:])


def test_mutual_knn_by_sets_and_its_chance_level(rng):
    x, y = rng.normal(size=(120, 6)), rng.normal(size=(120, 11))
    y[:, :6] += x
    shared = mutual_knn(x, y, [3, 10])
    for k, value in shared.items():
        pairs = zip(nearest_rows(x, k), nearest_rows(y, k), strict=True)
        assert value == pytest.approx(np.mean([len(set(a) & set(b)) / k for a, b in pairs]))
        assert value > 2 * mutual_knn_chance(120, k)
    assert mutual_knn(x, x @ special_ortho_group.rvs(6, random_state=1), [5]) == {5: 1.0}
    # Unrelated rows: the mean of many draws is k / (n - 1).
    drawn = [
        mutual_knn(rng.normal(size=(40, 4)), rng.normal(size=(40, 4)), [5])[5] for _ in range(60)
    ]
    assert np.mean(drawn) == pytest.approx(5 / 39, abs=4 * np.std(drawn) / np.sqrt(60))


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


def test_matched_scores_by_sklearns_auc_with_ties(rng):
    x = np.round(rng.normal(size=(60, 4)))
    y = np.round(x + rng.normal(size=(60, 4)))
    found = match_pairs(x, y, n_permutations=99, rng=np.random.default_rng(0))
    scores, own = x @ y.T, np.eye(60, dtype=bool)
    assert found.auc == pytest.approx(roc_auc_score(own.ravel(), scores.ravel()))
    assert found.matched == pytest.approx(scores[own].mean())
    assert found.unmatched == pytest.approx(scores[~own].mean())
    assert found.p == pytest.approx(1 / 100)


def test_unmatched_scores_are_sampled_where_there_are_too_many(rng):
    x = unit(rng.normal(size=(300, 6)))
    y = unit(x + 0.5 * rng.normal(size=(300, 6)))
    whole = match_pairs(x, y, n_permutations=9, rng=np.random.default_rng(0))
    part = match_pairs(x, y, n_permutations=9, rng=np.random.default_rng(0), max_unmatched=12_000)
    assert part.matched == whole.matched
    assert part.auc == pytest.approx(whole.auc, abs=0.02)


def test_p_of_unrelated_pairs_is_uniform(rng):
    found = [
        match_pairs(
            rng.normal(size=(20, 3)), rng.normal(size=(20, 3)), n_permutations=19, rng=rng
        ).p
        for _ in range(200)
    ]
    # p <= 0.25 for a quarter of them, within four standard errors.
    assert abs(np.mean(np.array(found) <= 0.25) - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 200)


def test_relative_rows_meet_across_dimensions(rng):
    x = rng.normal(size=(80, 6))
    y = x @ np.linalg.qr(rng.normal(size=(15, 6)))[0].T  # a rotation into 15 dimensions
    a, b = relative_rows(x, y + 7.0, rng=rng)
    np.testing.assert_allclose(a, b, atol=1e-4)
    a, b = relative_rows(x, y, max_anchors=30, rng=rng)
    assert a.shape == b.shape == (80, 30)
    # By hand: the correlation of two rows' profiles, their own cosine left out.
    a, b = relative_rows(x, y[rng.permutation(80)], rng=rng)
    g = unit(x - x.mean(axis=0))
    profile = np.delete(g @ g[3], 3)
    np.testing.assert_allclose(
        np.delete(a[3], 3), (profile - profile.mean()) / np.linalg.norm(profile - profile.mean()),
        atol=1e-5,
    )  # fmt: skip


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


def test_the_linear_rule_is_sklearns_discriminant_analysis(rng):
    """Up to the estimate of the covariance, which is pooled here and by class there."""
    x, y = rng.normal(size=(300, 6)) * [1, 1, 1, 3, 3, 9], rng.normal(size=(300, 6)) + 0.4
    direction, middle = _discriminant(x, y)
    both, labels = np.concatenate([x, y]), np.repeat([0, 1], 300)
    rule = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=[0.5, 0.5])
    ours, theirs = (both @ direction < middle).astype(int), rule.fit(both, labels).predict(both)
    assert (ours == theirs).mean() > 0.98
    assert 0.6 < (ours == labels).mean() < 1.0


def test_a_direction_that_separates_does_so_whatever_the_sizes(rng):
    x, y = rng.normal(size=(400, 5)), rng.normal(size=(40, 5))
    x[:, 0] += 4.0
    assert linear_separability(x, y, rng=rng) > 0.9


def test_occurrences_by_scipy_and_the_chance_of_random_ones(rng):
    top = np.stack([rng.choice(50, size=5, replace=False) for _ in range(300)])
    counts = np.bincount(top.ravel(), minlength=50)
    found = occurrence_skew(top, 50)
    assert found["hub-skew"] == pytest.approx(skew(counts))
    assert found["hub-max"] == counts.max() / counts.mean()
    level = occurrence_skew_chance(300, 5, 50)
    drawn = rng.binomial(300, 0.1, size=(4_000, 50))
    assert level["hub-skew"] == pytest.approx(skew(drawn.ravel()), abs=0.05)
    hub = np.zeros((300, 1), dtype=int)
    assert occurrence_skew(hub, 50) == pytest.approx(
        {"hub-skew": skew(np.r_[300.0, np.zeros(49)]), "hub-max": 50.0, "hub-never": 0.98}
    )


def test_spectra_of_clouds_whose_directions_are_known(rng):
    rows = rng.normal(size=(400, 6)) @ np.diag([3.0, 2, 1, 0, 0, 0]) + 5.0
    values = covariance_spectrum(rows.astype(np.float32))
    np.testing.assert_allclose(
        values, np.linalg.eigvalsh(np.cov(rows.T, bias=True))[::-1], atol=1e-5
    )
    even = spectrum_summary(np.array([2.0, 2.0, 2.0, 2.0, 0.0]))
    assert even == pytest.approx(
        {"effective-rank": 4.0, "participation": 4.0, "directions-90": 4.0, "first-share": 0.25}
    )
    # exp of the entropy of 3/4 and 1/4, the shares of the roots of 9 and 1.
    assert spectrum_summary(np.array([9.0, 1.0]))["effective-rank"] == pytest.approx(
        np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))
    )
    with pytest.raises(MetricError, match="do not vary"):
        covariance_spectrum(np.ones((4, 2)))


def simplex(n, d, rng):
    rows = np.eye(n) - 1 / n
    return rows @ np.linalg.qr(rng.normal(size=(d, n)))[0].T


def test_complete_collapse_is_zero_and_its_head_agrees(rng):
    means = simplex(6, 10, rng)
    labels = np.repeat(np.arange(6), 8)
    found = neural_collapse(means[labels] + 2.0, labels, weight=3 * means, bias=-6 * means.sum(1))
    assert found.pop("NC4") == 1.0
    assert found == pytest.approx(dict.fromkeys(found, 0.0), abs=1e-6)
    assert set(found) == {"NC1", "NC2-norms", "NC2-angles", "NC2-simplex", "NC3"}


def test_partial_collapse_by_its_definitions(rng):
    labels = np.repeat(np.arange(5), 12)
    centres = rng.normal(size=(5, 7))
    rows = centres[labels] + 0.4 * rng.normal(size=(60, 7))
    weight, bias = centres + 0.3 * rng.normal(size=(5, 7)), rng.normal(size=5)
    found = neural_collapse(rows, labels, weight=weight, bias=bias)
    mu = np.stack([rows[labels == c].mean(axis=0) for c in range(5)])
    m = mu - mu.mean(axis=0)
    within = np.mean([np.outer(d, d) for d in rows - mu[labels]], axis=0)
    between = np.mean([np.outer(d, d) for d in m], axis=0)
    assert found["NC1"] == pytest.approx(np.trace(within @ np.linalg.pinv(between)) / 5)
    cosines = [unit(m)[i] @ unit(m)[j] for i in range(5) for j in range(5) if i != j]
    norms = np.linalg.norm(m, axis=1)
    assert found["NC2-norms"] == pytest.approx(norms.std() / norms.mean())
    assert found["NC2-angles"] == pytest.approx(np.std(cosines))
    assert found["NC2-simplex"] == pytest.approx(np.mean(np.abs(np.array(cosines) + 0.25)))
    w = weight - weight.mean(axis=0)
    assert found["NC3"] == pytest.approx(
        np.linalg.norm(w / np.linalg.norm(w) - m / np.linalg.norm(m))
    )
    nearest = np.linalg.norm(rows[:, None] - mu, axis=2).argmin(axis=1)
    assert found["NC4"] == np.mean(nearest == (rows @ weight.T + bias).argmax(axis=1))
    with pytest.raises(MetricError, match="at least 2 classes"):
        neural_collapse(rows[:3], np.zeros(3, dtype=int))


def test_rows_that_are_no_pairs_or_too_few_are_refused(rng):
    with pytest.raises(MetricError, match="they are not pairs"):
        mutual_knn(rng.normal(size=(5, 2)), rng.normal(size=(4, 2)), [1])
    with pytest.raises(MetricError, match="need at least 6 rows"):
        nearest_rows(rng.normal(size=(5, 2)), 5)
    with pytest.raises(MetricError, match=r"no direction \(first: row 1\)"):
        nearest_rows(np.array([[1.0, 0], [0, 0], [1, 1]]), 1)
    with pytest.raises(MetricError, match="at least 4 pairs"):
        unbiased_cka(np.eye(3), np.eye(3))

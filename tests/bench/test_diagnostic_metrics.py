"""Diagnostics beside other implementations: scikit-learn, scipy, n × n kernels written out."""

import numpy as np
import pytest
from scipy.stats import special_ortho_group
from sklearn.neighbors import NearestNeighbors

from bench.errors import MetricError
from bench.metrics.geometry import (
    biased_cka,
    centroid_gap,
    linear_separability,
    mutual_knn,
    nearest_rows,
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
        assert value > 2 * k / 119
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


def test_rows_that_are_no_pairs_or_too_few_are_refused(rng):
    with pytest.raises(MetricError, match="they are not pairs"):
        mutual_knn(rng.normal(size=(5, 2)), rng.normal(size=(4, 2)), [1])
    with pytest.raises(MetricError, match="need at least 6 rows"):
        nearest_rows(rng.normal(size=(5, 2)), 5)
    with pytest.raises(MetricError, match=r"no direction \(first: row 1\)"):
        nearest_rows(np.array([[1.0, 0], [0, 0], [1, 1]]), 1)
    with pytest.raises(MetricError, match="at least 4 pairs"):
        unbiased_cka(np.eye(3), np.eye(3))

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fitters import CONTROLS, Pairs, fit
from fitters.errors import PairsError
from fitters.prototypes import PAIR_CONTROLS
from tests.assertions import assert_close, assert_same


def draw_pairs(rng, n=50, p=6):
    x = (rng.standard_normal((n, p)) * np.arange(1, p + 1) + 3).astype(np.float32)
    y = rng.standard_normal((n, 4)).astype(np.float32)
    return Pairs(x, y, np.arange(n) // 2, rng.uniform(0.5, 1, n))


@pytest.mark.parametrize("name", CONTROLS)
def test_a_control_is_drawn_by_its_generator_and_keeps_the_form(name, rng):
    pairs = draw_pairs(rng)
    one, same, other = (CONTROLS[name](pairs, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert_same(one.x, same.x)
    assert_same(one.y, same.y)
    assert not (np.array_equal(one.x, other.x) and np.array_equal(one.y, other.y))
    assert one.x.dtype == np.float32
    assert one.x.shape == pairs.x.shape
    # A weight is of its row of x: shuffled, both move.
    expected = pairs.weight
    if name.startswith("shuffled"):
        owner = [int(np.flatnonzero((pairs.x == row).all(axis=1))[0]) for row in one.x]
        expected = pairs.weight[owner]
    assert_same(one.weight, expected)


def test_random_keeps_each_norm_and_no_direction(rng):
    pairs = draw_pairs(rng, n=4000)
    drawn = CONTROLS["random"](pairs, rng)
    assert_close(np.linalg.norm(drawn.x, axis=1), np.linalg.norm(pairs.x, axis=1), "float32")
    unit = drawn.x / np.linalg.norm(drawn.x, axis=1, keepdims=True)
    # Isotropic: mean 0 and covariance I/p, each within five standard errors of 4000 draws.
    assert np.abs(unit.mean(axis=0)).max() < 5 / np.sqrt(6 * 4000)
    assert np.abs(unit.T @ unit / 4000 - np.eye(6) / 6).max() < 5 / (6 * np.sqrt(4000)) * 2


@pytest.mark.parametrize("n", [5, 40_000])
def test_random_cov_keeps_mean_and_covariance(n):
    # n = 5 rows of 6 columns: the sample covariance is singular, and draws must stay in its span.
    rng = np.random.default_rng(5)
    pairs = draw_pairs(rng, n=n)
    x = pairs.x.astype(np.float64)
    many = np.concatenate(
        [CONTROLS["random-cov"](pairs, rng).x.astype(np.float64) for _ in range(40_000 // n)]
    )
    scale = np.abs(np.cov(x, rowvar=False)).max()
    assert np.abs(np.cov(many, rowvar=False) - np.cov(x, rowvar=False)).max() < 0.05 * scale
    assert np.abs(many.mean(axis=0) - x.mean(axis=0)).max() < 0.05 * np.sqrt(scale)
    if n == 5:
        outside = np.linalg.svd(x - x.mean(axis=0))[2][4:]
        assert np.abs((many - x.mean(axis=0)) @ outside.T).max() < 1e-5 * np.sqrt(scale)


@given(
    sizes=st.lists(st.integers(1, 5), min_size=3, max_size=12).filter(
        lambda sizes: 2 * max(sizes) <= sum(sizes)
    ),
    seed=st.integers(0, 2**16),
)
def test_shuffled_permutes_names_out_of_their_group(sizes, seed):
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    n = len(groups)
    pairs = Pairs(np.arange(n, dtype=float)[:, None], rng.standard_normal((n, 3)), groups)
    shuffled = CONTROLS["shuffled"](pairs, rng)
    owner = shuffled.x.ravel().astype(int)
    assert sorted(owner) == list(range(n))
    assert (groups[owner] != groups).all()
    # Texts and their groups stay as they are, to the last byte: what follows from them is shared.
    assert_same(shuffled.y, pairs.y)
    assert_same(shuffled.groups, groups)


def test_a_rotation_keeps_the_rows_as_they_lie_to_each_other(rng):
    pairs = draw_pairs(rng)
    turned = [CONTROLS["rotated"](pairs, rng).x.astype(np.float64) for _ in range(400)]
    assert_close(turned[0] @ turned[0].T, pairs.x.astype(np.float64) @ pairs.x.T, "float32")
    # Haar: the image of a row has mean 0, whatever the row; six standard errors.
    norms = np.linalg.norm(pairs.x, axis=1, keepdims=True)
    assert np.abs(np.mean(turned, axis=0) / norms).max() < 6 / np.sqrt(6 * 400)


@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=5), seed=st.integers(0, 2**16))
def test_names_are_shuffled_within_their_cluster_and_single_ones_stay(sizes, seed):
    rng = np.random.default_rng(seed)
    family = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    n = len(family)
    # Families are orthogonal and far apart, names of one nearly the same: k-means must find them.
    y = np.eye(len(sizes), 6)[family] + 1e-3 * rng.standard_normal((n, 6))
    pairs = Pairs(np.arange(n, dtype=float)[:, None], y)
    drawn = CONTROLS["shuffled-within"](pairs, rng, clusters=len(sizes))
    owner = drawn.x.ravel().astype(int)
    assert sorted(owner) == list(range(n))
    if [len(set(family[owner[family == one]])) for one in range(len(sizes))] == [1] * len(
        sizes
    ):  # one start of k-means may join two families
        assert (family[owner] == family).all()
        assert ((owner == np.arange(n)) == (np.array(sizes)[family] == 1)).all()
    assert_same(drawn.y, pairs.y)


def test_repeated_pairs_change_no_ridge(rng):
    pairs = Pairs(rng.normal(size=(30, 6)), rng.normal(size=(30, 4)), np.arange(30) // 2)
    more = PAIR_CONTROLS["repeated"](pairs, rng, n=100)
    assert (more.n, len(np.unique(more.groups))) == (120, 15)
    one, same = (fit("ridge", real=own, penalty=0.3, rng=rng) for own in (pairs, more))
    probe = rng.normal(size=(7, 4))
    assert_close(same.project_y(probe), one.project_y(probe), "float32")


def test_mixtures_add_no_moment_that_the_pairs_lack(rng):
    """In expectation, about the mean: E[a² + (1 − a)²] = 2/3 of those of the pairs."""
    x, y = rng.normal(size=(12, 3)), rng.normal(size=(12, 2))
    weight = rng.uniform(0.5, 2, 12)
    x, y = (rows - np.average(rows, axis=0, weights=weight) for rows in (x, y))
    pairs = Pairs(x, y, np.arange(12) // 3, weight)
    n = 400_000
    mixed = PAIR_CONTROLS["mixup"](pairs, rng, n=n + 12)
    assert mixed.n == n + 12
    assert_same(mixed.take(np.arange(12)).x, x)
    both = np.hstack([x, y])
    expected = 2 / 3 * (both * weight[:, None]).T @ both / weight.sum()
    new = np.hstack([mixed.x, mixed.y])[12:]
    assert np.abs(new.T @ new / n - expected).max() < 0.01
    # Each lies on the line between two pairs, on both sides at the same place.
    for row in new[:20]:
        away = [
            np.linalg.norm(
                row - p - np.clip((row - p) @ (q - p) / ((q - p) @ (q - p)), 0, 1) * (q - p)
            )
            for p, q in itertools.combinations(both, 2)
        ]
        assert min(*away, *np.linalg.norm(both - row, axis=1)) < 1e-12
    assert set(mixed.groups) == set(pairs.groups)
    assert PAIR_CONTROLS["mixup"](pairs, rng, n=5).n == 12


def test_shuffled_needs_other_names_to_give():
    pairs = Pairs(np.eye(3), np.eye(3), np.array([0, 0, 1]))
    with pytest.raises(PairsError, match="Use more classes"):
        CONTROLS["shuffled"](pairs, np.random.default_rng(0))

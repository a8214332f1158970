from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from fitters import CONTROLS, METHODS, FitConfig, Pairs, fit
from fitters.errors import PairsError
from fitters.moments.transform import SideTransform
from fitters.recipe import select
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
    if name == "shuffled":
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
    x = np.arange(n, dtype=float)[:, None]
    pairs = Pairs(x, rng.standard_normal((n, 3)), groups)
    shuffled = CONTROLS["shuffled"](pairs, rng)
    owner = shuffled.x.ravel().astype(int)
    assert sorted(owner) == list(range(n))
    assert (groups[owner] != groups).all()
    # Texts and their groups stay as they are, to the last byte: what follows from them is shared.
    assert_same(shuffled.y, pairs.y)
    assert_same(shuffled.groups, groups)


@pytest.mark.parametrize("name", CONTROLS)
def test_kernel_ridge_on_a_control_is_at_chance(name, make_world):
    head, real = make_world(n_classes=80, n_images=60)
    mean = SideTransform.fit([real.x]).mean
    grid = select("kernel-ridge", prototypes=head, rng=np.random.default_rng(0)).axes

    def right(prototypes):
        config = FitConfig("kernel-ridge")
        data = METHODS["kernel-ridge"].sources(config, prototypes=prototypes, image_mean=mean)
        fitted = fit(data, config, grid=grid, rng=np.random.default_rng(0))
        scores = fitted.project_x(real.x) @ fitted.project_y(real.y).T
        return int((scores.argmax(axis=1) == np.arange(real.n)).sum())

    of_controls = sum(right(CONTROLS[name](head, np.random.default_rng(k))) for k in range(20))
    assert right(head) > 30
    # One in 60 by chance; images of one draw share their control, hence twice the binomial's 0.1 %.
    assert of_controls < 2 * binom.ppf(0.999, 20 * real.n, 1 / real.n)


def test_shuffled_needs_other_names_to_give():
    pairs = Pairs(np.eye(3), np.eye(3), np.array([0, 0, 1]))
    with pytest.raises(PairsError, match="Use more classes"):
        CONTROLS["shuffled"](pairs, np.random.default_rng(0))

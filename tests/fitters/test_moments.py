import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fitters.errors import PairsError
from fitters.moments import BLOCK_ROWS, Moments, merge_pooled
from tests.assertions import assert_close
from tests.shorthand import accumulate, accumulate_folds

COVARIANCES = ("sxx", "sxy", "syy")


def assert_same_moments(actual, expected, dtype="float64", times=1.0):
    assert actual.n == expected.n
    assert actual.weight == pytest.approx(expected.weight, rel=1e-12)
    for name in ("mean_x", "mean_y"):
        assert_close(getattr(actual, name), getattr(expected, name), dtype, times=times)
    for name in COVARIANCES:
        ours, theirs = (getattr(one.centred, name) / one.weight for one in (actual, expected))
        assert_close(ours, theirs, dtype, times=times)


def draw_rows(seed, n, p=5, q=3, offset=0.0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, p)) @ rng.standard_normal((p, p)) + offset
    y = rng.standard_normal((n, q)) + x[:, :1] - offset
    return x, y, rng.uniform(0.2, 3, n)


def in_batches(x, y, weight, cuts):
    edges = [0, *sorted(cuts), len(x)]
    return [(x[a:b], y[a:b], weight[a:b]) for a, b in itertools.pairwise(edges)]


@pytest.mark.parametrize("offset", [0.0, 1e3])
@pytest.mark.parametrize("weighted", [False, True])
def test_covariances_equal_numpys(offset, weighted):
    x, y, weight = draw_rows(1, 200, offset=offset)
    weight = weight if weighted else np.ones(200)
    moments = accumulate([(x, y, weight)], precision="float64")
    both = np.cov(np.hstack([x, y]), rowvar=False, bias=True, aweights=weight)
    about = moments.centred
    assert_close(about.sxx / about.weight, both[:5, :5])
    assert_close(about.sxy / about.weight, both[:5, 5:])
    assert_close(about.syy / about.weight, both[5:, 5:])
    assert_close(moments.mean_x, np.average(x, axis=0, weights=weight))
    assert_close(moments.mean_y, np.average(y, axis=0, weights=weight))
    assert_close(moments.uncentred.sxx, (weight * x.T) @ x)
    assert_close(moments.uncentred.sxy, (weight * x.T) @ y)


@given(
    seed=st.integers(0, 2**16),
    cuts=st.lists(st.integers(0, 60), max_size=5),
    order=st.randoms(use_true_random=False),
    offset=st.sampled_from([0.0, 1e3]),
)
def test_neither_batching_nor_order_matters(seed, cuts, order, offset):
    x, y, weight = draw_rows(seed, 60, offset=offset)
    batches = in_batches(x, y, weight, cuts)
    order.shuffle(batches)
    # An offset of 1e3 costs three digits where the pilot shift is not the mean.
    assert_same_moments(
        accumulate(batches, precision="float64"), Moments.from_rows(x, y, weight), times=10
    )


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_float32_products_keep_float32_accuracy(offset):
    x, y, weight = draw_rows(4, 9000, offset=offset)
    x32, y32 = x.astype(np.float32), y.astype(np.float32)
    exact = Moments.from_rows(x32.astype(np.float64), y32.astype(np.float64), weight)
    moments = accumulate([(x32, y32, weight)])
    # Storage at 1e3 has an absolute error of 6e-5; the products add no more than float32's own.
    for name in COVARIANCES:
        ours, theirs = (getattr(made.centred, name) / made.weight for made in (moments, exact))
        assert_close(ours, theirs, "float32", times=2)
    assert moments.sxx.dtype == np.float64


@given(seed=st.integers(0, 2**16))
def test_folds_add_up(seed):
    x, y, weight = draw_rows(seed, 50, offset=1.0)
    folds = np.random.default_rng(seed).permutation(50) % 3
    parts = accumulate_folds(in_batches(x, y, weight, [7, 20]), folds, precision="float64")
    assert_same_moments(merge_pooled(*parts), Moments.from_rows(x, y, weight))
    for fold, part in enumerate(parts):
        of = folds == fold
        assert_same_moments(part, Moments.from_rows(x[of], y[of], weight[of]))


def test_batches_may_be_larger_than_blocks():
    n = 2 * BLOCK_ROWS + 7
    x, y, weight = draw_rows(8, n)
    assert_same_moments(
        merge_pooled(*accumulate_folds([(x, y, weight)], np.arange(n) % 2, precision="float64")),
        Moments.from_rows(x, y, weight), times=10,
    )  # fmt: skip


def test_a_batch_without_mass_is_no_error_but_moments_without_mass_are():
    x, y, weight = draw_rows(9, 20)
    nothing = (x, y, np.zeros(20))
    assert accumulate([(x, y, weight), nothing]).weight == pytest.approx(weight.sum())
    with pytest.raises(PairsError, match="positive weight"):
        Moments.from_rows(*nothing)

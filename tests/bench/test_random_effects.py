"""Effects over sets as a sample: against statsmodels, by properties, and by a published table."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from bench.confirmatory import ENOUGH_SETS, random_effects
from bench.errors import MetricError

effects = st.lists(st.floats(-1, 1), min_size=3, max_size=12)


@given(y=effects, seed=st.integers(0, 10**6))
@settings(max_examples=30, derandomize=True, deadline=None)
def test_the_summary_is_that_of_statsmodels(y, seed):
    """Paule-Mandel's τ², the mean, Q, I² and Hartung and Knapp's error, bounded from below."""
    meta = pytest.importorskip("statsmodels.stats.meta_analysis")
    assume(np.ptp(y) > 1e-3)  # where all are alike, theirs divides by 0
    v = np.random.default_rng(seed).lognormal(-3, 1, len(y))
    found = random_effects(y, v)
    theirs = meta.combine_effects(np.array(y), v, method_re="iterated", atol=1e-9, maxiter=500)
    # Theirs gives 0 where the last step of Newton's method rounds past the root.
    assume(theirs.tau2 > 0 or found.q <= len(y) - 1)
    assert found.between == pytest.approx(max(theirs.tau2, 0.0), abs=1e-7)
    assert found.mean == pytest.approx(theirs.mean_effect_re, abs=1e-6)
    assert found.q == pytest.approx(theirs.q)
    assert found.inconsistency == pytest.approx(max(theirs.i2, 0.0))
    error = max(theirs.sd_eff_w_re, theirs.sd_eff_w_re_hksj)
    assert found.error == pytest.approx(error, abs=1e-6)


@given(y=effects, shift=st.floats(-2, 2), scale=st.floats(0.1, 10))
@settings(max_examples=40, derandomize=True, deadline=None)
def test_units_and_origin_do_not_matter(y, shift, scale):
    v = np.linspace(0.01, 0.2, len(y))
    a, b = random_effects(y, v), random_effects(scale * np.array(y) + shift, scale**2 * v)
    assert b.mean == pytest.approx(scale * a.mean + shift, abs=1e-6)
    assert b.between == pytest.approx(scale**2 * a.between, abs=1e-6)
    assert b.error == pytest.approx(scale * a.error, abs=1e-6)


def test_exact_effects_give_the_t_test_of_the_sets():
    y = [0.02, 0.11, 0.05, -0.01, 0.07, 0.04]
    found = random_effects(y, np.full(6, 1e-9))
    assert found.p_value() == pytest.approx(ttest_1samp(y, 0).pvalue, rel=1e-5)
    assert found.between == pytest.approx(np.var(y, ddof=1), rel=1e-5)
    low, high = found.prediction()
    half = 2.776445 * math.sqrt(np.var(y, ddof=1) * 7 / 6)  # t, 4 degrees
    assert (low, high) == pytest.approx((np.mean(y) - half, np.mean(y) + half), rel=1e-5)


def test_no_set_more_is_predicted_from_few():
    y, v = np.linspace(0, 1, ENOUGH_SETS), np.full(ENOUGH_SETS, 0.01)
    assert random_effects(y[:-1], v[:-1]).prediction() is None
    low, high = random_effects(y, v).prediction()
    inner = random_effects(y, v).interval()
    assert low < inner[0] < inner[1] < high


@pytest.mark.parametrize(
    ("y", "v", "said"),
    [([0.1], [0.1], "got 1 effects"), ([0.1, 0.2], [0.1], "and 1 variances"),
     ([0.1, 0.2], [0.1, 0.0], "the least 0")],
)  # fmt: skip
def test_what_cannot_be_pooled_says_why(y, v, said):
    with pytest.raises(MetricError, match=said):
        random_effects(y, v)

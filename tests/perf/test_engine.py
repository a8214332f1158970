"""The interval of a median, against the binomial distribution and by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from tests.perf.engine import median_interval


@given(st.integers(6, 80), st.sampled_from([0.8, 0.9, 0.95]))
def test_ranks_are_the_narrowest_that_keep_the_confidence(n: int, confidence: float) -> None:
    low, high = median_interval(list(range(1, n + 1)), confidence)
    assert low + high == n + 1
    # Of the ranks below k, none may hold more than its tail.
    assert 1 - 2 * binom.cdf(low - 1, n, 0.5) >= confidence - 1e-12
    assert 1 - 2 * binom.cdf(low, n, 0.5) < confidence + 1e-12


def test_of_nine_the_second_and_the_eighth() -> None:
    assert median_interval([9, 1, 8, 2, 7, 3, 6, 4, 5]) == (2, 8)


def test_five_are_too_few() -> None:
    with pytest.raises(ValueError, match="5 values are too few for a 95% interval"):
        median_interval([1, 2, 3, 4, 5])

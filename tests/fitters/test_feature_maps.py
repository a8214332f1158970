from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.kernel_approximation import Nystroem
from sklearn.metrics.pairwise import rbf_kernel

from fitters.kernels import NystroemMap, gaussian
from tests.assertions import assert_close
from tests.oracles import unit


@pytest.fixture
def rows(rng):
    return unit(rng.standard_normal((90, 7)))


@given(st.integers(1, 9), st.integers(1, 9), st.floats(0.01, 20), st.integers(0, 99))
def test_the_kernel_is_sklearns(n, m, gamma, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((n, 4)), rng.standard_normal((m, 4))
    assert_close(gaussian(a, b, gamma), rbf_kernel(a, b, gamma=gamma))
    single = gaussian(a, b, gamma, dtype=np.float32)
    assert single.dtype == np.float32
    room = 1e-6 * gamma * (np.max(a * a) + np.max(b * b)) * 4 + 1e-6
    assert np.abs(single - rbf_kernel(a, b, gamma=gamma)).max() < room


def test_blocks_change_nothing(rows):
    whole = gaussian(rows, rows[:5], 2.0)
    assert_close(gaussian(rows, rows[:5], 2.0, block_rows=7), whole)


def test_nystroem_features_have_sklearns_inner_products(rows):
    theirs = Nystroem(gamma=1.5, n_components=30, random_state=0).fit(rows)
    ours = NystroemMap.of_landmarks(theirs.components_, 1.5)
    mapped, expected = ours.apply(rows), theirs.transform(rows)
    assert_close(mapped @ mapped.T, expected @ expected.T, times=1e4)
    at = mapped[theirs.component_indices_]
    assert_close(at @ mapped.T, gaussian(rows[theirs.component_indices_], rows, 1.5), times=1e4)

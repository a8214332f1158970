import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fitters.errors import ZeroRowError
from fitters.sources import SideTransform, normalize_rows
from tests.assertions import assert_close, assert_same


def test_a_three_row_example_by_hand():
    rows = np.array([[3.0, 4.0], [0.0, 2.0], [5.0, 0.0]])
    transform = SideTransform.fit([rows])
    # Unit rows (.6, .8), (0, 1), (1, 0); their mean (1.6, 1.8) / 3.
    assert_close(transform.mean, [1.6 / 3, 1.8 / 3])
    first = np.array([0.6 - 1.6 / 3, 0.8 - 0.6])
    assert_close(transform.apply(rows)[0], first / np.hypot(*first))


@given(st.integers(0, 1000), st.integers(1, 19))
def test_the_mean_does_not_depend_on_batches_and_applies_row_by_row(seed, cut):
    rng = np.random.default_rng(seed)
    rows, weight = rng.standard_normal((20, 4)).astype(np.float32), rng.uniform(0.1, 2, 20)
    whole = SideTransform.fit([(rows, weight)])
    halves = SideTransform.fit([(rows[:cut], weight[:cut]), (rows[cut:], weight[cut:])])
    assert_close(halves.mean, whole.mean)
    assert_same(whole.apply(rows)[cut], whole.apply(rows[cut : cut + 1])[0])
    assert_close(np.linalg.norm(whole.apply(rows), axis=1), np.ones(20))


def test_zero_rows_are_named():
    rows = np.ones((9, 3))
    rows[[2, 5, 6]] = 0
    with pytest.raises(ZeroRowError, match=r"3 of 9 images.*row 2, 5, 6\. Drop them"):
        SideTransform(label="images").apply(rows)
    with pytest.raises(ZeroRowError, match="row 0, 1, 2, 3, 4, …"):
        normalize_rows(np.zeros((9, 3)))
    with pytest.raises(ZeroRowError, match="not finite"):
        normalize_rows(np.array([[np.inf, 1.0]]))


def test_a_row_that_is_the_mean_is_named_even_if_rounding_hides_it(rng):
    row = rng.standard_normal(7)
    transform = SideTransform.fit([np.stack([row, row, row])], label="images")
    with pytest.raises(ZeroRowError, match=r"images, after centring,.*row 0"):
        transform.apply(row[None])

"""Pairs, and what is done to the rows of a side."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featstore.errors import RowsError
from fitters import Pairs
from fitters.errors import PairsError, ZeroRowError
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


X, Y = np.ones((4, 3)), np.ones((4, 2))


def test_taking_rows_takes_all_columns():
    pairs = Pairs(np.arange(8.0).reshape(4, 2), Y, np.array(list("abca")), np.arange(4.0))
    taken = pairs.take(np.array([3, 1]))
    assert taken.x.tolist() == [[6, 7], [2, 3]]
    assert taken.groups.tolist() == ["a", "b"]
    assert taken.weight.tolist() == [3, 1]
    assert pairs.row_groups.tolist() == [0, 1, 2, 0]
    assert pairs.take(np.array([True, False, False, True])).row_groups.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((X[0], Y), r"x must be a matrix of numbers.*float64 of shape \(3,\)"),
        ((X, Y.astype(object)), "y must be a matrix of numbers.*object"),
        ((X, Y[:2]), "Join them by id"),
        ((X[:0], Y[:0]), "not empty"),
        ((np.where(np.eye(4, 3) > 0, np.nan, X), Y), r"3 of 4 rows \(first: row 0\)"),
        ((X, Y, np.arange(3)), "groups has 3 values for 4 rows"),
        ((X, Y, None, np.ones(5)), "weight has 5 values for 4 rows"),
        ((X, Y, None, np.array([1, -1, 1, 1.0])), "weight 0"),
        ((X, Y, None, np.zeros(4)), "Every weight is 0"),
    ],
)
def test_what_is_not_pairs_is_refused(arguments, match):
    with pytest.raises((PairsError, RowsError), match=match):
        Pairs(*arguments)

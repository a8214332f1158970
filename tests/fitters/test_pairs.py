import numpy as np
import pytest

from featstore.errors import RowsError
from fitters import Pairs
from fitters.errors import PairsError

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

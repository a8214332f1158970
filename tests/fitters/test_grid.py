"""The grid of penalties and weights: where it ends, how far it widens, which of equals wins."""

from __future__ import annotations

import numpy as np
import pytest

from fitters.errors import SettingError
from fitters.select.grid import PENALTIES, Axis, geometric, search
from tests.assertions import assert_close


def bowl(best_weight, best_penalty, calls=None):
    def evaluate(weights, penalties):
        if calls is not None:
            calls.append((len(weights), len(penalties)))
        away = np.log10(weights / best_weight)[:, None] ** 2
        return -away - np.log10(penalties / best_penalty)[None, :] ** 2

    return evaluate


def run(evaluate, weights=None, penalties=None):
    return search(
        evaluate,
        weights=weights or Axis.fixed(1.0),
        penalties=penalties or Axis(geometric(0.1, 10, 1)),
        criterion="test",
        n_queries=1,
        n_folds=1,
    )


@pytest.mark.parametrize("best", [1e-4, 0.1, 1.0, 10.0, 1e5])
def test_the_grid_widens_until_the_best_is_inside(best):
    calls = []
    curve = run(bowl(1.0, best, calls))
    assert curve.penalty == pytest.approx(best)
    assert curve.edges == ()
    values = curve.penalties.values
    assert list(values) == sorted(values)
    assert sum(columns for _, columns in calls) == len(values), "a point was evaluated twice"


def test_both_axes_widen_together():
    curve = run(bowl(1e-2, 1e3), weights=Axis(geometric(0.1, 10, 1)))
    assert (curve.weight, curve.penalty) == (pytest.approx(1e-2), pytest.approx(1e3))
    assert curve.scores.shape == (len(curve.weights.values), len(curve.penalties.values))
    expected = bowl(1e-2, 1e3)(np.array(curve.weights.values), np.array(curve.penalties.values))
    assert_close(curve.scores, expected)


def test_a_limit_holds_and_the_edge_is_told():
    curve = run(bowl(1.0, 1e9), penalties=Axis(geometric(0.1, 10, 1), lowest=0.1, highest=1e2))
    assert max(curve.penalties.values) == pytest.approx(1e2)
    assert curve.edges == ("penalty high",)
    assert curve.to_facts()["edges"] == ["penalty high"]


def test_widening_ends():
    curve = run(lambda w, p: np.log(p)[None, :] + 0 * w[:, None])
    assert curve.edges == ("penalty high",)
    assert len(curve.penalties.values) == 3 + 4 * 2


def test_what_is_given_is_not_searched():
    curve = run(bowl(1.0, 50.0), penalties=Axis.fixed(3.0))
    assert curve.penalty == 3.0
    assert curve.edges == ()
    assert "penalties" not in curve.to_facts()


def test_equal_scores_go_to_the_larger_penalty_then_weight():
    weights = Axis((1.0, 2.0), 1.0, 2.0)
    penalties = Axis((0.1, 1.0, 10.0), 0.1, 10.0)
    curve = run(lambda w, p: np.zeros((len(w), len(p))), weights, penalties)
    assert (curve.weight, curve.penalty) == (2.0, 10.0)


def test_scores_that_are_not_finite_are_refused():
    with pytest.raises(SettingError, match="Check the rows for NaN"):
        run(lambda w, p: np.full((len(w), len(p)), np.nan), penalties=Axis((1.0,)))


def test_the_default_grid_is_round():
    assert PENALTIES.values[0] == 0.01
    assert PENALTIES.values[-1] == 10.0
    assert geometric(0.1, 10, 2) == (0.1, 0.316228, 1.0, 3.16228, 10.0)
    assert Axis.fixed(2.0).at_least(5.0).values == (2.0,)
    assert Axis((1.0, 2.0, 3.0)).at_least(2.0).values == (2.0, 3.0)

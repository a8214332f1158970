"""The grid of penalties and weights: where it ends, how far it widens, which of equals wins."""

from dataclasses import replace

import numpy as np
import pytest

from fitters.select import Axis, Surface, choose, geometric
from tests.assertions import assert_close


def bowl(best_weight, best_penalty, calls=None):
    def evaluate(at):
        weights, penalties = at["weight"], at["penalty"]
        if calls is not None:
            calls.append((len(weights), len(penalties)))
        away = np.log10(weights / best_weight)[:, None] ** 2
        return -away - np.log10(penalties / best_penalty)[None, :] ** 2

    return evaluate


def run(evaluate, weights=None, penalties=None):
    return choose(
        evaluate,
        {"weight": weights or Axis.fixed(1.0), "penalty": penalties or Axis(geometric(0.1, 10, 1))},
        criterion="test",
        n_queries=1,
        n_folds=1,
    )


@pytest.mark.parametrize("best", [1e-4, 0.1, 1.0, 10.0, 1e5])
def test_the_grid_widens_until_the_best_is_inside(best):
    calls = []
    curve = run(bowl(1.0, best, calls))
    assert curve.chosen["penalty"] == pytest.approx(best)
    assert curve.edges == ()
    values = curve.axes["penalty"].values
    assert list(values) == sorted(values)
    assert sum(columns for _, columns in calls) == len(values), "a point was evaluated twice"


@pytest.mark.parametrize(
    ("scores", "flat"),
    # 0.5 of 100 queries has the standard error 0.05.
    [((0.5, 0.45, 0.46), True), ((0.5, 0.45, 0.44), False), ((0.5,), True), ((1.0, 0.999), False)],
)
def test_a_surface_is_flat_within_one_standard_error_of_its_best(scores, flat):
    axes = {"penalty": Axis(tuple(10.0**n for n in range(len(scores))))}
    surface = Surface("share of hits", axes, np.array(scores), 100, 4, of_ranks=True)
    assert surface.flat == flat == surface.to_facts()["flat"]
    # Nothing bounds the standard error of a cosine or a squared error.
    assert "flat" not in replace(surface, of_ranks=False).to_facts()
    # The rule is the same: the best score, of equal ones the larger penalty.
    assert surface.chosen == {"penalty": 1.0}


def test_both_axes_widen_together():
    curve = run(bowl(1e-2, 1e3), weights=Axis(geometric(0.1, 10, 1)))
    assert (curve.chosen["weight"], curve.chosen["penalty"]) == (
        pytest.approx(1e-2),
        pytest.approx(1e3),
    )
    assert curve.scores.shape == (
        len(curve.axes["weight"].values),
        len(curve.axes["penalty"].values),
    )
    expected = bowl(1e-2, 1e3)({name: np.array(axis.values) for name, axis in curve.axes.items()})
    assert_close(curve.scores, expected)


def test_a_limit_holds_and_the_edge_is_told():
    curve = run(bowl(1.0, 1e9), penalties=Axis(geometric(0.1, 10, 1), lowest=0.1, highest=1e2))
    assert max(curve.axes["penalty"].values) == pytest.approx(1e2)
    assert curve.edges == ("penalty high",)
    assert curve.to_facts()["edges"] == ["penalty high"]


def test_equal_scores_go_to_the_larger_penalty_then_weight():
    weights = Axis((1.0, 2.0), 1.0, 2.0)
    penalties = Axis((0.1, 1.0, 10.0), 0.1, 10.0)
    curve = run(lambda at: np.zeros((2, 3)), weights, penalties)
    assert (curve.chosen["weight"], curve.chosen["penalty"]) == (2.0, 10.0)


def test_of_equal_scores_the_fewest_components_count_whatever_the_order_of_the_axes():
    axes = {
        "components": Axis((1.0, 2.0), searched=False),
        "gamma": Axis((1.0, 2.0)),
        "penalty": Axis((1.0, 2.0)),
    }
    scores = np.array([[[0.5, 0.5], [0.5, 0.4]], [[0.5, 0.5], [0.5, 0.4]]])
    surface = Surface("test", axes, scores, 1, 1)
    assert surface.chosen == {"components": 1.0, "gamma": 1.0, "penalty": 2.0}
    # The numbers of components are listed, and are no grid that could end too early.
    assert surface.to_facts()["components"] == [1.0, 2.0]
    assert set(surface.searched) == {"gamma", "penalty"}
    assert surface.edges == ("gamma low", "penalty high")

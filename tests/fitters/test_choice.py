"""Choices by refitting and by moments, against closed forms and refits from rows."""

import math

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from fitters import CCAAligner, Pairs, RidgeAligner
from fitters.alignment import fit, select
from fitters.errors import SettingError
from fitters.methods import METHODS
from fitters.moments import moments_of
from fitters.saved import fitted_arrays
from fitters.select import Axis, folds_by_group
from fitters.select.held_out import (
    choose_components,
    cross_validate,
    validate_by_error,
    validate_by_refitting,
)
from fitters.settings import FitConfig
from tests.assertions import assert_close, assert_same
from tests.oracles import unit

PENALTIES = Axis((0.01, 0.3, 5.0), searched=False)
WEIGHTS = Axis((0.2, 1.0, 4.0), searched=False)


@pytest.fixture
def world(make_world):
    # The closed forms take rows as the recipe makes them, of unit length.
    head, real = (
        Pairs(unit(pairs.x), unit(pairs.y), pairs.groups)
        for pairs in make_world(n_classes=20, n_images=32, p=7, q=5, noise=1.0)
    )
    return head, real, folds_by_group(real.groups, 4, np.random.default_rng(0))


def refits_of(make, real, folds, head):
    """Fit from the rows of the other folds and the weighted head, nothing shared."""

    def refit(fold, weight, penalty):
        rest = real.take(folds != fold)
        x, y = np.vstack([rest.x, head.x]), np.vstack([rest.y, head.y])
        mass = np.concatenate([rest.row_weight, weight * head.row_weight])
        return make(penalty).fit(x, y, mass)

    return refit


@pytest.mark.parametrize("direction", ["x->y", "y->x"])
def test_refitting_chooses_by_what_the_closed_form_says(direction, world):
    head, real, folds = world
    refit = refits_of(
        lambda penalty: RidgeAligner(direction, alpha=penalty, center=False), real, folds, head
    )
    ours = validate_by_refitting(
        refit, real=real, folds=folds, penalties=PENALTIES, weights=WEIGHTS
    )
    closed = cross_validate(
        "ridge", real=real, folds=folds, prototypes=head, direction=direction,
        penalties=PENALTIES, weights=WEIGHTS,
    )  # fmt: skip
    assert_close(ours.scores, closed.scores)


@pytest.mark.parametrize("direction", ["x->y", "y->x", "both"])
def test_the_error_from_moments_is_that_of_refitting_on_rows(direction, world):
    head, real, folds = world
    parts = [moments_of(real.take(folds == fold)) for fold in range(4)]
    curve = validate_by_error(
        parts, moments_of(head), direction=direction,
        penalties=PENALTIES, weights=WEIGHTS,
    )  # fmt: skip
    expected = np.zeros((3, 3))
    ways = ("x->y", "y->x") if direction == "both" else (direction,)
    for i, j in np.ndindex(3, 3):
        for way in ways:
            error = total = 0.0
            for fold in range(4):
                rest, held = real.take(folds != fold), real.take(folds == fold)
                sides = [(np.vstack([getattr(rest, s), getattr(head, s)]).astype(float),
                          getattr(held, s).astype(float)) for s in "xy"]  # fmt: skip
                (a, a_new), (b, b_new) = sides if way == "x->y" else sides[::-1]
                mass = np.repeat([1.0, WEIGHTS.values[i]], [rest.n, head.n])
                unit_penalty = mass @ (a**2).sum(axis=1) / a.shape[1]
                ridge = Ridge(alpha=PENALTIES.values[j] * unit_penalty, fit_intercept=False)
                predicted = ridge.fit(a, b, mass).predict(a_new)
                error += np.sum((predicted - b_new) ** 2)
                total += np.sum(b_new**2)
            expected[i, j] += (1 - error / total) / len(ways)
    assert_close(curve.scores, expected, times=10)  # the error is a difference of three traces
    assert curve.n_queries == 32
    assert curve.n_folds == 4


@pytest.mark.parametrize("metric", ["mrr", "top-1", "top-5"])
def test_components_are_chosen_with_penalty_and_weight(metric, world):
    head, real, folds = world
    given_ = {"real": real, "folds": folds, "penalties": PENALTIES, "weights": WEIGHTS}
    refit = refits_of(lambda penalty: CCAAligner(alpha=penalty), real, folds, head)
    chosen = choose_components(refit, metric=metric, **given_)
    facts = chosen.to_facts()
    assert facts["components"] == [1, 2, 3, 4, 5]
    assert chosen.scores.shape == (3, 3, 5)
    for place, kept in enumerate(facts["components"]):
        fewer = refits_of(lambda p, k=kept: CCAAligner(k, alpha=p), real, folds, head)
        one = validate_by_refitting(fewer, metric=metric, **given_)
        assert_close(np.array(facts["scores"])[:, :, place], one.scores)
    row, column, place = chosen.best
    of_best = chosen.scores[row, column]
    assert of_best[place] == chosen.scores.max()
    assert (of_best[:place] < chosen.scores.max()).all()
    assert chosen.chosen["components"] == place + 1


@pytest.mark.parametrize("metric", ["mrr", "top-1", "squared"])
@pytest.mark.parametrize("method", ["ridge", "csa", "kernel-ridge", "asif"])
def test_select_chooses_what_is_then_fitted_with(metric, method, make_world):
    head, real = make_world(n_classes=30, n_images=24, p=9, q=4, noise=0.8)
    if metric == "squared" and method in ("csa", "asif"):
        with pytest.raises(SettingError, match="by rank"):
            select(method, real=real, validation=metric, rng=np.random.default_rng(0))
        return
    auto = {"top_k": "auto", "power": "auto"} if method == "asif" else {}
    chosen = select(
        method, prototypes=head, real=real, validation=metric, rng=np.random.default_rng(0)
    )
    made = fit(
        method, prototypes=head, real=real, validation=metric, rng=np.random.default_rng(0), **auto
    )
    assert chosen.facts == made.facts["choice"]
    assert {"scores", "edges", "criterion"} <= set(chosen.facts)
    # Folds drawn by another generator would choose otherwise; nothing is chosen again.
    config = FitConfig(method, **auto)
    data = METHODS[method].sources(config, prototypes=head, real=real)
    given = fit(config, data, chosen=chosen, rng=np.random.default_rng(1))
    assert given.facts == made.facts
    for name in fitted_arrays(made.aligner):
        assert_same(getattr(given.aligner, name), getattr(made.aligner, name))


@pytest.mark.parametrize("sources", ["prototypes", "both"])
@pytest.mark.parametrize("method", ["ridge", "ridge-both", "procrustes", "csa", "kernel-ridge"])
def test_a_given_grid_is_all_that_is_looked_at(method, sources, make_world, rng):
    head, real = make_world(n_classes=30, n_images=24, p=9, q=4, noise=0.8)
    given = {"prototypes": head, "real": real if sources == "both" else None}
    of_head = select(method, **given, rng=np.random.default_rng(0))
    again = select(method, **given, grid=of_head.axes, rng=np.random.default_rng(0))
    # The grid that a choice explored leads it where it was.
    assert (again.params, again.mix) == (of_head.params, of_head.mix)
    noise = Pairs(rng.standard_normal(head.x.shape), head.y, head.groups)
    data = METHODS[method].sources(FitConfig(method), **(given | {"prototypes": noise}))
    rng = np.random.default_rng(0)
    control = fit(method, data, grid=of_head.axes, rng=rng).facts
    assert control["grid"] == "given"
    names = {"penalty": "penalties", "weight": "weights", "gamma": "gammas"}
    # Of prototypes alone, Procrustes has nothing to choose.
    assert bool(of_head.axes) == ((method, sources) != ("procrustes", "prototypes"))
    for name, axis in of_head.axes.items():
        found = control["choice"].get("of_prototypes", {}) | control["choice"]
        assert found[names[name]] == list(axis.values)


@pytest.mark.parametrize("n", [6, 10, 14])
@pytest.mark.parametrize("method", ["cca", "pls"])
def test_folds_that_leave_different_numbers_of_directions(method, n, rng):
    # Without a fold of 3 of 10 pairs 6 directions are left about their mean, of 2 pairs 7.
    real = Pairs(rng.standard_normal((n, 24)), rng.standard_normal((n, 12)))
    choice = fit(method, real=real, rng=rng).facts["choice"]
    assert choice["components"][-1] == min(n - math.ceil(n / 4) - 1, 12)

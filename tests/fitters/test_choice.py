"""Choices by refitting, by moments and by anchors, against closed forms and refits from rows."""

import math

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from fitters import ASIFAligner, CCAAligner, Pairs, RidgeAligner
from fitters.alignment import fit, select
from fitters.errors import SettingError
from fitters.methods import METHODS
from fitters.moments import moments_of
from fitters.saved import fitted_arrays
from fitters.select import Axis, folds_by_group
from fitters.select.held_out import Folded, cross_validate, validate_by_error, validate_by_refitting
from fitters.settings import FitConfig
from tests.assertions import assert_close, assert_same
from tests.oracles import reciprocal_rank_of_text, unit

PENALTIES = Axis((0.01, 0.3, 5.0), searched=False)
WEIGHTS = Axis((0.2, 1.0, 4.0), searched=False)
AXES = {"weight": WEIGHTS, "penalty": PENALTIES}


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

    def refit(fold, at):
        rest = real.take(folds != fold)
        x, y = np.vstack([rest.x, head.x]), np.vstack([rest.y, head.y])
        mass = np.concatenate([rest.row_weight, at["weight"] * head.row_weight])
        return make(at["penalty"]).fit(x, y, mass)

    return refit


@pytest.mark.parametrize("direction", ["x->y", "y->x"])
def test_refitting_chooses_by_what_the_closed_form_says(direction, world):
    head, real, folds = world
    refit = refits_of(
        lambda penalty: RidgeAligner(direction, alpha=penalty, center=False), real, folds, head
    )
    ours = validate_by_refitting(refit, real=real, folds=folds, axes=AXES)
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
                error += np.sum((ridge.fit(a, b, mass).predict(a_new) - b_new) ** 2)
                total += np.sum(b_new**2)
            expected[i, j] += (1 - error / total) / len(ways)
    assert_close(curve.scores, expected, times=10)  # the error is a difference of three traces
    assert curve.n_queries == 32
    assert curve.n_folds == 4


@pytest.mark.parametrize("metric", ["mrr", "top-1", "top-5"])
def test_components_are_chosen_with_penalty_and_weight(metric, world):
    head, real, folds = world
    given_ = {"real": real, "folds": folds, "metric": metric}
    refit = refits_of(lambda penalty: CCAAligner(alpha=penalty), real, folds, head)
    numbers = AXES | {"components": Axis((1, 2, 3, 4, 5), searched=False)}
    chosen = validate_by_refitting(refit, axes=numbers, **given_)
    for place, kept in enumerate(chosen.to_facts()["components"]):
        fewer = refits_of(lambda p, k=kept: CCAAligner(k, alpha=p), real, folds, head)
        one = validate_by_refitting(fewer, axes=AXES, **given_)
        assert_close(chosen.scores[:, :, place], one.scores)
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


@pytest.mark.parametrize("n", [6, 10, 14])
@pytest.mark.parametrize("method", ["cca", "pls"])
def test_folds_that_leave_different_numbers_of_directions(method, n, rng):
    # Without a fold of 3 of 10 pairs 6 directions are left about their mean, of 2 pairs 7.
    real = Pairs(rng.standard_normal((n, 24)), rng.standard_normal((n, 12)))
    choice = fit(method, real=real, rng=rng).facts["choice"]
    assert choice["components"][-1] == min(n - math.ceil(n / 4) - 1, 12)


@pytest.mark.parametrize("beside", [True, False], ids=["real pairs and a head", "a head"])
def test_anchors_and_power_are_chosen_by_fits_without_a_fold(beside, make_world):
    head, real = make_world(n_classes=12, n_images=16, p=6, q=4, noise=1.5)
    # Two classes of one name and one text.
    names, texts = head.groups.copy(), head.y.copy()
    names[3], texts[3] = names[2], texts[2]
    head, config = Pairs(head.x, texts, names), FitConfig("asif", top_k="auto", power="auto")
    data = METHODS["asif"].sources(config, prototypes=head, real=real if beside else None)
    grid = {"top_k": Axis((2.0, 5.0, 30.0)), "power": Axis((1.0, 4.0))}
    made = METHODS["asif"].tune(config, data, rng=np.random.default_rng(2), grid=grid)
    # There are no more anchors than pairs.
    n, facts = sum(source.n for source in data.given), made.facts
    assert facts["top_ks"] == [2.0, 5.0, min(30.0, n)]
    asked = data.real if beside else data.prototypes
    folds = folds_by_group(asked.groups, 4, np.random.default_rng(2))
    for i, j in np.ndindex(3, 2):
        ranks = np.empty(asked.n)
        for fold in range(4):
            rest, held = asked.take(folds != fold), asked.take(folds == fold)
            given = [data.prototypes, rest] if beside else [rest]
            x, y = (np.concatenate([getattr(pairs, side) for pairs in given]) for side in "xy")
            aligner = ASIFAligner(round(facts["top_ks"][i]), power=facts["powers"][j]).fit(x, y)
            images = aligner.project_x(held.x).toarray()
            texts = aligner.project_y(held.y).toarray()
            ranks[folds == fold] = [
                reciprocal_rank_of_text(image, texts, held.groups, group)
                for image, group in zip(images, held.groups, strict=True)
            ]
        assert facts["scores"][i][j] == pytest.approx(ranks.mean())
    assert (facts["n_queries"], facts["n_folds"]) == (asked.n, 4)
    assert isinstance(made.params["top_k"], int)


def test_what_is_fitted_without_a_fold_knows_none_of_its_pairs(rng):
    """Rows and moments, beside prototypes that are in every fit."""
    real = Pairs(rng.standard_normal((30, 5)), rng.standard_normal((30, 4)), np.arange(30) % 10)
    head = Pairs(rng.standard_normal((7, 5)), rng.standard_normal((7, 4)))
    folds = real.groups % 3
    folded = Folded(real, folds, head)
    for fold in range(3):
        kept = folded.rows_without(fold)
        assert kept.prototypes is head
        np.testing.assert_array_equal(kept.real.x, real.x[folds != fold])
        np.testing.assert_array_equal(kept.real.y, real.y[folds != fold])
        (moments,) = folded.moments_without[fold].real
        np.testing.assert_allclose(moments.sxy, kept.real.x.T @ kept.real.y)
        assert moments.n == kept.real.n == np.sum(folds != fold)

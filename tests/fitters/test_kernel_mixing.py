from __future__ import annotations

import numpy as np
import pytest
from sklearn.kernel_ridge import KernelRidge

from fitters import Pairs, SideTransform, fit_alignment
from fitters.errors import PairsError, SettingError
from fitters.select.grid import Axis, folds_by_group, search
from fitters.select.kernel import VALIDATIONS, choose_mass, cross_validate_kernel
from tests.assertions import assert_close
from tests.oracles import reciprocal_rank_of_text


@pytest.fixture
def sources(make_world, rng):
    head, images = make_world(n_classes=30, n_images=24, p=9, q=4, noise=0.8)
    images.y[1] = images.y[0]
    ids = images.groups.copy()
    ids[:2] = "twins"
    return (
        Pairs(head.x, head.y / 3, head.groups, rng.uniform(0.5, 2, 30)),
        Pairs(images.x - images.x.mean(axis=0), images.y / 3, ids, rng.uniform(0.5, 2, 24)),
    )


def by_refitting(real, prototypes, folds, gamma, alpha, mass, criterion):
    """The criterion of each row by scikit-learn's kernel ridge, refitted for every fold."""
    scores = np.empty(real.n)
    for fold in np.unique(folds):
        out = folds == fold
        x, y, weight = real.x[~out], real.y[~out], real.row_weight[~out]
        if prototypes is not None:
            x, y = np.concatenate([x, prototypes.x]), np.concatenate([y, prototypes.y])
            weight = np.concatenate([weight, mass * prototypes.row_weight])
        fit = KernelRidge(alpha=alpha, kernel="rbf", gamma=gamma)
        fit.fit(y.astype(float), x.astype(float), weight)
        predicted = fit.predict(real.y[out].astype(float))
        for row, to, own in zip(np.flatnonzero(out), predicted, real.x[out], strict=True):
            rank = reciprocal_rank_of_text(own, predicted, real.groups[out], real.groups[row])
            scores[row] = {
                "mrr": rank,
                "top-1": rank == 1,
                "top-5": rank >= 1 / 5,
                "top-10": rank >= 1 / 10,
                "cosine": own @ to / np.linalg.norm(own) / np.linalg.norm(to),
                "squared": -np.sum((own - to) ** 2),
            }[criterion]
    return scores


@pytest.mark.parametrize("criterion", VALIDATIONS)
def test_the_surface_is_that_of_refitting_every_fold(criterion, sources, rng):
    _, real = sources
    folds = folds_by_group(real.groups, 3, rng)
    surface = cross_validate_kernel(
        real=real,
        folds=folds,
        gammas=Axis((0.3, 1.2), 0.3, 1.2),
        penalties=Axis((0.05, 0.5), 0.05, 0.5),
        criterion=criterion,
    )
    assert surface.scores.shape == (2, 2)
    for i, alpha in enumerate(surface.axes["penalty"].values):
        for j, gamma in enumerate(surface.axes["gamma"].values):
            of_rows = by_refitting(real, None, folds, gamma, alpha, 1.0, criterion)
            assert surface.scores[i, j] == pytest.approx(of_rows.mean(), abs=2e-5)


def test_landmarks_stand_for_many_prototypes(sources, rng, monkeypatch):
    prototypes, real = sources
    folds = folds_by_group(real.groups, 3, rng)

    def scores():
        return choose_mass(
            prototypes,
            real,
            folds,
            gamma=0.7,
            penalty=0.2,
            weights=Axis((0.1, 3.0), 0.1, 3.0),
            criterion="squared",
            rng=np.random.default_rng(0),
        ).scores

    exact = scores()
    monkeypatch.setattr("fitters.select.kernel.EXACT_ROWS", 10)
    # As many landmarks as prototypes: another route to the same numbers.
    assert scores() == pytest.approx(exact, abs=1e-6)
    monkeypatch.setattr("fitters.select.kernel.CHOICE_LANDMARKS", 20)
    fewer = scores()
    assert 0 < np.abs(fewer - exact).max() < 0.2 * np.abs(exact).max()


def test_the_grid_follows_its_best_point_and_stops_where_it_may_not_go():
    seen = []

    def evaluate(at):
        seen.append({name: tuple(values) for name, values in at.items()})
        penalty, gamma = np.meshgrid(at["penalty"], at["gamma"], indexing="ij")
        return -((np.log10(penalty) - 3) ** 2) - np.log2(gamma)

    axes = {
        "penalty": Axis((1.0, 10.0), lowest=0.1, highest=1e9),
        "gamma": Axis((1.0, 2.0), lowest=0.25),
    }
    surface = search(evaluate, axes, criterion="s", n_queries=1, n_folds=1)
    assert surface.chosen == pytest.approx({"penalty": 1e3, "gamma": 0.25})
    assert surface.edges == ("gamma low",)
    points = [(p, g) for at in seen for p in at["penalty"] for g in at["gamma"]]
    assert len(points) == len(set(points)) == surface.scores.size


def test_what_cannot_be_validated_is_refused(sources, rng):
    _, real = sources
    folds = folds_by_group(real.groups, 3, rng)
    with pytest.raises(SettingError, match="criterion must be one of mrr"):
        cross_validate_kernel(real=real, folds=folds, criterion="luck")
    with pytest.raises(PairsError, match="one entry a pair"):
        cross_validate_kernel(real=real, folds=folds[1:])
    nothing = Pairs(real.x, real.y, real.groups, np.arange(real.n, dtype=float))
    with pytest.raises(PairsError, match="weight 0"):
        cross_validate_kernel(real=nothing, folds=folds)


@pytest.mark.parametrize("criterion", ["mrr", "top-1", "cosine", "squared"])
def test_the_curve_of_the_mass_is_that_of_refitting_at_the_prototypes_penalty(
    criterion, sources, rng
):
    prototypes, real = sources
    folds = folds_by_group(real.groups, 3, rng)
    curve = choose_mass(
        prototypes, real, folds, gamma=0.7, penalty=0.2, weights=Axis((0.1, 1.0, 5.0), 0.1, 5.0),
        criterion=criterion, rng=rng,
    )  # fmt: skip
    for i, mass in enumerate(curve.axes["weight"].values):
        # alpha / mass stays the penalty of the prototypes.
        of_rows = by_refitting(real, prototypes, folds, 0.7, 0.2 * mass, mass, criterion)
        assert curve.scores[i] == pytest.approx(of_rows.mean(), abs=2e-5)
    nobody = Pairs(real.x, real.y, real.groups, np.full(real.n, 1e-12))
    alone = by_refitting(nobody, prototypes, folds, 0.7, 0.2, 1.0, criterion)
    assert curve.alone == pytest.approx(alone.mean(), abs=2e-5)
    best = curve.scores.max()
    assert np.isinf(curve.chosen["weight"]) == (curve.alone >= best) == (not curve.uses_real)
    facts = curve.to_facts()
    assert facts["score"] == max(best, curve.alone)
    assert facts["prototypes_alone"] == {"score": curve.alone}


def test_real_pairs_that_do_not_help_are_not_used(make_world):
    head, real = make_world(n_classes=60, n_images=24, noise=0.5)
    wrong = Pairs(real.x, real.y[::-1].copy(), real.groups)

    def fitted(**given):
        rng = np.random.default_rng(0)
        return fit_alignment("kernel-ridge", prototypes=head, rng=rng, **given)

    mean = SideTransform.fit([real.x]).mean
    alone, misled = fitted(image_mean=mean), fitted(image_mean=mean, real=wrong)
    choice = misled.facts["choice"]
    assert choice["mix"] is None
    assert choice["real_pairs_used"] is False
    assert choice["penalty"] == alone.facts["choice"]["penalty"]
    assert choice["of_prototypes"]["scores"] == alone.facts["choice"]["scores"]
    assert_close(misled.project_y(real.y), alone.project_y(real.y), "float32")
    helped = fitted(image_mean=mean, real=real)
    choice = helped.facts["choice"]
    assert choice["real_pairs_used"] is (choice["mix"] is not None)
    given = fitted(image_mean=mean, real=real, mix=2.0)
    at = given.facts["choice"]["of_prototypes"]
    best = np.unravel_index(np.argmax(at["scores"]), np.shape(at["scores"]))
    assert given.facts["choice"]["penalty"] == 2.0 * at["penalties"][best[0]]
    assert given.aligner.alpha == given.facts["choice"]["penalty"]

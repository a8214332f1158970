"""GDA against densities by scipy, and the logistic probe against scikit-learn's regression."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import multivariate_normal
from sklearn.linear_model import LogisticRegression

from fitters.few_shot.learner import Shots, log_losses
from fitters.few_shot.probes import (
    GDA,
    STRENGTHS,
    ClassMoments,
    LogisticProbe,
    fold_of,
    gaussian_weights,
    search,
)
from tests.assertions import assert_close
from tests.fitters.few_shot.digits import digits, made, noisy_prototypes, with_views


def covariance(rows, labels, n_classes):
    """The shrunk covariance from its definition, one row at a time."""
    means = np.stack([rows[labels == c].mean(axis=0) for c in range(n_classes)])
    scatter = sum(np.outer(x - means[y], x - means[y]) for x, y in zip(rows, labels, strict=True))
    scatter = scatter / (len(rows) - 1)
    return means, scatter + np.trace(scatter) / (len(rows) - 1) * np.eye(rows.shape[1])


@pytest.mark.parametrize("views", [False, True])
def test_scores_of_gda_are_scipys_log_densities(views):
    shots, test = made(3)
    shots = with_views(shots) if views else shots
    rows, labels = (
        part.astype(kind) for part, kind in zip(shots.unit_views, ("f8", int), strict=True)
    )
    means, sigma = covariance(rows, labels, 10)
    densities = np.stack([multivariate_normal(mean, sigma).logpdf(test[0]) for mean in means], 1)
    weight, bias = gaussian_weights(ClassMoments.of(rows, labels, 10))
    ours = test[0].astype(np.float64) @ weight.T + bias
    np.testing.assert_allclose(ours - ours[:, :1], densities - densities[:, :1], atol=1e-8)
    assert_close(GDA().fit(shots).scores(test[0]), ours, "float32", times=100)


def test_gda_adds_prototypes_and_densities():
    shots, test = made(4, prototypes=noisy_prototypes())
    found = GDA(weights=[0.3], scale=20.0).fit(shots)
    alone = GDA().fit(replace(shots, prototypes=None))
    expected = 20.0 * test[0] @ shots.prototypes.T + 0.3 * alone.scores(test[0])
    assert_close(found.scores(test[0]), expected, "float32", times=100)
    assert found.facts == {"alpha": 0.3, "scale": 20.0, "folds": 5.0}


def test_the_weight_of_gda_is_the_best_on_folds_that_are_left_out():
    shots, _ = made(3, prototypes=noisy_prototypes(noise=0.4))
    weights, fold = (0.0, 0.01, 0.1, 1.0), fold_of(shots.labels, 5)
    rows, losses = shots.x.astype(np.float64), np.zeros(4)
    for number in range(5):
        out = fold == number
        means, sigma = covariance(rows[~out], shots.labels[~out], 10)
        density = np.stack([multivariate_normal(m, sigma).logpdf(rows[out]) for m in means], 1)
        for place, alpha in enumerate(weights):
            scores = 9.0 * rows[out] @ shots.prototypes.T + alpha * density
            losses[place] += log_losses(scores, shots.labels[out]).sum()
    assert GDA(weights=weights, scale=9.0).fit(shots).facts["alpha"] == weights[losses.argmin()]
    assert 0 < losses.argmin() < 3


def test_for_gda_a_class_without_rows_has_no_evidence_for_or_against_it():
    shots, _ = made(4)
    kept = shots.labels != 3
    weight, bias = gaussian_weights(ClassMoments.of(shots.x[kept], shots.labels[kept], 10))
    others = np.arange(10) != 3
    np.testing.assert_allclose(weight[3], weight[others].mean(axis=0))
    assert bias[3] == pytest.approx(bias[others].mean())


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(2, 5))
def test_rows_of_a_class_lie_in_different_folds(labels, n_folds):
    labels = np.array(labels)
    fold = fold_of(labels, n_folds)
    for c in np.unique(labels):
        counts = np.bincount(fold[labels == c], minlength=n_folds)
        assert counts.max() - counts.min() <= 1
    np.testing.assert_array_equal(fold, fold_of(7 - labels, n_folds))


# L-BFGS stops by its gradient, on both sides.
NEAR = {"dtype": "float32", "times": 100}
TIGHT = {"max_iter": 1000, "tol": 1e-8}


def centred(scores):
    return scores - scores.mean(axis=1, keepdims=True)


@pytest.mark.parametrize(("shots", "uneven"), [(2, False), (12, False), (6, True)])
def test_the_logistic_probe_is_sklearns_at_its_c_and_classes_weigh_alike(shots, uneven):
    (x, labels), validation, test = digits(shots)
    kept = ~((labels < 5) & (np.arange(len(labels)) % 2 == 0)) | (not uneven)
    ours = LogisticProbe().fit(Shots(x[kept], labels[kept], 10, None, *validation))
    model = LogisticRegression(C=1 / ours.facts["penalty"], **TIGHT, class_weight="balanced")
    theirs = model.fit(x[kept], labels[kept]).decision_function(test[0])
    assert_close(centred(ours.scores(test[0])), centred(theirs), **NEAR)


def test_prototypes_are_rows_with_a_mass():
    given_, test = made(2, prototypes=noisy_prototypes())
    ours = LogisticProbe(masses=[3.0]).fit(given_)
    x = np.concatenate([given_.x, given_.prototypes])
    labels = np.append(given_.labels, np.arange(10))
    mass = np.append(np.ones(20), np.full(10, 3.0))
    model = LogisticRegression(C=1 / ours.facts["penalty"], **TIGHT)
    theirs = model.fit(x, labels, sample_weight=mass)
    assert ours.facts["mix"] == 3.0
    assert_close(centred(ours.scores(test[0])), centred(theirs.decision_function(test[0])), **NEAR)


def test_two_classes_are_sklearns_too(monkeypatch):
    monkeypatch.setattr("fitters.few_shot.probes.STRENGTHS", (3.0,))
    (x, labels), (vx, vl), test = digits(5)
    few, held = labels < 2, vl < 2
    ours = LogisticProbe(steps=0).fit(Shots(x[few], labels[few], 2, None, vx[held], vl[held]))
    model = LogisticRegression(C=3.0, **TIGHT)
    theirs = model.fit(x[few], labels[few]).decision_function(test[0])
    scores = ours.scores(test[0])
    assert_close(scores[:, 1] - scores[:, 0], theirs, **NEAR)


@given(st.floats(-7.5, 7.5), st.floats(0.1, 3))
def test_the_search_finds_the_peak_of_a_curve_with_one(peak, sharpness):
    def value(c):
        return -sharpness * abs(np.log10(c) - peak)

    found = np.log10(search(value))
    assert abs(found - np.clip(peak, -7, 7)) <= 2**-7
    assert value(10**found) >= max(value(c) for c in STRENGTHS)


def test_of_equal_strengths_the_smaller_is_kept():
    assert search(lambda c: 1.0) == pytest.approx(1e-7, rel=0.02)

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from fitters.few_shot.learner import log_losses
from fitters.few_shot.probes import GDA, ClassMoments, fold_of, gaussian_weights
from tests.assertions import assert_close
from tests.fitters.few_shot.digits import made, noisy_prototypes, with_views


def covariance(rows, labels, n_classes):
    """The shrunk covariance from its definition, one row at a time."""
    means = np.stack([rows[labels == c].mean(axis=0) for c in range(n_classes)])
    scatter = sum(np.outer(x - means[y], x - means[y]) for x, y in zip(rows, labels, strict=True))
    scatter = scatter / (len(rows) - 1)
    return means, scatter + np.trace(scatter) / (len(rows) - 1) * np.eye(rows.shape[1])


@pytest.mark.parametrize("views", [False, True])
def test_scores_are_scipys_log_densities(views):
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


def test_prototypes_and_densities_are_added():
    shots, test = made(4, prototypes=noisy_prototypes())
    found = GDA(weights=[0.3], scale=20.0).fit(shots)
    alone = GDA().fit(replace(shots, prototypes=None))
    expected = 20.0 * test[0] @ shots.prototypes.T + 0.3 * alone.scores(test[0])
    assert_close(found.scores(test[0]), expected, "float32", times=100)
    assert found.facts == {"alpha": 0.3, "scale": 20.0, "folds": 5.0}


def test_the_weight_is_the_best_on_folds_that_are_left_out():
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


def test_a_class_without_rows_has_no_evidence_for_or_against_it():
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

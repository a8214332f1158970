import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.linear_model import Ridge
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import normalize

from fitters.errors import PairsError, SettingError, UnknownMethodError
from fitters.few_shot import LEARNERS, ClassMeans, RidgeProbe, Shots, learner_named
from fitters.few_shot.learner import reciprocal_rank, sum_by_class
from tests.assertions import assert_close


def digits(shots, *, seed=0, n_validation=4):
    """Shots, validation and test rows of scikit-learn's digits, centred, unit rows."""
    x, labels = load_digits(return_X_y=True)
    rows = normalize(x - x.mean(axis=0)).astype(np.float32)
    order = np.random.default_rng(seed).permutation(len(rows))
    place = np.zeros(len(rows), dtype=int)
    for c in range(10):
        own = order[labels[order] == c]
        place[own] = np.arange(len(own))
    parts = (place < shots, (place >= shots) & (place < shots + n_validation), place >= 20)
    return [(rows[part], labels[part].astype(np.int64)) for part in parts]


def made(shots, *, prototypes=None, seed=0, validation=True):
    (x, labels), (vx, vl), test = digits(shots, seed=seed)
    held = (vx, vl) if validation else (None, None)
    return Shots(x, labels, 10, prototypes, *held), test


def noisy_prototypes(seed=1, noise=0.1):
    x, labels = load_digits(return_X_y=True)
    rows = normalize(x - x.mean(axis=0))
    means = np.stack([rows[labels == c].mean(axis=0) for c in range(10)])
    drawn = np.random.default_rng(seed).normal(size=means.shape)
    return normalize(normalize(means) + noise * drawn).astype(np.float32)


def accuracy(classifier, test):
    return float((classifier.scores(test[0]).argmax(axis=1) == test[1]).mean())


def test_class_means_are_sklearns_nearest_centroid_by_cosine():
    shots, test = made(8)
    ours = ClassMeans().fit(shots)
    with warnings.catch_warnings():
        # It says that pixels of the border never vary.
        warnings.simplefilter("ignore", UserWarning)
        centroids = NearestCentroid().fit(shots.x, shots.labels).centroids_
    assert_close(ours.weight, normalize(centroids), "float32")
    np.testing.assert_array_equal(
        ours.scores(test[0]).argmax(axis=1), (test[0] @ normalize(centroids).T).argmax(axis=1)
    )
    assert accuracy(ours, test) > 0.8


@pytest.mark.parametrize("shots", [1, 4, 16])
@pytest.mark.parametrize("with_prototypes", [False, True])
def test_the_ridge_probe_is_sklearns_ridge_on_one_hot_labels(shots, with_prototypes):
    prototypes = noisy_prototypes() if with_prototypes else None
    given, test = made(shots, prototypes=prototypes)
    penalty, mass = 0.3, 4.0
    ours = RidgeProbe([penalty], [mass]).fit(given)
    x, labels, weight = given.x.astype(np.float64), given.labels, np.ones(len(given.x))
    if with_prototypes:
        x, labels = np.concatenate([x, prototypes]), np.concatenate([labels, np.arange(10)])
        weight = np.concatenate([weight, np.full(10, mass)])
    centred = x - weight @ x / weight.sum()
    alpha = penalty * np.sum(weight[:, None] * centred**2) / x.shape[1]
    theirs = Ridge(alpha=alpha).fit(x, np.eye(10)[labels], sample_weight=weight)
    # The classifier is handed out in float32.
    assert_close(ours.scores(test[0]), theirs.predict(test[0]), "float32", times=3)
    assert ours.facts == ({"penalty": penalty} | ({"mix": mass} if with_prototypes else {}))


def test_every_penalty_of_one_decomposition_is_that_penalty_alone():
    given, test = made(4)
    path = RidgeProbe([1e-3, 1.0, 1e3])
    alone = {p: RidgeProbe([p]).fit(given).scores(given.validation_x) for p in path.penalties}
    values = {p: reciprocal_rank(scores, given.validation_labels) for p, scores in alone.items()}
    best = max(values, key=lambda p: (round(values[p], 12), p))
    chosen = path.fit(given)
    assert chosen.facts["penalty"] == best
    assert_close(chosen.scores(test[0]), RidgeProbe([best]).fit(given).scores(test[0]), "float32")


@pytest.mark.parametrize("name", LEARNERS)
def test_choosing_on_validation_never_looks_at_more(name):
    given, test = made(2, prototypes=noisy_prototypes())
    assert accuracy(learner_named(name).fit(given), test) > 0.6
    blind, _ = made(2, prototypes=noisy_prototypes(), validation=False)
    facts = learner_named(name).fit(blind).facts
    assert set(facts.values()) == {1.0}


@pytest.mark.parametrize("name", LEARNERS)
def test_permuting_the_classes_permutes_the_predictions(name):
    prototypes = noisy_prototypes()
    given, test = made(3, prototypes=prototypes)
    order = np.random.default_rng(5).permutation(10)
    new = np.argsort(order)  # class c is now new[c]
    moved = Shots(
        given.x, new[given.labels], 10, prototypes[order],
        given.validation_x, new[given.validation_labels],
    )  # fmt: skip
    a = learner_named(name).fit(given).scores(test[0])
    b = learner_named(name).fit(moved).scores(test[0])
    assert_close(b, a[:, order], "float32", times=10)


@pytest.mark.parametrize("name", LEARNERS)
def test_no_shots_are_the_prototypes_ranking(name):
    prototypes = noisy_prototypes()
    empty = Shots(np.empty((0, 64), np.float32), np.empty(0, np.int64), 10, prototypes)
    _, test = made(1)
    scores = learner_named(name).fit(empty).scores(test[0])
    zero_shot = test[0] @ prototypes.T
    if name == "class-means":
        np.testing.assert_array_equal(scores, zero_shot)
    else:
        assert (scores.argmax(axis=1) == zero_shot.argmax(axis=1)).mean() > 0.9


def test_good_prototypes_help_and_bad_ones_are_weighed_down():
    def mean_of(prototypes):
        values = []
        for seed in range(4):
            given, test = made(1, prototypes=prototypes, seed=seed)
            values.append(accuracy(ClassMeans().fit(given), test))
        return np.mean(values)

    alone, good = mean_of(None), mean_of(noisy_prototypes())
    bad = mean_of(noisy_prototypes()[np.roll(np.arange(10), 1)])
    assert good > alone + 0.05
    assert bad > alone - 0.05


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(0, 30))
def test_class_sums_are_the_product_with_one_hot_labels(seed, n_classes, n):
    rng = np.random.default_rng(seed)
    rows, labels = rng.normal(size=(n, 3)), rng.integers(0, n_classes, n)
    expected = np.eye(n_classes)[labels].T @ rows
    np.testing.assert_allclose(sum_by_class(rows, labels, n_classes), expected, atol=1e-12)


def test_shots_that_do_not_fit_are_refused():
    x, labels = np.ones((2, 3), np.float32), np.array([0, 1])
    with pytest.raises(PairsError, match="numbers from 0 to 1"):
        Shots(x, np.array([0, 2]), 2)
    with pytest.raises(SettingError, match="1 of 3 classes have neither"):
        Shots(x, labels, 3)
    with pytest.raises(PairsError, match="Prototypes are 2 rows of 3 columns"):
        Shots(x, labels, 2, np.ones((3, 3), np.float32))
    with pytest.raises(UnknownMethodError, match="class-means, ridge-probe"):
        learner_named("tip")

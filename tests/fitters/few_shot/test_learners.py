import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax
from sklearn.linear_model import Ridge
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import normalize

from fitters import Pairs
from fitters.errors import PairsError, SettingError, UnknownMethodError
from fitters.few_shot import LEARNERS, learner_named
from fitters.few_shot.learner import (
    ClassMeans,
    Shots,
    likely_scale,
    reciprocal_rank,
    scale_of,
    starting_weights,
)
from fitters.few_shot.probes import ClassMoments, RanPAC, RidgeProbe, _Path, random_relu
from tests.assertions import assert_close, assert_same
from tests.fitters.few_shot.digits import accuracy, made, noisy_prototypes


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
    alpha = penalty * np.sum(weight[:, None] * (x - weight @ x / weight.sum()) ** 2) / x.shape[1]
    theirs = Ridge(alpha=alpha).fit(x, np.eye(10)[labels], sample_weight=weight)
    # The classifier is handed out in float32.
    assert_close(ours.scores(test[0]), theirs.predict(test[0]), "float32", times=3)
    assert ours.facts == ({"penalty": penalty} | ({"mix": mass} if with_prototypes else {}))


@pytest.mark.parametrize(
    ("name", "taken"),
    [("class-means", {"mix": 1.0}), ("ridge-probe", {"penalty": 1.0, "mix": 1.0}),
     ("logistic-probe", {"penalty": 1.0, "mix": 1.0}), ("tip-adapter", {"alpha": 1.17, "beta": 1})],
)  # fmt: skip
def test_without_validation_rows_nothing_is_chosen(name, taken):
    blind, _ = made(2, prototypes=noisy_prototypes(), validation=False)
    facts = LEARNERS[name]().fit(blind).facts
    assert {key: facts[key] for key in taken} == taken


#: Learners that choose by leaving shots out, and look at no validation row.
ON_SHOTS = ("ape", "gda", "proker", "rehark", "ranpac")


@pytest.mark.parametrize("name", ON_SHOTS)
def test_validation_rows_play_no_part(name):
    prototypes = noisy_prototypes(noise=0.3)
    (given, test), (blind, _) = (made(4, prototypes=prototypes, validation=v) for v in (1, 0))
    a, b = (LEARNERS[name]().fit(shots) for shots in (given, blind))
    assert_same(a.scores(test[0]), b.scores(test[0]))
    assert a.facts["folds"] > 0
    one, _ = made(1, prototypes=prototypes)
    assert LEARNERS[name]().fit(one).facts["folds"] == 0


def test_ranpac_is_sklearns_ridge_on_the_random_features():
    given, test = made(4, prototypes=noisy_prototypes())
    ours = RanPAC(width=150, penalties=[0.7]).fit(given)
    w = np.random.default_rng(0).standard_normal((64, 150), dtype=np.float32).astype(np.float64)
    x = np.concatenate([given.x, given.prototypes]).astype(np.float64)
    labels = np.concatenate([given.labels, np.arange(10)])
    h = np.maximum(x @ w, 0)
    theirs = Ridge(alpha=0.7 * np.mean(np.sum(h**2, axis=0)), fit_intercept=False)
    theirs.fit(h, np.eye(10)[labels])
    expected = theirs.predict(np.maximum(test[0].astype(np.float64) @ w, 0))
    assert_close(ours.scores(test[0]), expected, "float32", times=20)


def test_ranpac_chooses_by_rows_that_are_left_out():
    given, _ = made(3)
    learner = RanPAC(width=30, penalties=[0.1, 1.0, 10.0])
    h = random_relu(given.x, learner.projection(64)).astype(np.float64)
    unit, errors = np.mean(np.sum(h**2, axis=0)), []
    for penalty in learner.penalties:
        missing = []
        for i in range(30):
            rest = np.arange(30) != i
            fitted = Ridge(alpha=penalty * unit, fit_intercept=False)
            fitted.fit(h[rest], np.eye(10)[given.labels[rest]])
            missing.append(np.eye(10)[given.labels[i]] - fitted.predict(h[i : i + 1])[0])
        errors.append(np.mean(np.sum(np.square(missing), axis=1)))
    path = _Path(ClassMoments.of(h, given.labels, 10), centre=False)
    np.testing.assert_allclose(path.left_out(h, given.labels, learner.penalties), errors)
    assert learner.fit(given).facts["penalty"] == learner.penalties[int(np.argmin(errors))]


def test_many_validation_rows_are_looked_at_evenly(rng):
    texts = normalize(rng.normal(size=(8192, 2))).astype(np.float32)
    x, labels = texts[:320], np.arange(320)
    found, own = Shots(x[:0], labels[:0], 8192, texts, x, labels).validation
    # 2 ** 18 scores would be 32 rows; 64 are the least.
    assert own.tolist() == list(range(0, 320, 5))
    assert_same(found, x[::5])
    labels = np.where(labels == 319, 8192, labels)
    with pytest.raises(PairsError, match="from 0 to 8191"):
        Shots(x[:0], labels[:0], 8192, texts, x, labels)


def test_moments_are_those_of_all_blocks(rng):
    rows, labels = rng.normal(size=(5000, 3)), rng.integers(4, size=5000)
    found = ClassMoments.of(rows, labels, 5)
    np.testing.assert_allclose(found.products, rows.T @ rows)
    np.testing.assert_allclose(found.sums, np.eye(5)[labels].T @ rows, atol=1e-12)


def test_shots_that_do_not_fit_are_refused():
    x, labels = np.ones((2, 3), np.float32), np.array([0, 1])
    with pytest.raises(PairsError, match="numbers from 0 to 1"):
        Shots(x, np.array([0, 2]), 2)
    with pytest.raises(SettingError, match=r"1 of 3 classes have neither .* Give every class a"):
        Shots(x, labels, 3)
    views = [np.ones((2, 4)), np.ones((3, 2, 3)), np.ones((2, 0, 3)), np.ones((2, 2, 4))]
    for wrong in (
        *({"views": own} for own in views), {"lengths": np.ones(3)}, {"texts": np.ones((3, 5))},
        {"head": Pairs(np.ones((4, 5)), np.ones((4, 6)))}, {"prototypes": np.ones((3, 3))},
    ):  # fmt: skip
        with pytest.raises(PairsError, match=f"(?i){next(iter(wrong))}.*; got shape"):
            Shots(x, labels, 2, **wrong)
    with pytest.raises(UnknownMethodError, match="Did you mean 'tip-adapter'"):
        learner_named("tip-adaptor")


def test_means_of_views_weigh_them_by_their_length():
    views = np.array([[[3.0, 0.0], [0.0, 4.0]], [[0.0, 2.0], [0.0, 6.0]]], np.float32)
    x = np.eye(2, dtype=np.float32)
    shots = Shots(x, np.array([0, 1]), 2, views=views)
    assert_close(shots.mean_views, [[0.6, 0.8], [0.0, 1.0]], "float32")
    rows, labels = shots.unit_views
    assert_close(rows, [[1, 0], [0, 1], [0, 1], [0, 1]], "float32")
    assert labels.tolist() == [0, 0, 1, 1]
    assert Shots(x, np.array([0, 1]), 2).mean_views is x


def test_the_rank_is_among_classes_that_have_rows():
    scores = np.array([[3.0, 2.0, 9.0], [1.0, 2.0, 9.0], [5.0, 5.0, 0.0]])
    # Nothing is of class 2, so that it outranks nobody; a tie counts against.
    assert reciprocal_rank(scores, np.array([0, 1, 1])) == pytest.approx((1 + 1 + 1 / 2) / 3)
    assert reciprocal_rank(scores, np.array([0, 2, 1])) == pytest.approx((1 / 2 + 1 + 1 / 2) / 3)


@given(st.integers(0, 2**32 - 1), st.floats(3, 200))
def test_the_scale_that_labels_were_drawn_by_is_found(seed, scale):
    rng = np.random.default_rng(seed)
    cosines = rng.uniform(-1, 1, size=(4000, 5)) * 10 / scale
    logits = scale * cosines
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    assert abs(np.log(likely_scale(cosines, labels) / scale)) < 0.15


def _scale_by_hand(x, weights, labels):
    """Return the likeliest of 700 factors from 1 to 1,000, each 1 % above the one before."""
    scales, rows = np.geomspace(1, 1000, 700), np.arange(len(labels))
    logs = [log_softmax(scale * x @ weights.T, axis=1)[rows, labels].sum() for scale in scales]
    return scales[np.argmax(logs)]


def test_only_rows_that_the_weights_were_not_made_of_count():
    prototypes = noisy_prototypes()
    given_, _ = made(3, prototypes=prototypes)
    x = np.concatenate([given_.x, given_.validation_x])
    labels = np.concatenate([given_.labels, given_.validation_labels])
    by_all_rows = _scale_by_hand(x, prototypes, labels)
    assert scale_of(given_, prototypes) == pytest.approx(by_all_rows, 0.01)
    alone, _ = made(3)
    means = starting_weights(alone)
    by_validation_rows = _scale_by_hand(alone.validation_x, means, alone.validation_labels)
    assert scale_of(alone, means) == pytest.approx(by_validation_rows, 0.01)
    assert scale_of(Shots(alone.x, alone.labels, 10), means) == 100.0
    assert scale_of(given_, prototypes, 30.0) == 30.0

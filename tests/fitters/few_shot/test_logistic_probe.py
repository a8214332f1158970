import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from fitters.few_shot.learner import Shots
from fitters.few_shot.probes import STRENGTHS, LogisticProbe, search
from tests.assertions import assert_close
from tests.fitters.few_shot.digits import digits, made, noisy_prototypes

# L-BFGS stops by its gradient, on both sides.
NEAR = {"dtype": "float32", "times": 100}
TIGHT = {"max_iter": 1000, "tol": 1e-8}


def centred(scores):
    return scores - scores.mean(axis=1, keepdims=True)


@pytest.mark.parametrize(("shots", "uneven"), [(2, False), (12, False), (6, True)])
def test_it_is_sklearns_regression_at_the_c_that_it_chose_and_classes_weigh_alike(shots, uneven):
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
    shots = Shots(x[few], labels[few], 2, None, vx[held], vl[held])
    ours = LogisticProbe(steps=0).fit(shots)
    model = LogisticRegression(C=3.0, **TIGHT)
    theirs = model.fit(x[few], labels[few]).decision_function(test[0])
    scores = ours.scores(test[0])
    assert_close(scores[:, 1] - scores[:, 0], theirs, **NEAR)


@given(st.floats(-7.5, 7.5), st.floats(0.1, 3))
def test_the_search_finds_the_peak_of_a_curve_with_one(peak, sharpness):
    def value(c):
        return -sharpness * abs(np.log10(c) - peak)

    found = np.log10(search(value))
    nearest = np.clip(peak, -7, 7)
    assert abs(found - nearest) <= 2**-7
    assert value(10**found) >= max(value(c) for c in STRENGTHS)


def test_of_equal_strengths_the_smaller_is_kept():
    assert search(lambda c: 1.0) == pytest.approx(1e-7, rel=0.02)

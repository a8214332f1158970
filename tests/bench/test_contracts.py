"""What `headstock check` says: of the package's own things, and of things that are broken in one way."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from sklearn.base import BaseEstimator

from bench.contracts import AlignerContract, LearnerContract
from fitters.few_shot import LogisticProbe
from fitters.few_shot.cross_modal import CrossModal
from fitters.few_shot.learner import LinearClassifier
from fitters.few_shot.paper_few_shot import PaperFewShot
from fitters.few_shot.registry import LEARNERS
from fitters.few_shot.tip_adapter import TipAdapterF
from fitters.methods import METHODS, Method, PRESETS
from fitters.trained.presets import preset


class Plain:
    """Ridge regression from texts to images, by itself."""

    def __init__(self, alpha=0.1):
        self.alpha = alpha

    def fit(self, X, y, sample_weight=None):
        weight = np.ones(len(X)) if sample_weight is None else sample_weight
        gram = (y.T * weight) @ y
        self.coef_ = np.linalg.solve(
            gram + self.alpha * np.trace(gram) / len(gram) * np.eye(len(gram)), (y.T * weight) @ X
        )
        return self

    def project_x(self, x):
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    def project_y(self, y):
        return self.project_x(y @ self.coef_)


class ReturnsNothing(Plain):
    def fit(self, X, y, sample_weight=None):
        super().fit(X, y, sample_weight)


class Raises(Plain):
    def fit(self, X, y, sample_weight=None):
        raise ZeroDivisionError("division by zero")


class ChangesParameter(Plain):
    def __init__(self, alpha=0.1):
        self.alpha = 2 * alpha


class WritesIntoRows(Plain):
    def fit(self, X, y, sample_weight=None):
        X *= 2
        return super().fit(X, y, sample_weight)


class CentresByTheBatch(Plain):
    def project_x(self, x):
        return super().project_x(x - x.mean(axis=0) + 1e-9)


class Draws(Plain):
    def fit(self, X, y, sample_weight=None):
        super().fit(X, y, sample_weight)
        self.coef_ += 1e-2 * np.random.default_rng().standard_normal(self.coef_.shape)
        return self


class LooksAtTheOrder(Plain):
    def fit(self, X, y, sample_weight=None):
        super().fit(X, y, sample_weight)
        self.coef_ += 0.1 * y[:1].T @ X[:1]
        return self


class IgnoresWeights(Plain):
    def fit(self, X, y, sample_weight=None):
        return super().fit(X, y)


class CutsColumns(Plain):
    def project_y(self, y):
        return super().project_y(y[:, : len(self.coef_)])


class DividesByTheSpread(Plain):
    def fit(self, X, y, sample_weight=None):
        self.scale_ = 1 / np.ptp(y, axis=0)
        return super().fit(X, y * self.scale_, sample_weight)

    def project_y(self, y):
        return super().project_y(y * self.scale_)


class RaisesOnFew(Plain):
    def fit(self, X, y, sample_weight=None):
        self.second_ = float(X[1, 0])
        return super().fit(X, y, sample_weight)


class TakesOneSideForTheOther(Plain):
    def project_y(self, y):
        return super().project_y(y)[:, ::-1]


class RemembersAnEarlierFit(Plain):
    known: dict = {}

    def fit(self, X, y, sample_weight=None):
        super().fit(X, y, sample_weight)
        self.coef_ = self.known.setdefault((X.shape[1], y.shape[1]), self.coef_)
        return self


class KeepsAList(Plain):
    def fit(self, X, y, sample_weight=None):
        self.names_ = ["a", "b"]
        return super().fit(X, y, sample_weight)


class KeepsALambda(Plain):
    def fit(self, X, y, sample_weight=None):
        self.after = lambda rows: rows
        return super().fit(X, y, sample_weight)


class LongRows(Plain):
    def project_x(self, x):
        return 2 * x


class TwoSpaces(Plain):
    def project_y(self, y):
        return super().project_y(y)[:, :5]


class OtherMoments(Plain):
    def fit_moments(self, moments):
        self.coef_ = np.ones((len(moments.mean_y), len(moments.mean_x)))
        return self


BROKEN = {
    ReturnsNothing: ("fit", "Expected fit to return self; it returned NoneType."),
    Raises: ("fit", "ZeroDivisionError: division by zero (test_contracts.py, line "),
    ChangesParameter: ("parameters", "a copy has another alpha"),
    WritesIntoRows: ("inputs", "Expected X unchanged; 960 of 960 values are others."),
    CentresByTheBatch: ("rows", "if rows are projected one by one"),
    Draws: ("determinism", "make `seed` a parameter"),
    LooksAtTheOrder: ("order", "if the pairs come in another order"),
    IgnoresWeights: ("weights", "between weights and repeated pairs"),
    CutsColumns: ("widths", "Expected a ValueError for y of 10 columns after a fit on 9"),
    DividesByTheSpread: ("small data", "Expected finite rows for one pair, or a ValueError"),
    RaisesOnFew: ("small data", "IndexError: index 1 is out of bounds for axis 0 with size 1 for one pair; expected"),
    TakesOneSideForTheOther: ("planted pairs", "of 60 held-out images to find their text"),
    RemembersAnEarlierFit: ("controls", "after fits on the control 'random'"),
    KeepsAList: ("saved", "KeepsAList.names_ is of type list"),
    KeepsALambda: ("pickled", "pickle"),
    LongRows: ("projections", "Expected rows of length 1"),
    TwoSpaces: ("projections", "project_x gives 12 columns, project_y 5"),
    OtherMoments: ("moments", "between rows and their moments"),
}
#: What cannot be kept where the one is broken.
WITH_IT = {
    Draws: {"order", "scale", "weights"},
    TwoSpaces: None,
    OtherMoments: {"planted pairs"},
}


@pytest.fixture
def checked():
    """Return what checks an aligner that is registered for the test alone."""
    before = dict(METHODS)

    def check(made, contract=AlignerContract):
        METHODS["checked"] = made if isinstance(made, Method) else Method(made)
        return {found.name: found for found in contract("checked").findings()}

    yield check
    for name in set(METHODS) - set(before):
        del METHODS[name]


def broken(findings):
    return {name for name, found in findings.items() if not found.kept}


@pytest.mark.parametrize("cls", BROKEN, ids=lambda cls: cls.__name__)
def test_what_is_broken_is_found_and_named(cls, checked):
    findings, (promise, said) = checked(cls), BROKEN[cls]
    assert said in findings[promise].text
    more = WITH_IT.get(cls, set())
    assert more is None or broken(findings) == {promise} | more
    if promise == "fit":
        assert list(findings) == ["fit"]
        assert "The other 17 checks need this one" in findings["fit"].text


def test_one_that_keeps_all_promises(checked):
    findings = checked(Plain)
    assert broken(findings) == set()
    assert findings["planted pairs"].text == "60 of 60 held-out images find their text."
    assert "no BaseEstimator" in findings["scikit learn"].text
    assert "NaN" in findings["missing values"].text

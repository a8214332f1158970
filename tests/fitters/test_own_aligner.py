"""An aligner of anyone's: one file of an installed package, and nothing edited here."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from featstore.plugins import register
from fitters import Alignment, FitConfig, load
from fitters.aligners.ridge import RidgeAligner
from fitters.errors import AlignmentWriteError, SettingError
from fitters.methods import METHODS
from tests.assertions import assert_close, assert_same
from tests.shorthand import save_alignment


def ridge_matrices(x, y, weight, alpha=0.1):
    """Ridge from texts to images, as two matrices."""
    gram = (y.T * weight) @ y
    gram += alpha * np.trace(gram) / len(gram) * np.eye(len(gram))
    return np.eye(x.shape[1]), np.linalg.solve(gram, (y.T * weight) @ x)


class Plain:
    """The same, as a class that has nothing of fitters."""

    def __init__(self, alpha=0.1):
        self.alpha = alpha

    def fit(self, X, y, sample_weight=None):
        weight = np.ones(len(X)) if sample_weight is None else sample_weight
        self.coef_ = ridge_matrices(X, y, weight, self.alpha)[1]
        self.mass_ = float(weight.sum())
        return self

    def project_x(self, x):
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    def project_y(self, y):
        return self.project_x(y @ self.coef_)


@pytest.fixture
def plain(no_plugins):
    register("aligner", "plain", Plain)


def as_ridge(method, head, real, choice):
    """Return the rows that a method of one's own is fitted on, and our ridge of its choice."""
    sources = METHODS[method].sources(FitConfig(method), prototypes=head, real=real)
    x, y = (
        np.vstack([getattr(sources.prototypes, side), getattr(sources.real, side)]) for side in "xy"
    )
    mass = np.repeat([choice["mix"], 1.0], [head.n, real.n])
    return x, y, RidgeAligner(alpha=choice["penalty"], center=False).fit(x, y, mass)


def test_it_is_fitted_and_tuned_as_a_ridge_is(plain, make_world, tmp_path):
    head, real = make_world()
    ours, theirs = (
        Alignment(method).fit(real.x, real.y, groups=real.groups, prototypes=head)
        for method in ("ridge-both", "plain")
    )
    choice = theirs.facts["choice"]
    assert choice["n_folds"] == ours.facts["choice"]["n_folds"]
    assert isinstance(theirs.aligner, Plain)
    *_, ridge = as_ridge("plain", head, real, choice)
    assert_close(theirs.aligner.coef_, ridge.coef_, times=10)
    again = load(save_alignment(tmp_path / "a", theirs))
    assert_same(again.project_y(real.y), theirs.project_y(real.y))
    assert again.aligner.mass_ == theirs.aligner.mass_


def test_a_saved_one_says_how_it_is_registered(plain, make_world, tmp_path):
    head, _ = make_world()
    made = Alignment("plain").fit(None, None, prototypes=head)
    for facts in (None, {}, {"method": "ridge"}):
        with pytest.raises(AlignmentWriteError, match=r"give facts=\{'method': NAME\}"):
            save_alignment(tmp_path / "a", Alignment.of(made.x, made.y, made.aligner, facts))
    named = Alignment.of(made.x, made.y, made.aligner, {"method": "plain"})
    assert_same(load(save_alignment(tmp_path / "a", named)).aligner.coef_, made.aligner.coef_)


def test_a_function_that_returns_two_matrices_is_a_ridge(no_plugins, make_world, tmp_path):
    register("aligner", "matrices", ridge_matrices, title="Matrices")
    method = METHODS["matrices"]
    assert (method.options, method.label) == (("penalty", "mix"), "Matrices")
    assert method.text == "Ridge from texts to images, as two matrices."
    head, real = make_world()
    theirs = Alignment("matrices").fit(real.x, real.y, groups=real.groups, prototypes=head)
    choice = theirs.facts["choice"]
    x, y, ridge = as_ridge("matrices", head, real, choice)
    assert_close(theirs.aligner.b_, ridge.coef_, times=10)
    assert_close(theirs.aligner.project_y(y), ridge.project_y(y), times=10)
    # Row by row: the dot product of what both matrices give, over both lengths.
    i, j = 3, 5
    a, b = x[i] @ theirs.aligner.a_, y[j] @ theirs.aligner.b_
    cosine = sum(p * q for p, q in zip(a, b, strict=True)) / (sum(a**2) * sum(b**2)) ** 0.5
    scored = theirs.aligner.project_x(x)[i] @ theirs.aligner.project_y(y)[j]
    assert scored == pytest.approx(cosine)
    assert_same(theirs.aligner.project_x(np.zeros((1, x.shape[1]))), np.zeros((1, x.shape[1])))
    for again in (load(save_alignment(tmp_path / "a", theirs)), pickle.loads(pickle.dumps(theirs))):
        assert_same(again.project_y(real.y), theirs.project_y(real.y))
        assert again.aligner.alpha == choice["penalty"]


class Kept(Plain):
    """An aligner that calls its arrays what it likes."""

    arrays = ("_shift",)

    def fit(self, X, y):
        self._shift = X.mean(0) - y.mean(0)
        return self

    def project_y(self, y):
        return self.project_x(y + self._shift)


class Lost(Kept):
    arrays = ()


class Forgetful(Kept):
    def __init__(self, alpha=0.1):
        self.alphas = [alpha]


def test_arrays_are_saved_by_the_names_that_a_class_gives(no_plugins, tmp_path):
    for name, made in (("kept", Kept), ("lost", Lost), ("forgetful", Forgetful)):
        register("aligner", name, made)
    x, y = np.eye(4) + 0.1, np.eye(4) + 0.2
    kept = Alignment("kept").fit(x, y)
    assert_same(load(save_alignment(tmp_path / "a", kept)).project_y(y), kept.project_y(y))
    with pytest.raises(AlignmentWriteError, match=r"Lost\._shift .* arrays = \('_shift',\)"):
        save_alignment(tmp_path / "b", Alignment("lost").fit(x, y))
    with pytest.raises(SettingError, match=r"Forgetful does not keep .* Write self\.alpha = alpha"):
        save_alignment(tmp_path / "c", Alignment("forgetful").fit(x, y))

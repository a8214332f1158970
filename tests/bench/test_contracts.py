"""What `headstock check` says of our own things, and of others that are broken in one way."""

from __future__ import annotations

import json
from functools import partial
from itertools import count
from typing import ClassVar

import numpy as np
import pytest

from bench.contracts import AlignerContract, contract_of
from bench.options import TASKS
from featstore.command_line import run_command
from featstore.images import Geometry
from featstore.plugins import registry_of
from fitters.aligners.rotations import MiniVec2VecAligner
from fitters.few_shot import LEARNERS
from fitters.few_shot.descent import CrossModal
from fitters.few_shot.learner import LinearClassifier, sum_by_class
from fitters.few_shot.probes import LogisticProbe, RanPAC
from fitters.methods import METHODS, Method
from fitters.trained import PRESETS
from headstock.__main__ import cli
from tests.fitters.test_own_aligner import Plain, ridge_matrices


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


#: Goes on from call to call: no two draw alike, and a run of the tests draws as the one before.
DRAWN = np.random.default_rng(7)


class Draws(Plain):
    def fit(self, X, y, sample_weight=None):
        super().fit(X, y, sample_weight)
        self.coef_ += 1e-2 * DRAWN.standard_normal(self.coef_.shape)
        return self


class LooksAtTheOrder(Plain):
    def fit(self, X, y, sample_weight=None):
        super().fit(X, y, sample_weight)
        self.coef_ += 0.1 * y[:1].T @ X[:1]
        return self


class IgnoresWeights(Plain):
    def fit(self, X, y, sample_weight=None):
        return super().fit(X, y)


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
    known: ClassVar[dict] = {}

    def fit(self, X, y, sample_weight=None):
        super().fit(X, y, sample_weight)
        self.coef_ = self.known.setdefault((X.shape[1], y.shape[1]), self.coef_)
        return self


class KeepsAList(Plain):
    def fit(self, X, y, sample_weight=None):
        self.names_ = ["a", "b"]
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
    ChangesParameter: ("parameters", "alpha is missing or changed. Write self.NAME = NAME"),
    WritesIntoRows: ("inputs", "Expected X unchanged; 960 of 960 values are others."),
    CentresByTheBatch: ("rows", "if rows are projected one by one"),
    Draws: ("determinism", "make `seed` a parameter"),
    LooksAtTheOrder: ("order", "if the pairs come in another order"),
    IgnoresWeights: ("weights", "between weights and repeated pairs"),
    DividesByTheSpread: ("small data", "Expected finite rows for one pair, or a ValueError"),
    RaisesOnFew: (
        "small data",
        "IndexError: index 1 is out of bounds for axis 0 with size 1 for one pair; expected",
    ),
    TakesOneSideForTheOther: ("planted pairs", "of 60 held-out images to find their text"),
    RemembersAnEarlierFit: ("controls", "after fits on the control 'random'"),
    KeepsAList: ("saved", "KeepsAList.names_ is of type list"),
    LongRows: ("projections", "Expected rows of length 1"),
    TwoSpaces: ("projections", "project_x gives 12 columns, project_y 5"),
    OtherMoments: ("moments", "between rows and their moments"),
}
#: What cannot be kept where the one is broken.
WITH_IT = {Draws: {"order", "weights"}, TwoSpaces: None, OtherMoments: {"planted pairs"}}


def findings_of(contract):
    return {found.name: found for found in contract.findings()}


def broken(findings):
    return {name for name, found in findings.items() if found.kept is False}


@pytest.fixture
def check():
    """Return what checks a thing that is registered for the test alone."""
    added = []

    def check(kind, thing, **more):
        registry_of(kind).add("checked", thing, origin="test")
        added.append(kind)
        name = "checked:a" if kind == "encoder" else "checked"
        return findings_of(contract_of(kind, name, **more))

    yield check
    for kind in set(added):
        del registry_of(kind)["checked"]


@pytest.mark.parametrize("cls", BROKEN, ids=lambda cls: cls.__name__)
def test_what_is_broken_is_found_and_named(cls, check):
    findings, (promise, said) = check("aligner", cls), BROKEN[cls]
    assert said in findings[promise].text
    more = WITH_IT.get(cls, set())
    assert more is None or broken(findings) == {promise} | more
    if promise == "fit":
        assert list(findings) == ["fit"]
        assert "The other 12 checks need this one" in findings["fit"].text


@pytest.mark.parametrize("made", [Plain, ridge_matrices, partial(Plain, alpha=1.0)])
def test_one_that_keeps_all_promises(made, check):
    findings = check("aligner", made)
    assert broken(findings) == set()
    assert findings["planted pairs"].text == "60 of 60 held-out images find their text."


#: Floors: they find nothing of a planted map, and chance is what is expected of them.
FLOORS = {"mean-shift": {"planted pairs"}, "mini-vec2vec": {"planted pairs"}}
QUICK = [name for name in METHODS.built_in if name not in (*PRESETS, "mini-vec2vec")]


@pytest.mark.parametrize("name", QUICK)
def test_our_own_aligners_keep_them(name):
    assert broken(findings_of(contract_of("aligner", name))) == FLOORS.get(name, set())


def test_a_floor_of_few_rounds_keeps_the_rest(check):
    quick = Method(partial(MiniVec2VecAligner, rounds=1, refinements=0, center=False))
    assert broken(check("aligner", quick)) == FLOORS["mini-vec2vec"]


#: Every learner, some in small, but for two whose training takes 5 seconds and more.
LEARNED = {
    **LEARNERS.built_in,
    "logistic-probe": partial(LogisticProbe, steps=0, masses=(1.0,)),
    "cross-modal": partial(CrossModal, steps=5, learning_rates=(1e-3,)),
    "ranpac": partial(RanPAC, width=200),
}
del LEARNED["tip-adapter-f"], LEARNED["paper-few-shot"]


@pytest.mark.parametrize("name", LEARNED)
def test_our_own_learners_keep_them(name, check, monkeypatch):
    # Two strengths of seven: each is a descent to its end.
    monkeypatch.setattr("fitters.few_shot.probes.STRENGTHS", (1e-2, 1e2))
    assert broken(check("learner", LEARNED[name])) == set()


class Means:
    """The nearest class mean."""

    def fit(self, shots):
        rows = self.rows(shots)
        return LinearClassifier(rows.astype(np.float32), np.zeros(len(rows), np.float32))

    def rows(self, shots):
        return sum_by_class(shots.x, shots.labels, shots.n_classes) + shots.prototypes


class NeedsEveryClass(Means):
    def rows(self, shots):
        return super().rows(shots) / np.bincount(shots.labels, minlength=shots.n_classes)[:, None]


class Numbers(Means):
    def rows(self, shots):
        return super().rows(shots) + 3.0 * (np.arange(shots.n_classes) == 0)[:, None]


class FirstShots(Means):
    def rows(self, shots):
        return shots.x[: shots.n_classes].astype(float)


class WritesShots(Means):
    def rows(self, shots):
        shots.x[:] = shots.x / 2
        return super().rows(shots)


class Knows(Means):
    """Knows the classes of the check."""

    def rows(self, shots):
        return np.random.default_rng([0, 0]).standard_normal((shots.n_classes, 16))


BROKEN_LEARNERS = {
    NeedsEveryClass: ("no shots", "Expected finite scores"),
    Numbers: ("classes", "if the classes are numbered otherwise"),
    FirstShots: ("order", "if the shots come in another order"),
    WritesShots: ("inputs", "Expected x unchanged; 384 of 384 values are others."),
    Knows: ("controls", "What it finds is not in the shots."),
}


@pytest.mark.parametrize("cls", BROKEN_LEARNERS, ids=lambda cls: cls.__name__)
def test_a_broken_learner_is_found_and_named(cls, check):
    promise, said = BROKEN_LEARNERS[cls]
    assert said in check("learner", cls)[promise].text


@pytest.mark.parametrize("name", TASKS.built_in)
def test_our_own_tasks_keep_them(name):
    assert broken(findings_of(contract_of("task", name))) == set()


def share_of_first(alignment, corpus):
    """Return whether the first image finds its name."""
    scores = alignment.project_x(corpus.images.rows) @ alignment.project_y(corpus.names.rows).T
    return {"first-found": float(scores[0].argmax() == 0)}


def near_names(alignment, corpus):
    """Return the cosine of every image with the name of its class, from 0 to 1."""
    names = corpus.names.rows[corpus.names.places_of(corpus.images.classes)]
    cosines = alignment.project_x(corpus.images.rows) * alignment.project_y(names)
    return {"near": (1 + cosines.sum(axis=1).clip(-1, 1)) / 2}


def beyond(alignment, corpus):
    """Return what is no share."""
    return {"beyond": 3.0}


def test_tasks_of_ones_own(check):
    good = check("task", near_names)
    assert broken(good) == set()
    assert good["score"].text.startswith("checked near 0.9")
    assert "first-found from" in check("task", share_of_first)["order"].text
    assert "lies between 3 and 3" in check("task", beyond)["score"].text


class Grid:
    """Colours of a grid of 4 × 4."""

    kinds = frozenset({"image"})

    def __init__(self, name, options):
        self.name, self.dim, self.batch_size, self.facts = name, 48, 8, {}
        self.space = {"family": "checked", "grid": 4}

    def prepare(self, item):
        return np.asarray(item.resize((4, 4)), dtype=np.float32).ravel()

    def encode(self, batch):
        return np.stack(batch)


class Padded(Grid):
    def encode(self, batch):
        return super().encode(batch) - np.mean(batch, axis=0)


class Random(Grid):
    def encode(self, batch):
        return super().encode(batch) + DRAWN.standard_normal((len(batch), 48))


class Times(Grid):
    def __init__(self, name, options):
        super().__init__(name, options)
        self.space["opened"] = next(OPENED)


class Wide(Grid):
    def __init__(self, name, options):
        super().__init__(name, options)
        self.dim = 47


class Elsewhere(Grid):
    geometry = Geometry((4,), (4, 4), "BICUBIC")


class Fragile(Grid):
    def prepare(self, item):
        return super().prepare(item.crop((0, 0, 2, 2))) if item.width > 1 else [][0]


OPENED = count()
ENCODERS = {
    Padded: ("batches", "Expected the same rows for items one by one; one moves by"),
    Random: ("rows", "got float64"),
    Times: ("space", "the ids differ"),
    Wide: ("rows", "Expected float32 of shape (15, 47); got float32 of shape (15, 48)."),
    Elsewhere: ("threads", "Expected prepare to return what `geometry` makes of a picture"),
    Fragile: ("rows", "IndexError: list index out of range (test_contracts.py, line "),
}


def test_encoders(check):
    assert broken(check("encoder", Grid)) == set()
    for cls, (promise, said) in ENCODERS.items():
        assert said in check("encoder", cls)[promise].text


def test_the_command_prints_a_line_a_check_and_exits_by_them(tmp_path, capfd, no_plugins):
    file = tmp_path / "mine_to_check.py"
    file.write_text(
        "def bad(x, y):\n    'Nothing.'\n    return x, y\n\n\n"
        "def good(x, y):\n    'Everything.'\n    import numpy as np\n"
        "    return np.linalg.lstsq(x, y, rcond=None)[0], np.eye(y.shape[1])\n"
    )
    assert run_command(cli, "headstock", ["check", "aligner", f"{file}:bad"]) == 4
    out = capfd.readouterr().out
    assert out.startswith("✗ fit: PairsError: bad must return two finite matrices")
    assert run_command(cli, "headstock", ["check", "aligner", f"{file}:good", "--json"]) == 0
    checks = json.loads(capfd.readouterr().out)["checks"]
    assert {one["name"] for one in checks if one["kept"] is None} == {"weights", "moments"}
    assert [one["name"] for one in checks] == list(AlignerContract.promises())
    assert run_command(cli, "headstock", ["check", "aligner", f"{file}:missing"]) == 1
    assert "has no attribute 'missing'" in capfd.readouterr().err
    assert run_command(cli, "headstock", ["check", "aligner", "rigde"]) == 2
    assert "Did you mean 'ridge'" in capfd.readouterr().err

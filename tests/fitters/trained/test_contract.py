"""scikit-learn's contract; what is not kept is listed with its reason."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks

from fitters import ICISAligner, MLPAligner, PairLoss, Schedule, TrainedHead, preset

ESTIMATORS = [
    MLPAligner.of("paper", width=8, epochs=2),
    MLPAligner.of("linear", "x->y", loss="mse", epochs=2, precision="float32"),
    ICISAligner(8, epochs=2),
]


@parametrize_with_checks(ESTIMATORS)
def test_scikit_learns_contract(estimator, check):
    check(estimator)


def test_parameters_of_the_groups_are_nested():
    aligner = MLPAligner("both", loss=PairLoss("infonce"), schedule=Schedule(epochs=2, clip=1.0))
    params = aligner.get_params(deep=True)
    assert params["loss__name"] == "infonce"
    assert params["schedule__clip"] == 1.0
    assert params["head__architecture"] == "paper"
    aligner.set_params(loss__temperature=0.2, head=TrainedHead("linear"))
    assert (aligner.loss.temperature, aligner.head.architecture) == (0.2, "linear")
    assert MLPAligner().loss.temperature == 0.07
    aligner.set_params(loss__temperature=0.3, loss=PairLoss("siglip"))
    assert (aligner.loss.name, aligner.loss.temperature) == ("siglip", 0.3)
    assert aligner.set_params(loss=None).get_params()["loss"] is None
    copied = clone(aligner)
    assert copied.plain_params() == aligner.plain_params()
    assert copied.loss is not aligner.loss
    with pytest.raises(ValueError, match="The 'temperature' parameter of PairLoss must be"):
        aligner.set_params(loss__temperature=-1).fit([[1.0, 2.0]] * 4, [[1.0, 2.0]] * 4)


def test_parameters_side_by_side():
    aligner = preset("sail", seed=3)
    plain = aligner.plain_params()
    assert (plain["loss"], plain["schedule"], plain["architecture"]) == ("siglip", "cosine", "sail")
    assert MLPAligner.of(**plain).plain_params() == plain
    assert aligner.batch_size == aligner.schedule.batch_size == 32768
    with pytest.raises(AttributeError, match="has no attribute 'batch'"):
        aligner.batch  # noqa: B018
    with pytest.raises(TypeError, match="epoch"):
        MLPAligner.of(epoch=3)


def mean_cosine(made, x, y):
    return float(np.sum(made.project_x(x) * made.project_y(y), axis=1).mean())


def test_a_search_varies_a_nested_parameter(rng):
    y = rng.standard_normal((40, 5))
    x = y @ rng.standard_normal((5, 8))
    tried = MLPAligner.of("linear", "x->y", loss="mse", batch_size=40, epochs=30)
    grid = {"schedule__learning_rate": [1e-9, 0.05]}
    found = GridSearchCV(tried, grid, cv=2, scoring=mean_cosine).fit(x, y)
    assert found.best_params_ == {"schedule__learning_rate": 0.05}

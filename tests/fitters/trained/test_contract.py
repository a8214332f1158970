"""scikit-learn's contract; what is not kept is listed with its reason."""

import pytest
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from fitters import ICISAligner, MLPAligner, preset

ESTIMATORS = [
    MLPAligner("paper", width=8, epochs=2),
    MLPAligner("linear", "x->y", loss="mse", epochs=2, precision="float32"),
    ICISAligner(8, epochs=2),
]


@parametrize_with_checks(ESTIMATORS)
def test_scikit_learns_contract(estimator, check):
    check(estimator)


def test_parameters_are_plain_values():
    aligner = preset("sail", seed=3)
    plain = aligner.get_params()
    assert (plain["loss"], plain["schedule"], plain["architecture"]) == ("siglip", "cosine", "sail")
    assert MLPAligner(**plain).get_params() == clone(aligner).get_params() == plain
    assert aligner.set_params(temperature=0.2).temperature == 0.2
    with pytest.raises(ValueError, match="The 'temperature' parameter of MLPAligner must be"):
        aligner.set_params(temperature=-1).fit([[1.0, 2.0]] * 4, [[1.0, 2.0]] * 4)
    with pytest.raises(TypeError, match="epoch"):
        MLPAligner(epoch=3)

"""The estimator of the whole protocol."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from fitters import Alignment, FitConfig, fit_alignment, read_alignment, save_alignment
from fitters.errors import SettingError
from tests.assertions import assert_same


@pytest.mark.parametrize("method", ["ridge", "procrustes", "kernel-ridge", "cca", "asif", "conse"])
def test_it_is_fitted_as_fit_alignment_does_and_saved(method, make_world, tmp_path):
    head, real = make_world()
    weight = np.linspace(0.5, 1, real.n)
    made = Alignment(method, seed=3).fit(
        real.x, real.y, weight, groups=real.groups, prototypes=head
    )
    same = fit_alignment(
        method, prototypes=head, real=type(real)(real.x, real.y, real.groups, weight),
        rng=np.random.default_rng(3),
    )  # fmt: skip
    assert made.facts == same.facts
    again = read_alignment(save_alignment(tmp_path / "a", made))
    for side, rows in (("x", real.x), ("y", real.y)):
        found = [getattr(one, f"project_{side}")(rows) for one in (made, same, again)]
        found = [one if isinstance(one, np.ndarray) else one.toarray() for one in found]
        assert_same(found[0], found[1])
        assert_same(found[0], found[2])


def test_it_is_an_estimator(make_world):
    _, real = make_world()
    mean = np.full(24, 0.01)
    one = Alignment(FitConfig("ridge", penalty=0.3), image_mean=mean, seed=1)
    other = clone(one).set_params(method="procrustes")
    assert other.get_params()["seed"] == 1
    assert_same(other.image_mean, mean)
    with pytest.raises(NotFittedError):
        one.project_x(real.x)
    assert one.fit(real.x, real.y) is one
    assert one.facts["choice"] == {"penalty": 0.3}
    assert one.facts["image_centre"] == "given mean"


def test_its_score_is_the_metric_that_a_choice_goes_by(make_world):
    head, real = make_world(noise=2.0)
    made = Alignment("ridge").fit(None, None, prototypes=head)
    scores = made.project_x(real.x) @ made.project_y(real.y).T
    ranks = (scores >= scores.diagonal()[:, None]).sum(axis=1)
    assert made.score(real.x, real.y) == pytest.approx(np.mean(1 / ranks))
    assert made.score(real.x, real.y, metric="top-5") == pytest.approx(np.mean(ranks <= 5))
    assert 0 < made.score(real.x, real.y, metric="top-1") < 1


def test_it_says_what_it_does_next(make_world):
    head, real = make_world()
    said: list[str] = []
    rng = np.random.default_rng(0)
    fit_alignment("ridge", prototypes=head, real=real, rng=rng, on_stage=said.append)
    fit_alignment("cca", prototypes=head, penalty=0.1, rng=rng, on_stage=said.append)
    fit_alignment("mean-shift", prototypes=head, rng=rng, on_stage=said.append)
    assert said == [
        "choosing penalty and mix", "fitting", "choosing n_components", "fitting", "fitting"
    ]  # fmt: skip


def test_a_setting_that_is_not_chosen_cannot_be_auto(make_world):
    head, _ = make_world()
    with pytest.raises(SettingError, match=r"top_k=.auto. is of ASIF\. ConSE has nothing"):
        Alignment(FitConfig("conse", top_k="auto")).fit(None, None, prototypes=head)

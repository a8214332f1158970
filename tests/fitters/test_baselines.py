"""Text-to-Concept, two-way ridge, mean shift and the options of Procrustes."""

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, Ridge

from fitters import (
    MeanShiftAligner,
    ProcrustesAligner,
    RidgeAligner,
    TextToConceptAligner,
    TwoWayRidgeAligner,
)
from tests.assertions import assert_close
from tests.oracles import unit
from tests.shorthand import score_pairs


@pytest.fixture
def pairs(rng):
    x = rng.standard_normal((60, 6)) + 2
    return x, x @ rng.standard_normal((6, 4)) + 0.3 * rng.standard_normal((60, 4)) - 1


def test_text_to_concept_is_linear_regression_and_leaves_texts_alone(pairs, rng):
    x, y = pairs
    aligner = TextToConceptAligner().fit(x, y)
    theirs = LinearRegression().fit(x, y)
    assert_close(aligner.coef_, theirs.coef_.T)
    assert_close(aligner.intercept_, theirs.intercept_)
    assert_close(aligner.project_x(x), unit(theirs.predict(x)))
    texts = rng.standard_normal((5, 4))
    assert_close(aligner.project_y(texts), unit(texts))


def test_its_scaling_is_undone(pairs):
    x, y = pairs
    c_x, c_y = np.sqrt(4.5 / np.var(x)), np.sqrt(4.5 / np.var(y))
    theirs = Ridge(alpha=7.0).fit(x * c_x, y * c_y)
    right = TextToConceptAligner(alpha=7.0).fit(x, y)
    assert_close([right.scale_x_, right.scale_y_], [c_x, c_y])
    assert_close(x @ right.coef_ + right.intercept_, theirs.predict(x * c_x) / c_y)


def test_fewer_images_than_columns_is_the_solution_of_least_norm(rng):
    x, y = rng.standard_normal((4, 9)), rng.standard_normal((4, 3))
    aligner = TextToConceptAligner().fit(x, y)
    assert_close(aligner.coef_, np.linalg.pinv(x - x.mean(axis=0)) @ (y - y.mean(axis=0)))
    assert_close(x @ aligner.coef_ + aligner.intercept_, y)


def test_two_way_ridge_scores_the_mean_of_both_cosines(pairs):
    x, y = pairs
    both = TwoWayRidgeAligner(alpha=0.2).fit(x, y)
    one, other = (RidgeAligner(d, alpha=0.2).fit(x, y) for d in ("x->y", "y->x"))
    mean = (score_pairs(one, x, y) + score_pairs(other, x, y)) / 2
    assert_close(score_pairs(both, x, y), mean)


def test_mean_shift_closes_a_gap_and_nothing_else(rng):
    x = rng.standard_normal((20, 4))
    aligner = MeanShiftAligner().fit(x, x + 5)
    assert_close(score_pairs(aligner, x, x + 5), np.ones(20))
    assert_close(aligner.project_x(x), unit(x - x.mean(axis=0)))
    wide = MeanShiftAligner().fit(x, np.hstack([x, rng.standard_normal((20, 2))]))
    assert_close(wide.project_x(x)[:, :4], unit(x - x.mean(axis=0)))
    assert not wide.project_x(x)[:, 4:].any()


@pytest.mark.parametrize(("p", "q"), [(6, 6), (4, 7), (7, 4)])
def test_truncated_procrustes_keeps_the_leading_directions(p, q, rng):
    x, y = rng.standard_normal((50, p)), rng.standard_normal((50, q))
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    cut, full = ProcrustesAligner(rank=3).fit(x, y), ProcrustesAligner(rank=99).fit(x, y)
    u, s, vt = np.linalg.svd(x.T @ y)
    assert_close(cut.rotation_, u[:, :3] @ vt[:3])
    assert cut.gap_ == pytest.approx((s[2] - s[3]) / s[0])
    assert_close(full.rotation_, ProcrustesAligner().fit(x, y).rotation_)
    assert full.gap_ == pytest.approx(s[-1] / s[0])

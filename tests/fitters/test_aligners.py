import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.utils.estimator_checks import estimator_checks_generator

from fitters import (
    ASIFAligner,
    CCAAligner,
    ConSEAligner,
    CSAAligner,
    ICISAligner,
    KernelRidgeAligner,
    MeanShiftAligner,
    MiniVec2VecAligner,
    MLPAligner,
    PLSAligner,
    ProcrustesAligner,
    RidgeAligner,
    TextToConceptAligner,
    TwoWayRidgeAligner,
)
from fitters.errors import UnknownMethodError
from fitters.methods import aligner_class, aligners
from tests.assertions import assert_close
from tests.oracles import conse_mix, unit
from tests.shorthand import score_pairs

#: One a class; what else a class may be set to is in the test of its formula.
ESTIMATORS = [
    RidgeAligner("x->y"), ProcrustesAligner(), TwoWayRidgeAligner(), TextToConceptAligner(),
    CCAAligner(2), CSAAligner(), PLSAligner(), MeanShiftAligner(),
    ASIFAligner(3, power=2.0, center=True), ConSEAligner(top_k=2),
    MiniVec2VecAligner(rounds=1, refinements=0),
    KernelRidgeAligner(gamma=0.3),
]  # fmt: skip
TRAINED = [
    MLPAligner("paper", width=8, epochs=2),
    MLPAligner("linear", "x->y", loss="mse", epochs=2, precision="float32"),
    ICISAligner(8, epochs=2),
]
OF_OPTIONAL_PACKAGES = {
    # These only skip themselves without pandas or an array-API switch; nothing here skips.
    "check_array_api_input",
    "check_sample_weights_pandas_series",
}


CHECKS = [
    pytest.param(owner, check, id=f"{owner}-{check.func.__name__}")
    for estimator in ESTIMATORS + TRAINED
    for owner, check in estimator_checks_generator(estimator)
    if check.func.__name__ not in OF_OPTIONAL_PACKAGES
]


@pytest.mark.parametrize(("estimator", "check"), CHECKS)
def test_scikit_learns_contract(estimator, check):
    check(estimator)


def draw_pairs(rng, n=40, p=7, q=4):
    x = rng.standard_normal((n, p)) + 2
    return x, x @ rng.standard_normal((p, q)) + 0.1 * rng.standard_normal((n, q)) - 1


def test_the_estimators_are_all_covered():
    assert {type(estimator) for estimator in ESTIMATORS + TRAINED} == set(aligners().values())
    for name, cls in aligners().items():
        assert aligner_class(name) is cls
        assert cls.method == name
    with pytest.raises(UnknownMethodError, match=r"Known aligners: ridge.*Did you mean 'ridge'"):
        aligner_class("rigde")


SPECTRAL = [
    ProcrustesAligner(), ProcrustesAligner(center=False), PLSAligner(), CCAAligner(), CSAAligner(),
    CCAAligner(200, alpha=1e-6, relative=False),
]  # fmt: skip
"""Aligners by singular vectors, of which a rank-deficient cross leaves some open."""


@pytest.mark.parametrize("estimator", SPECTRAL, ids=str)
@pytest.mark.parametrize(("p", "q"), [(24, 20), (20, 24)])
@pytest.mark.parametrize("n", [5, 14, 40])
@settings(max_examples=10)
@given(seed=st.integers(0, 2**16))
def test_a_rank_deficient_fit_is_unique(estimator, n, p, q, seed):
    """Order, layout and rounding of the rows decide nothing; of 40 pairs 8 determine the rest."""
    rng = np.random.default_rng(seed)
    x, y = draw_pairs(rng, n, p, q)
    if n == 40:
        mixing = rng.standard_normal((n, 8))
        x, y = (mixing @ side[:8] for side in (x, y))
    x, y = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (x, y))
    new_x, new_y = rng.standard_normal((20, p)), rng.standard_normal((15, q))

    def scores(x, y):
        fitted = clone(estimator).fit(x, y)
        return fitted.project_x(new_x) @ fitted.project_y(new_y).T

    expected, order = scores(x, y), rng.permutation(n)
    # A condition of up to 1e4 stands between rounding errors and scores: 1e-16 and 1e-7 of noise.
    assert_close(scores(x[order], y[order]), expected, "float32")
    assert_close(scores(np.asfortranarray(x), np.asfortranarray(y)), expected, "float32")
    noisy = [side * (1 + 1e-7 * rng.uniform(-1, 1, side.shape)) for side in (x, y)]
    assert_close(scores(*noisy), expected, "float32", times=1000)
    swapped = clone(estimator).fit(y, x)
    assert_close((swapped.project_x(new_y) @ swapped.project_y(new_x).T).T, expected, "float32")


def test_procrustes_of_few_pairs_keeps_to_what_they_determine(rng):
    x, y = rng.standard_normal((16, 40)), rng.standard_normal((16, 30))
    aligner = ProcrustesAligner().fit(x, y)
    assert aligner.rank_ == 15  # one is the mean
    spans = [np.linalg.svd(side - side.mean(axis=0))[2][:15] for side in (x, y)]
    assert_close(aligner.rotation_ @ aligner.rotation_.T, spans[0].T @ spans[0])
    assert_close(aligner.rotation_.T @ aligner.rotation_, spans[1].T @ spans[1])
    for cls in (PLSAligner, CCAAligner, CSAAligner):
        assert len(cls().fit(x, y).strengths_) == 15


@pytest.mark.parametrize("weighted", [False, True])
def test_ridge_is_sklearns_ridge_with_intercept(weighted, rng):
    x, y = draw_pairs(rng)
    weight = rng.uniform(0.1, 3, 40) if weighted else None
    ours = RidgeAligner("x->y", alpha=2.0, relative=False).fit(x, y, weight)
    theirs = Ridge(alpha=2.0).fit(x, y, weight)
    assert_close(ours.coef_, theirs.coef_.T)
    swapped = RidgeAligner("y->x", alpha=2.0, relative=False).fit(y, x, weight)
    assert_close(swapped.coef_, theirs.coef_.T)


@given(st.floats(0.1, 50), st.floats(0.5, 20), st.integers(1, 4))
def test_a_relative_penalty_means_the_same_at_any_scale_weight_and_count(scale, weight, times):
    x, y = draw_pairs(np.random.default_rng(3))
    plain = RidgeAligner("x->y", alpha=0.3).fit(x, y)
    many = np.tile(x, (times, 1)) * scale, np.tile(y, (times, 1))
    other = RidgeAligner("x->y", alpha=0.3).fit(*many, np.full(40 * times, weight))
    assert_close(other.coef_ * scale, plain.coef_)
    assert_close(other.project_x(x * scale), plain.project_x(x))


def test_procrustes_is_scipys(rng):
    x, y = draw_pairs(rng, p=5, q=5)
    aligner = ProcrustesAligner().fit(x, y)
    x0, y0 = x - x.mean(axis=0), y - y.mean(axis=0)
    assert_close(aligner.rotation_, scipy.linalg.orthogonal_procrustes(x0, y0)[0])
    assert_close(np.sum(aligner.singular_values_), scipy.linalg.orthogonal_procrustes(x0, y0)[1])


@given(st.integers(0, 2**16), st.integers(1, 9))
def test_conse_is_the_loop(seed, top_k):
    rng = np.random.default_rng(seed)
    weights, texts, bias = (rng.standard_normal(shape) for shape in ((6, 4), (6, 3), 6))
    features = 5 * rng.standard_normal((5, 4))
    aligner = ConSEAligner(top_k=top_k).fit(weights, texts, bias)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    mixed = np.array([conse_mix(f, weights, bias, texts, top_k) for f in features])
    mixed /= np.linalg.norm(mixed, axis=1, keepdims=True)
    assert_close(aligner.project_x(features), mixed, times=10)


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
    assert_close(score_pairs(both, x, y), (score_pairs(one, x, y) + score_pairs(other, x, y)) / 2)


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

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.kernel_approximation import Nystroem
from sklearn.kernel_ridge import KernelRidge
from sklearn.metrics.pairwise import rbf_kernel

from fitters import KernelRidgeAligner, Pairs, kernels
from fitters.errors import SettingError, SingularMomentsError
from fitters.kept import Kept
from fitters.kernels import NystroemMap, decompose_kernel, gaussian, solve_kernel
from fitters.select import Axis
from fitters.select.left_out import (
    TIED,
    LeftOut,
    choose_on_prototypes,
    join_near,
    parts_of,
    several,
)
from fitters.solvers import Spectrum
from tests.assertions import assert_close, assert_same
from tests.oracles import mean_of, refit_without_group, unit


def bent_pairs(rng, n=120, p=6, q=5):
    """Pairs in which x is no linear function of y."""
    texts = unit(rng.standard_normal((n, q)))
    head = np.sin(3 * texts @ rng.standard_normal((q, p))) + 0.05 * rng.standard_normal((n, p))
    return head, texts


@pytest.mark.parametrize("weighted", [False, True])
def test_the_exact_solution_is_sklearns(weighted, rng):
    head, texts = bent_pairs(rng)
    weight = rng.uniform(0.2, 3, len(head)) if weighted else None
    ours = KernelRidgeAligner(gamma=0.7, relative=False, alpha=0.3, center=False)
    ours.fit(head, texts, weight)
    theirs = KernelRidge(alpha=0.3, kernel="rbf", gamma=0.7).fit(texts, head, weight)
    expected = theirs.predict(texts[:9])
    assert_close(ours._map(texts[:9]), expected)
    assert_close(ours.project_y(texts[:9]), unit(expected))
    assert ours.residual_ < 1e-12


@given(st.floats(0.1, 50), st.integers(0, 99))
def test_a_relative_width_means_the_same_at_any_scale_and_place(scale, seed):
    rng = np.random.default_rng(seed)
    head, texts = bent_pairs(rng, n=30)
    plain = KernelRidgeAligner(alpha=0.2).fit(head, texts)
    moved = texts * scale + rng.standard_normal(5)
    other = KernelRidgeAligner(alpha=0.2).fit(head, moved)
    assert_close(other.project_y(moved), plain.project_y(texts), times=1e4)


def test_float32_with_refinement_reaches_the_float64_solution(rng, monkeypatch):
    head, texts = bent_pairs(rng, n=700)
    penalty = 0.01 / rng.uniform(0.5, 2, 700)
    exact, _ = solve_kernel(texts, head, 2.0, penalty)
    monkeypatch.setattr(kernels, "DOUBLE_ROWS", 0)
    refined, residual = solve_kernel(texts, head, 2.0, penalty)
    assert residual < 1e-5
    kernel = gaussian(texts, texts, 2.0)
    assert 0 < (np.linalg.norm(kernel @ (refined - exact)) / np.linalg.norm(kernel @ exact)) < 1e-5


def test_a_penalty_below_rounding_is_refused_with_the_remedy(rng):
    texts = np.repeat(unit(rng.standard_normal((10, 4))), 4, axis=0)
    with pytest.raises(SingularMomentsError, match=r"1e-20 is below.*larger alpha"):
        KernelRidgeAligner(alpha=1e-20).fit(rng.standard_normal((40, 3)), texts)


@st.composite
def named_rows(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    n = draw(st.integers(5, 16))
    groups = rng.integers(0, max(2, n - draw(st.integers(0, 5))), n)
    groups[:2] = 0, 1
    weight = rng.uniform(0.3, 3, n) if draw(st.booleans()) else np.ones(n)
    return rng.standard_normal((n, 3)), rng.standard_normal((n, 4)), groups, weight


def refit_without(texts, head, groups, weight, gamma, alpha, *, about=False):
    predicted = np.empty_like(head)
    for group in np.unique(groups):
        out = groups == group
        kept = KernelRidge(alpha=alpha, kernel="rbf", gamma=gamma)
        targets = head[~out] - about * mean_of(head[~out], weight[~out])
        kept.fit(texts[~out], targets, weight[~out])
        predicted[out] = kept.predict(texts[out])
    return predicted


@given(named_rows(), st.sampled_from([0.05, 1.0]), st.sampled_from([0.2, 1.5]))
def test_left_out_predictions_are_those_of_refitting(rows, alpha, gamma):
    texts, head, groups, weight = rows
    expected = refit_without(texts, head, groups, weight, gamma, alpha)
    root = np.sqrt(weight)[:, None]
    spectrum = Spectrum.of_kernel(decompose_kernel(texts, weight, gamma), root * head)
    parts = several(parts_of(groups))
    assert_close(spectrum.left_out(alpha, parts) / root, expected, times=100)
    by_kernel = spectrum.left_out(alpha, parts, gaussian(texts, texts, gamma) * root.T)
    assert_close(by_kernel, expected, times=100)
    # A text far from all others is predicted as nearly nothing, which has no direction.
    expected = refit_without(texts, head, groups, weight, gamma, alpha, about=True)
    assume(np.linalg.norm(expected, axis=1).min() > 1e-3)
    cosines = np.sum(unit(expected) * unit(head - mean_of(head, weight)), axis=1)
    surface = choose_on_prototypes(
        Pairs(head, texts, groups, weight),
        gammas=Axis.fixed(gamma), penalties=Axis.fixed(alpha), rng=np.random.default_rng(0),
    )  # fmt: skip
    assert surface.scores.item() == pytest.approx(cosines.mean(), abs=1e-6)


def test_the_penalty_goes_as_low_as_it_pays_and_no_lower(rng, monkeypatch):
    """Head rows that are a smooth map of the texts want none; of texts that are far apart, the
    criterion rises towards 0 by less and less, and the largest of what is equal is taken."""
    texts = unit(rng.standard_normal((90, 3)))
    smooth = unit(np.column_stack([np.sin(2 * texts), np.cos(texts)]))
    exact = choose_on_prototypes(Pairs(smooth, texts), gammas=Axis.fixed(0.5), rng=rng)
    assert exact.chosen["penalty"] < 1e-3
    assert exact.score > exact.scores[exact.axes["penalty"].values.index(1e-3), 0] + 5 * TIED
    apart = unit(rng.standard_normal((90, 40)))
    noisy = unit(apart @ rng.standard_normal((40, 30)) + rng.standard_normal((90, 30)))
    flat = choose_on_prototypes(Pairs(noisy, apart), gammas=Axis.fixed(4.0), rng=rng)
    low = flat.scores[:, 0]
    assert low.argmax() == 0  # where the grid ends
    assert low.max() - low[flat.best[0]] <= TIED < low.max() - low[flat.best[0] + 1]
    # More rows have a factor in single precision.
    monkeypatch.setattr("fitters.select.left_out.DOUBLE_ROWS", 80)
    many = choose_on_prototypes(Pairs(smooth, texts), gammas=Axis.fixed(0.5), rng=rng)
    assert min(many.axes["penalty"].values) == 1e-3


def test_from_landmarks_the_surface_is_that_of_refitting_on_their_features(rng, monkeypatch):
    head, texts = bent_pairs(rng, n=60)
    names, weight = np.arange(60) // 2, rng.uniform(0.5, 2, 60)
    monkeypatch.setattr("fitters.select.left_out.EXACT_ROWS", 40)
    monkeypatch.setattr("fitters.select.left_out.CHOICE_LANDMARKS", 15)
    pairs = Pairs(head, texts, names, weight)
    surface = choose_on_prototypes(pairs, rng=np.random.default_rng(3))
    at = np.random.default_rng(3).permutation(60)[:15]
    gamma, alpha = surface.axes["gamma"].values[1], surface.axes["penalty"].values[2]
    mapped = NystroemMap.of_landmarks(texts[at], gamma).apply(texts)
    expected = refit_without_group(mapped, head, names, alpha, weight, about=True)
    asked = np.unique(np.linspace(0, 59, 40).round().astype(int))
    by_hand = np.sum(unit(expected) * unit(head - mean_of(head, weight)), axis=1)[asked].mean()
    assert surface.scores[2, 1] == pytest.approx(by_hand, abs=1e-8)
    assert surface.n_queries == 40
    with pytest.raises(SettingError, match="at most 40 prototypes; there are 60"):
        choose_on_prototypes(pairs, criterion="rank", rng=rng)


def test_the_scores_of_controls_are_those_of_float64(rng, monkeypatch):
    head, texts = bent_pairs(rng, n=150, p=200)
    names, weight = np.arange(150) // 2, rng.uniform(0.5, 2, 150)
    monkeypatch.setattr("fitters.kept.KEPT", Kept(10_000_000))
    axes = {"gammas": Axis((0.1, 1.0, 8.0)).closed, "penalties": Axis((1e-3, 0.1, 10.0)).closed}

    def scores(rows):
        return choose_on_prototypes(Pairs(rows, texts, names, weight), rng=rng, **axes).scores

    root = np.sqrt(weight)[:, None]
    for rows in (head, rng.standard_normal(head.shape), head[::-1].copy()):
        groups = join_near(Pairs(rows, texts, names, weight)).row_groups
        for at, gamma in enumerate(axes["gammas"].values):
            kernel, targets = decompose_kernel(texts, weight, gamma), rows - mean_of(rows, weight)
            left_out = LeftOut(
                Spectrum.of_kernel(kernel, root * targets), groups,
                ones=kernel[1].T @ root[:, 0], weight=weight, mass=weight.sum(),
            )  # fmt: skip
            exact = [left_out.score(one) for one in axes["penalties"].values]
            assert 0 < np.abs(scores(rows)[:, at] - exact).max() < 1e-6
    # Too little room costs time, and changes nothing.
    roomy = scores(head)
    for most in (0, 300_000):
        monkeypatch.setattr("fitters.kept.KEPT", Kept(most))
        assert_same(scores(head), roomy)


@given(st.integers(1, 9), st.integers(1, 9), st.floats(0.01, 20), st.integers(0, 99))
def test_the_kernel_is_sklearns(n, m, gamma, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((n, 4)), rng.standard_normal((m, 4))
    for block_rows in (2, 99):
        assert_close(gaussian(a, b, gamma, block_rows=block_rows), rbf_kernel(a, b, gamma=gamma))
    single = gaussian(a, b, gamma, dtype=np.float32)
    assert single.dtype == np.float32
    room = 1e-6 * gamma * (np.max(a * a) + np.max(b * b)) * 4 + 1e-6
    assert np.abs(single - rbf_kernel(a, b, gamma=gamma)).max() < room


def test_nystroem_features_have_sklearns_inner_products(rng):
    rows = unit(rng.standard_normal((90, 7)))
    theirs = Nystroem(gamma=1.5, n_components=30, random_state=0).fit(rows)
    ours = NystroemMap.of_landmarks(theirs.components_, 1.5)
    mapped, expected = ours.apply(rows), theirs.transform(rows)
    assert_close(mapped @ mapped.T, expected @ expected.T, times=1e4)
    at = mapped[theirs.component_indices_]
    assert_close(at @ mapped.T, gaussian(rows[theirs.component_indices_], rows, 1.5), times=1e4)

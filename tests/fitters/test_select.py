"""Folds, ranks, grids, and what is left out or refitted, against loops and refits."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from fitters import Pairs, ProcrustesAligner, RidgeAligner, fit
from fitters.errors import SelectionError
from fitters.select import Axis, Surface, choose, folds_by_group, geometric, ranking
from fitters.select.held_out import cross_validate
from fitters.select.left_out import (
    LeftOut,
    leave_one_group_out,
    left_out_of_rows,
    parts_of,
    several,
)
from fitters.select.ranking import METRICS, Gallery, HeldOut, reciprocal_ranks
from fitters.solvers import Spectrum
from tests.assertions import assert_close, assert_same
from tests.oracles import (
    cosine,
    reciprocal_rank_of_text,
    refit_without_group,
    ridge_normal_equations,
    unit,
)


@given(
    st.lists(st.integers(0, 8), min_size=4, max_size=40).filter(lambda g: len(set(g)) >= 3),
    st.integers(2, 3),
    st.integers(0, 99),
)
def test_folds_keep_groups_whole_and_none_is_empty(groups, n_folds, seed):
    groups = np.array(groups)
    folds = folds_by_group(groups, n_folds, np.random.default_rng(seed))
    assert set(folds) == set(range(n_folds))
    for group in np.unique(groups):
        assert len(set(folds[groups == group])) == 1
    largest = np.unique(groups, return_counts=True)[1].max()
    sizes = np.bincount(folds)
    assert sizes.max() - sizes.min() <= largest


def test_folds_are_drawn_and_need_a_group_each(rng):
    groups = np.repeat(np.arange(20), 3)
    one, same = (folds_by_group(groups, 4, np.random.default_rng(7)) for _ in range(2))
    assert_same(one, same)
    assert (one != folds_by_group(groups, 4, np.random.default_rng(8))).any()
    with pytest.raises(SelectionError, match="Give more pairs, or fewer folds"):
        folds_by_group(np.zeros(9), 2, rng)
    with pytest.raises(SelectionError, match="at least 2 folds"):
        folds_by_group(groups, 1, rng)
    with pytest.raises(SelectionError, match="fix the penalty"):
        leave_one_group_out(Pairs(np.ones((3, 4)), np.ones((3, 2)), np.zeros(3)))


def test_reciprocal_ranks_by_hand():
    scores = np.array([[0.9, 0.5, 0.1], [0.5, 0.5, 0.5], [0.1, 0.2, 0.3], [0.0, 0.2, 0.2]])
    positives = np.array([[0, -1], [0, -1], [0, 1], [1, 2]])
    # Best; two ties against it; the second of three; two right ones first.
    assert reciprocal_ranks(scores, positives).tolist() == [1, 1 / 3, 1 / 2, 1]


@given(seed=st.integers(0, 2**16), metric=st.sampled_from(sorted(METRICS)), sparse=st.booleans())
def test_an_image_asks_once_and_counts_for_all_its_captions(seed, metric, sparse):
    rng = np.random.default_rng(seed)
    owner = np.sort(rng.integers(0, 5, 14))
    images, texts = rng.standard_normal((5, 3))[owner], rng.integers(0, 2, (14, 3)).astype(float)
    held = HeldOut.of(Pairs(images, texts, np.array(["a", "a", "b", "c", "d"])[owner]))
    assert len(held.images) == len(np.unique(owner))
    queries, gallery = held.images, held.gallery.texts
    if sparse:
        queries, gallery = csr_array(queries), csr_array(gallery)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "BLOCK_SCORES", 7)
        total = held.total(queries, gallery, metric)
    # Pair by pair, all scores at once.
    every = Gallery.of(texts, np.array([0, 0, 1, 2, 3])[owner])
    ranks = 1 / reciprocal_ranks(images @ every.texts.T, every.positives)
    last = {"mrr": None, "top-1": 1, "top-5": 5, "top-10": 10}[metric]
    expected = np.sum(1 / ranks) if last is None else np.sum(ranks < last + 0.5)
    assert total == pytest.approx(expected, rel=1e-12)


@st.composite
def grouped_rows(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    n, p = draw(st.integers(4, 14)), draw(st.integers(1, 18))
    groups = rng.integers(0, max(2, n - draw(st.integers(0, 5))), n)
    groups[:2] = 0, 1
    weight = rng.uniform(0.3, 3, n) if draw(st.booleans()) else np.ones(n)
    return rng.standard_normal((n, p)), rng.standard_normal((n, 3)), groups, weight


@given(grouped_rows(), st.sampled_from([0.05, 1.0, 20.0]))
def test_left_out_predictions_are_those_of_refitting(rows, alpha):
    a, b, groups, weight = rows
    expected = refit_without_group(a, b, groups, alpha, weight)
    root = np.sqrt(weight)[:, None]
    spectrum = Spectrum.of_rows(root * a, root * b)
    # A leverage near 1 costs digits: 1 − h ≈ α / ‖a‖² at n near p.
    assert_close(spectrum.left_out(alpha, several(parts_of(groups))) / root, expected, times=100)
    by_hand = np.mean([cosine(u, v) for u, v in zip(expected, b, strict=True)])
    assert LeftOut(spectrum, groups).score(alpha) == pytest.approx(by_hand, abs=1e-8)


@given(grouped_rows())
def test_left_out_rank_is_the_loop(rows):
    a, b, groups, weight = rows
    predicted = refit_without_group(a, b, groups, 1.0, weight)
    expected = np.mean(
        [reciprocal_rank_of_text(b[i], predicted, groups, groups[i]) for i in range(len(a))]
    )
    root = np.sqrt(weight)[:, None]
    found = LeftOut(Spectrum.of_rows(root * a, root * b), groups).score(1.0, "rank")
    assert found == pytest.approx(expected, abs=1e-9)


@given(grouped_rows(), st.booleans(), st.sampled_from([0.05, 1.0]))
def test_every_fit_is_about_the_mean_of_the_others(rows, other, alpha):
    """Refitted about the mean of the rows that are left, of more columns than these and of less."""
    a, b, groups, weight = rows
    asked = a + np.roll(a, 1, axis=0) if other else a
    predicted = np.empty_like(b)
    for group in np.unique(groups):
        out = groups == group
        mass = weight[~out] / weight[~out].sum()
        means = [mass @ side[~out] for side in (a, b)]
        coef = ridge_normal_equations(a[~out] - means[0], b[~out] - means[1], alpha, weight[~out])
        predicted[out] = (asked[out] - means[0]) @ coef
    assume(np.linalg.norm(predicted, axis=1).min() > 1e-3)  # a single row is its own mean
    by_hand = np.mean([cosine(u, v) for u, v in zip(predicted, b, strict=True)])
    found = left_out_of_rows(a, b, groups, weight, asked if other else None)
    assert found.score(alpha) == pytest.approx(by_hand, abs=1e-6)


def test_rows_without_weight_are_not_there(rng):
    head, texts = rng.standard_normal((9, 4)), rng.standard_normal((9, 3))
    with_ = leave_one_group_out(Pairs(head, texts, None, np.array([1.0] * 7 + [0, 0])))
    assert_close(with_.scores, leave_one_group_out(Pairs(head[:7], texts[:7])).scores)


@pytest.mark.parametrize("method", ["ridge", "cca", "procrustes"])
def test_pairs_without_weight_have_no_vote(method, rng):
    x, y = rng.standard_normal((80, 4)), rng.standard_normal((80, 3))
    y[:60, 0] += 2 * x[:60, 0]
    weight = np.repeat([1.0, 0.0], [60, 20])
    both = [
        fit(method, real=real, rng=np.random.default_rng(3)).facts["choice"]
        for real in (Pairs(x, y, None, weight), Pairs(x[:60], y[:60]))
    ]
    assert both[0] == both[1]


@pytest.mark.parametrize("columns", [2, 1.5, 1.05, 1, 0.1])
@pytest.mark.parametrize("renormalised", [False, True])
def test_centred_rows_must_not_leak_through_their_sum(columns, renormalised, rng):
    """Rows that know nothing of each other: a choice that sees no answer scores them as chance.

    With as many columns as rows minus the sum of the others is the row itself.
    """
    n = 200
    head, texts = rng.standard_normal((n, round(n * columns))), rng.standard_normal((n, 20))
    head, texts = head - head.mean(axis=0), texts - texts.mean(axis=0)
    pairs = Pairs(unit(head), unit(texts)) if renormalised else Pairs(head, texts)
    low = Axis((1e-6, 1e-4, 1e-2, 1.0), searched=False)
    by_rank, by_cosine = (
        leave_one_group_out(pairs, direction="x->y", criterion=criterion, penalties=low)
        for criterion in ("rank", "cosine")
    )
    assert np.mean(1 / np.arange(1, n + 1)) == pytest.approx(0.029, abs=1e-3)
    assert by_rank.scores.max() < 0.1
    assert np.abs(by_cosine.scores).max() < 0.1
    if columns > 1:
        # What fits that are not about the mean of their own rows find in the same rows.
        leak = LeftOut(Spectrum.of_rows(pairs.x, pairs.y), np.arange(n))
        assert leak.score(1e-6, "rank") > 0.9


def refit_and_rank(method, direction, prototypes, real, folds, weight, penalty):
    """Mean reciprocal rank by refitting the estimator of each fold and ranking in loops."""
    found = []
    for fold in np.unique(folds):
        train, held = real.take(folds != fold), real.take(folds == fold)
        x, y, w = train.x, train.y, train.row_weight
        if prototypes is not None:
            x, y = np.vstack([x, prototypes.x]), np.vstack([y, prototypes.y])
            w = np.concatenate([w, weight * prototypes.row_weight])
        if method == "ridge":
            aligner = RidgeAligner(direction, alpha=penalty, center=False).fit(x, y, w)
        else:
            aligner = ProcrustesAligner(center=False).fit(x, y, w)
        images, texts = aligner.project_x(held.x), held.y
        # Equal texts stay equal: project distinct ones once.
        distinct, back = np.unique(texts, axis=0, return_inverse=True)
        projected = aligner.project_y(distinct)[back.reshape(-1)]
        found += [
            reciprocal_rank_of_text(image, projected, held.groups, group)
            for image, group in zip(images, held.groups, strict=True)
        ]
    return np.mean(found)


@pytest.mark.parametrize(
    ("method", "direction", "n_prototypes"),
    # Few prototypes do not determine a rotation, and without any it has nothing to choose.
    [*itertools.product(["ridge"], ["y->x", "x->y"], [0, 3, 40]), ("procrustes", "y->x", 40)],
)
@pytest.mark.parametrize(("p", "q"), [(9, 5), (5, 9), (80, 80)])
def test_the_curve_is_what_refitting_gives(method, direction, n_prototypes, p, q, rng):
    truth = rng.standard_normal((q, p))
    texts = unit(rng.standard_normal((18, q)))
    texts[1] = texts[0]  # two images of one description
    images = unit(texts @ truth + 0.5 * rng.standard_normal((18, p)))
    groups = np.array([0, 0, *range(1, 17)])
    real = Pairs(images, texts, groups, rng.uniform(0.5, 1, 18))
    names = unit(rng.standard_normal((n_prototypes, q)))
    head = unit(names @ truth + rng.standard_normal((n_prototypes, p)))
    mass = rng.uniform(0.5, 1, n_prototypes)
    prototypes = Pairs(head, names, None, mass) if n_prototypes else None
    folds = folds_by_group(groups, 3, rng)
    curve = cross_validate(
        method, real=real, folds=folds, prototypes=prototypes, direction=direction,
        penalties=Axis((0.01, 0.5, 20.0), 0.01, 20.0), weights=Axis((0.1, 1.0, 10.0), 0.1, 10.0),
    )  # fmt: skip
    assert len(curve.axes["weight"].values) == (3 if n_prototypes else 1)
    assert len(curve.axes["penalty"].values) == (3 if method == "ridge" else 1)
    for i, weight in enumerate(curve.axes["weight"].values):
        for j, penalty in enumerate(curve.axes["penalty"].values):
            expected = refit_and_rank(method, direction, prototypes, real, folds, weight, penalty)
            assert curve.scores[i, j] == pytest.approx(expected, abs=1e-9), (weight, penalty)


def bowl(best_weight, best_penalty, calls=None):
    def evaluate(at):
        weights, penalties = at["weight"], at["penalty"]
        if calls is not None:
            calls.append((len(weights), len(penalties)))
        away = np.log10(weights / best_weight)[:, None] ** 2
        return -away - np.log10(penalties / best_penalty)[None, :] ** 2

    return evaluate


def explored(evaluate, weights=None, penalties=None):
    return choose(
        evaluate,
        {"weight": weights or Axis.fixed(1.0), "penalty": penalties or Axis(geometric(0.1, 10, 1))},
        criterion="test",
        n_queries=1,
        n_folds=1,
    )


@pytest.mark.parametrize("best", [1e-4, 0.1, 1.0, 10.0, 1e5])
def test_the_grid_widens_until_the_best_is_inside(best):
    calls = []
    curve = explored(bowl(1e-2, best, calls), weights=Axis(geometric(0.1, 10, 1)))
    assert curve.chosen == {"weight": pytest.approx(1e-2), "penalty": pytest.approx(best)}
    assert curve.edges == ()
    axes = {name: np.array(axis.values) for name, axis in curve.axes.items()}
    assert all((np.diff(values) > 0).all() for values in axes.values())
    assert_close(curve.scores, bowl(1e-2, best)(axes))
    assert sum(n * m for n, m in calls) == curve.scores.size, "a point was evaluated twice"


@pytest.mark.parametrize(
    ("scores", "flat"),
    # 0.5 of 100 queries has the standard error 0.05.
    [((0.5, 0.45, 0.46), True), ((0.5, 0.45, 0.44), False), ((0.5,), True), ((1.0, 0.999), False)],
)
def test_a_surface_is_flat_within_one_standard_error_of_its_best(scores, flat):
    axes = {"penalty": Axis(tuple(10.0**n for n in range(len(scores))))}
    surface = Surface("share of hits", axes, np.array(scores), 100, 4, of_ranks=True)
    assert surface.flat == flat == surface.to_facts()["flat"]
    # Nothing bounds the standard error of a cosine or a squared error.
    assert "flat" not in replace(surface, of_ranks=False).to_facts()
    # The rule is the same: the best score, of equal ones the larger penalty.
    assert surface.chosen == {"penalty": 1.0}


def test_a_limit_holds_and_the_edge_is_told():
    curve = explored(bowl(1.0, 1e9), penalties=Axis(geometric(0.1, 10, 1), lowest=0.1, highest=1e2))
    assert max(curve.axes["penalty"].values) == pytest.approx(1e2)
    assert curve.edges == ("penalty high",)
    assert curve.to_facts()["edges"] == ["penalty high"]


def test_equal_scores_go_to_the_larger_penalty_then_weight():
    weights = Axis((1.0, 2.0), 1.0, 2.0)
    curve = explored(lambda at: np.zeros((2, 3)), weights, Axis((0.1, 1.0, 10.0), 0.1, 10.0))
    assert (curve.chosen["weight"], curve.chosen["penalty"]) == (2.0, 10.0)


def test_of_equal_scores_the_fewest_components_count_whatever_the_order_of_the_axes():
    axes = {
        "components": Axis((1.0, 2.0), searched=False),
        "gamma": Axis((1.0, 2.0)),
        "penalty": Axis((1.0, 2.0)),
    }
    scores = np.array([[[0.5, 0.5], [0.5, 0.4]], [[0.5, 0.5], [0.5, 0.4]]])
    surface = Surface("test", axes, scores, 1, 1)
    assert surface.chosen == {"components": 1.0, "gamma": 1.0, "penalty": 2.0}
    # The numbers of components are listed, and are no grid that could end too early.
    assert surface.to_facts()["components"] == [1.0, 2.0]
    assert set(surface.searched) == {"gamma", "penalty"}
    assert surface.edges == ("gamma low", "penalty high")

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.kernel_approximation import Nystroem, RBFSampler
from sklearn.kernel_ridge import KernelRidge
from sklearn.metrics.pairwise import rbf_kernel

from fitters import (
    Alignment,
    KernelRidgeAligner,
    ProcrustesAligner,
    RidgeAligner,
    SideTransform,
    read_alignment,
    save_alignment,
)
from fitters.errors import CorruptAlignmentError, PairsError, SettingError
from fitters.feature_maps import FourierMap, NystroemMap, choose_landmarks, gaussian
from fitters.moments.accumulation import accumulate
from fitters.moments.moments import Moments, merge_pooled
from tests.assertions import assert_close, assert_same


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def rows(rng):
    return unit(rng.standard_normal((90, 7)))


@given(st.integers(1, 9), st.integers(1, 9), st.floats(0.01, 20), st.integers(0, 99))
def test_the_kernel_is_sklearns(n, m, gamma, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((n, 4)), rng.standard_normal((m, 4))
    assert_close(gaussian(a, b, gamma), rbf_kernel(a, b, gamma=gamma))
    single = gaussian(a, b, gamma, dtype=np.float32)
    assert single.dtype == np.float32
    room = 1e-6 * gamma * (np.max(a * a) + np.max(b * b)) * 4 + 1e-6
    assert np.abs(single - rbf_kernel(a, b, gamma=gamma)).max() < room


def test_blocks_change_nothing_and_wrong_arguments_are_refused(rows):
    whole = gaussian(rows, rows[:5], 2.0)
    assert_close(gaussian(rows, rows[:5], 2.0, block_rows=7), whole)
    with pytest.raises(SettingError, match="above 0"):
        gaussian(rows, rows, -1)
    with pytest.raises(PairsError, match="rows of one space"):
        gaussian(rows, rows[:, :3], 1)


def test_nystroem_features_have_sklearns_inner_products(rows):
    theirs = Nystroem(gamma=1.5, n_components=30, random_state=0).fit(rows)
    ours = NystroemMap.of_landmarks(theirs.components_, 1.5)
    mapped, expected = ours.apply(rows), theirs.transform(rows)
    assert_close(mapped @ mapped.T, expected @ expected.T, times=1e4)
    at = mapped[theirs.component_indices_]
    assert_close(at @ mapped.T, gaussian(rows[theirs.component_indices_], rows, 1.5), times=1e4)


def test_all_rows_as_landmarks_and_linear_ridge_are_exact_kernel_ridge(rows, rng):
    head = np.sin(3 * rows @ rng.standard_normal((7, 5)))
    features = NystroemMap.fit(rows, 1.5, 90, rng)
    side = SideTransform.identity().then(features)
    # Two parts, merged: the nonlinear fit is as additive as the linear one.
    parts = [
        accumulate([(head[part], side.apply(rows[part]))], precision="float64")
        for part in (slice(40), slice(40, None))
    ]
    fit = RidgeAligner(alpha=0.2, relative=False, center=False).fit_moments(merge_pooled(*parts))
    expected = KernelRidge(alpha=0.2, kernel="rbf", gamma=1.5).fit(rows, head).predict(rows)
    assert np.abs(side.apply(rows) @ fit.coef_ - expected).max() < 1e-6
    exact = KernelRidgeAligner(gamma=1.5, relative=False, alpha=0.2, center=False).fit(head, rows)
    assert np.abs(fit.project_y(side.apply(rows)) - exact.project_y(rows)).max() < 1e-6


@given(
    kind=st.sampled_from(["nystroem", "fourier"]),
    mapped=st.sampled_from(["x", "y", "both"]),
    cuts=st.lists(st.integers(0, 60), max_size=3),
    size=st.integers(1, 61),
    weighted=st.booleans(),
)
def test_moments_of_mapped_rows_stream_and_merge(kind, mapped, cuts, size, weighted):
    rng = np.random.default_rng(5)
    sides = {}
    raw = {"x": rng.standard_normal((60, 6)), "y": rng.standard_normal((60, 4))}
    for name, rows in raw.items():
        sides[name] = SideTransform.fit([rows])
        if mapped in (name, "both"):
            seen = sides[name].apply(rows)
            made = (
                NystroemMap.fit(seen, 1.0, 12, rng)
                if kind == "nystroem"
                else FourierMap.draw(seen.shape[1], 1.0, 14, rng)
            )
            sides[name] = sides[name].then(made)
    weight = rng.uniform(0.2, 2, 60) if weighted else np.ones(60)

    def moments(start, stop, step):
        blocks = [slice(at, min(at + step, stop)) for at in range(start, stop, step)]
        return accumulate(
            (
                (sides["x"].apply(raw["x"][b]), sides["y"].apply(raw["y"][b]), weight[b])
                for b in blocks
            ),
            precision="float64",
        )

    whole = Moments.from_rows(
        sides["x"].apply(raw["x"]), sides["y"].apply(raw["y"]), weight, centre=False
    )
    edges = sorted({0, 60, *cuts})
    parts = [moments(a, b, size) for a, b in itertools.pairwise(edges)]
    streamed = merge_pooled(*parts).uncentred
    for name in ("sxx", "sxy", "syy"):
        assert_close(getattr(streamed, name), getattr(whole.uncentred, name), times=100)
    fits = [RidgeAligner(alpha=0.1).fit_moments(found) for found in (streamed, whole)]
    assert_close(fits[0].coef_, fits[1].coef_, times=1e4)


def test_fourier_features_approach_the_kernel_as_sklearns_do(rows):
    kernel = gaussian(rows, rows, 0.8)
    errors = {"ours": [], "theirs": []}
    for m in (50, 5000):
        ours = FourierMap.draw(7, 0.8, m, np.random.default_rng(m)).apply(rows)
        theirs = RBFSampler(gamma=0.8, n_components=m, random_state=m).fit_transform(rows)
        assert ours.shape == (90, m)
        assert_close(np.sum(ours * ours, axis=1), np.ones(90))
        errors["ours"].append(np.abs(ours @ ours.T - kernel).mean())
        errors["theirs"].append(np.abs(theirs @ theirs.T - kernel).mean())
    # The error falls with the root of m: here by 10, give or take the draw.
    assert 5 < errors["ours"][0] / errors["ours"][1] < 20
    assert errors["ours"][0] < 1.2 * errors["theirs"][0]
    assert errors["ours"][1] < 0.02


def test_the_draw_of_frequencies_has_sklearns_spread():
    ours = FourierMap.draw(40, 0.8, 4000, np.random.default_rng(0)).frequencies
    theirs = RBFSampler(gamma=0.8, n_components=2000, random_state=0).fit(np.zeros((1, 40)))
    assert ours.std() == pytest.approx(np.sqrt(1.6), rel=0.02)
    assert ours.std() == pytest.approx(theirs.random_weights_.std(), rel=0.02)


def test_landmarks_are_distinct_drawn_and_spread(rng):
    rows = np.concatenate([rng.standard_normal((95, 2)) * 1e-3, 50 * unit(np.eye(5, 2) + 1)])
    for method in ("uniform", "k-means++"):
        one, same = (
            choose_landmarks(rows, 9, np.random.default_rng(1), method=method) for _ in range(2)
        )
        assert_same(one, same)
        assert len(set(one)) == len(one) <= 9
        assert_same(choose_landmarks(rows, 100, rng, method=method), np.arange(100))
    far = choose_landmarks(rows, 3, rng, method="k-means++")
    assert (far >= 95).sum() >= 2, "five rows that lie apart are found"
    with pytest.raises(SettingError, match="At least 1"):
        choose_landmarks(rows, 0, rng)
    with pytest.raises(SettingError, match="uniform or"):
        choose_landmarks(rows, 3, rng, method="best")


@pytest.mark.parametrize("kind", ["nystroem", "fourier"])
@pytest.mark.parametrize("linear", [RidgeAligner(center=False), ProcrustesAligner(center=False)])
def test_any_linear_aligner_is_nonlinear_behind_a_map_and_is_saved_with_it(
    kind, linear, rows, rng, tmp_path
):
    head = np.sin(4 * rows @ rng.standard_normal((7, 5))) + 3
    x = SideTransform.fit([head])
    y = SideTransform.fit([rows])
    features = (
        NystroemMap.fit(y.apply(rows), 1.0, 40, rng)
        if kind == "nystroem"
        else FourierMap.draw(7, 1.0, 60, rng)
    )
    y = y.then(features)
    moments = accumulate([(x.apply(head), y.apply(rows))], precision="float64")
    made = Alignment.of(x, y, linear.fit_moments(moments))
    again = read_alignment(save_alignment(tmp_path / "a", made))
    assert_same(again.project_y(rows), made.project_y(rows))
    assert_same(again.project_x(head), made.project_x(head))
    record = json.loads((tmp_path / "a" / "alignment.json").read_text())
    for change in ({"kind": "magic"}, {"gamma": "1"}, {"more": 1}):
        broken = json.loads(json.dumps(record))
        broken["y"]["map"] |= change
        (tmp_path / "a" / "alignment.json").write_text(json.dumps(broken))
        with pytest.raises(CorruptAlignmentError, match="feature map of y"):
            read_alignment(tmp_path / "a")


def test_a_map_of_other_columns_is_refused(rows, rng):
    side = SideTransform.fit([rows])
    with pytest.raises(PairsError, match="have 7 columns; this map takes 3"):
        side.then(FourierMap.draw(3, 1.0, 8, rng))
    with pytest.raises(SettingError, match="must be even"):
        FourierMap.draw(3, 1.0, 7, rng)
    with pytest.raises(PairsError, match="rows of 3 columns"):
        FourierMap.draw(3, 1.0, 8, rng).apply(rows)
    with pytest.raises(PairsError, match="root of as many rows"):
        NystroemMap(rows[:4], np.eye(3), 1.0)

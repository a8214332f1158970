"""The choice of ASIF's settings against describing every row anew without its anchors."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fitters import ASIFAligner, Pairs, fit_alignment
from fitters.aligners import asif as module
from fitters.aligners.asif import choose_anchors
from fitters.errors import SelectionError, SettingError
from fitters.select.grid import Axis, folds_by_group
from tests.oracles import reciprocal_rank_of_text, relative_representation

TOP_KS, POWERS = Axis((2.0, 5.0, 30.0), searched=False), Axis((1.0, 4.0), searched=False)


@pytest.fixture
def world(make_world):
    head, real = make_world(n_classes=12, n_images=16, p=6, q=4, noise=1.5)
    # Two classes of one name and one text.
    names, texts = head.groups.copy(), head.y.copy()
    names[3], texts[3] = names[2], texts[2]
    return Pairs(head.x, texts, names), real


def without(row, left, anchors, top_k, power):
    """The representation of a row by the anchors that are not left out; those stay 0."""
    kept = np.flatnonzero(~left)
    made = np.zeros(len(anchors))
    made[kept] = relative_representation(row, anchors[kept], top_k, power)
    return made


@pytest.mark.parametrize("metric", ["mrr", "top-1", "top-5"])
def test_the_surface_of_prototypes_is_that_of_leaving_names_out(metric, world, rng):
    head, _ = world
    surface = choose_anchors(head, None, top_ks=TOP_KS, powers=POWERS, metric=metric, rng=rng)
    own = head.groups[:, None] == head.groups[None, :]
    for i, j in np.ndindex(3, 2):
        setting = round(TOP_KS.values[i]), POWERS.values[j]
        sides = [
            np.array(
                [without(row, out, rows, *setting) for row, out in zip(rows, own, strict=True)]
            )
            for rows in (head.x, head.y)
        ]
        scores = sides[0] @ sides[1].T
        ranks = np.array(
            [
                1 + np.sum(scores[n][~own[n]] >= scores[n][own[n]].max() - 1e-7)
                for n in range(head.n)
            ]
        )
        expected = {"mrr": 1 / ranks, "top-1": ranks <= 1, "top-5": ranks <= 5}[metric]
        assert surface.scores[i, j] == pytest.approx(expected.mean())
    assert surface.n_folds == 11
    assert surface.n_queries == 12


@pytest.mark.parametrize("mixed", [False, True])
def test_with_real_pairs_a_fold_is_described_by_the_others(mixed, world):
    head, real = world
    surface = choose_anchors(
        head if mixed else None, real, top_ks=TOP_KS, powers=POWERS,
        rng=np.random.default_rng(2),
    )  # fmt: skip
    folds = folds_by_group(real.groups, 4, np.random.default_rng(2))
    for i, j in np.ndindex(3, 2):
        ranks = np.empty(real.n)
        for fold in range(4):
            rest, held = real.take(folds != fold), real.take(folds == fold)
            x, y = (
                np.concatenate([getattr(head, side), getattr(rest, side)])
                if mixed
                else getattr(rest, side)
                for side in "xy"
            )
            aligner = ASIFAligner(round(TOP_KS.values[i]), power=POWERS.values[j]).fit(x, y)
            images = aligner.project_x(held.x).toarray()
            texts = aligner.project_y(held.y).toarray()
            ranks[folds == fold] = [
                reciprocal_rank_of_text(image, texts, held.groups, group)
                for image, group in zip(images, held.groups, strict=True)
            ]
        assert surface.scores[i, j] == pytest.approx(ranks.mean())


def test_many_prototypes_ask_in_part_and_sparse_scores_are_the_same(world, rng, monkeypatch):
    head, _ = world
    whole = choose_anchors(head, None, top_ks=TOP_KS, powers=POWERS, rng=rng)
    monkeypatch.setattr(module, "DENSE", 0)
    sparse = choose_anchors(head, None, top_ks=TOP_KS, powers=POWERS, rng=rng)
    assert sparse.scores == pytest.approx(whole.scores)
    monkeypatch.setattr(module, "EXACT_ROWS", 5)
    part = choose_anchors(head, None, top_ks=TOP_KS, powers=POWERS, rng=rng)
    assert part.n_queries == 5


@pytest.mark.parametrize("sources", ["head", "real", "both"])
def test_the_recipe_keeps_what_was_chosen_with_its_curve_and_edges(sources, make_world):
    head, real = make_world(n_classes=60, n_images=40)
    given = {"head": (head, None), "real": (None, real), "both": (head, real)}[sources]
    made = fit_alignment(
        "asif", prototypes=given[0], real=given[1], top_k="auto", power="auto",
        rng=np.random.default_rng(0),
    )  # fmt: skip
    choice = made.facts["choice"]
    assert made.aligner.top_k == choice["top_k"]
    assert made.aligner.power == choice["power"]
    assert choice["top_k"] <= sum(pairs.n for pairs in given if pairs is not None)
    at = choice["top_ks"].index(choice["top_k"]), choice["powers"].index(choice["power"])
    assert choice["scores"][at[0]][at[1]] == choice["score"] == np.max(choice["scores"])
    assert isinstance(choice["edges"], list)
    json.dumps(made.facts, allow_nan=False)
    one = fit_alignment(
        "asif", prototypes=given[0], real=given[1], top_k=7, power="auto",
        rng=np.random.default_rng(0),
    )  # fmt: skip
    assert one.facts["choice"]["top_k"] == 7
    assert len(one.facts["choice"]["scores"]) == 1


def test_published_settings_stay_the_default_and_wrong_ones_are_refused(world, rng):
    head, real = world
    choice = fit_alignment("asif", prototypes=head, rng=rng).facts["choice"]
    assert choice == {"top_k": 800, "power": 8.0}
    with pytest.raises(SettingError, match="top_k='auto' is of ASIF"):
        fit_alignment("conse", prototypes=head, top_k="auto", rng=rng)
    with pytest.raises(SettingError, match="goes by one of mrr"):
        choose_anchors(head, None, metric="luck", rng=rng)
    same = Pairs(head.x, head.y, np.zeros(head.n, dtype=int))
    with pytest.raises(SelectionError, match="share one name"):
        choose_anchors(same, None, rng=rng)
    with pytest.raises(SelectionError, match="top_k or power"):
        choose_anchors(None, real.take(np.arange(1)), rng=rng)

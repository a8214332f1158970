"""The choice of ASIF's settings against fitting it anew without each fold."""

import numpy as np
import pytest

from fitters import ASIFAligner, Pairs
from fitters.aligners import baselines
from fitters.aligners.baselines import choose_anchors
from fitters.select import Axis, folds_by_group, left_out
from fitters.select.held_out import Folded
from tests.oracles import reciprocal_rank_of_text

TOP_KS, POWERS = Axis((2.0, 5.0, 30.0), searched=False), Axis((1.0, 4.0), searched=False)


@pytest.fixture
def world(make_world):
    head, real = make_world(n_classes=12, n_images=16, p=6, q=4, noise=1.5)
    # Two classes of one name and one text.
    names, texts = head.groups.copy(), head.y.copy()
    names[3], texts[3] = names[2], texts[2]
    return Pairs(head.x, texts, names), real


@pytest.mark.parametrize("metric", ["mrr", "top-1", "top-5"])
@pytest.mark.parametrize("sources", ["prototypes", "real", "both"])
def test_a_fold_is_described_by_the_others(sources, metric, world):
    head, real = world
    given = {"prototypes": (head, None), "real": (None, real), "both": (head, real)}[sources]
    surface = choose_anchors(
        *given, top_ks=TOP_KS, powers=POWERS, metric=metric, rng=np.random.default_rng(2)
    )
    asked = head if sources == "prototypes" else real
    folds = folds_by_group(asked.groups, 4, np.random.default_rng(2))
    for i, j in np.ndindex(3, 2):
        ranks = np.empty(asked.n)
        for fold in range(4):
            rest, held = asked.take(folds != fold), asked.take(folds == fold)
            x, y = (
                np.concatenate([getattr(head, side), getattr(rest, side)])
                if sources == "both"
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
        expected = {"mrr": ranks, "top-1": ranks == 1, "top-5": ranks >= 1 / 5}[metric]
        assert surface.scores[i, j] == pytest.approx(expected.mean())
    assert (surface.n_queries, surface.n_folds) == (asked.n, 4)


def test_many_prototypes_ask_in_part_and_sparse_scores_are_the_same(world, monkeypatch):
    head, _ = world
    rng = np.random.default_rng
    whole = choose_anchors(head, None, top_ks=TOP_KS, powers=POWERS, rng=rng(1))
    monkeypatch.setattr(baselines, "DENSE", 0)
    sparse = choose_anchors(head, None, top_ks=TOP_KS, powers=POWERS, rng=rng(1))
    assert sparse.scores == pytest.approx(whole.scores)
    monkeypatch.setattr(left_out, "MOST_QUERIES", 2)
    part = choose_anchors(head, None, top_ks=TOP_KS, powers=POWERS, rng=rng(1))
    assert part.n_queries == 8


def test_what_is_fitted_without_a_fold_knows_none_of_its_pairs(rng):
    """Rows and moments, beside prototypes that are in every fit."""
    real = Pairs(rng.standard_normal((30, 5)), rng.standard_normal((30, 4)), np.arange(30) % 10)
    head = Pairs(rng.standard_normal((7, 5)), rng.standard_normal((7, 4)))
    folds = real.groups % 3
    folded = Folded(real, folds, head)
    for fold in range(3):
        kept = folded.rows_without(fold)
        assert kept.prototypes is head
        np.testing.assert_array_equal(kept.real.x, real.x[folds != fold])
        np.testing.assert_array_equal(kept.real.y, real.y[folds != fold])
        (moments,) = folded.moments_without[fold].real
        np.testing.assert_allclose(moments.sxy, kept.real.x.T @ kept.real.y)
        assert moments.n == kept.real.n == np.sum(folds != fold)

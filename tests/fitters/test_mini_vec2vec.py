"""mini-vec2vec: it finds a rotation that is there, and what is a pair changes no bit."""

import numpy as np
import polars as pl

from bench.results import RESULT_SCHEMA, data_notes
from fitters import MiniVec2VecAligner, Pairs, fit
from tests.assertions import assert_close, assert_same
from tests.shorthand import score_pairs


def turned_world(rng, n=400, d=10, noise=0.02):
    """Rows in clusters, and the same rows turned, with a little noise, in another order."""
    centres = rng.standard_normal((20, d)) * np.linspace(2, 0.7, d)
    x = centres[rng.integers(20, size=n)] + 0.3 * rng.standard_normal((n, d))
    rotation = np.linalg.qr(rng.standard_normal((d, d)))[0]
    return x, x @ rotation + noise * rng.standard_normal((n, d)), rotation


def test_a_rotation_that_is_there_is_found_without_a_pair():
    rng = np.random.default_rng(0)
    x, y, rotation = turned_world(rng)
    aligner = MiniVec2VecAligner(rounds=6, refinements=20, starts=2)
    aligner.fit(x, y[rng.permutation(len(y))])
    assert aligner.agreement_ > 0.99
    assert score_pairs(aligner, x, y).mean() > 0.99
    found = aligner.map_x_ @ aligner.map_y_.T
    np.testing.assert_allclose(found, rotation, atol=0.05)
    # What averages rotations is brought back to one.
    assert_close(found @ found.T, np.eye(10))


def test_what_is_a_pair_changes_no_bit(rng):
    x, y, _ = turned_world(rng, n=90, d=5)
    one, other = (
        MiniVec2VecAligner(rounds=2, refinements=3, seed=4).fit(*sides)
        for sides in ((x, y), (x[rng.permutation(90)], y[rng.permutation(90)]))
    )
    for name in ("map_x_", "map_y_"):
        assert_same(getattr(one, name), getattr(other, name))
    assert_same(MiniVec2VecAligner(rounds=2, refinements=3, seed=4).fit(x, y).map_x_, one.map_x_)
    drawn = MiniVec2VecAligner(rounds=2, refinements=3, seed=5).fit(x, y)
    assert np.abs(drawn.map_x_ - one.map_x_).max() > 1e-3


def found_first(aligner, x, y):
    nearest = np.argmax(aligner.project_x(x) @ aligner.project_y(y).T, axis=1)
    return np.mean(nearest == np.arange(len(x)))


def test_of_several_starts_the_best_is_kept_and_they_say_that_they_do_not_agree():
    """One matching of centres is a draw: with it alone 0.5 % are found, where 48 % can be."""
    rng = np.random.default_rng(1)
    x, y, _ = turned_world(rng, n=200, d=6, noise=0.3)
    how = {"rounds": 1, "refinements": 10, "seed": 6}
    alone = MiniVec2VecAligner(starts=1, **how).fit(x, y)
    several = MiniVec2VecAligner(**how).fit(x, y)
    assert found_first(alone, x, y) < 0.05
    assert found_first(several, x, y) > 0.4
    assert several.agreement_ < 0.5
    assert several.facts_ == {"agreement": several.agreement_}
    assert alone.facts_ == {}


def test_a_fit_and_its_card_tell_how_far_the_starts_agree(rng):
    x, y, _ = turned_world(rng, n=60, d=5)
    made = fit("mini-vec2vec", real=Pairs(x, y), rng=np.random.default_rng(0))
    assert made.facts["agreement"] == made.aligner.agreement_
    assert f"{made.aligner.agreement_:.2f}" in made._card().facts["starts agree"]


def test_a_verdict_says_that_a_score_is_a_draw():
    rows = pl.DataFrame(
        {
            "run_id": ["a", "a", "b", "c"],
            "method": ["m", "m", "m", "ridge"],
            "agreement": [0.2, 0.2, 0.95, None],
        }
    )
    others = {name: pl.lit(None, dtype) for name, dtype in RESULT_SCHEMA.items()}
    rows = rows.with_columns(**{k: v for k, v in others.items() if k not in rows.columns})
    (note,) = data_notes(rows)
    assert note.startswith("Starts of 'm' do not agree in 1 of 3 runs (cosine from 0.20)")
    assert data_notes(rows.filter(pl.col("agreement") > 0.9)) == []

"""mini-vec2vec: it finds a rotation that is there, and what is a pair changes no bit."""

import numpy as np

from fitters import MiniVec2VecAligner
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
    aligner = MiniVec2VecAligner(rounds=6, refinements=20).fit(x, y[rng.permutation(len(y))])
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

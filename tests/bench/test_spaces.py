"""Whether two spaces are one: planted truths, and the numbers against plain definitions."""

from __future__ import annotations

import numpy as np
import pytest

from bench.errors import ProtocolError
from bench.spaces import _correlations, relate
from tests.spaces.simulate import bfloat16, int8, noisy, turned


def topics(rng, n=400, d=48, k=25):
    """Return rows as encoders make them: topics, a heavy tail, a mean that is not 0."""
    centres = rng.standard_normal((k, d)) * np.exp(0.5 * rng.standard_normal(d))
    rows = centres[rng.integers(k, size=n)] + rng.standard_normal((n, d))
    return (rows + rng.standard_normal(d)).astype(np.float32)


def unlike(x, rng):
    """Return rows with the covariance of x that have nothing to do with it."""
    own = topics(rng, len(x), x.shape[1])
    return own - own.mean(axis=0)


def mixed(x, rng, share):
    rows = turned(x, rng)
    some = rng.permutation(len(x))[: round(share * len(x))]
    rows[some] = unlike(x[some], rng)
    return rows


CELLS = {
    "same bits": (lambda x, rng: x.copy(), "same", ()),
    "float16": (lambda x, rng: x.astype(np.float16).astype(np.float32), "same", ()),
    "bfloat16": (lambda x, rng: bfloat16(x), "same", ()),
    "order": (lambda x, rng: x[:, rng.permutation(48)], "same up to", ("order of columns",)),
    "int8": (lambda x, rng: int8(x, 1), "same up to", ("int8",)),
    "three": (
        lambda x, rng: 5 * int8(turned(x, rng), 1), "same up to", ("rotation", "scale", "int8"),
    ),
    "first half": (lambda x, rng: x[:, :24], "same up to", ("its first 24 columns",)),
    "signs": (lambda x, rng: np.sign(x - x.mean(axis=0)), "same up to", ("signs",)),
    "noise": (lambda x, rng: turned(noisy(x, 1.0, rng), rng), "related", ()),
    "shuffled": (lambda x, rng: turned(x, rng)[rng.permutation(len(x))], "unrelated", ()),
    "random": (unlike, "unrelated", ()),
    "2 % foreign": (lambda x, rng: mixed(x, rng, 0.02), "mixed", ()),
    "20 % foreign": (lambda x, rng: mixed(x, rng, 0.2), "mixed", ()),
}  # fmt: skip


@pytest.mark.parametrize("cell", CELLS)
def test_planted_truths(cell):
    change, verdict, by = CELLS[cell]
    for seed in range(2):
        rng = np.random.default_rng([seed, 1])
        x = topics(rng)
        y = change(x, rng)
        found = relate(x, y, np.random.default_rng(seed))
        assert (found.verdict, found.by) == (verdict, by), seed
        assert found.n == 400
        if verdict == "same up to":  # what it is called must not hang on which side is which
            assert relate(y, x, np.random.default_rng(seed)).verdict == verdict


def test_noise_is_no_rotation_where_rows_lie_in_few_directions():
    # Profiles of such rows correlate by .98 and more under a noise of .3 of their length.
    for seed in range(2):
        rng = np.random.default_rng([seed, 2])
        x = topics(rng, d=8) @ rng.standard_normal((8, 96)).astype(np.float32)
        for size, verdict in ((0.0, "same up to"), (0.3, "related")):
            found = relate(x, turned(noisy(x, size, rng), rng), rng)
            assert (found.verdict, found.rho > 0.98) == (verdict, True)


def test_a_cut_after_a_rotation_is_told_from_twice_as_many_items_as_columns_on():
    rng = np.random.default_rng(2)
    x = topics(rng, 500, d=240) @ rng.standard_normal((240, 240)).astype(np.float32)
    y = turned(x, rng)[:, :120]
    for a, b in ((x, y), (y, x)):
        assert relate(a, b, rng).by == ("a linear map to 120 columns",)
        few = relate(a[:470], b[:470], rng)
        said = ("Mixed rows of 5 % or fewer may pass unseen.",
                "Below 480 items one side may be the other, turned and then cut.")  # fmt: skip
        assert (few.verdict, few.undecided) == ("related", said)
    assert relate(x, noisy(y, 0.1, rng), rng).verdict == "related"


def test_the_strangers_are_those_that_were_planted():
    rng = np.random.default_rng(3)
    x = topics(rng, 600)
    y = turned(x, rng)
    planted = np.sort(rng.permutation(600)[:30])
    y[planted] = unlike(x[planted], rng)
    found = relate(x, y, np.random.default_rng(0))
    assert len(found.strangers) >= 28  # a random row may follow by chance
    assert {*found.strangers} <= {*planted}
    many = len(found.strangers)
    assert found.sentence == f"Mixed rows: {many} of one side do not follow the others."
    few = relate(x[:200], y[:200], np.random.default_rng(0))  # mixed rows were not tried so low
    assert few.verdict != "mixed"
    assert few.undecided[0] == "Below 300 items mixed rows are not told."
    assert not len(few.strangers)


def test_a_profile_is_a_correlation_without_the_item_itself():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((9, 4)), rng.standard_normal((9, 3))
    anchors = np.array([2, 5, 7, 8])
    found = _correlations(x, y, anchors)
    a, b = x - x[anchors].mean(axis=0), y - y[anchors].mean(axis=0)
    for i in range(9):
        others = [j for j in anchors if j != i]
        expected = np.corrcoef(a[others] @ a[i], b[others] @ b[i])[0, 1]
        np.testing.assert_allclose(found[i], expected, atol=1e-9)


def test_too_few_items_are_an_error():
    x = topics(np.random.default_rng(0), 149)
    with pytest.raises(ProtocolError, match=r"share 149 items.* from 150 on"):
        relate(x, x, np.random.default_rng(0))
    x = topics(np.random.default_rng(0), 150)
    assert relate(x, x, np.random.default_rng(0)).verdict == "same"

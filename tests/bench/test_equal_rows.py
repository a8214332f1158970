"""Equal items tie, wherever a matrix product puts them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.corpus import Items
from bench.metrics.geometry import nearest_rows
from bench.metrics.ranks import EqualColumns, first_equal
from bench.options import Retrieval, ZeroShot
from bench.tasks.ranked import score_zero_shot
from tests.shorthand import rank_projections, score_retrieval


@given(
    st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 6), st.integers(1, 3),
    st.sampled_from([np.float32, np.float64, np.int64]),
)  # fmt: skip
def test_the_first_row_with_the_same_values_is_found(seed, n, width, values, dtype):
    rows = np.random.default_rng(seed).integers(0, values, (n, width)).astype(dtype)
    keys = [tuple(row) for row in rows.tolist()]
    assert first_equal(rows).tolist() == [keys.index(key) for key in keys]
    columns = EqualColumns.of(rows)
    scores = np.arange(3 * n, dtype=np.float32).reshape(3, n)
    expected = scores[:, [keys.index(key) for key in keys]]
    np.testing.assert_array_equal(columns.tie(scores), expected)


def test_rows_that_differ_late_are_not_equal():
    rows = np.ones((3, 9), dtype=np.float32)
    rows[1, 8] = 2.0
    assert first_equal(rows).tolist() == [0, 1, 0]


@given(st.integers(0, 2**32), st.integers(1, 60), st.integers(2, 60), st.integers(1, 400))
@settings(deadline=None)
def test_copies_of_the_relevant_item_stand_before_it(seed, n, g, width):
    """Every gallery item is the same, so that the relevant one stands last, whatever the shape."""
    rng = np.random.default_rng(seed)
    queries = rng.standard_normal((n, width)).astype(np.float32)
    gallery = np.repeat(rng.standard_normal((1, width)).astype(np.float32), g, axis=0)
    own = rng.integers(0, g, n)
    found = rank_projections(queries, gallery, own, np.arange(g), top=g)
    assert (found.rank == g).all()
    others = [[k for k in range(g) if k != mine] for mine in own.tolist()]
    assert found.top.tolist() == [[*rest, mine] for rest, mine in zip(others, own, strict=True)]


def test_neighbours_of_copies_are_the_first_of_them(rng):
    for n, width in ((40, 333), (57, 64), (130, 20)):
        rows = np.repeat(rng.standard_normal((1, width)), n, axis=0)
        expected = [[j for j in range(6) if j != i][:5] for i in range(n)]
        assert nearest_rows(rows, 5).tolist() == expected


class InFloat32:
    """A map whose products give equal rows other bits at other places."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._x, self._y = (rng.standard_normal((p, 64)).astype(np.float32) for p in (96, 48))

    def project_x(self, rows):
        return rows @ self._x

    def project_y(self, rows):
        return rows @ self._y


def items(rng, ids, classes, rows, **more) -> Items:
    return Items(np.array(ids), np.array(classes), rows.astype(np.float32), **more)


@pytest.mark.parametrize("scorer", ["cosine", "csls"])
def test_captions_of_the_same_words_tie(scorer, rng):
    """Each image has one of two captions: nothing tells those of the same words apart."""
    n = 41
    texts = rng.standard_normal((2, 48))[np.arange(n) % 2]
    ids = [f"i{k}" for k in range(n)]
    images = items(rng, ids, ids, rng.standard_normal((n, 96)))
    captions = items(rng, [f"c{k}" for k in range(n)], ids, texts, parents=np.array(ids))
    to_caption, to_image = score_retrieval(
        InFloat32(rng), images, captions, relevance="parent_id", options=Retrieval(scorer=scorer)
    )
    assert set(to_caption.queries.ranks.rank.tolist()) <= {20, 21, n}
    # Whoever has the same words finds the same images.
    for words in (0, 1):
        top = to_image.queries.ranks.top[words::2].tolist()
        assert all(found == top[0] for found in top)


@pytest.mark.parametrize("prompts", ["mean", "max"])
def test_classes_of_the_same_name_tie(prompts, rng):
    n = 43
    classes = [f"k{k}" for k in range(n)]
    images = items(rng, [f"i{k}" for k in range(n)], classes, rng.standard_normal((n, 96)))
    rows = np.repeat(rng.standard_normal((1, 48)), n, axis=0)
    names = items(rng, classes, classes, rows)
    every = items(rng, classes, classes, rows, parts=np.array(["plain"] * n))
    (outcome,) = score_zero_shot(
        InFloat32(rng), images, names, prompts=every, options=ZeroShot(prompts=prompts)
    )
    assert outcome.queries.ranks.rank.tolist() == [n] * n

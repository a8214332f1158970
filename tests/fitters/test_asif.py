"""ASIF against a dense double loop; the search against a full sort."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fitters import ASIFAligner
from fitters.aligners import baselines
from fitters.aligners.baselines import Nearest
from fitters.errors import ZeroRowError
from tests.assertions import assert_close, assert_same
from tests.oracles import relative_representation


@given(
    seed=st.integers(0, 2**16),
    top_k=st.integers(1, 12),
    power=st.sampled_from([0.5, 1.0, 4.0, 8.0]),
    center=st.booleans(),
)
def test_asif_is_the_double_loop(seed, top_k, power, center):
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((9, 5)), rng.standard_normal((9, 4))
    aligner = ASIFAligner(top_k, power=power, center=center).fit(x, y)
    queries, texts = rng.standard_normal((6, 5)), rng.standard_normal((7, 4))
    sides = []
    for rows, anchors in ((queries, x), (texts, y)):
        mean = anchors.mean(axis=0) if center else 0.0
        sides.append(
            [relative_representation(row - mean, anchors - mean, top_k, power) for row in rows]
        )
    try:
        got = aligner.project_x(queries), aligner.project_y(texts)
    except ZeroRowError:
        assert not all(np.any(row) for side in sides for row in side)
        return
    assert_close(got[0].toarray(), sides[0])
    assert_close(got[1].toarray(), sides[1])
    assert_close((got[0] @ got[1].T).toarray() + 1, np.array(sides[0]) @ np.array(sides[1]).T + 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("k", [1, 7, 40, 500])
def test_the_search_is_a_full_sort(dtype, k, rng, monkeypatch):
    monkeypatch.setattr(baselines, "SIMILARITIES", 600)
    # Whole numbers: products are exact, and there are many ties.
    rows = rng.integers(-2, 3, (8, 4)).astype(dtype)
    anchors = rng.integers(-2, 3, (200, 4)).astype(dtype)
    found = Nearest.of(rows, anchors, k)
    similarities = rows @ anchors.T
    order = np.argsort(-similarities, axis=1, kind="stable")[:, :k]
    kept = np.maximum(np.take_along_axis(similarities, order, axis=1), 0)
    assert_same(found.values, kept)
    assert_same(found.columns[kept > 0], order[kept > 0])


def test_float32_is_as_float64(rng):
    # float32 similarities to the power 8: eight times their relative error.
    x, y = rng.standard_normal((300, 8)), rng.standard_normal((300, 6))
    ours, exact = (ASIFAligner(20, precision=p).fit(x, y) for p in ("float32", "float64"))
    assert_close(ours.project_x(x).toarray(), exact.project_x(x).toarray(), "float32", times=10)


def test_rows_without_a_place_are_named(rng):
    x, y = rng.standard_normal((6, 3)), rng.standard_normal((6, 3))
    x[4] = 0
    with pytest.raises(ZeroRowError, match=r"1 of 6 anchors of x .* row 4\. Drop them"):
        ASIFAligner().fit(x, y).project_x(y)
    with pytest.raises(ZeroRowError, match=r"2 of 3 rows of y .* no anchor.*first: row 1"):
        ASIFAligner().fit(np.eye(2), np.eye(2)).project_y(
            np.array([[1.0, 0.0], [-1.0, -1.0], [0.0, 0.0]])
        )

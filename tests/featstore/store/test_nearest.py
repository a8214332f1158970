"""The nearest rows: as a sort of all scores finds them, whatever the blocks and the threads."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featstore import open_store
from featstore.store import pairs
from tests.featstore.store.conftest import view_of


def sorted_scores(rows: np.ndarray, queries: np.ndarray, metric: str) -> np.ndarray:
    """Return exact scores (q, n), one product after the other; NaN where there is none."""
    rows, queries = rows.astype(np.float64), queries.astype(np.float64)
    scores = np.array([[np.einsum("i,i", q, x) for x in rows] for q in queries])
    if metric == "cosine":
        with np.errstate(invalid="ignore", divide="ignore"):
            scores /= np.sqrt([np.einsum("i,i", x, x) for x in rows])
            scores /= np.sqrt([[np.einsum("i,i", q, q)] for q in queries])
    return scores


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), n=st.integers(1, 300), dim=st.sampled_from([1, 3, 64]),
    k=st.integers(1, 40), n_queries=st.sampled_from([1, 2, 7]), few=st.booleans(),
    dtype=st.sampled_from(["float16", "float32", "float64", "int8"]),
    metric=st.sampled_from(["cosine", "dot"]), values=st.sampled_from([8, 500, 2**17]),
)  # fmt: skip
def test_as_a_sort_of_all_scores(seed, n, dim, k, n_queries, few, dtype, metric, values):
    rng = np.random.default_rng(seed)
    # Of few values: many equal rows, and rows of zeros. Else of very different lengths.
    rows = rng.integers(-1, 2, (n, dim)) if few else rng.standard_normal((n, dim)) * 9
    rows = (rows if few else rows * rng.choice([1e-3, 1, 10], (n, 1))).clip(-127, 127).astype(dtype)
    rows[n // 2 :] = rows[: n - n // 2]  # each row twice
    queries = rng.standard_normal((n_queries, dim))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("BLOCK_VALUES", "AGAIN_VALUES"):
            patch.setattr(pairs, name, values)
        patch.setattr(pairs, "QUERIES", 3)
        view = view_of(rows).astype(np.float64 if dtype == "float64" else np.float32)
        found = [view.nearest(queries, k, metric=metric) for _ in range(2)]  # norms known, too
    scores = sorted_scores(rows, queries, metric)
    order = np.argsort(np.where(np.isnan(scores), np.inf, -scores), axis=1, kind="stable")[:, :k]
    best = np.take_along_axis(scores, order, axis=1)
    for one in found:
        np.testing.assert_allclose(one.scores, best, rtol=1e-12, atol=1e-12)
        np.testing.assert_array_equal(one.rows < 0, np.isnan(best))
        # Which of two rows stands first may be rounding; of equal rows it is the lower.
        for listed in one.rows.tolist():
            for at, row in enumerate(listed):
                lower = np.flatnonzero((rows[: max(row, 0)] == rows[row]).all(axis=1))
                assert set(lower.tolist()) <= set(listed[:at])


def test_blocks_that_no_product_can_tell_apart():
    """Equal rows at all places of blocks and threads: the lowest numbers, not what BLAS rounds."""
    row = np.random.default_rng(3).standard_normal(96).astype(np.float32)
    found = view_of(np.tile(row, (40_001, 1))).nearest(row, 5)
    assert found.rows.tolist() == [[0, 1, 2, 3, 4]]
    assert found.scores[0] == pytest.approx(1, abs=1e-15)


def test_the_memory_of_a_search_does_not_grow_with_the_view():
    for n in (60_000, 240_000):
        view = view_of(np.random.default_rng(n).random((n, 64), np.float32).astype(np.float16))
        tracemalloc.start()
        view.nearest(np.ones((300, 64)), 9, metric="dot")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 100 * 2**20 + n * 4


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e25, 1e38])
def test_rows_whose_squares_float32_cannot_hold(rng, scale):
    rows = rng.standard_normal((500, 8)) / 9
    for metric in ("cosine", "dot"):
        plain = view_of(rows.astype(np.float32)).nearest(rows[:3], 4, metric=metric)
        scaled = view_of((rows * scale).astype(np.float32)).nearest(rows[:3], 4, metric=metric)
        assert scaled.rows.tolist() == plain.rows.tolist()
    # One of them alone, and queries whose squares float64 cannot hold.
    alone = rows.astype(np.float32)
    alone[77] = rows[0] * scale
    for one in (1e-300, 1, 1e300):
        assert {*view_of(alone).nearest(rows[0] * one, 2).rows[0].tolist()} == {0, 77}


def test_rows_of_a_set(tmp_path, images, make_set):
    rows, items = images
    rows[4] = 0
    key = make_set(tmp_path, rows, items, failures={"birds/03": "bad"})
    view = open_store(tmp_path).view(key)
    found = view.nearest(rows[:2], 99)
    assert found.rows.shape == (2, 11)  # not the row that failed
    assert found.ids[:, 0].tolist() == ["birds/00", "birds/01"]
    assert found.rows[:, -1].tolist() == [-1, -1]  # a row of zeros has no direction
    assert found.ids[0, -1] is None
    assert np.isnan(found.scores[:, -1]).all()
    some = view.where(split="test").normalized()
    near = some.nearest(some[1], 1)
    assert (near.rows.tolist(), near.ids.tolist()) == ([[1]], [["birds/09"]])


@pytest.mark.parametrize(
    ("queries", "options", "said"),
    [
        (np.ones((2, 5)), {}, r"have shape \(q, 6\); got \(2, 5\)\. Take rows of the same encoder"),
        ([[1] * 6, [np.nan] * 6], {}, "1 of 2 queries .* first number 1. Leave them out"),
        (np.zeros(6), {}, "1 of 1 queries of d/image/x are NaN, Inf or .* all zeros"),
        (np.ones(6), {"k": 0}, "Ask for k >= 1 rows by cosine or dot; got k=0"),
    ],
)
def test_queries_that_cannot_be_answered(queries, options, said):
    view = view_of(np.ones((3, 6), np.float32))
    with pytest.raises(ValueError, match=said):
        view.nearest(queries, **{"k": 1, **options})
    assert view.nearest(np.zeros(6), 2, metric="dot").scores.tolist() == [[0, 0]]

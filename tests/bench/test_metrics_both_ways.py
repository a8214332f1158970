"""One product for both directions gives what two products give, ties and all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from threadpoolctl import threadpool_limits

from bench.errors import MetricError
from bench.metrics import both_ways
from bench.metrics import both_ways as column_queries
from bench.metrics.both_ways import rank_both_ways
from bench.metrics.ranks import rank_projections, ranks_from_scores
from bench.metrics.ties import Relevance

FIELDS = ("rank", "average_precision", "truncated_precision", "hits", "n_relevant", "top")


def both(x, y, x_groups, y_groups, **options):
    n, m = x.shape[0], y.shape[0]
    relevance = (
        Relevance.build(x_groups, y_groups, n, m),
        Relevance.build(y_groups, x_groups, m, n),
    )
    return rank_both_ways(x, y, *relevance, **options)


def assert_same_ranks(found, expected):
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    assert found.gallery == expected.gallery


@st.composite
def problems(draw):
    """Draw whole numbers, whose products are exact in float32 and often tie, and every group."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n_groups = draw(st.integers(1, 9))
    n, m = draw(st.integers(n_groups, 70)), draw(st.integers(n_groups, 40))
    width, largest = draw(st.integers(1, 6)), draw(st.sampled_from([0, 1, 3, 50]))
    x, y = (rng.integers(-largest, largest + 1, (s, width)).astype(np.float32) for s in (n, m))
    groups = [np.concatenate([np.arange(n_groups), rng.integers(0, n_groups, s - n_groups)])
              for s in (n, m)]  # fmt: skip
    return x, y, *(rng.permutation(g) for g in groups)


@given(problems(), st.sampled_from([1, 30, 150, 10**6]), st.sampled_from([0, 60, 10**6]),
       st.integers(0, 7))  # fmt: skip
@settings(deadline=None)
def test_it_is_ranking_the_scores_and_their_transpose(problem, block_scores, most, top):
    x, y, x_groups, y_groups = problem
    scores = x @ y.T
    with pytest.MonkeyPatch.context() as patch:
        # Few relevant items a query and many; lists that overflow and lists that do not.
        patch.setattr(both_ways, "MAX_PASSES", 10**6)
        patch.setattr(column_queries, "MOST_LISTED", most)
        patch.setattr(column_queries, "LISTED_SHARE", 0)
        to_y, to_x = both(x, y, x_groups, y_groups, top=top, block_scores=block_scores)
    assert_same_ranks(to_y, ranks_from_scores(scores, x_groups, y_groups, top=top))
    assert_same_ranks(to_x, ranks_from_scores(scores.T, y_groups, x_groups, top=top))


@pytest.mark.parametrize("shape", [(900, 120), (120, 900)])
@pytest.mark.parametrize("noise", [0.1, 3.0, 100.0], ids=["good", "fair", "chance"])
def test_fine_scores_rank_as_in_two_products(shape, noise, rng, monkeypatch):
    n, m = shape
    x_groups, y_groups = np.arange(n) % 60, np.arange(m) % 60
    centres = rng.standard_normal((60, 33))
    rows = ((centres[g] + noise * rng.standard_normal((len(g), 33))) for g in (x_groups, y_groups))
    # Rounded, so that products are exact and two of them have the same bits.
    x, y = (np.round(64 * r / r.std()).astype(np.float32) for r in rows)
    monkeypatch.setattr(both_ways, "MAX_PASSES", 20)
    crowded = []
    add = column_queries.ColumnQueries.add
    monkeypatch.setattr(
        column_queries.ColumnQueries,
        "add",
        lambda self, *block: (add(self, *block), crowded.append(self.crowded)),
    )
    to_y, to_x = both(x, y, x_groups, y_groups, block_scores=9_000)
    assert len(crowded) == 12
    assert not any(crowded)
    assert_same_ranks(to_y, rank_projections(x, y, x_groups, y_groups))
    assert_same_ranks(to_x, rank_projections(y, x, y_groups, x_groups))


def test_equal_rows_tie_wherever_they_lie(rng):
    """Repeated rows and columns, in other blocks and at other places in them."""
    for _ in range(20):
        own = rng.standard_normal((211, 333)).astype(np.float32)
        which = np.concatenate([np.arange(211), rng.integers(0, 211, 30)])
        rng.shuffle(which)
        x, y = own[which], own[::7][rng.integers(0, 31, 40)]
        x_groups, y_groups = np.arange(241), rng.permutation(241)[:40]
        x_groups = np.where(np.isin(x_groups, y_groups), x_groups, y_groups[0])
        scores = (own @ y.T)[which]
        for column in np.unique(y, axis=0):
            equal = np.flatnonzero((y == column).all(axis=1))
            scores[:, equal] = scores[:, equal[:1]]
        to_y, to_x = both(x, y, x_groups, y_groups, block_scores=1_111)
        assert_same_ranks(to_y, ranks_from_scores(scores, x_groups, y_groups))
        assert_same_ranks(to_x, ranks_from_scores(scores.T, y_groups, x_groups))


def test_a_collapsed_projection_earns_nothing_in_either_direction():
    rows = np.ones((40, 4), dtype=np.float32)
    for block_scores in (100, 10**6):
        found = both(rows, rows, np.arange(40), np.arange(40), block_scores=block_scores)
        assert all(ranks.rank.tolist() == [40] * 40 for ranks in found)


def test_threads_change_nothing(rng):
    x, y = rng.normal(size=(700, 9)), rng.normal(size=(90, 9))
    groups = np.arange(700) % 90, np.arange(90)
    found = []
    for threads in (1, 4):
        with threadpool_limits(threads, "blas"):
            found.append(both(x, y, *groups, block_scores=2_000))
    for one, other in zip(*found, strict=True):
        assert_same_ranks(one, other)


def test_sparse_sides_take_two_products(rng):
    x, y = rng.integers(0, 3, (30, 12)) * 1.0, rng.integers(0, 3, (15, 12)) * 1.0
    groups = np.arange(30) % 15, np.arange(15)
    dense = both(x.astype(np.float32), y.astype(np.float32), *groups)
    for one, other in zip(both(csr_array(x), csr_array(y), *groups), dense, strict=True):
        assert_same_ranks(one, other)


def test_scores_that_overflow_are_compared_as_they_are():
    x = np.array([[3e30, 1.0], [1.0, 3e30], [2.0, 2.0]], dtype=np.float32)
    groups = np.arange(3)
    with np.errstate(over="ignore"):
        scores = x @ x.T
        found = both(x, x, groups, groups)
    assert np.isinf(scores).any()
    assert_same_ranks(found[0], ranks_from_scores(scores, groups, groups))
    assert_same_ranks(found[1], ranks_from_scores(scores.T, groups, groups))


def test_relevance_of_other_items_is_refused():
    right = Relevance.build(np.arange(3), np.arange(4), 3, 4)
    with pytest.raises(MetricError, match="does not fit projections of 4 and 3"):
        rank_both_ways(np.ones((3, 2)), np.ones((4, 2)), right, right)

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from sklearn.metrics import average_precision_score
from threadpoolctl import threadpool_limits

from bench.errors import MetricError
from tests.bench import oracles_bench as oracles
from tests.shorthand import rank_projections, ranks_from_scores


@dataclass(frozen=True)
class Expect:
    input: tuple
    output: dict
    id: str


HAND = [
    Expect(
        ([[0.2, 0.9, 0.5, 0.1], [0.3, 0.3, 0.8, 0.3]], ["a", "c"], ["a", "b", "a", "c"]),
        {"rank": [2, 4], "ap": [7 / 12, 1 / 4], "top": [[1, 2], [2, 0]]},
        "the docstring's example",
    ),
    Expect(
        ([[3.0, 2.0, 1.0]], ["x"], ["x", "y", "z"]),
        {"rank": [1], "ap": [1.0], "top": [[0, 1]]},
        "first place",
    ),
    Expect(
        ([[1.0, 1.0, 1.0]], ["x"], ["x", "y", "z"]),
        {"rank": [3], "ap": [1 / 3], "top": [[1, 2]]},
        "all tied: the relevant item comes last",
    ),
    Expect(
        ([[1.0, 1.0, 0.0, 2.0]], ["x"], ["x", "x", "y", "y"]),
        {"rank": [2], "ap": [2 / 3], "top": [[3, 0]]},
        "ties among relevant items cost nothing",
    ),
    Expect(
        ([[0.1, 0.2], [0.2, 0.1]], [7, 7], [7, 7]),
        {"rank": [1, 1], "ap": [1.0, 1.0], "top": [[1, 0], [0, 1]]},
        "integer groups, everything relevant",
    ),
]


@pytest.mark.parametrize("case", HAND, ids=lambda case: case.id)
def test_hand_worked_tables(case):
    scores, queries, gallery = case.input
    found = ranks_from_scores(np.array(scores), np.array(queries), np.array(gallery), top=2)
    np.testing.assert_array_equal(found.rank, case.output["rank"])
    np.testing.assert_allclose(found.average_precision, case.output["ap"], rtol=1e-15)
    np.testing.assert_array_equal(found.top, case.output["top"])


@st.composite
def tied_scores(draw):
    n, g = draw(st.integers(1, 6)), draw(st.integers(1, 14))
    groups = np.array(draw(st.lists(st.integers(0, 4), min_size=g, max_size=g)))
    queries = np.array(draw(st.lists(st.sampled_from(sorted(set(groups))), min_size=n, max_size=n)))
    # Few distinct values: ties everywhere.
    values = st.lists(st.integers(0, draw(st.integers(0, 6))), min_size=n * g, max_size=n * g)
    return np.array(draw(values), dtype=np.float32).reshape(n, g), queries, groups


@given(tied_scores(), st.integers(1, 16))
@settings(max_examples=150, deadline=None)
def test_equals_double_loops_and_sklearn_on_tied_scores(case, top):
    scores, queries, groups = case
    found = ranks_from_scores(scores, queries, groups, top=top)
    for i, group in enumerate(queries):
        relevant = groups == group
        assert found.rank[i] == oracles.rank_of_best(scores[i], relevant)
        assert found.n_relevant[i] == relevant.sum()
        assert found.top[i].tolist() == oracles.first_items(scores[i], relevant, top)
        expected = oracles.average_precision(scores[i], relevant)
        assert found.average_precision[i] == pytest.approx(expected, rel=1e-12)
        assert found.average_precision[i] == pytest.approx(
            average_precision_score(relevant, scores[i]), rel=1e-12
        )


@pytest.mark.parametrize("block_scores", [1, 100, 999, 10**9])
def test_blocks_give_what_one_product_gives(rng, block_scores):
    # Integers are exact in float32, so any blocking of the product has the same bits.
    queries = rng.integers(-3, 4, size=(37, 6)).astype(np.float32)
    gallery = rng.integers(-3, 4, size=(53, 6)).astype(np.float32)
    query_groups, gallery_groups = np.arange(37) % 9, np.arange(53) % 9
    blocked = rank_projections(
        queries, gallery, query_groups, gallery_groups, block_scores=block_scores
    )
    whole = ranks_from_scores(queries @ gallery.T, query_groups, gallery_groups)
    for name in ("rank", "average_precision", "n_relevant", "top"):
        np.testing.assert_array_equal(getattr(blocked, name), getattr(whole, name))
    assert blocked.gallery == 53


BAD = [
    ((np.ones((2, 3)), np.ones((2, 4)), [0, 1], [0, 1]), "same alignment"),
    ((np.ones((2, 3)), np.ones((2, 3)), [0], [0, 1]), "one group id"),
    ((np.ones((0, 3)), np.ones((2, 3)), [], [0, 1]), "nothing to rank"),
    ((np.ones((2, 3)), np.ones((2, 3)), [0, 5], [0, 1]), "add their items to the gallery"),
    ((np.full((2, 3), np.nan), np.ones((2, 3)), [0, 1], [0, 1]), "query projection is not finite"),
    (
        (np.ones((2, 3)), np.full((2, 3), np.inf), [0, 1], [0, 1]),
        "gallery projection is not finite",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[m for _, m in BAD])
def test_bad_input_is_named(arguments, message):
    queries, gallery, query_groups, gallery_groups = arguments
    with pytest.raises(MetricError, match=message):
        rank_projections(queries, gallery, np.array(query_groups), np.array(gallery_groups))


def test_threads_change_nothing(rng):
    """Blocks side by side, more than there are threads, and one after another: every field."""
    queries, gallery = rng.normal(size=(301, 7)), rng.normal(size=(50, 7))
    groups = np.arange(301) % 40, np.arange(50) % 40
    found = []
    for threads in (1, 4):
        with threadpool_limits(threads, "blas"):
            found.append(rank_projections(queries, gallery, *groups, block_scores=1_000))
    for name in ("rank", "average_precision", "truncated_precision", "hits", "top"):
        np.testing.assert_array_equal(getattr(found[0], name), getattr(found[1], name))


def test_bad_scores_are_named():
    with pytest.raises(MetricError, match="NaN"):
        ranks_from_scores(np.array([[np.nan]]), np.zeros(1), np.zeros(1))


def test_a_single_query_ties_like_any_other():
    """A one-row product goes through another kernel, which must not break ties."""
    rng = np.random.default_rng(7)
    for _ in range(100):
        query = rng.standard_normal((1, 333)).astype(np.float32)
        gallery = rng.standard_normal((50, 333)).astype(np.float32)
        gallery[17] = gallery[4]
        groups = np.where(np.arange(50) == 4, 0, np.arange(50) + 1)
        alone = rank_projections(query, gallery, np.array([0]), groups).rank
        both = rank_projections(np.repeat(query, 2, 0), gallery, np.array([0, 0]), groups).rank
        assert alone.tolist() == both.tolist()[:1]
        assert both[0] == both[1]


@pytest.mark.parametrize("block_scores", [7, 10_000])
def test_sparse_projections_rank_as_dense_ones(rng, block_scores):
    # Whole numbers: sums are exact in any order, and there are ties.
    rows, gallery = rng.integers(0, 3, (9, 12)), rng.integers(0, 3, (15, 12))
    groups = rng.integers(0, 4, 9), np.arange(15) % 4
    dense = rank_projections(rows.astype(np.float32), gallery.astype(np.float32), *groups)
    sparse = rank_projections(
        csr_array(rows * 1.0), csr_array(gallery * 1.0), *groups, block_scores=block_scores
    )
    for name in ("rank", "average_precision", "top"):
        np.testing.assert_array_equal(getattr(sparse, name), getattr(dense, name))
    with pytest.raises(MetricError, match="not finite"):
        rank_projections(csr_array(rows * np.nan), csr_array(gallery * 1.0), *groups)

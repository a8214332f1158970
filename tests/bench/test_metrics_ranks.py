"""Ranks and metrics beside loops, scikit-learn and CLIP_benchmark; chance by enumeration."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.stats import hypergeom
from sklearn.metrics import average_precision_score
from threadpoolctl import threadpool_limits

from bench.corpus import Items
from bench.errors import MetricError
from bench.metrics.geometry import nearest_rows
from bench.metrics.ranks import (
    CUTOFFS,
    EqualColumns,
    Relevance,
    first_equal,
    first_places,
    rank_blocks,
)
from bench.metrics.summary import METRICS, chance_levels, query_values, summarise
from bench.options import Retrieval, ZeroShot
from bench.tasks.ranked import score_zero_shot
from tests.bench import oracles_bench as oracles
from tests.shorthand import rank_projections, ranks_from_scores, score_retrieval

#: Scores, groups of queries and of the gallery; ranks, average precision, the first two.
HAND = {
    "the docstring's example": (
        [[0.2, 0.9, 0.5, 0.1], [0.3, 0.3, 0.8, 0.3]], ["a", "c"], ["a", "b", "a", "c"],
        [2, 4], [7 / 12, 1 / 4], [[1, 2], [2, 0]],
    ),
    "all tied: the relevant item comes last": (
        [[1.0, 1.0, 1.0]], ["x"], ["x", "y", "z"], [3], [1 / 3], [[1, 2]],
    ),
    "ties among relevant items cost nothing": (
        [[1.0, 1.0, 0.0, 2.0]], ["x"], ["x", "x", "y", "y"], [2], [2 / 3], [[3, 0]],
    ),
    "integer groups, everything relevant": (
        [[0.1, 0.2], [0.2, 0.1]], [7, 7], [7, 7], [1, 1], [1.0, 1.0], [[1, 0], [0, 1]],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HAND)
def test_hand_worked_tables(name):
    *given_, rank, precision, top = map(np.array, HAND[name])
    found = ranks_from_scores(*given_, top=2)
    np.testing.assert_array_equal(found.rank, rank)
    np.testing.assert_allclose(found.average_precision, precision, rtol=1e-15)
    np.testing.assert_array_equal(found.top, top)


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
    values = {
        name: query_values(name, found)
        for name in ("mAP-truncated", *(f"{m}@{k}" for m in ("recall", "P") for k in CUTOFFS))
    }
    for i, group in enumerate(queries):
        relevant = groups == group
        assert found.rank[i] == oracles.rank_of_best(scores[i], relevant)
        assert found.n_relevant[i] == relevant.sum()
        assert found.top[i].tolist() == oracles.first_items(scores[i], relevant, top)
        theirs = average_precision_score(relevant, scores[i])
        assert found.average_precision[i] == pytest.approx(theirs, rel=1e-12)
        expected = oracles.truncated_precision(scores[i], relevant.tolist())
        assert values["mAP-truncated"][i] == pytest.approx(expected, rel=1e-12)
        for k in CUTOFFS:
            assert values[f"recall@{k}"][i] == oracles.true_recall(scores[i], relevant, k)
            assert values[f"P@{k}"][i] == oracles.precision_at(scores[i], relevant, k)


@pytest.mark.parametrize("block_scores", [1, 100, 10**9])
@pytest.mark.parametrize("kept_as", [np.float32, csr_array])
def test_blocks_give_what_one_product_gives(rng, kept_as, block_scores):
    # Integers are exact in float32, so any blocking of the product has the same bits.
    queries, gallery = (rng.integers(-3, 4, size=(n, 6)).astype(np.float32) for n in (37, 53))
    groups = np.arange(37) % 9, np.arange(53) % 9
    blocked = rank_projections(
        kept_as(queries), kept_as(gallery), *groups, block_scores=block_scores
    )
    whole = ranks_from_scores(queries @ gallery.T, *groups)
    for name in ("rank", "average_precision", "n_relevant", "top"):
        np.testing.assert_array_equal(getattr(blocked, name), getattr(whole, name))
    assert blocked.gallery == 53


BAD = [
    ((np.ones((2, 3)), np.ones((2, 4)), [0, 1], [0, 1]), "same alignment"),
    ((np.ones((0, 3)), np.ones((2, 3)), [], [0, 1]), "nothing to rank"),
    ((np.ones((2, 3)), np.ones((2, 3)), [0, 5], [0, 1]), "add their items to the gallery"),
    ((np.full((2, 3), np.nan), np.ones((2, 3)), [0, 1], [0, 1]), "query projection is not finite"),
    ((np.ones((2, 3)), np.full((2, 3), np.inf), [0, 1], [0, 1]), "gallery projection is not"),
    ((csr_array([[np.nan]]), csr_array([[1.0]]), [0], [0]), "not finite"),
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


@pytest.mark.parametrize("k", CUTOFFS)
def test_equal_to_clip_benchmark_on_random_scores(rng, k):
    torch = pytest.importorskip("torch")
    recall_at_k = pytest.importorskip("clip_benchmark.metrics.zeroshot_retrieval").recall_at_k
    images, captions = np.arange(60), np.arange(300) // 5
    positive = captions[:, None] == images
    scores = rng.normal(size=(300, 60)) + 1.5 * positive
    for s, p, queries, gallery in (
        (scores, positive, captions, images),
        (scores.T, positive.T, images, captions),
    ):
        theirs = recall_at_k(torch.tensor(s.copy()), torch.tensor(p.copy()), k).numpy()
        ours = ranks_from_scores(s, queries, gallery)
        np.testing.assert_allclose(query_values(f"recall@{k}", ours), theirs, rtol=1e-6)
        # Their hit recall: whether any of the positives was found.
        assert summarise(ours, [f"R@{k}"])[f"R@{k}"] == pytest.approx((theirs > 0).mean())


def test_the_worked_example_of_five_captions():
    """docs/ref/tasks.md: an image whose five captions stand at 2, 4, 5, 9 and 12 of 20."""
    scores = np.arange(20, 0, -1.0)[None]
    captions = np.ones(20, dtype=int)
    captions[[1, 3, 4, 8, 11]] = 0
    found = ranks_from_scores(scores, np.array([0]), captions)
    assert summarise(found) == pytest.approx(
        {
            "R@1": 0.0, "R@5": 1.0, "R@10": 1.0, "top-1": 0.0, "top-5": 1.0, "top-10": 1.0,
            "recall@1": 0.0, "recall@5": 3 / 5, "recall@10": 4 / 5,
            "P@1": 0.0, "P@5": 3 / 5, "P@10": 4 / 10,
            "median_rank": 2.0, "mean_rank": 2.0, "MRR": 1 / 2,
            "mAP": (1 / 2 + 2 / 4 + 3 / 5 + 4 / 9 + 5 / 12) / 5,
            "mAP-truncated": (1 / 2 + 2 / 4 + 3 / 5) / 5,
        }
    )  # fmt: skip


@pytest.mark.parametrize("levels", [2, 5, 40, 10**6])
@pytest.mark.parametrize(("n", "g", "top"), [(5, 1000, 3), (4, 90, 8)])
def test_first_places_of_wide_galleries_are_those_of_a_full_sort(rng, levels, n, g, top):
    scores = rng.integers(0, levels, size=(n, g)).astype(np.float32)
    queries, gallery = rng.integers(0, 4, n), rng.integers(0, 4, g)
    found = first_places(scores, queries, gallery, top)
    for i in range(n):
        assert found[i].tolist() == oracles.first_items(scores[i], gallery == queries[i], top)


def test_blocks_must_add_up():
    relevance = Relevance.build(np.arange(3), np.arange(3))
    with pytest.raises(MetricError, match=r"shape \(2, 3\); 1 queries are left"):
        rank_blocks([np.zeros((2, 3)), np.zeros((2, 3))], relevance)


def test_a_space_of_100_000_anchors_is_ranked_in_a_gigabyte():
    """In a process of its own; the dense gallery alone would be 1.2 GB."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.perf.ranks_memory", "sparse", "100", "3000", "100000"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert int(done.stdout) < 1_000_000_000


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

    def __init__(self, rng):
        self._x, self._y = (rng.standard_normal((p, 64)).astype(np.float32) for p in (96, 48))

    def project_x(self, rows):
        return rows @ self._x

    def project_y(self, rows):
        return rows @ self._y


def items(rng, ids, classes, rows, **more):
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


@pytest.mark.parametrize("k", [1, 5, 10])
@pytest.mark.parametrize(("relevant", "gallery"), [(1, 3), (1, 517), (3, 40), (5, 12), (12, 12)])
def test_hit_probability_is_hypergeometric(k, relevant, gallery):
    got = chance_levels(np.array([relevant]), gallery, [f"R@{k}"])[f"R@{k}"]
    expected = 1 - hypergeom(gallery, relevant, min(k, gallery)).pmf(0)
    assert got == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("relevant", "gallery"), [(1, 6), (2, 6), (3, 7), (6, 6), (1, 1)])
def test_equals_the_mean_over_every_order(relevant, gallery):
    precisions, truncated, reciprocals, bests, first_five = [], [], [], [], []
    for places in itertools.combinations(range(1, gallery + 1), relevant):
        precisions.append(np.mean([(i + 1) / place for i, place in enumerate(places)]))
        reciprocals.append(1 / places[0])
        bests.append(places[0])
        within = [(i + 1) / place for i, place in enumerate(places) if place <= relevant]
        truncated.append(sum(within) / relevant)
        first_five.append(sum(place <= 5 for place in places))
    names = ["mAP", "mAP-truncated", "MRR", "median_rank", "mean_rank", "recall@5", "P@5", "R@5"]
    levels = chance_levels(np.array([relevant]), gallery, names)
    assert levels["mAP"] == pytest.approx(np.mean(precisions), rel=1e-12)
    assert levels["MRR"] == pytest.approx(np.mean(reciprocals), rel=1e-12)
    assert levels["mAP-truncated"] == pytest.approx(np.mean(truncated), rel=1e-12)
    assert levels["mean_rank"] == pytest.approx(np.mean(bests), rel=1e-12)
    assert levels["recall@5"] == pytest.approx(np.mean(first_five) / relevant, rel=1e-12)
    assert levels["P@5"] == pytest.approx(np.mean(first_five) / 5, rel=1e-12)
    assert levels["R@5"] == pytest.approx(np.mean(np.array(bests) <= 5), rel=1e-12)
    # The smallest rank that half of the orders reach.
    assert levels["median_rank"] == np.quantile(bests, 0.5, method="inverted_cdf")


def test_simulation_over_queries_with_different_counts_agrees(rng):
    groups = np.repeat(np.arange(8), [1, 1, 2, 3, 5, 8, 13, 1])
    queries = np.tile(np.arange(8), 4_000)
    found = ranks_from_scores(rng.normal(size=(len(queries), len(groups))), queries, groups)
    levels = chance_levels(found.n_relevant, found.gallery)
    seen = summarise(found)
    for metric in METRICS:
        # Four standard errors of the simulated mean; the median moves by whole ranks.
        values = query_values(metric, found)
        slack = 1.0 if metric == "median_rank" else 4 * values.std() / np.sqrt(len(values))
        assert abs(levels[metric] - seen[metric]) <= slack


def test_unknown_metrics_are_refused():
    with pytest.raises(MetricError, match="No metric named 'recall'"):
        chance_levels(np.array([1]), 3, ["recall"])
    for name in ("R@0", "recall@7", "macro-F1"):
        with pytest.raises(MetricError, match=f"No metric named '{name}'"):
            query_values(name, ranks_from_scores(np.eye(2), np.arange(2), np.arange(2)))

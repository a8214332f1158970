"""Retrieval's metrics beside double loops and CLIP_benchmark's own functions."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from clip_benchmark.metrics.zeroshot_retrieval import recall_at_k
from hypothesis import given, settings

from bench.errors import MetricError
from bench.metrics.ranks import CUTOFFS, WIDTH, Relevance, first_places, rank_blocks
from bench.metrics.summary import query_values, summarise
from tests.bench import oracles_bench as oracles
from tests.bench.test_metrics_ranks import tied_scores
from tests.shorthand import ranks_from_scores


@given(tied_scores())
@settings(max_examples=80)
def test_equal_to_double_loops_on_tied_scores(case):
    scores, queries, groups = case
    found = ranks_from_scores(scores, queries, groups)
    values = {
        name: query_values(name, found)
        for name in ("mAP-truncated", *(f"{m}@{k}" for m in ("recall", "P") for k in CUTOFFS))
    }
    for i, group in enumerate(queries):
        relevant = (groups == group).tolist()
        assert found.rank[i] == oracles.places(scores[i], relevant)[0]
        expected = oracles.truncated_precision(scores[i], relevant)
        assert values["mAP-truncated"][i] == pytest.approx(expected, rel=1e-12)
        for k in CUTOFFS:
            assert values[f"recall@{k}"][i] == oracles.true_recall(scores[i], relevant, k)
            assert values[f"P@{k}"][i] == oracles.precision_at(scores[i], relevant, k)


def five_captions(rng, n=60):
    """Scores (5n captions × n images) in the layout of CLIP_benchmark, with what is positive."""
    scores = rng.normal(size=(5 * n, n))
    scores[np.arange(5 * n), np.arange(5 * n) // 5] += 1.5
    positive = np.zeros(scores.shape, dtype=bool)
    positive[np.arange(5 * n), np.arange(5 * n) // 5] = True
    return scores, positive


@pytest.mark.parametrize("k", CUTOFFS)
def test_equal_to_clip_benchmark_on_random_scores(rng, k):
    scores, positive = five_captions(rng)
    images, captions = np.arange(60), np.arange(300) // 5
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
@pytest.mark.parametrize(("n", "g", "top"), [(7, 4 * WIDTH * 5 + 13, 5), (5, 1000, 3), (4, 90, 8)])
def test_first_places_of_wide_galleries_are_those_of_a_full_sort(rng, levels, n, g, top):
    scores = rng.integers(0, levels, size=(n, g)).astype(np.float32)
    queries, gallery = rng.integers(0, 4, n), rng.integers(0, 4, g)
    found = first_places(scores, queries, gallery, top)
    for i in range(n):
        assert found[i].tolist() == oracles.first_items(scores[i], gallery == queries[i], top)


def test_many_close_relevant_items_count_like_few(rng):
    """Whether other relevant items are counted in a list or in passes changes no number."""
    scores = rng.normal(size=(30, 400))
    groups = np.repeat(np.arange(100), 4)
    near = scores.copy()
    near[np.arange(30)[:, None], np.arange(30)[:, None] * 4 + np.arange(4)] += 6.0
    for s in (scores, near):
        found = ranks_from_scores(s, np.arange(30), groups)
        for i in range(30):
            expected = oracles.places(s[i], (groups == i).tolist())
            assert found.rank[i] == expected[0]
            assert found.hits[i].tolist() == [sum(p <= k for p in expected) for k in CUTOFFS]


def test_blocks_must_add_up():
    relevance = Relevance.build(np.arange(3), np.arange(3), 3, 3)
    with pytest.raises(MetricError, match="2 rows for 3 queries"):
        rank_blocks([np.zeros((2, 3))], relevance)
    with pytest.raises(MetricError, match=r"shape \(2, 3\); 1 queries are left"):
        rank_blocks([np.zeros((2, 3)), np.zeros((2, 3))], relevance)


def test_a_space_of_100_000_anchors_is_ranked_in_a_gigabyte():
    """In a process of its own; the dense gallery alone would be 1.2 GB."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.perf.ranks_memory", "sparse", "100", "3000", "100000"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert int(done.stdout) < 1_000_000_000

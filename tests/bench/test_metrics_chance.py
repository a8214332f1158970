import ast
import itertools
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import hypergeom

import bench
from bench.errors import MetricError
from bench.metrics.summary import METRICS, chance_levels, query_values, summarise
from tests.shorthand import ranks_from_scores


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
    names = ["mAP", "mAP-truncated", "MRR", "median_rank", "mean_rank", "recall@5", "P@5"]
    levels = chance_levels(np.array([relevant]), gallery, names)
    assert levels["mAP"] == pytest.approx(np.mean(precisions), rel=1e-12)
    assert levels["MRR"] == pytest.approx(np.mean(reciprocals), rel=1e-12)
    assert levels["mAP-truncated"] == pytest.approx(np.mean(truncated), rel=1e-12)
    assert levels["mean_rank"] == pytest.approx(np.mean(bests), rel=1e-12)
    assert levels["recall@5"] == pytest.approx(np.mean(first_five) / relevant, rel=1e-12)
    assert levels["P@5"] == pytest.approx(np.mean(first_five) / 5, rel=1e-12)
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


def test_what_is_known_of_metrics_stands_in_one_table():
    """A table by metric elsewhere is a second list, which the next metric would not be in."""
    tables = {
        path.name
        for path in Path(bench.__file__).parent.rglob("*.py")
        for one in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(one, ast.Dict)
        and len(METRICS.keys() & {getattr(key, "value", None) for key in one.keys}) > 1
    }
    assert tables == {"summary.py"}

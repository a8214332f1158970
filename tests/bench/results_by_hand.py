"""Results written by hand: cells whose per-query ranks a test decides."""

import time
from functools import cache
from operator import attrgetter

import numpy as np
import polars as pl

from bench import Run
from bench.metrics.ranks import CUTOFFS, Ranks
from bench.metrics.summary import chance_levels, query_values
from bench.results import RANK_SCHEMA, RESULT_SCHEMA, write_batch
from bench.runs import LEAVES

SETS = {
    "image_set": "d/image/timm.m-00000000",
    "image_revision": "a" * 64,
    "name_set": "d/class_name/st.t-00000000",
    "name_revision": "b" * 64,
}
#: Draws of the study: enough for a claim.
SEEDS = tuple(range(10))
METRICS = {
    "image→class": ("top-1",),
    "image→name": ("top-1", "top-5", "top-10", "median_rank", "MRR"),
    "image→caption": ("R@1", "R@5", "R@10", "median_rank", "MRR", "mAP"),
    "caption→image": ("R@1", "R@5", "R@10", "median_rank", "MRR", "mAP"),
}


DIRECTIONS = {"zero_shot": ["image→name"], "few_shot": ["image→class"]}


def has(run, **wanted):
    """Whether the fields of a run have these values."""
    paths = {leaf.name: ".".join(leaf.path) for leaf in LEAVES}
    return all(attrgetter(paths[name])(run) == value for name, value in wanted.items())


_levels = cache(lambda n, gallery: chance_levels(np.ones(n, dtype=int), gallery))


def hand_run(source="head", n_pairs=0, seed=0, **fields):
    """A run with the given cell."""
    settings = {
        "suite": "hand", "task": "zero_shot", "eval": "held-out", "method": "ridge",
        **SETS, **fields,
    }  # fmt: skip
    return Run.of(source=source, n_pairs=n_pairs, seed=seed, **settings)


def write_ranks(
    root, run, ranks, *, clusters=None, gallery=20, queries=None, pool=500.0, finished_at=None
):
    """Write a run whose queries have these ranks, in each direction of its task.

    `pool` is what its real pairs were drawn from; `finished_at` is now unless it is given.
    """
    ranks = np.asarray(ranks)
    n, n_pairs = len(ranks), run.protocol.n_pairs
    queries = [f"q{run.seed}-{i:03d}" for i in range(n)] if queries is None else queries
    clusters = queries if clusters is None else clusters
    directions = DIRECTIONS.get(run.task, ["image→caption", "caption→image"])
    rows, tables, own = [], [], run.columns()
    levels = _levels(n, gallery)
    hits = (ranks[:, None] <= np.array(CUTOFFS)).astype(int)
    found = Ranks(ranks, 1 / ranks, (ranks == 1) * 1.0, hits, np.ones(n, int), hits, gallery)
    for direction in directions:
        for metric in METRICS[direction]:
            values = query_values(metric, found)
            rows.append(
                own
                | {
                    "direction": direction, "metric": metric, "chance": levels[metric],
                    "value": float(np.median(values) if metric == "median_rank" else values.mean()),
                    "n_queries": n, "n_clusters": len(set(clusters)), "gallery": gallery,
                    "n_images_fitted": {"all": 50}.get(n_pairs, n_pairs),
                    "n_pool": pool, "clusters_of": "classes",
                    "n_prototypes": 0 if run.protocol.source == "none" else 100,
                    "image_mean": "training images", "penalty_chosen": 0.1 * (1 + run.seed),
                    "mix_chosen": 1.0, "penalty_at_edge": run.seed == 1, "mix_at_edge": False,
                    "flat_choice": run.seed == 2,
                    "fit_seconds": 0.1, "score_seconds": 0.1,
                    "finished_at": finished_at or time.time(),
                }
            )  # fmt: skip
        tables.append(
            pl.DataFrame(
                {
                    "run_id": [run.run_id] * n, "direction": [direction] * n,
                    "query_id": queries, "cluster_id": list(clusters), "rank": ranks,
                    "average_precision": found.average_precision, "n_relevant": [1] * n,
                    "truncated_precision": found.truncated_precision, "hits": pl.Series(hits),
                    "top": pl.Series([["x", "y"]]).new_from_index(0, n), "own": [None] * n,
                },
                schema=RANK_SCHEMA,
            )
        )  # fmt: skip
    write_batch(root, pl.DataFrame(rows, schema=RESULT_SCHEMA), pl.concat(tables))


def ranks_with(rng, n, hits, gallery=20):
    """Ranks of n queries, a share `hits` of them 1."""
    return np.where(rng.random(n) < hits, 1, rng.integers(2, gallery + 1, size=n))


def write_study(root, rng, *, head=0.5, random=0.05, shuffled=0.05, real=0.2, mixed=0.55, **fields):
    """Write a small study: K in 0, 16 and all, the controls, ConSE, `SEEDS`."""
    for seed in SEEDS:
        shares = [
            ("conse", "head", 0, head), ("ridge", "head", 0, head), ("ridge", "random", 0, random),
            ("ridge", "shuffled", 0, shuffled),
        ]  # fmt: skip
        for k in (16, "all"):
            shares += [
                ("ridge", "none", k, real), ("ridge", "head", k, mixed),
                ("ridge", "random", k, real), ("ridge", "shuffled", k, real),
            ]  # fmt: skip
        for method, source, k, share in shares:
            for task in ("zero_shot", "retrieval"):
                run = hand_run(source, k, seed, method=method, task=task, **fields)
                clusters = [f"c{i % 40}" for i in range(80)]
                write_ranks(root, run, ranks_with(rng, 80, share), clusters=clusters)

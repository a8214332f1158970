"""The suite of few-shot learners on toy stores, its table, and the command that plans it."""

import numpy as np
import polars as pl
import pytest

from bench import read_results, run_all
from bench.results import read_ranks
from bench.statistics import DrawSums, proportion_interval
from bench.suites.few_shot import few_shot_runs, few_shot_table
from featstore import open_store
from featstore.testing import item_table, write_set

C, PER_CLASS, DIM = 4, 10, 12


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Three datasets: pets with a split and one model's names, own with a head of its classes, and
    lone, whose classes have one image each."""
    root = tmp_path_factory.mktemp("few") / "store"
    rng = np.random.default_rng(3)
    centres = rng.normal(size=(C, DIM))
    space = {"family": "oc", "pair": "p"}
    for dataset, per_class, model in (
        ("pets", PER_CLASS, "vit"),
        ("own", 8, "net"),
        ("lone", 1, "vit"),
    ):
        owner = np.repeat(np.arange(C), per_class)
        rows = centres[owner] + 0.5 * rng.normal(size=(len(owner), DIM))
        ids = [f"{dataset}/{i:02d}" for i in range(len(owner))]
        classes = [f"{dataset}/class-{c}" for c in range(C)]
        parts = {"split": ["test" if i % 2 else "train" for i in range(len(ids))]}
        write_set(
            root, rows.astype(np.float32),
            item_table(ids, "image", class_id=[classes[c] for c in owner],
                       uri=[f"{i}.png" for i in ids], **(parts if dataset == "pets" else {})),
            dataset=dataset, kind="image", encoder=f"oc:{model}", space=space | {"tower": model},
        )  # fmt: skip
        texts = (centres + 0.3 * rng.normal(size=centres.shape)).astype(np.float32)
        named = dataset != "own"
        prompts = [(c, t) for c in classes for t in ("none", "photo")]
        write_set(
            root, np.repeat(texts, 2, axis=0),
            item_table([f"{c}#name#{t}" for c, t in prompts], "class_name",
                       class_id=[c for c, _ in prompts], variant=["name"] * 2 * C,
                       template_id=[t for _, t in prompts], text=[c for c, _ in prompts]),
            dataset=dataset, kind="class_name", encoder="oc:text" if named else "st:text",
            space=space | {"tower": "text"} if named else {"family": "st"},
        )  # fmt: skip
        if dataset == "own":
            write_set(
                root, texts,
                item_table([f"{c}#head" for c in classes], "head_weight", class_id=classes),
                dataset=dataset, kind="head_weight", encoder="oc:net",
                space=space | {"tower": "net"}, bias=np.zeros(C, np.float32),
            )  # fmt: skip
    return root


@pytest.fixture(scope="module")
def results(store, tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    runs = few_shot_runs(open_store(store), shots=[1, 4], learners=["class-means", "gda", "proker"])
    run_all([r for r in runs if r.seed < 2 or "pets" in r.data.image_set], store, root)
    return root


def test_the_table_has_means_with_intervals_over_draws_and_clusters(results):
    rows = read_results(results)
    table = few_shot_table(results, rows)
    assert table.height == 3 * 2 * 3
    assert table["learner"].to_list() == ["class-means", "gda", "proker"] * 6
    assert table["shots"].to_list() == [1, 1, 1, 4, 4, 4] * 3
    row = table.row(
        by_predicate=(pl.col("dataset") == "pets") & (pl.col("learner") == "gda")
        & (pl.col("shots") == 4),
        named=True,
    )  # fmt: skip
    own = rows.filter(
        pl.col("image_set").str.starts_with("pets/"), learner="gda", shots=4, metric="top-1"
    )
    ranks = read_ranks(results, own["run_id"].to_list())
    hits = (ranks["rank"] == 1).cast(pl.Float64).to_numpy()
    sums = DrawSums.of(hits, ranks["run_id"].to_numpy(), ranks["cluster_id"].to_numpy())
    # 16 shots of a pool of 20 training images.
    low, high = proportion_interval(sums, overlap=16 / 20)
    assert row["top-1"] == pytest.approx(hits.mean())
    assert (row["low"], row["high"]) == (pytest.approx(low), pytest.approx(high))
    assert (row["n_seeds"], row["n_clusters"], row["clusters_of"]) == (10, 20, "images")
    assert (row["n_shots"], row["overlap"], row["gallery"]) == (16, 0.8, 4)
    assert row["seconds"] == pytest.approx(own["learner_seconds"].mean())
    assert row["top-1"] > 0.5
    assert set(own["n_views"]) == {1}
    assert set(own["learner_folds"]) == {5.0}

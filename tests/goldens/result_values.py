"""What runs give on the store of `world`: every method, every task, every evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import read_ranks, read_results, run_all
from bench.options import TASKS
from bench.suites.single import task_runs
from featstore import open_store
from fitters.few_shot.registry import LEARNERS
from fitters.methods import METHODS
from tests.goldens.files import rounded
from tests.goldens.world import OWN_HEAD, SETS, write_world

#: Of the trained methods: enough to see whether a training does the same steps.
EPOCHS = 3

#: Learners that take ten seconds.
SLOW = ("paper-few-shot",)

#: Methods that read no head, and one that reads nothing else.
REAL_ONLY, HEAD_ONLY = ("text-to-concept",), ("conse",)

#: Columns of a result that say what was fitted and chosen.
FACTS = ("n_queries", "gallery", "n_images_fitted", "n_prototypes", "n_shots")


def _cases() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name of a case and the changes that it makes to a request."""
    for method, spec in METHODS.items():
        own = {"method": method}
        if spec.fitted_on == "training":
            own["epochs"] = EPOCHS
        if method not in REAL_ONLY:
            yield f"{method}, head", {**own, "source": "head"}
        if method not in HEAD_ONLY:
            real = {**own, "eval": "held-out", "n_pairs": "all", "seeds": (1,)}
            yield f"{method}, real", real
            if method not in REAL_ONLY:
                yield f"{method}, head and real", {**real, "source": "head", "n_pairs": 24}
    for source in ("random", "random-cov", "shuffled"):
        own = {"source": source, "eval": "held-out", "n_pairs": 24, "seeds": (2,)}
        for method in ("ridge", "procrustes", "kernel-ridge"):
            yield f"{method}, {source} and real", {**own, "method": method}
    yield "class means as pairs", {
        "method": "ridge", "eval": "in-class", "pairs_per_class": 2, "source": "head",
    }  # fmt: skip
    yield "split of the manifest", {"method": "ridge", "eval": "split", "n_pairs": "all"}
    yield from _tasks()


def _tasks() -> Iterator[tuple[str, dict[str, Any]]]:
    base: dict[str, Any] = {"method": "ridge", "source": "head"}
    chosen: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("zero_shot", {"prompts": "max"}, {}),
        ("zero_shot", {"prompts": "each"}, {}),
        ("zero_shot", {"classes": "unseen"}, {}),
        ("zero_shot", {"scorer": "csls"}, {}),
        ("zero_shot", {"scorer": "inverted-softmax"}, {}),
        ("generalised", {}, {}),
        ("retrieval", {}, {}),
        ("retrieval", {}, {"relevance": "class_id"}),
        ("retrieval", {"captions": 1, "scorer": "csls"}, {}),
        ("head_names", {"n_permutations": 99}, {}),
        ("head_names", {"by": "relative", "n_permutations": 99}, {}),
        ("neighbours", {}, {}),
        ("neighbours", {"of": "class-means", "per_class": 2}, {}),
        ("neighbours", {"of": "pairs", "k": (2, 5)}, {}),
        ("modality_gap", {"n_permutations": 99}, {}),
        ("modality_gap", {"between": "images-texts", "n_permutations": 99}, {}),
        ("neural_collapse", {}, {}),
        ("cosine_head", {}, OWN_HEAD),
        ("hubness", {"k": 5}, {}),
        ("hubness", {"gallery": "captions", "k": 5, "scorer": "csls"}, {}),
        ("spectrum", {}, {}),
        *(
            ("few_shot", {"shots": 2, "learner": learner}, {"eval": "in-class"})
            for learner in LEARNERS
            if learner not in SLOW
        ),
    ]
    for task, options, changes in chosen:
        said = ", ".join(f"{key}={value}" for key, value in {**options, **changes}.items())
        made = TASKS[task].options(**options)
        yield f"task {task} ({said})", {"task": task, **base, **changes, "options": made}


def result_values(folder: Path) -> dict[str, Any]:
    """Return case -> direction -> metrics, ranks of all queries, and counts."""
    write_world(folder / "store")
    store = open_store(folder / "store")
    names, runs = {}, []
    for name, changes in _cases():
        (run,) = task_runs(store, **{"task": "zero_shot", **SETS, **changes})
        names[run.run_id] = name
        runs.append(run)
    assert len(names) == len(runs)
    run_all(runs, folder / "store", folder / "results")
    rows = read_results(folder / "results")
    ranks = read_ranks(folder / "results", [run.run_id for run in runs])
    found: dict[str, Any] = {}
    for run_id, name in names.items():
        own, places = (table.filter(run_id=run_id) for table in (rows, ranks))
        found[name] = {}
        for direction in sorted(own["direction"].unique()):
            part = own.filter(direction=direction)
            metrics = {
                metric: rounded(value)
                for metric, value in sorted(part.select("metric", "value").iter_rows())
            }
            facts = {key: part[key][0] for key in FACTS if part[key][0] is not None}
            here = places.filter(direction=direction).sort("query_id")["rank"].to_list()
            found[name][direction] = {"metrics": metrics, "ranks": here, **facts}
    return found

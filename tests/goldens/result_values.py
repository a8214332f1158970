"""What runs give on the store of `world`: every method × task × evaluation, and every field.

`planned` makes the runs; tests/goldens/test_goldens.py says what must be among them, so that a new
method, task, control, learner, metric or field of a run without a pinned value fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import Run, read_ranks, read_results, run_all
from bench.options import TASKS
from featstore import open_store
from fitters.few_shot import LEARNERS
from fitters.methods import METHODS
from fitters.scorers import SCORERS
from tests.goldens.files import rounded
from tests.goldens.world import OWN_HEAD, SETS, write_world
from tests.shorthand import task_runs

#: Of the trained methods: enough to see whether a training does the same steps.
EPOCHS = 3

TRAINED_METHODS = {name for name, spec in METHODS.items() if spec.fitted_on == "training"}

#: Learners that are not run: ten seconds of training, which tests/fitters/few_shot transcribes.
SLOW = ("paper-few-shot",)

#: Tasks that look at an alignment, with options that make them quick: each scores every method.
OF_ALIGNMENTS: dict[str, dict[str, Any]] = {
    "zero_shot": {}, "generalised": {}, "retrieval": {},
    "modality_gap": {"between": "images-texts", "n_permutations": 19},
}  # fmt: skip

#: Fields of a run that no case changes, and why not.
NOT_PINNED = {
    "view_set": "tests/bench/test_few_shot_task.py has views", "view_revision": "as view_set",
    "layer_sets": "tests/bench/test_task_runs.py searches layers",
    "layer_revisions": "as layer_sets",
    "pairs_from": "tests/bench/test_pairs_elsewhere.py makes its fits by hand",
    "train_splits": "the world has two splits: one is scored, the other trained on",
    "variants": "the world has one variant of a name", "pair_variants": "as variants",
    "patience": "3 epochs have nothing to be patient of", "precision": "tests/gpu has bf16",
    "within": "needs the label sets of timm",
}  # fmt: skip

#: Methods that read no head, and one that reads nothing else.
REAL_ONLY, HEAD_ONLY = ("text-to-concept",), ("conse",)

#: Methods whose projections are sparse.
SPARSE = ("asif", "conse")

#: Columns of a result that say what was fitted and chosen.
FACTS = ("n_queries", "gallery", "n_images_fitted", "n_prototypes", "n_shots")


def _cases() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name of a case and the changes that it makes to a request."""
    for method in METHODS:
        own = {"method": method}
        if method in TRAINED_METHODS:
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
    yield from _products()
    yield from _sources()
    yield from _fields()
    yield "class means as pairs", {
        "method": "ridge", "eval": "in-class", "pairs_per_class": 2, "source": "head",
    }  # fmt: skip
    yield "split of the manifest", {"method": "ridge", "eval": "split", "n_pairs": "all"}
    yield from _tasks()


def _products() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every method × evaluation × task that looks at an alignment."""
    for method in METHODS:
        some: dict[str, Any] = {"method": method, "n_pairs": 24, "seeds": (3,), "source": "head"}
        if method in TRAINED_METHODS:
            some["epochs"] = EPOCHS
        if method in REAL_ONLY:
            some["source"] = "none"
        if method in HEAD_ONLY:
            some["n_pairs"] = 0
        for evaluation in ("held-out", "split", "in-class"):
            for task, options in OF_ALIGNMENTS.items():
                if task == "generalised" and evaluation != "held-out":
                    continue  # with real pairs of its classes none is unseen
                if task == "modality_gap" and method in SPARSE:
                    continue  # a gap is between dense projections
                # With 24 pairs of one seed: one fit for all tasks.
                made = TASKS[task].options(**options)
                changes = {**some, "eval": evaluation, "task": task, "options": made}
                yield f"{method}, {evaluation}, {task}", changes
        shots = TASKS["few_shot"].options(shots=2)
        few = {**some, "eval": "in-class", "task": "few_shot", "options": shots}
        yield f"{method}, in-class, few_shot", few


def _sources() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield controls alone, and those that need more than a name."""
    for source in ("random", "random-cov", "shuffled", "rotated"):
        yield f"ridge, {source}", {"method": "ridge", "source": source}
    yield "ridge, shuffled, draw 7", {"method": "ridge", "source": "shuffled", "control_draw": 7}
    within = {"source": "shuffled-within", "clusters": 6}
    yield "ridge, shuffled-within", {"method": "ridge", **within}
    mixed: dict[str, Any] = {"eval": "held-out", "n_pairs": 24, "seeds": (2,)}
    for method in ("ridge", "procrustes", "kernel-ridge"):
        for source in ("rotated", "repeated", "mixup", "class-means"):
            yield f"{method}, {source} and real", {**mixed, "method": method, "source": source}
        yield f"{method}, shuffled-within and real", {**mixed, "method": method, **within}


def _fields() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a case for each field of data, protocol and fit that the others leave as it is."""
    head: dict[str, Any] = {"method": "ridge", "source": "head"}
    mixed = {**head, "eval": "held-out", "n_pairs": 24, "seeds": (4,)}
    trained = {**mixed, "method": "paper-mlp", "epochs": EPOCHS}
    by_class = {**head, "eval": "in-class", "pairs_per_class": 2}
    changed: list[tuple[dict[str, Any], dict[str, Any]]] = [
        *((head, {"head_size": 20, "head_by": by}) for by in ("random", "nearest", "farthest")),
        (head, {"leave_seen": True}),
        (mixed, {"head_rows": "adapted"}),
        (head, {"limit": 60}),
        (mixed, {"task": "retrieval", "locales": ("en",)}),
        (mixed, {"train_fraction": 0.4}),
        (head, {"templates": ("none",)}),
        (head, {"head_templates": ("photo",)}),
        (head, {"head_variants": ("auto",)}),
        (by_class, {"pair_templates": ("photo",)}),
        (mixed, {"penalty": 0.3, "mix": 2.0}),
        (mixed, {"criterion": "error"}),
        (mixed, {"validation": "top-1"}),
        ({**mixed, "method": "kernel-ridge"}, {"gamma": 2.0}),
        ({**mixed, "method": "cca"}, {"n_components": 5}),
        ({**mixed, "method": "procrustes"}, {"rank": 4}),
        ({**mixed, "method": "asif"}, {"top_k": 12, "power": 3.0}),
        ({**head, "method": "conse"}, {"centre": False}),
        (trained, {"batch_size": 16}),
        (trained, {"learning_rate": 0.01}),
        (trained, {"sequential": True}),
    ]
    for base, changes in changed:
        own = {**base, **changes}
        if own["method"] in REAL_ONLY:
            own |= {"source": "none", "eval": "held-out", "n_pairs": "all"}
        said = ", ".join(f"{key}={value}" for key, value in changes.items())
        yield f"{own['method']} with {said}", own


def _tasks() -> Iterator[tuple[str, dict[str, Any]]]:
    base: dict[str, Any] = {"method": "ridge", "source": "head"}
    chosen: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("zero_shot", {"prompts": "max"}, {}),
        ("zero_shot", {"prompts": "each"}, {}),
        ("zero_shot", {"classes": "unseen"}, {}),
        ("zero_shot", {"classes": "seen"}, {}),
        ("zero_shot", {"confidence": True}, {}),
        *(("zero_shot", {"scorer": scorer}, {}) for scorer in SCORERS if scorer != "cosine"),
        *(("retrieval", {"scorer": scorer}, {}) for scorer in SCORERS if scorer != "cosine"),
        ("generalised", {}, {}),
        ("generalised", {"prompts": "max"}, {}),
        ("generalised", {"prompts": "each", "scorer": "csls"}, {}),
        ("retrieval", {}, {}),
        ("retrieval", {}, {"relevance": "class_id"}),
        ("retrieval", {"captions": 1, "scorer": "csls"}, {}),
        ("neighbours", {}, {}),
        ("neighbours", {"of": "class-means", "per_class": 2}, {}),
        ("neighbours", {"of": "class-means", "rows": "raw", "n_permutations": 19}, {}),
        ("neighbours", {"of": "pairs", "k": (2, 5)}, {}),
        ("neighbours", {"of": "pairs", "max_rows": 40, "n_permutations": 19}, {}),
        ("modality_gap", {"n_permutations": 99}, {}),
        ("modality_gap", {"between": "images-texts", "n_permutations": 99}, {}),
        ("modality_gap", {"max_rows": 40, "n_permutations": 19}, {}),
        ("cosine_head", {}, OWN_HEAD),
        ("few_shot", {"shots": 2, "prototypes": "none"}, {"eval": "in-class"}),
        ("few_shot", {"shots": 1, "confidence": True}, {"eval": "in-class"}),
        ("few_shot", {"shots": 2, "prototypes": "head"}, {"eval": "in-class", **OWN_HEAD}),
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


def planned(folder: Path) -> dict[str, Run]:
    """Write the world into a folder and return case -> run."""
    write_world(folder)
    store = open_store(folder)
    runs = {}
    for name, changes in _cases():
        assert name not in runs, name
        (runs[name],) = task_runs(store, **{"task": "zero_shot", **SETS, **changes})
    assert len({run.run_id for run in runs.values()}) == len(runs)
    return runs


def result_values(folder: Path, runs: dict[str, Run] | None = None) -> dict[str, Any]:
    """Return case -> direction -> metrics, ranks of all queries, and counts.

    Of products and trained methods the ranks are left out: the metrics follow from them.
    """
    runs = planned(folder / "store") if runs is None else runs
    run_all(list(runs.values()), folder / "store", folder / "results")
    rows = read_results(folder / "results")
    ranks = read_ranks(folder / "results", [run.run_id for run in runs.values()])
    found: dict[str, Any] = {}
    brief = {name for name, _ in _products()}
    brief |= {name for name, run in runs.items() if run.fit.method in TRAINED_METHODS}
    for name, run in runs.items():
        own, places = (table.filter(run_id=run.run_id) for table in (rows, ranks))
        found[name] = {}
        for direction in sorted(own["direction"].unique()):
            part = own.filter(direction=direction)
            metrics = {
                metric: rounded(value)
                for metric, value in sorted(part.select("metric", "value").iter_rows())
            }
            facts = {key: part[key][0] for key in FACTS if part[key][0] is not None}
            found[name][direction] = {"metrics": metrics, **facts}
            if name not in brief:
                here = places.filter(direction=direction).sort("query_id")["rank"].to_list()
                found[name][direction]["ranks"] = here
    return found

"""What this version does is what was pinned; ``make goldens`` pins it anew.

A refactoring changes none of these files. A change that is meant to shows in their diff.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from bench import Run
from bench.metrics.summary import CLASS_METRICS, METRICS
from bench.options import TASKS
from bench.runs import EVALS, LEAVES, SOURCES
from fitters import METHODS, load
from fitters.few_shot import LEARNERS
from fitters.scorers import SCORERS
from tests.goldens import files
from tests.goldens.chosen_settings import chosen_settings
from tests.goldens.claims import claims
from tests.goldens.manifests import manifests
from tests.goldens.plans import plans
from tests.goldens.result_values import (
    HEAD_ONLY,
    NOT_PINNED,
    OF_ALIGNMENTS,
    REAL_ONLY,
    SLOW,
    SPARSE,
    TRAINED_METHODS,
    planned,
    result_values,
)
from tests.goldens.saved_aligners import FOLDER, projections
from tests.goldens.sentences import sentences
from tests.goldens.store_bytes import store_bytes
from tests.goldens.write import MAKERS

#: How far a value may be off: another processor adds in another order.
TOLERANCE = 1e-6

#: The same of metrics of trained heads: without AVX-512 one query of sixty came out otherwise.
TRAINED = 0.02


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Keep what fits remember to the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))


def differences(pinned: Any, found: Any, far: float, where: str = "") -> Iterator[str]:
    """Yield where two documents differ; numbers with a fraction may be `far` off."""
    if isinstance(pinned, dict) and isinstance(found, dict):
        for key in [*pinned, *(key for key in found if key not in pinned)]:
            if key not in found or key not in pinned:
                yield f"{where}/{key} is {'gone' if key in pinned else 'new'}"
            else:
                yield from differences(pinned[key], found[key], far, f"{where}/{key}")
    elif isinstance(pinned, list) and isinstance(found, list) and len(pinned) == len(found):
        for place, pair in enumerate(zip(pinned, found, strict=True)):
            yield from differences(*pair, far, f"{where}/{place}")
    elif isinstance(pinned, float) and isinstance(found, float):
        if found != pytest.approx(pinned, rel=far, abs=far):
            yield f"{where}: {found!r}, pinned {pinned!r}"
    elif pinned != found or type(pinned) is not type(found):
        yield f"{where}: {found!r}, pinned {pinned!r}"


def check(pinned: Any, found: Any, far: float = TOLERANCE) -> None:
    """Fail with every difference between what is pinned and what was found."""
    wrong = list(differences(pinned, found, far))
    said = "\n".join(wrong[:40])
    assert not wrong, f"{len(wrong)} differences (make goldens):\n{said}"


def test_bytes_of_a_store(tmp_path):
    pinned = files.read("store_bytes")
    found = store_bytes(tmp_path / "store")
    if pinned["polars"] != pl.__version__:
        # Another version packs tables otherwise; everything else must be the same.
        pinned, found = (
            {key: value for key, value in document.items() if key.startswith("without Parquet")}
            for document in (pinned, found)
        )
    assert len(pinned) > 50
    check(pinned, found)


def test_plans(tmp_path):
    """Which runs the suites are, counted, and what they are of."""
    pytest.importorskip("timm")  # the paper's label sets are timm's
    check(files.read("plans"), plans(tmp_path))


def test_manifests(tmp_path):
    """Every image, caption and class of every dataset, with every option of each."""
    pytest.importorskip("torchvision")  # names of flowers; label sets are timm's
    pytest.importorskip("timm")
    check(files.read("manifests"), manifests(tmp_path))


@pytest.mark.slow
def test_chosen_settings(tmp_path):
    """Exactly, but for a share: the other settings are points of a grid, not measurements."""
    pinned, skipped = files.read("chosen_settings"), []
    found = chosen_settings(tmp_path / "store", skipped)
    assert skipped == [] or not set(skipped) & set(pinned)
    wrong = {
        name: (pinned.get(name), found.get(name))
        for name in {*pinned, *found}
        if _without_rounding(pinned.get(name)) != _without_rounding(found.get(name))
    }
    assert wrong == {}
    searched = {name for name, method in METHODS.items() if method.tunes}
    assert {name.partition(",")[0] for name in pinned} == searched


def _without_rounding(chosen: dict[str, Any] | None) -> dict[str, Any] | None:
    share = None if chosen is None else chosen.get("first_share")
    return chosen if share is None else {**(chosen or {}), "first_share": round(share, 9)}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A folder with the world in it."""
    return tmp_path_factory.mktemp("world")


@pytest.fixture(scope="module")
def runs(world) -> dict[str, Run]:
    """The runs of `result_values` by their cases."""
    return planned(world / "store")


@pytest.mark.slow
def test_result_values(world, runs):
    """Metrics to `TOLERANCE` or `TRAINED`, other ranks exactly, of every method and every task."""
    both = files.read("result_values"), result_values(world, runs)
    trained = {name for name, run in runs.items() if run.fit.method in TRAINED_METHODS}
    for far, own in ((TRAINED, trained), (TOLERANCE, {*both[0], *both[1]} - trained)):
        check(*({name: one[name] for name in one if name in own} for one in both), far)


def test_claims(tmp_path):
    """A table, its comparisons and its doses: means, intervals, p-values, words."""
    check(files.read("claims"), claims(tmp_path))


def test_sentences(tmp_path):
    """What the first screen says of every outcome, to the letter."""
    check(files.read("sentences"), sentences(tmp_path))


def test_every_method_is_pinned_by_every_evaluation_and_task(runs):
    scored = {(run.fit.method, run.protocol.eval, run.task) for run in runs.values()}
    fitted = {(method, where) for method, where, _ in scored}
    assert {(m, where) for m in METHODS.built_in for where in EVALS} - fitted == {
        (method, "all-names") for method in REAL_ONLY
    }
    wanted = {
        (method, where, task)
        for method in METHODS.built_in
        for where in EVALS
        for task in OF_ALIGNMENTS
        if where != "all-names"
        and not (task == "generalised" and where != "held-out")
        and not (task == "modality_gap" and method in SPARSE)
    }
    wanted |= {(method, "in-class", "few_shot") for method in METHODS.built_in}
    assert wanted - scored == set()
    # Those that look at no alignment, or at one of a method.
    assert {task for _, _, task in scored} == set(TASKS.built_in)
    assert set(HEAD_ONLY) | set(REAL_ONLY) <= set(METHODS.built_in)


def test_every_source_learner_scorer_and_metric_is_pinned(runs):
    protocols = [run.protocol for run in runs.values()]
    assert {one.source for one in protocols} == set(SOURCES)
    alone = {one.source for one in protocols if not one.has_pairs}
    assert alone == set(SOURCES) - {"none", "repeated", "mixup", "class-means"}
    options = [run.task_options for run in runs.values()]
    learners = {getattr(one, "learner", None) for one in options} - {None}
    assert learners == set(LEARNERS.built_in) - set(SLOW)
    assert {getattr(one, "scorer", None) for one in options} - {None} == set(SCORERS)
    pinned = {
        metric
        for case in files.read("result_values").values()
        for direction in case.values()
        for metric in direction["metrics"]
    }
    assert (set(METRICS) | set(CLASS_METRICS)) - pinned == set()


def test_every_field_of_a_run_and_every_option_of_a_task_is_changed_by_a_case(runs):
    changed = {leaf.name for run in runs.values() for leaf, _ in run._own}
    lacking = {leaf.name for leaf in LEAVES} - changed
    assert lacking - set(NOT_PINNED) == set()
    assert set(NOT_PINNED) - {"within"} - lacking == set()
    for task in TASKS.built_in:
        made = TASKS[task].options()
        own = [asdict(run.task_options) for run in runs.values() if run.task == task]
        for one in fields(made):
            values = {repr(options[one.name]) for options in own}
            told = values - {repr(getattr(made, one.name))} or one.name in NOT_PINNED
            assert told, f"no case of {task} changes {one.name}"


def test_the_command_pins_every_file():
    pinned = {path.stem for path in files.HERE.glob("*.json")}
    assert set(MAKERS) == pinned


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.iterdir()))
def test_saved_alignments_still_load_and_project_alike(name):
    check(files.read("saved_aligners")[name], projections(load(FOLDER / name)))


def test_every_method_has_a_saved_alignment():
    names = {path.name for path in FOLDER.iterdir()}
    assert names == set(files.read("saved_aligners"))
    assert set(METHODS) <= names

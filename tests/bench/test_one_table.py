"""Metrics, controls and tasks are named in one table each; other lists of them are choices."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from bench.cells import SOURCE_NAMES
from bench.metrics.summary import CLASS_METRICS, CONFIDENCE_METRICS, METRICS
from bench.options import TASKS
from bench.runs import SOURCES
from fitters.prototypes import CONTROLS, PAIR_CONTROLS
from fitters.settings import Control, PairControl

ROOT = Path(__file__).parents[2]

NAMES = {
    "metrics": {*METRICS, *CLASS_METRICS, *CONFIDENCE_METRICS},
    "controls": {*CONTROLS, *PAIR_CONTROLS},
    "tasks": {*TASKS.built_in},
}

#: Where a name gets what it means.
TABLES = {
    "bench/metrics/summary.py: metrics",
    "bench/options.py: tasks",
    "fitters/prototypes.py: controls",
}

#: Files that choose, order or title some of the names: one may go, none may come.
CHOICES = {
    "fitters/select/ranking.py: metrics",
    "fitters/settings.py: metrics",
    "fitters/settings.py: controls",
    "bench/birds.py: metrics",
    "bench/cells.py: controls",
    "bench/cli/run.py: tasks",
    "bench/comparisons.py: metrics",
    "bench/confidence.py: metrics",
    "bench/report/figures.py: controls",
    "bench/report/screen.py: controls",
    "bench/report/theme.py: controls",
    "bench/report/verdict.py: controls",
    "bench/runs.py: tasks",
    "bench/execution.py: tasks",
    "bench/suites/demo.py: controls",
    "bench/tables.py: metrics",
    "bench/tasks/outcome.py: metrics",
    "bench/tasks/ranked.py: metrics",
}


def lists_in(source: str) -> Iterator[set[str]]:
    """Yield the texts of every display of a source; those of a dict are its keys."""
    for node in ast.walk(ast.parse(source)):
        held = node.keys if isinstance(node, ast.Dict) else getattr(node, "elts", ())
        yield {each.value for each in held if isinstance(each, ast.Constant)}


def kinds_listed(source: str) -> set[str]:
    """Return the kinds of which a source lists three names or more at once."""
    return {
        kind
        for texts in lists_in(source)
        for kind, known in NAMES.items()
        if len(known & texts) >= 3
    }


def listing() -> set[str]:
    """Return every file of the packages that lists names, with their kind."""
    return {
        f"{path.relative_to(ROOT).as_posix()}: {kind}"
        for part in ("fitters", "bench")
        for path in (ROOT / part).rglob("*.py")
        for kind in kinds_listed(path.read_text(encoding="utf-8"))
    }


def test_no_file_becomes_a_second_table():
    found = listing()
    new, gone = found - TABLES - CHOICES, (TABLES | CHOICES) - found
    assert not new, f"{sorted(new)}: take the names from {sorted(TABLES)}"
    assert not gone, f"{sorted(gone)}: strike these off here"


@pytest.mark.parametrize(
    ("source", "kinds"),
    [
        ('SHOWN = ("top-1", "R@1", "mAP")', {"metrics"}),
        ('Kind = Literal["random", "shuffled", "mixup"]', {"controls"}),
        ('made = {"zero_shot": 1, "retrieval": 2, "few_shot": 3}', {"tasks"}),
        ('pair = ["top-1", "R@1", "other", "random"]', set()),
    ],
)
def test_a_second_table_is_found(source, kinds):
    assert kinds_listed(source) == kinds


def test_types_and_titles_have_every_control():
    assert get_args(Control) == tuple(CONTROLS)
    assert get_args(PairControl) == tuple(PAIR_CONTROLS)
    assert {*SOURCE_NAMES} == {*SOURCES}

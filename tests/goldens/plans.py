"""What the suites plan on small stores of the shape that each is for: which runs, of what."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench import Run
from bench.suites.demo import Plan, control_runs, create_smoke_store, demo_bases, plan
from bench.suites.few_shot import few_shot_runs
from bench.suites.paper import paper_runs
from featstore import open_store
from tests.bench.paper_store import build

#: What tells the lines of a plan apart; of everything else a line has the values that it takes.
_LINE = ("task", "eval", "image_set", "head_set", "method", "source")

#: Follow from the sets, or from the code.
_LEFT_OUT = {"run_id", "code", "suite", "metric_version", "protocol_version"}

#: Values that say nothing.
_EMPTY = ("", "None", "0", "False", "auto")


def _lines(suite: str, runs: Iterable[Run]) -> dict[str, Any]:
    """Return line -> its number of runs, and the values of every column that is not empty."""
    found: dict[str, Any] = {}
    for run in runs:
        facts = {key: str(value) for key, value in run.columns().items() if key not in _LEFT_OUT}
        line = found.setdefault(" ".join([suite, *(facts.pop(key) or "-" for key in _LINE)]), {})
        line["runs"] = line.get("runs", 0) + 1
        for key, value in facts.items():
            if value not in _EMPTY and not key.endswith("revision"):
                line.setdefault(key, set()).add(value.partition("@")[0])
    return {
        name: {key: sorted(own) if isinstance(own, set) else own for key, own in line.items()}
        for name, line in found.items()
    }


def plans(folder: Path) -> dict[str, Any]:
    """Return suite and line -> how many runs, and of what."""
    create_smoke_store(folder / "smoke")
    smoke = open_store(folder / "smoke")
    (base,) = demo_bases(smoke, "demo", dataset="smoke", label_set="smokehead")
    found = _lines("demo", plan(smoke, base.changed(relevance="class_id"), Plan()))
    found |= _lines("controls", control_runs(smoke, dataset="smoke", methods=("ridge",)))
    build(folder / "paper")
    paper = open_store(folder / "paper")
    return found | _lines("paper", paper_runs(paper)) | _lines("few-shot", few_shot_runs(paper))

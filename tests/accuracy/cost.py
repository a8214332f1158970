"""Measure what accuracy costs: processor seconds of choice and fit, and how many settings it tried.

    python -m tests.accuracy.cost --store build/demo/store
    python -m tests.tables write

*Aligners* are fitted on the head alone and rank the demo's 517 names for its images; those that are
trained are read from docs/data/trained.json (as published; settings as in their papers), learners
of 16 shots beside names from docs/data/few_shot.json, ± one sd of draws. One thread of a shared
machine. A setting is a point at which a choice scored left-out rows; 1: nothing was chosen. Of
learners they are counted from their lists of candidates; epochs at which training may end are not
counted. Writes docs/data/cost.json and docs/cost.svg.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from bench.cells import method_title
from bench.statistics import DrawSums, two_term
from bench.tables import interval_text, value_text
from fitters.errors import FittersError
from fitters.few_shot import LEARNERS
from fitters.few_shot.probes import STRENGTHS, LogisticProbe
from fitters.few_shot.tip_adapter import TipAdapter, TipAdapterF
from tests.accuracy import trained
from tests.accuracy.alone import VARIANTS
from tests.accuracy.measure import Bench, drawn, table

DOCS = Path(__file__).parents[2] / "docs"
DATA, FIGURE = DOCS / "data/cost.json", DOCS / "cost.svg"
SHOTS = 16


def tried(choice: dict[str, Any]) -> int:
    """Return how many settings a choice scored: the numbers of its largest curve."""
    return max([np.size(one) for one in _arrays(choice)], default=1)


def _arrays(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for one in value.values():
            yield from _arrays(one)
    elif isinstance(value, list) and value and not isinstance(value[0], str | dict):
        yield value
    elif isinstance(value, list):
        for one in value:
            yield from _arrays(one)


def of_aligners(bench: Bench) -> Iterator[dict[str, Any]]:
    """Yield a row an aligner on the head's rows."""
    for label, (method, given) in VARIANTS.items():
        try:
            score = bench.alone(method, bench.corpus, **given)
        except FittersError as err:
            print(label, err, file=sys.stderr)
            continue
        sums = DrawSums.of(score.of("top-1"), np.zeros(score.outcome.n), score.clusters)
        name = label if given else method_title(method)
        yield _row("aligner", name, score.seconds, tried(score.choice), sums)
    held = trained.read()
    clusters = np.array(held["clusters"])
    for method in sorted({run["aligner"] for run in held["runs"] if run["epochs"]}):
        own = [run for run in held["runs"] if run["aligner"] == method]
        for rows, precision in (("as published", None), ("as published", "bf16"), ("centred", None),
                                ("centred", "bf16")):  # fmt: skip
            runs = [r for r in own if (r["rows"], r.get("precision")) == (rows, precision)]
            if runs:
                break
        hits = trained.hits(runs, "top-1")
        draws = np.repeat(np.arange(len(hits)), hits.shape[1])
        sums = DrawSums.of(hits.ravel(), draws, np.tile(clusters, len(hits)))
        seconds = float(np.mean([run["cpu_seconds"] for run in runs]))
        yield _row("aligner", method_title(method), seconds, 1, sums)


def of_learners() -> Iterator[dict[str, Any]]:
    """Yield a row a few-shot learner beside names: at the most shots, which its seconds are of."""
    for row in json.loads((DATA.parent / "few_shot.json").read_text("utf-8"))["rows"]:
        if row["names"] != "no":
            mean, sd = (one / 100 for one in row["top-1"][-1])
            top = [round(one, 5) for one in (mean, mean - sd, mean + sd)]
            made = {"kind": "learner", "method": row["learner"], "seconds": row["seconds"]}
            learner = LEARNERS.get(row["learner"].partition(",")[0])
            yield {**made, "tried": 1 if learner is None else candidates(learner()), "top-1": top}


def candidates(learner: Any) -> int:
    """Return how many settings a learner scores: every combination of its lists of candidates."""
    if isinstance(learner, LogisticProbe):  # halvings, and then masses
        return len(STRENGTHS) + 2 * learner.steps + len(learner.masses) - 1
    if isinstance(learner, TipAdapterF):  # chooses as the untrained one does
        learner = TipAdapter()
    return math.prod(len(one) for one in vars(learner).values() if isinstance(one, tuple))


def _row(kind: str, method: str, seconds: float, n: int, sums: DrawSums) -> dict[str, Any]:
    top = [round(one, 5) for one in (sums.mean, *two_term(sums).interval())]
    row = {"kind": kind, "method": method, "seconds": round(seconds, 3), "tried": n, "top-1": top}
    print(row, file=sys.stderr, flush=True)
    return row


def costs(data: list[dict[str, Any]]) -> list[str]:
    """Return the costs as a table, to read beside the figure."""
    rows = [
        [
            row["kind"], row["method"], f"{row['seconds']:.3g}", str(row["tried"]),
            f"{value_text('top-1', row['top-1'][0])} {interval_text(*row['top-1'][1:])}",
        ]
        for row in data
    ]  # fmt: skip
    return table(["", "method", "CPU s", "settings tried", "top-1"], rows)[:-1]


def figure(data: list[dict[str, Any]]) -> str:
    """Return the figure: top-1 by processor seconds; a number is that of the settings tried."""

    def paint(left: Any, right: Any) -> None:
        for axes, kind in ((left, "aligner"), (right, "learner")):
            rows = [row for row in data if row["kind"] == kind]
            axes.set(xscale="log", xlabel="CPU seconds of choice and fit")
            tops = [row["top-1"][0] for row in rows]
            gap = 3.6 * (max(tops) - min(tops))
            points = [(np.log10(max(row["seconds"], 0.005)), 100 * row["top-1"][0]) for row in rows]
            right_end = max(x for x, _ in points) + 2.0
            # Where text stands: from, to (decades of seconds) and height.
            taken = [(x - 0.05, x + 0.05, y) for x, y in points]
            for row, (x, y) in sorted(zip(rows, points, strict=True), key=lambda one: -one[1][1]):
                low, high = (100 * one for one in row["top-1"][1:])
                axes.plot([10**x, 10**x], [low, high], color="0.85", linewidth=0.8, zorder=0)
                axes.plot(10**x, y, "o", ms=3.5, color="C0" if row["tried"] == 1 else "C1")
                label = f"{row['method'].partition(', 20 ep')[0]} ({row['tried']})"
                begin, end = x + 0.12, x + 0.12 + len(label) * 0.012 * (right_end + 2.3)
                # The nearest height, up or down, at which nothing else stands.
                at = min(
                    (y + step * gap * sign / 2 for step in range(40) for sign in (-1, 1)
                     if all(
                         end < a or b < begin or abs(y + step * gap * sign / 2 - c) >= gap
                         for a, b, c in taken if (a, c) != (x - 0.05, y)
                     )),
                    key=lambda height: abs(height - y),
                )  # fmt: skip
                taken.append((begin, end, at))
                axes.annotate(
                    label, (10**x, y), (10**begin, at), fontsize=5.5, va="center",
                    arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": "0.5"},
                )  # fmt: skip
            axes.set_xlim(right=10**right_end)
        left.set(ylabel="top-1, %: 517 names, head alone")
        right.set(ylabel=f"top-1, %: folders, {SHOTS} shots and names")

    return drawn("cost", 2, paint)


def main() -> int:
    """Measure, and write the data and the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, default=Path("build/demo/store"))
    parser.add_argument("--figure", action="store_true", help="draw what is there, fit nothing")
    asked = parser.parse_args()
    if not asked.figure:
        with threadpool_limits(limits=1):
            rows = [*of_aligners(Bench(asked.store, asked.store)), *of_learners()]
        lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        DATA.write_text(f"[\n{lines}\n]\n", "utf-8")
    data = json.loads(DATA.read_text("utf-8"))
    FIGURE.write_text(figure(data), "utf-8")
    print("\n".join(costs(data)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Measure whether aligners and few-shot learners know when they do not know.

    headstock eval task zero_shot --store build/demo/store -o build/confidence/0 --eval all-names \
        --method conse,ridge,kernel-ridge --source head,shuffled,random,random-cov \
        -s confidence=yes
    headstock eval task zero_shot --store build/demo/store -o build/confidence/64 --eval held-out \
        --method ridge,kernel-ridge --source none,head --n-pairs 64 --seeds 0-4 -s confidence=yes
    python -m tests.accuracy.confidence --store build/demo/store build/confidence/*
    python -m tests.tables write

It reads the aligners' results, fits the learners (shots of the demo's folders of pictures, as
`tests.accuracy.few_shot` does), and writes docs/data/confidence.json and docs/confidence.svg.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from threadpoolctl import threadpool_limits

from bench.cells import method_title, read_cells, source_name
from bench.corpus import in_class_split
from bench.metrics.confidence import calibration, risk_coverage
from bench.options import FewShot
from bench.results import read_results
from bench.statistics import DrawSums, two_term
from bench.tables import calibration_of, confidence_table
from bench.tasks.ranked import score_few_shot
from tests.accuracy.few_shot import aligned, categories
from tests.accuracy.measure import drawn

DOCS = Path(__file__).parents[2] / "docs"
LEARNERS = ("class-means", "tip-adapter", "proker")
SHOTS, SEEDS = 4, range(5)


def of_learner(store: Path, learner: str) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """Return a row of the table for a learner beside names, and its confidences and hits."""
    data, outcomes = categories(store, 8), []
    for seed in SEEDS:
        split = in_class_split(data.images.classes, seed=seed)
        alignment = aligned(data, split, "ridge", seed)
        options = FewShot(SHOTS, learner, confidence=True)
        outcomes += score_few_shot(
            alignment, data.images, split, names=data.names, options=options, seed=seed
        )
    parts = [outcome.queries for outcome in outcomes]
    ids = np.concatenate([one.question.query_ids for one in parts])
    draws = np.repeat(SEEDS, [len(one.question.query_ids) for one in parts])
    own = np.concatenate([one.own for one in parts])
    right = np.concatenate([one.ranks.rank == 1 for one in parts])
    error, rejection = (
        calibration(own[:, 3], right, ids),
        two_term(DrawSums.of(own[:, 1], draws, ids)),
    )
    low, high = rejection.interval()
    return {
        "method": learner, "fitted": f"{SHOTS} shots and names", "draws": len(SEEDS),
        "top-1": right.mean(), "confidence": own[:, 3].mean(), "ECE": error.raw,
        "error": [error.error, error.low, error.high], "AURC": own[:, 0].mean(),
        "AUROC": [rejection.mean, low, high],
    }, own[:, 3], right  # fmt: skip


def main() -> int:
    """Measure, and write the data and the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", nargs="+", type=Path)
    parser.add_argument("--store", type=Path, default=Path("build/demo/store"))
    arguments = parser.parse_args()
    rows, curves = [], {}
    for folder in arguments.results:
        results = read_results(folder)
        for row in confidence_table(folder, results).to_dicts():
            fitted = source_name(row["source"], row["n_pairs"])
            if row["n_pairs"] != "0":
                fitted += f", K {row['n_pairs']}"
            rows.append({
                "method": method_title(row["method"]), "fitted": fitted, "draws": row["n_draws"],
                **{name: row[name] for name in ("top-1", "confidence", "ECE", "AURC")},
                "error": [row["calibration-error"], row["low"], row["high"]],
                "AUROC": [row["AUROC"], row["AUROC_low"], row["AUROC_high"]],
            })  # fmt: skip
        for cell in read_cells(folder, results.filter(pl.col("source") == "head")):
            images = calibration_of(cell)[1]
            name = f"{method_title(cell.method)}, {'head' if cell.n_pairs == '0' else 'head + 64'}"
            curves[name] = images["confidence"].to_numpy(), images["right"].to_numpy()
    with threadpool_limits(limits=1):
        for learner in LEARNERS:
            row, *curve = of_learner(arguments.store, learner)
            rows.append(row)
            if learner == "class-means":
                curves["class means, 4 shots"] = curve
    lines = ",\n".join(
        json.dumps(_rounded(row), ensure_ascii=False) for row in rows
    )  # fmt: skip
    (DOCS / "data/confidence.json").write_text(f"[\n{lines}\n]\n", "utf-8")
    (DOCS / "confidence.svg").write_text(figure(curves), "utf-8")
    return 0


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    def shorter(value: Any) -> Any:
        if isinstance(value, list):
            return [shorter(one) for one in value]
        return round(float(value), 5) if isinstance(value, float | np.floating) else value

    return {name: shorter(value) for name, value in row.items()}


def figure(curves: dict[str, Any]) -> str:
    """Return the figure: share right by confidence, and share wrong by coverage."""

    def paint(left: Any, right: Any) -> None:
        left.plot([0, 100], [0, 100], color="0.7", linewidth=0.8)
        for place, (name, (confidence, hit)) in enumerate(curves.items()):
            style = {"color": f"C{place}", "linewidth": 1.2, "label": name}
            parts = np.array_split(np.argsort(confidence, kind="stable"), 15)
            points = [[100 * np.mean(of[part]) for part in parts] for of in (confidence, hit)]
            left.plot(*points, marker="o", markersize=3, **style)
            risk = risk_coverage(confidence, hit)
            right.plot(100 * np.arange(1, len(risk) + 1) / len(risk), 100 * risk, **style)
        left.set(xlabel="confidence, % (15 bins)", ylabel="right, %")
        right.set(xlabel="answered, most confident first, %", ylabel="wrong of them, %")
        right.set_ylim(0, 100)
        right.legend(frameon=False, fontsize=7)

    return drawn("confidence", 2, paint)


if __name__ == "__main__":
    sys.exit(main())

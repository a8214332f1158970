"""What limits the gain of few real pairs beside a head, and whether suggested images raise it.

    python -m tests.accuracy.suggest --store build/demo/store    # 5 minutes; writes suggest.json
    python -m tests.tables write

Twenty draws of the demo's held-out descriptions, kernel ridge. Each draw has the head alone, K
random captioned images beside it, and the K that `fitters.solvers` names among the same training
images. Power is counted by two-term tests of resampled draws and descriptions of the measured
differences (random K less the head), moved to a mean gain of one point: of twenty new draws that
share no pairs.
"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from bench.code import code_digest
from bench.corpus import held_out_split, stream
from bench.fits import prototype_pairs, real_pairs
from bench.statistics import DrawSums, two_term
from bench.tables import signed_text
from bench.tasks.ranked import score_zero_shot
from fitters import fit
from fitters.solvers import most_informative
from fitters.sources import SideTransform, prepare
from tests.accuracy.measure import Bench, Score, difference, differences, table

DATA = Path(__file__).parents[2] / "docs/data/suggest.json"
DRAWS, N_PAIRS, METRICS = range(20), (16, 64, 128), ("top-1", "top-10")
#: Sets of descriptions to test on, as multiples of the stamps' own.
TIMES = (1, 2, 4, 8, 16)
#: Resamples that a power is counted in.
TRIALS = 400


def measure(bench: Bench) -> tuple[dict[tuple[str, int], list[Score]], dict[int, list[Any]], int]:
    """Return the scores of every arm and K by draw, the suggested images, and the pool."""
    scores: dict[tuple[str, int], list[Score]] = {}
    suggested: dict[int, list[Any]] = {k: [] for k in N_PAIRS}
    corpus, run = bench.corpus, bench.run.changed(eval="held-out", method="kernel-ridge")
    for seed in DRAWS:
        split = held_out_split(corpus.images.classes, seed=seed)
        prototypes, _ = prototype_pairs(run, corpus, split)
        images = corpus.images.take(split.test)
        names = corpus.names.take(np.isin(corpus.names.classes, images.classes))
        rows = corpus.images.rows[split.train]
        mean = SideTransform.fit([rows], label="images").mean
        sources = prepare(prototypes, None, mean)
        assert sources.prototypes is not None
        found, _ = most_informative(sources.image.apply(rows), sources.prototypes.x, max(N_PAIRS))
        arms: dict[tuple[str, int], Any] = {("head", 0): None}
        for k in N_PAIRS:
            arms |= {("random", k): split.train[:k], ("suggested", k): split.train[found[:k]]}
            suggested[k].append(split.train[found[:k]])
        for arm, own in arms.items():
            made = fit(
                "kernel-ridge", prototypes=prototypes, image_mean=mean, rng=stream("choice", seed),
                real=None if own is None else real_pairs(corpus, own),
            )  # fmt: skip
            outcome = score_zero_shot(made, images, names)[0]
            scores.setdefault(arm, []).append(Score(outcome, 0.0, {}))
        print(f"draw {seed}", file=sys.stderr, flush=True)
    return scores, suggested, len(split.train)


def power(sums: DrawSums, gain: float, times: int) -> float:
    """Return how often a gain is shown with as many draws, and `times` as many descriptions."""
    moved, rng, shown = sums - (sums.mean - gain), np.random.default_rng([2026, times]), 0
    s, c = moved.total.shape
    for _ in range(TRIALS):
        rows, columns = rng.integers(0, s, s), rng.integers(0, c, times * c)
        drawn = DrawSums(moved.total[rows][:, columns], moved.count[rows][:, columns])
        shown += two_term(drawn).p_value() <= 0.05
    return shown / TRIALS


def summary(bench: Bench) -> dict[str, Any]:
    """Return what the page shows."""
    scores, suggested, pool = measure(bench)
    rows = []
    for k in N_PAIRS:
        pairs = combinations([set(own.tolist()) for own in suggested[k]], 2)
        row: dict[str, Any] = {"k": k, "shared": float(np.mean([len(a & b) / k for a, b in pairs]))}
        for metric in METRICS:
            for name, a, b in (("gain", "random", "head"), ("more", "suggested", "random")):
                sides = scores[a, k], scores[b, k if b == "random" else 0]
                found = difference(*sides, metric, overlap=k / pool)
                row[f"{name}, {metric}"] = [found.mean, *found.interval(), found.p_value()]
        own = differences(scores["random", k], scores["head", 0], "top-1")
        row["power"] = {str(n): power(own, 0.01, n) for n in TIMES}
        rows.append(row)
    return {"code": code_digest(), "draws": len(DRAWS), "pool": pool, "rows": rows}


def gains(data: dict[str, Any]) -> list[str]:
    """Return the table of docs/results.md."""

    def points(of: list[float]) -> str:
        mean, low, high = (signed_text(end) for end in of[:3])
        return f"{mean} [{low}, {high}]"

    lines = []
    for row in data["rows"]:
        enough = (f"{n} ×" for n, held in row["power"].items() if held >= 0.8)
        shown = (points(row[f"{what}, {m}"]) for what in ("gain", "more") for m in METRICS)
        names = next(enough, f"> {TIMES[-1]} ×")
        lines.append([str(row["k"]), *shown, (f"{row['power']['1']:.2f}"), names])
    return table(
        ["K", "random − head: top-1", "top-10", "suggested − random: top-1", "top-10",
         "power", "names for 80 %"], lines,
    )[:-1]  # fmt: skip


def main() -> int:
    """Measure, and write the data."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, default=Path("build/demo/store"))
    parser.add_argument("--data", type=Path, default=DATA)
    asked = parser.parse_args()
    with threadpool_limits(limits=1):
        found = summary(Bench(asked.store, asked.store))
    asked.data.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print("\n".join(gains(found)))
    return 0


TABLES = {"suggest": ("suggest.json", gains)}

if __name__ == "__main__":
    sys.exit(main())

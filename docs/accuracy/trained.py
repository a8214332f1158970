"""Measure the trained presets beside the closed forms on the demo's store.

    python docs/accuracy/trained.py --store build/demo/store

With the presets' own epochs and three seeds this takes hours on two cores. `--epochs` caps the
epochs, and the table says so. What is measured is printed at once and kept beside the store, under
the digest of the code, so that a stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from measure import TOP, Bench, table
from threadpoolctl import threadpool_limits

from bench.code import code_digest
from fitters import PRESETS
from fitters.trained.precision import PRECISIONS, Precision
from fitters.training_fits import TrainingOptions

CLOSED = ("ridge", "kernel-ridge", "procrustes", "csa", "asif", "conse")


def main() -> int:
    """Fit, score, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, default=Path("build/demo/store"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="at most so many epochs")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    parser.add_argument("--only", help="comma-separated presets and methods; default all")
    parser.add_argument("--out", type=Path, help="file to write")
    arguments = parser.parse_args()
    names = arguments.only.split(",") if arguments.only else [*CLOSED, *PRESETS]
    kept = arguments.store.parent / "accuracy" / code_digest()
    kept.mkdir(parents=True, exist_ok=True)
    rows = []
    with threadpool_limits(limits=arguments.threads):
        bench = Bench(arguments.store, kept)
        for name in names:
            # Of icis, whose images are [f, 1], as published only.
            both = (False, True) if name != "icis" else (False,)
            for centred in both if name in PRESETS else (True,):
                settings = TrainingSettings(arguments.epochs, arguments.precision, centred)
                found = [
                    _measured(bench, name, seed, settings)
                    for seed in range(arguments.seeds if name in PRESETS else 1)
                ]
                rows.append(_row(name, found, centred=centred))
                print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    heading = ["aligner", "rows", "epochs", *TOP, "CPU s"]
    text = "\n".join(table(heading, rows))
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n", encoding="utf-8")
    return 0


@dataclass(frozen=True)
class TrainingSettings:
    """How every preset is trained: at most so many epochs, in which precision, on which rows."""

    most_epochs: int | None
    precision: Precision
    centred: bool


def _measured(bench: Bench, name: str, seed: int, settings: TrainingSettings) -> dict[str, Any]:
    """Return accuracies and seconds of one fit on the head alone, measured or kept."""

    def measure() -> dict[str, Any]:
        given: dict[str, Any] = {}
        if name in PRESETS:
            assert bench.corpus.head is not None
            own = PRESETS[name].epochs(len(bench.corpus.head.weight))
            epochs = min(own, settings.most_epochs or own)
            training = TrainingOptions(epochs=epochs, precision=settings.precision)
            given = {"training": training, "centre": settings.centred}
        score = bench.alone(name, bench.corpus, seed=seed, **given)
        found = {metric: float(score.of(metric).mean()) for metric in TOP}
        return {**found, "seconds": score.seconds, "epochs": score.choice.get("epochs")}

    found: dict[str, Any] = bench.once(f"trained {name} {seed} {settings}", measure)
    return found


def _row(name: str, found: list[dict[str, Any]], *, centred: bool) -> list[str]:
    cells = [name, "centred" if centred and name != "conse" else "as published"]
    epochs = sorted({str(one["epochs"]) for one in found})
    cells.append("–" if epochs == ["None"] else ", ".join(epochs))
    for metric in TOP:
        values = 100 * np.array([one[metric] for one in found])
        sd = f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else ""
        cells.append(f"{values.mean():.1f}{sd}")
    return [*cells, f"{np.mean([one['seconds'] for one in found]):.1f}"]


if __name__ == "__main__":
    sys.exit(main())

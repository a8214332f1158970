"""Test a claim: with unlabelled images not worse than the head alone at top-1, better at top-10.

    python -m tests.accuracy.unpaired --store build/demo/store --only ridge procrustes kernel-ridge
    python -m tests.accuracy.unpaired --store build/demo/store --only mini-vec2vec   # 12 minutes
    python -m tests.tables write

Ten draws of the demo's held-out descriptions, each with K real pairs. *Adapted* rows are moved
towards the unlabelled training images (`fitters.prototypes.adapted_prototypes`, kappa 10 fixed);
mini-vec2vec sees the rows of head, names and pairs, and no pair. The head alone is the same aligner
on the head's own rows; of mini-vec2vec it is Procrustes. What docs/data/unpaired.json holds of this
code is not measured again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from bench.code import code_digest
from bench.corpus import first_pairs, held_out_split, stream
from bench.fits import n_pool, prototype_pairs, real_pairs
from bench.tasks.ranked import score_zero_shot
from fitters import fit
from fitters.sources import SideTransform
from tests.accuracy.measure import SEEDS, Bench, Score, difference, percent

DATA = Path(__file__).parents[2] / "docs/data/unpaired.json"
N_PAIRS = (0, 16, 64)
ALONE = {"ridge": "ridge", "procrustes": "procrustes", "kernel-ridge": "kernel-ridge",
         "mini-vec2vec": "procrustes"}  # fmt: skip
"""What is measured, and what is fitted on the head alone beside it."""


def cases(method: str) -> Iterator[tuple[str, int]]:
    """Yield the rows of the head and the numbers of pairs that a method is fitted on."""
    if method == "mini-vec2vec":
        yield from (("weights", k) for k in N_PAIRS[1:])
        return
    for rows in ("weights", "adapted"):
        yield from ((rows, k) for k in N_PAIRS if (rows, k) != ("weights", 0))


def fitted(bench: Bench, method: str, rows: str, k: int, seed: int) -> Score:
    """Fit on one draw, and score its held-out descriptions."""
    corpus = bench.corpus
    split = held_out_split(corpus.images.classes, seed=seed)
    run = bench.run.changed(eval="held-out", method=method, head_rows=rows)
    prototypes, _ = prototype_pairs(run, corpus, split)
    images = corpus.images.take(split.test)
    names = corpus.names.take(np.isin(corpus.names.classes, images.classes))
    made = fit(
        method,
        prototypes=prototypes,
        real=real_pairs(corpus, first_pairs(split, k)) if k else None,
        image_mean=SideTransform.fit([corpus.images.rows[split.train]], label="images").mean,
        rng=stream("choice", seed),
    )
    return Score(score_zero_shot(made, images, names)[0], 0.0, made.facts["choice"])


def measure(bench: Bench, key: dict[str, Any]) -> dict[str, Any]:
    """Return the row of a case: the draws, and what they say beside the head alone."""
    method, rows, k = key["method"], key["rows"], key["k"]
    head = [fitted(bench, ALONE[method], "weights", 0, seed) for seed in SEEDS]
    split = held_out_split(bench.corpus.images.classes, seed=0)
    pool = n_pool(bench.run.changed(eval="held-out"), bench.corpus, split)
    scores = [fitted(bench, method, rows, k, seed) for seed in SEEDS]
    row = {**key, "head": percent(head), "found": percent(scores)}
    for metric in ("top-1", "top-10"):
        estimate = difference(scores, head, metric, overlap=k / pool)
        bounds = (*estimate.interval(), estimate.interval(0.9)[0])
        row[metric] = [round(100 * float(value), 3) for value in (estimate.mean, *bounds)]
    print(row, file=sys.stderr, flush=True)
    return row


def _order(row: dict[str, Any]) -> tuple[int, int]:
    return list(ALONE).index(row["method"]), list(cases(row["method"])).index(
        (row["rows"], row["k"])
    )


def main() -> int:
    """Measure what the data do not hold yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, default=Path("build/demo/store"))
    parser.add_argument("--only", nargs="+", choices=ALONE, default=list(ALONE))
    parser.add_argument("--data", type=Path, default=DATA)
    asked = parser.parse_args()
    held = json.loads(asked.data.read_text("utf-8"))["rows"] if asked.data.exists() else []
    with threadpool_limits(limits=1):
        bench = Bench(asked.store, asked.store)
        for case in [(name, *case) for name in asked.only for case in cases(name)]:
            key = dict(zip(("method", "rows", "k"), case, strict=True))
            others = [row for row in held if not key.items() <= row.items()]
            key["code"] = code_digest()
            if any(key.items() <= row.items() for row in held):
                continue
            held = [*others, measure(bench, key)]
            held.sort(key=_order)
            lines = ",\n".join(json.dumps(row) for row in held)
            asked.data.write_text(f'{{"rows":[\n{lines}\n]}}\n', encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

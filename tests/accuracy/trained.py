"""Measure the trained presets beside the closed forms, for the tables of docs/results.md.

    python -m tests.accuracy.trained --store build/demo/store --only paper-mlp --seeds 10
    python -m tests.tables write

Fits on the demo's head alone and keeps the place of the right name, image by image and seed by
seed, in docs/data/trained.json; what the file holds already is not measured again, so a stopped
command goes on where it was. With the presets' own epochs all of it takes hours.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import sys
import time
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from bench.code import code_digest
from bench.corpus import stream
from bench.fits import prototype_pairs
from bench.statistics import DrawSums, two_term
from fitters import PRESETS, fit
from fitters.methods import METHODS
from fitters.settings import TrainingOptions
from fitters.trained.base import PRECISIONS, resolve
from tests.accuracy.measure import TOP, Bench, scored, table

DATA = Path(__file__).parents[2] / "docs/data/trained.json"
CLOSED = ("ridge", "kernel-ridge", "procrustes", "csa", "asif", "conse")
COMPARED = ("kernel-ridge", "paper-mlp")
ROWS = ("centred", "as published")
FAR = "."
"""Stands for a place beyond the tenth; nearer ones are their number in base 16, 1 … a."""


def main() -> int:
    """Measure what the data do not hold yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, default=Path("build/demo/store"))
    parser.add_argument("--seeds", type=int, default=3, help="Seeds of a trained aligner.")
    parser.add_argument("--epochs", type=int, help="At most so many epochs.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    parser.add_argument("--only", help="Comma-separated aligners; all of them if left out.")
    parser.add_argument("--data", type=Path, help="Where the numbers are kept.")
    asked = parser.parse_args()
    asked.data = asked.data or DATA
    names = asked.only.split(",") if asked.only else [*CLOSED, *PRESETS]
    with threadpool_limits(limits=asked.threads):
        bench = Bench(asked.store, asked.store)
        # The published trainings are on names alone.
        bench.corpus = bench.with_texts(("name",), ("none", "photo"))
        for name in names:
            for seed in range(asked.seeds if name in PRESETS else 1):
                # ConSE reads images raw; ICIS's images are [f, 1], whose mean nobody asked for.
                as_published = METHODS[name].fitted_on == "head" or METHODS[name].rows.head_bias
                for rows in ROWS[1:] if as_published else ROWS:
                    _measure(bench, asked, name, rows, seed)
    print("\n".join([*render_gap(read(asked.data)), "", *render_differs(read(asked.data))]))
    return 0


def _measure(bench: Bench, asked: argparse.Namespace, name: str, rows: str, seed: int) -> None:
    """Fit and score once, unless the data hold it, and add it to them."""
    key: dict[str, Any] = {"aligner": name, "rows": rows, "seed": seed}
    given: dict[str, Any] = {}
    if METHODS[name].fitted_on != "head":
        given["centre"] = rows == "centred"
    if name in PRESETS:
        assert bench.corpus.head is not None
        own = PRESETS[name].epochs(len(bench.corpus.head.weight))
        most = min(own, asked.epochs or own)
        key |= {"precision": resolve(asked.precision), "most_epochs": most}
        given["training"] = TrainingOptions(epochs=most, precision=asked.precision)
    held = read(asked.data)["runs"] if asked.data.exists() else []
    if any(key.items() <= run.items() for run in held):
        return
    pairs, bias = prototype_pairs(bench.run.changed(source="head", seed=seed), bench.corpus)
    images, names = bench.corpus.images, bench.corpus.names
    begun, started = time.monotonic(), time.process_time()
    alignment = fit(
        name,
        prototypes=pairs,
        image_mean=bench.mean,
        bias=bias,
        rng=stream("choice", seed),
        **given,
    )
    spent = time.process_time() - started
    outcome = scored(alignment, images, names, spent, {}).outcome
    found = {
        **key,
        "epochs": alignment.facts.get("training", {}).get("epochs"),
        "cpu_seconds": round(spent, 1),
        "code": code_digest(),
        "places": places_of(outcome.ranks.rank),
    }
    print(name, rows, seed, f"{time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    assert outcome.queries is not None
    _, clusters = np.unique(outcome.queries.question.clusters, return_inverse=True)
    _add(asked.data, found, clusters.tolist(), outcome.gallery)


def _add(data: Path, run: dict[str, Any], clusters: list[int], gallery: int) -> None:
    """Add one run to the data, which several processes may write."""
    data.parent.mkdir(exist_ok=True)
    folder = os.open(data.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        held = read(data) if data.exists() else {"gallery": gallery, "clusters": clusters}
        runs = [*held.get("runs", ()), run]
        runs.sort(key=lambda r: (r["aligner"], r["rows"], r.get("precision", ""), r["seed"]))
        # One line a run: a change of one is a change of one line.
        lines = ",\n".join(json.dumps(one) for one in runs)
        facts = {name: held[name] for name in ("gallery", "clusters")}
        text = json.dumps(facts, separators=(",", ":"))[:-1] + f',\n"runs":[\n{lines}\n]}}\n'
        part = data.with_suffix(f".{os.getpid()}")
        part.write_text(text, encoding="utf-8")
        part.replace(data)
    finally:
        os.close(folder)


def read(data: Path = DATA) -> dict[str, Any]:
    """Return what was measured."""
    held: dict[str, Any] = json.loads(data.read_text("utf-8"))
    return held


def places_of(ranks: NDArray[np.int64]) -> str:
    """Return one character a query: its place up to the tenth, or `FAR`."""
    return "".join(f"{rank:x}" if rank <= 10 else FAR for rank in ranks.tolist())


def hits(runs: Sequence[dict[str, Any]], metric: str) -> NDArray[np.float64]:
    """Return 1 where the right name is among the first k, else 0: shape (runs, queries)."""
    most = int(metric.removeprefix("top-"))
    return np.array(
        [[place != FAR and int(place, 16) <= most for place in run["places"]] for run in runs],
        dtype=np.float64,
    )


def paired_interval(
    differences: NDArray[np.float64], clusters: NDArray[np.int64]
) -> tuple[float, float, float]:
    """Return the mean difference and its 95 % interval, over draws and clusters.

    Parameters
    ----------
    differences : array of shape (s, n)
        Of both sides, draw by draw and query by query; draws are fresh, not of one pool.
    clusters : array of shape (n,)
        Cluster of each query.
    """
    s, n = differences.shape
    sums = DrawSums.of(differences.ravel(), np.repeat(np.arange(s), n), np.tile(clusters, s))
    found = two_term(sums)
    return found.mean, *found.interval()


def render_gap(data: dict[str, Any]) -> list[str]:
    """Return how far `COMPARED` are apart, as lines of Markdown."""
    first, second = COMPARED
    lines = []
    for rows in ROWS:
        one, other = _runs(data, first, rows, None), _runs(data, second, rows, "bf16")
        if not (one and other):
            continue
        cells = [rows, str(len(other))]
        for metric in TOP:
            apart = hits(one, metric) - hits(other, metric)
            mean, low, high = paired_interval(apart, np.array(data["clusters"]))
            cells.append(f"{100 * mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]")
        lines.append(cells)
    return table(["rows", "seeds", *TOP], lines)[:-1]


def render_differs(data: dict[str, Any]) -> list[str]:
    """Return how every preset differs from its source, as a list in Markdown; what several share
    stands once.
    """
    del data
    sharing: dict[str, list[str]] = {}
    for name, chosen in PRESETS.items():
        for one in chosen.differs:
            sharing.setdefault(one, []).append(name)
    told: dict[str, list[str]] = {}
    for one, names in sharing.items():
        told.setdefault(", ".join(f"**{name}**" for name in names), []).append(one)
    lines = [[f"- {names}", *(f"  - {one}" for one in every)] for names, every in told.items()]
    return list(chain.from_iterable(lines))


TABLES = {"trained-differs": (DATA.name, render_differs)}


def _runs(data: dict[str, Any], name: str, rows: str, precision: str | None) -> list[Any]:
    return [
        run
        for run in data["runs"]
        if (run["aligner"], run["rows"], run.get("precision")) == (name, rows, precision)
    ]


if __name__ == "__main__":
    sys.exit(main())

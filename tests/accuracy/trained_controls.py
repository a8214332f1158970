"""Measure what a head gains the paper's trained maps, beside controls, at equal numbers of steps.

    python -m tests.accuracy.trained_controls --store build/demo/store
    python -m tests.accuracy.trained_controls --figure         # docs/trained-controls.svg
    python -m tests.tables write

Every fit is of one held-out split, with its own real pairs and its own control rows: the head,
rows of its covariance, the head with its names shuffled, and the real pairs alone. 1,000 more rows
give every epoch more steps, whatever they contain; so each fit makes `STEPS` steps, those of the
preset's epochs on 1,000 rows. The head and the real pairs alone are also fitted for equal epochs.

docs/data/trained_controls.json keeps the place of the right name, query by query, as each fit ends.
A fit that the file holds is not made again, so a stopped command goes on where it was.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import io
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import chain, product
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from bench.code import code_digest
from bench.corpus import Corpus, read_corpus
from bench.report.figures import INKS, SOURCE_STYLES
from bench.runs import Run
from bench.statistics import DrawSums, two_term
from bench.suites.demo import demo_bases
from bench.tables import interval_text, signed_text, value_text
from featstore import open_store
from fitters.trained.base import resolve
from tests.accuracy.measure import table
from tests.accuracy.trained import hits, places_of
from tests.shorthand import execute

DATA = Path(__file__).parents[2] / "docs/data/trained_controls.json"
FIGURE = Path(__file__).parents[2] / "docs/trained-controls.svg"

#: Steps of every fit: what the presets' 2,500 epochs make of 1,000 rows in batches of 512.
STEPS = 5_000
#: Epochs of the fits with equal epochs: the presets' own for a head of 1,000 classes.
EPOCHS = 2_500
BATCH = 512

DRAWS = range(3)
SOURCES = ("none", "head", "random-cov", "shuffled")
N_PAIRS = {"paper-text2concepts": (0, 256), "paper-mlp": (0, 16, 256)}
NAMES = {"none": "real pairs", "head": "head", "random-cov": "random rows", "shuffled": "shuffled"}


@dataclass(frozen=True)
class Cell:
    """One fit: its method, what it is fitted on, and for how long.

    Attributes
    ----------
    method, source : str
    n_pairs, seed : int
    equal : {"steps", "epochs"}
        What it has in common with the fits that it is compared with.
    """

    method: str
    source: str
    n_pairs: int
    seed: int
    equal: str

    def epochs(self, n_prototypes: int, *, steps: int = STEPS) -> int:
        """Return how many epochs make this cell's number of steps, the nearest above."""
        n = self.n_pairs + (0 if self.source == "none" else n_prototypes)
        return EPOCHS if self.equal == "epochs" else -(-steps // -(-n // min(BATCH, n)))


def cells(draws: range = DRAWS) -> Iterator[Cell]:
    """Yield all fits, draw by draw, quick ones first.

    On the head alone, 2,500 epochs are 5,000 steps: equal epochs are no further fit.
    """
    for seed, method in product(draws, N_PAIRS):
        for k, source in product(N_PAIRS[method], SOURCES):
            if (source, k) != ("none", 0):
                yield Cell(method, source, k, seed, "steps")
        for source in ("none", "head"):
            yield Cell(method, source, 256, seed, "epochs")


def main() -> int:
    """Measure what the data do not hold yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, default=Path("build/demo/store"))
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--draws", type=int, default=len(DRAWS))
    parser.add_argument("--figure", action="store_true", help="draw what is there, fit nothing")
    asked = parser.parse_args()
    if asked.figure:
        FIGURE.write_bytes(draw(asked.data))
    else:
        store = open_store(asked.store)
        base = demo_bases(store, "task")[0].changed(eval="held-out")
        measure(base, read_corpus(store, base), list(cells(range(asked.draws))), asked.data)
    print("\n".join(render(read(asked.data))))
    return 0


def measure(
    base: Run, corpus: Corpus, wanted: list[Cell], data: Path, *, steps: int = STEPS
) -> None:
    """Fit and score the cells that the data do not hold, and add each to them."""
    assert corpus.head is not None
    n_prototypes = len(corpus.head.weight)
    classes = np.unique(corpus.images.classes.astype(str))
    for cell in wanted:
        if any(asdict(cell).items() <= run.items() for run in read(data)["runs"]):
            continue
        epochs = cell.epochs(n_prototypes, steps=steps)
        run = base.changed(
            method=cell.method, source=cell.source, n_pairs=cell.n_pairs, seed=cell.seed,
            epochs=epochs,
        )  # fmt: skip
        started = time.process_time()
        with threadpool_limits(limits=1):
            ((_, rows, ranks),) = execute([run], corpus)
        forward = ranks.filter(direction="image→name")
        found = asdict(cell) | {
            "epochs": epochs,
            "precision": resolve("auto"),
            "cpu_seconds": round(time.process_time() - started),
            "code": code_digest(),
            "gallery": int(rows.filter(direction="image→name")["gallery"][0]),
            "places": places_of(forward["rank"].to_numpy()),
        }
        add(data, found, np.searchsorted(classes, forward["cluster_id"].to_numpy()).tolist())
        print(*asdict(cell).values(), f"{found['cpu_seconds']} s", file=sys.stderr, flush=True)


def read(data: Path = DATA) -> dict[str, Any]:
    """Return what was measured; nothing, where there is no file yet."""
    if not data.exists():
        return {"clusters": {}, "runs": []}
    held: dict[str, Any] = json.loads(data.read_text("utf-8"))
    return held


def add(data: Path, run: dict[str, Any], clusters: list[int]) -> None:
    """Add one run, and the clusters of its split's queries, to data that several may write."""
    data.parent.mkdir(exist_ok=True)
    folder = os.open(data.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        held = read(data)
        known = held["clusters"].setdefault(str(run["seed"]), clusters)
        assert known == clusters, "another store, or another protocol, than the data are of"
        runs = sorted([*held["runs"], run], key=lambda one: [str(one[name]) for name in _KEY])
        # One line a run: a change of one is a change of one line.
        lines = ",\n".join(json.dumps(one) for one in runs)
        heads = json.dumps({"clusters": held["clusters"]}, separators=(",", ":"))
        part = data.with_suffix(f".{os.getpid()}")
        part.write_text(f'{heads[:-1]},\n"runs":[\n{lines}\n]}}\n', encoding="utf-8")
        part.replace(data)
    finally:
        os.close(folder)


_KEY = tuple(Cell.__annotations__)


def gap(
    data: dict[str, Any], one: dict[str, Any], other: dict[str, Any], metric: str = "top-1"
) -> tuple[int, float, float, float] | None:
    """Return draws, mean and 95 % interval of the paired difference of two kinds of fit.

    Parameters
    ----------
    one, other : dict
        What tells the fits apart: fields of `Cell` but the seed.
    """
    found = [{run["seed"]: run for run in _runs(data, kind)} for kind in (one, other)]
    seeds = sorted(set(found[0]) & set(found[1]))
    if len(seeds) < 2:
        return None
    sides = [[hits([runs[seed]], metric)[0] for seed in seeds] for runs in found]
    values = np.concatenate(sides[0]) - np.concatenate(sides[1])
    clusters = [np.array(data["clusters"][str(seed)]) for seed in seeds]
    draws = np.repeat(np.arange(len(seeds)), [len(own) for own in clusters])
    estimate = two_term(DrawSums.of(values, draws, np.concatenate(clusters)))
    return len(seeds), estimate.mean, *estimate.interval()


def _runs(data: dict[str, Any], kind: dict[str, Any]) -> list[dict[str, Any]]:
    return [run for run in data["runs"] if kind.items() <= run.items()]


def render(data: dict[str, Any]) -> list[str]:
    """Return what was measured and what the head gains, as lines of Markdown. Nothing is bold."""
    if not data["runs"]:
        return ["Not run yet: `python -m tests.accuracy.trained_controls`."]
    lines = []
    for equal, k, source in product(
        ("steps", "epochs"), sorted(set(chain.from_iterable(N_PAIRS.values()))), SOURCES
    ):
        told = f"{'real pairs + ' if k and source != 'none' else ''}{NAMES[source]}"
        kind = {"equal": equal, "n_pairs": k, "source": source}
        both = [_cells(data, kind | {"method": method}) for method in N_PAIRS]
        if any(one[0] != "–" for one in both):
            lines.append([equal, str(k), told, *chain.from_iterable(both)])
    columns = [(f"{method}: top-1 %", "head − this") for method in N_PAIRS]
    kinds = sorted({run["precision"] for run in data["runs"]})
    planned = len(list(cells()))
    told = f"{len(data['runs'])} of {planned} fits, heads in {' and '.join(kinds)}; top-1 of "
    headings = ["equal", "K", "fitted on", *chain.from_iterable(columns)]
    return [told + "held-out names; difference with its 95 % interval.", "",
            *table(headings, lines)[:-1]]  # fmt: skip


def _cells(data: dict[str, Any], kind: dict[str, Any]) -> tuple[str, str]:
    if not (runs := _runs(data, kind)):
        return "–", "–"
    scores = [hits([run], "top-1").mean() for run in runs]
    spread = float(np.std(scores, ddof=1)) if len(scores) > 1 else None
    found = None if kind["source"] == "head" else gap(data, kind | {"source": "head"}, kind)
    return (
        value_text("top-1", float(np.mean(scores)), spread),
        "–" if found is None else f"{signed_text(found[1])} {interval_text(*found[2:])}",
    )


def draw(path: Path = DATA) -> bytes:
    """Return the fits of equal steps as SVG: a dot a draw, their mean, one panel a method.

    The file's description is the digest of the data that it was drawn from.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    data = read(path)
    paper, ink, rule = (INKS[role].light for role in ("paper", "ink", "rule"))
    style = {"svg.hashsalt": "headstock", "font.size": 9, "text.color": ink, "axes.edgecolor": rule,
             "axes.labelcolor": ink, "xtick.color": ink, "ytick.color": ink}  # fmt: skip
    with rc_context(style):
        figure = Figure(figsize=(7.6, 4.2), layout="constrained", facecolor=paper)
        axes = figure.subplots(1, len(N_PAIRS), sharex=True)
        for side, (method, numbers) in zip(axes, N_PAIRS.items(), strict=True):
            labels: list[str] = []
            for k, source in product(numbers, SOURCES):
                kind = {"method": method, "equal": "steps", "n_pairs": k, "source": source}
                if not (runs := _runs(data, kind)):
                    continue
                scores = [100 * float(hits([run], "top-1").mean()) for run in runs]
                role, marker = SOURCE_STYLES[source]
                y = len(labels)
                at = {"marker": marker, "c": INKS[role].light, "clip_on": False, "ls": ""}
                side.plot(scores, [y] * len(scores), ms=4, alpha=0.5, **at)
                side.plot(np.mean(scores), y, ms=8, **at)
                mixed = f"{k} pairs + " if k and source != "none" else f"{k} " if k else ""
                labels.append(mixed + NAMES[source])
            side.set_yticks(range(len(labels)), labels)
            side.invert_yaxis()
            side.set(title=method, xlabel="top-1 %, held-out names", facecolor=paper)
            side.grid(axis="x", color=rule)
            side.set_axisbelow(True)
            side.spines[["top", "right", "left"]].set_visible(False)
            side.tick_params(length=0)
        axes[0].set_xlim(left=0)
        made = io.BytesIO()
        told = {"Date": None, "Description": digest_of(path)}
        FigureCanvasSVG(figure).print_svg(made, metadata=told)
    return made.getvalue()


def digest_of(path: Path = DATA) -> str:
    """Return the digest of the data, which the figure states."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())

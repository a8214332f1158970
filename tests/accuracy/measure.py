"""The demo's sets, fits on them, and how their scores are written."""

from __future__ import annotations

import io
import json
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import Run
from bench.corpus import Corpus, Items, read_corpus, stream
from bench.fits import prototype_pairs
from bench.metrics.summary import query_values
from bench.statistics import DrawSums, Estimate, two_term
from bench.suites.demo import demo_runs
from bench.tasks.outcome import Outcome, Projector
from bench.tasks.ranked import score_zero_shot
from featstore import open_store
from fitters import Alignment, Pairs, fit
from fitters.jobs import HeadTexts
from fitters.scorers import scorer_named
from fitters.sources import SideTransform

SEEDS = tuple(range(10))
TOP = ("top-1", "top-5", "top-10")


@dataclass(frozen=True, eq=False)
class Score:
    """Outcome of one fit, its CPU seconds, what was chosen, and outcomes by other scorers."""

    outcome: Outcome
    seconds: float
    choice: dict[str, Any]
    corrected: dict[str, Outcome] = field(default_factory=dict)

    @property
    def clusters(self) -> NDArray[Any]:
        """What each query was drawn with."""
        assert self.outcome.queries is not None
        return self.outcome.queries.question.clusters

    def of(self, metric: str) -> NDArray[np.float64]:
        """Return one value a query."""
        return query_values(metric, self.outcome.ranks)


class Bench:
    """The demo's sets, and fits on them."""

    def __init__(self, store: Path, kept: Path) -> None:
        self.kept = kept
        self.store = open_store(store)
        self.run: Run = demo_runs(self.store)[0]
        self.corpus = read_corpus(self.store, self.run)
        self.mean = SideTransform.fit([self.corpus.images.rows], label="images").mean

    def once(self, key: str, measure: Callable[[], Any]) -> Any:
        """Return what was measured under a key, plain values, measuring it the first time."""
        file = self.kept / "rows" / f"{re.sub(r'[^a-z0-9]+', '-', key.lower())}.json"
        if not file.exists():
            file.parent.mkdir(exist_ok=True)
            made = json.dumps(measure())
            print(key, made[:200], file=sys.stderr, flush=True)
            part = file.with_suffix(f".{os.getpid()}")
            part.write_text(made, encoding="utf-8")
            part.replace(file)
        return json.loads(file.read_text("utf-8"))

    def with_texts(self, variants: Sequence[str], templates: Sequence[str]) -> Corpus:
        """Return the corpus with other texts of the head's classes."""
        data = self.run.data
        head, names = (self.store.view(key) for key in (data.head_set, data.head_name_set))
        made = HeadTexts.of(
            head, names, asked=(data.variants, data.templates), variants=variants,
            templates=templates,
        ).pairs  # fmt: skip
        assert self.corpus.head is not None
        own = replace(self.corpus.head, texts=made.y, asked=made.asked)
        return replace(self.corpus, head=own)

    def alone(
        self, method: str, corpus: Corpus, *, source: str = "head", seed: int = 0, **given: Any
    ) -> Score:
        """Fit on prototypes alone; every image against every name."""
        pairs, bias = prototype_pairs(self.run.changed(source=source, seed=seed), corpus)
        return self.fitted(method, pairs, bias, corpus.images, corpus.names, seed=seed, **given)

    def fitted(
        self,
        method: str,
        pairs: Pairs,
        bias: Any,
        images: Items,
        names: Items,
        *,
        seed: int = 0,
        scorers: Sequence[str] = (),
        **given: Any,
    ) -> Score:
        """Fit on these prototypes, images centred by their own mean."""
        mean = SideTransform.fit([images.rows], label="images").mean
        start = time.process_time()
        alignment = fit(
            method,
            prototypes=pairs,
            image_mean=mean,
            bias=bias,
            rng=stream("choice", seed),
            **given,
        )
        spent = time.process_time() - start
        return scored(alignment, images, names, spent, alignment.facts["choice"], scorers=scorers)

    def aligned(self, method: str, *, source: str = "head", seed: int = 0) -> Alignment:
        """Return an aligner fitted on prototypes alone, images centred by their own mean."""
        pairs, bias = prototype_pairs(self.run.changed(source=source, seed=seed), self.corpus)
        rng = stream("choice", seed)
        return fit(method, prototypes=pairs, image_mean=self.mean, bias=bias, rng=rng)


@dataclass(frozen=True, eq=False)
class Corrected:
    """Projections that a scorer has corrected; what is projected are their positions."""

    x: Any
    y: Any

    def project_x(self, positions: Any) -> Any:
        """Return the corrected queries."""
        return self.x[positions[:, 0]]

    def project_y(self, positions: Any) -> Any:
        """Return the corrected gallery."""
        return self.y[positions[:, 0]]


def scored(
    alignment: Projector,
    images: Items,
    names: Items,
    spent: float,
    choice: dict[str, Any],
    *,
    scorers: Sequence[str] = (),
) -> Score:
    """Return how an alignment ranks the names for the images, by cosine and by other scorers."""
    sides = alignment.project_x(images.rows), alignment.project_y(names.rows)
    images, names = (
        replace(items, rows=np.arange(len(items))[:, None]) for items in (images, names)
    )
    outcome, *others = (
        score_zero_shot(Corrected(*scorer_named(name)(*sides)), images, names)[0]
        for name in ("cosine", *scorers)
    )
    return Score(outcome, spent, choice, dict(zip(scorers, others, strict=True)))


def top_1(outcome: Outcome) -> str:
    """Return the top-1 of one outcome in percent."""
    return f"{100 * query_values('top-1', outcome.ranks).mean():.1f}"


def percent(scores: Sequence[Score]) -> list[str]:
    """Return top-1, 5, 10 in percent, with ± sd where there are several."""
    cells = []
    for metric in TOP:
        values = np.array([100 * score.of(metric).mean() for score in scores])
        sd = f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else ""
        cells.append(f"{values.mean():.1f}{sd}")
    return cells


def seconds(scores: Sequence[Score]) -> str:
    """Return mean CPU seconds of the fits."""
    return f"{np.mean([score.seconds for score in scores]):.1f}"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]


def differences(a: Sequence[Score], b: Sequence[Score], metric: str) -> DrawSums:
    """Return the sums of the paired differences of two fits, by draw and cluster."""
    draws = np.concatenate([np.full(s.outcome.n, draw) for draw, s in enumerate(a)])
    clusters = np.concatenate([s.clusters for s in a])
    sides = [
        DrawSums.of(np.concatenate([s.of(metric) for s in side]), draws, clusters)
        for side in (a, b)
    ]
    return sides[0] - sides[1]


def difference(
    a: Sequence[Score], b: Sequence[Score], metric: str, *, overlap: float = 0.0
) -> Estimate:
    """Return the paired difference of two fits, over draws and clusters.

    `overlap` is the share of the pool of real pairs that a draw takes.
    """
    return two_term(differences(a, b, metric), overlap=overlap)


def gap(a: Sequence[Score], b: Sequence[Score], metric: str, *, overlap: float = 0.0) -> str:
    """Return `difference` in points with its interval."""
    found = difference(a, b, metric, overlap=overlap)
    low, high = found.interval()
    return f"{100 * found.mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def drawn(name: str, n_panels: int, paint: Callable[..., None]) -> str:
    """Return a figure of panels side by side as SVG, the same bytes of the same data."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    settings = {"svg.hashsalt": name, "font.size": 9, "svg.fonttype": "none"}
    with mpl.rc_context(settings):
        drawing, panels = plt.subplots(1, n_panels, figsize=(8, 3.4), layout="constrained")
        paint(*panels)
        for axes in panels:
            axes.spines[["top", "right"]].set_visible(False)
        buffer = io.StringIO()
        drawing.savefig(buffer, format="svg", metadata={"Date": None})
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


def chosen(choice: dict[str, Any]) -> str:
    """Return the settings of a fit in a few words; an edge of the grid is marked."""
    edges = {edge.split()[0] for edge in choice.get("edges", ())}
    return ", ".join(
        f"{label} {choice[name]:.3g}{' (edge)' if edge in edges else ''}"
        for name, label, edge in (
            ("gamma", "γ", "gamma"), ("penalty", "λ", "penalty"), ("mix", "w", "weight"),
            ("n_components", "dims", "n_components"), ("top_k", "k", "top_k"),
            ("power", "power", "power"),
        )
        if choice.get(name) is not None
    )  # fmt: skip

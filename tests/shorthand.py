"""What tests and measurements say in one call, and the product does in its own steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy.sparse import issparse

from bench.corpus import Corpus, Items
from bench.execution import PromptSide, Table, scored
from bench.metrics.ranks import Ranks, Relevance, rank_blocks, rank_relevant
from bench.runs import Run
from bench.statistics import Estimate
from bench.suites import SUITE, Lists, SetNames, check_settings, combinations
from bench.suites.demo import possible_pairs
from bench.tasks.outcome import Outcome, Projector
from bench.tasks.ranked import prepare_retrieval
from featstore.store.store import FeatureStore
from fitters.alignment import Alignment
from fitters.from_store import Fit
from fitters.moments import Moments, accumulate_part, pilot_shifts
from fitters.sources import SideTransform


def task_runs(
    store: FeatureStore, task: str, *, seeds: Sequence[int] = (0,), **given: Any
) -> list[Run]:
    """Return one run of a task a seed, on sets by the names of `SetNames`."""
    named = {own.name: given.pop(own.name) for own in fields(SetNames) if own.name in given}
    values = {"suite": SUITE, "task": task, **SetNames(**named).fields(store), **given}
    return [Run.of(**values, seed=seed) for seed in seeds]


#: What a sweep of a test goes through, where nothing else is listed.
SWEEP: dict[str, Sequence[Any]] = {
    "eval": ("held-out",),
    "seed": (0, 1, 2, 3, 4),
    "method": ("ridge",),
    "source": ("none", "head", "random", "shuffled"),
    "n_pairs": (0, 16, 64, 256, "all"),
    "mix": (0.3, 1.0, 3.0),
    "penalty": (0.03, 0.1, 0.3, 1.0, 3.0),
    "n_components": (None,),
    "task": ("zero_shot", "retrieval"),
    "relevance": ("class_id",),
}


def sweep_runs(
    store: FeatureStore, sets: Fit, lists: Lists | None = None, of_methods: Mapping[str, Lists] = {}
) -> list[Run]:
    """Return the runs of both tasks for all combinations of lists, `SWEEP` where there is none."""
    every = SWEEP | dict(lists or {})
    check_settings(lists or {}, every["method"])
    every["n_pairs"] = possible_pairs(
        store, str(sets.image.key), every["n_pairs"], seeds=every["seed"],
        evals={"held-out"} & set(every["eval"]),
    )  # fmt: skip
    make = partial(Run.of, suite=SUITE, **sets.fields())
    return combinations(make, every, of_methods, skip=True)


def execute(
    runs: Sequence[Run], corpus: Corpus, *, prompt_side: Callable[[Run], PromptSide] | None = None
) -> Iterator[tuple[Run, pl.DataFrame, pl.DataFrame]]:
    """Fit once and score every run of a group; yield (run, result rows, ranks)."""
    for run, outcomes, facts in scored(runs, corpus, prompt_side):
        table = Table()
        table.add(run, outcomes, facts)
        yield run, *table.frames()


def score_retrieval(
    alignment: Projector, images: Items, captions: Items, **more: Any
) -> list[Outcome]:
    """Rank captions for every image and images for every caption."""
    return prepare_retrieval(images, captions, **more)(alignment)


def rank_projections(
    queries: Any, gallery: Any, of_queries: Any, of_gallery: Any, **more: Any
) -> Ranks:
    """Rank the gallery for every query; items of one group are relevant to each other."""
    return rank_relevant(queries, gallery, Relevance.build(of_queries, of_gallery), **more)


def ranks_from_scores(scores: Any, of_queries: Any, of_gallery: Any, *, top: int = 5) -> Ranks:
    """Rank by a finished score matrix of shape (n, g)."""
    return rank_blocks([scores], Relevance.build(of_queries, of_gallery), top=top)


def accumulate(batches: Iterable[Any], *, precision: Any = "float32") -> Moments:
    """Return the moments of all rows, of batches (x, y) or (x, y, weight)."""
    folds = np.broadcast_to(0, 10**9)
    return accumulate_folds(batches, folds, n_folds=1, precision=precision)[0]


def _weights(x: Any, given: Any = None) -> Any:
    return np.ones(len(x)) if given is None else given


def accumulate_folds(
    batches: Iterable[Any], folds: Any, *, n_folds: int = 0, precision: Any = "float32"
) -> list[Moments]:
    """Return the moments of each fold, in one pass."""
    rest = ((x, y, _weights(x, *w)) for x, y, *w in batches if len(x))
    first = next(rest)
    return accumulate_part(
        chain([first], rest), folds, n_folds=n_folds or int(folds.max()) + 1,
        shifts=pilot_shifts(*first[:2]), precision=precision,
    )  # fmt: skip


def score_pairs(aligner: Any, x: Any, y: Any) -> Any:
    """Return the score of each x_i with its y_i."""
    of_x, of_y = aligner.project_x(x), aligner.project_y(y)
    if issparse(of_x):
        return np.asarray(of_x.multiply(of_y).sum(axis=1)).ravel()
    return np.sum(of_x * of_y, axis=1)


def not_worse_than(found: Estimate, margin: float) -> bool:
    """Whether the mean is shown to be above −margin, one-sided at 5 %."""
    return bool(found.variance > 1e-24 and found.interval(0.9)[0] > -margin)


def save_alignment(path: Path | str, fitted: Any, *, replace: bool = True) -> Path:
    """Save an alignment, or a fitted aligner as the alignment that leaves rows as they are."""
    if not isinstance(fitted, Alignment):
        sides = SideTransform.identity("images"), SideTransform.identity("texts")
        fitted = Alignment.of(*sides, fitted)
    written: Path = fitted.save(path, replace=replace)
    return written

"""Running runs: one fit serves all the tasks that share it; finished runs are skipped."""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from bench.corpus import Corpus, needs_prompts, read_corpus
from bench.fits import fit_run
from bench.results import RANK_SCHEMA, finished, result_rows, write_run
from bench.runs import Run
from bench.scoring import score, split_of
from bench.tasks import Outcome
from featstore.store.store import open_store

logger = logging.getLogger(__name__)

# Fits handed to a process at once: large enough that reading the corpus and starting the
# task cost little, small enough that the last tasks end together.
_BATCH = 8


@dataclass(frozen=True)
class FitDone:
    """One fit was made and all its runs were written.

    Attributes
    ----------
    n_runs : int
        Runs that this fit served.
    seconds : float
    """

    n_runs: int
    seconds: float


@dataclass(frozen=True)
class Summary:
    """What `run_all` did.

    Attributes
    ----------
    reused, new : int
        Runs found finished, and runs made.
    fits : int
    seconds : float
        Wall time.
    """

    reused: int
    new: int
    fits: int
    seconds: float


def run_all(
    runs: Sequence[Run],
    store: Path,
    root: Path,
    *,
    jobs: int = 1,
    on_done: Callable[[FitDone], None] | None = None,
) -> Summary:
    """Execute the runs that are not finished and write each as soon as it is.

    Parameters
    ----------
    runs : sequence of Run
    store : Path
        Folder of the store.
    root : Path
        Results folder, made if missing.
    jobs : int
        Processes. Every one computes with a single thread, so that results do not depend on
        this number; with 1 everything stays in this process.
    on_done : callable, optional
        Called after each fit.

    Returns
    -------
    Summary

    Raises
    ------
    FeatstoreError
        Whatever a run raises; runs that had finished by then stay.
    """
    start = time.perf_counter()
    have = finished(root)
    left = [run for run in dict.fromkeys(runs) if run.run_id not in have]
    groups = _by_fit(left)
    report = on_done or (lambda _: None)
    if jobs == 1 or len(groups) <= 1:
        with threadpool_limits(limits=1):
            for done in _run_groups(groups, store, root):
                report(done)
    else:
        _run_in_processes(groups, store, root, jobs, report)
    seconds = time.perf_counter() - start
    return Summary(len(set(runs)) - len(left), len(left), len(groups), seconds)


def _by_fit(runs: Sequence[Run]) -> list[list[Run]]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.fit_key, []).append(run)
    return list(groups.values())


def _run_in_processes(
    groups: list[list[Run]],
    store: Path,
    root: Path,
    jobs: int,
    report: Callable[[FitDone], None],
) -> None:
    # Threads of polars and BLAS do not survive a fork; a spawned process starts clean.
    context = multiprocessing.get_context("spawn")
    batches = [groups[start : start + _BATCH] for start in range(0, len(groups), _BATCH)]
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_single_thread) as pool:
        futures: list[Future[list[FitDone]]] = [
            pool.submit(_run_batch, batch, store, root) for batch in batches
        ]
        try:
            for future in as_completed(futures):
                for done in future.result():
                    report(done)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _single_thread() -> None:
    os.environ["POLARS_MAX_THREADS"] = "1"
    threadpool_limits(limits=1)


def _run_batch(groups: list[list[Run]], store: Path, root: Path) -> list[FitDone]:
    return list(_run_groups(groups, store, root))


# The corpora of this process: runs of one suite read the same sets, once.
_Key = tuple[Any, ...]


class _Corpora:
    """The last corpus read, kept because the next run nearly always wants the same."""

    def __init__(self, store: Path) -> None:
        self._store = open_store(store)
        self._key: _Key | None = None
        self._corpus: Corpus | None = None

    def read(self, run: Run) -> Corpus:
        key = (
            run.image_set, run.image_revision, run.name_set, run.name_revision, run.caption_set,
            run.caption_revision, run.head_set, run.head_revision, run.head_name_set,
            run.head_name_revision, run.variants, run.templates, run.locales, run.limit,
            needs_prompts(run),
        )  # fmt: skip
        if self._corpus is None or key != self._key:
            self._corpus, self._key = read_corpus(self._store, run), key
        return self._corpus


def _run_groups(groups: Sequence[Sequence[Run]], store: Path, root: Path) -> Iterator[FitDone]:
    corpora = _Corpora(store)
    for group in groups:
        start = time.perf_counter()
        for run, rows, ranks in execute(group, corpora.read(group[0])):
            write_run(root, run.run_id, rows, ranks)
        yield FitDone(len(group), time.perf_counter() - start)


def execute(
    runs: Sequence[Run], corpus: Corpus
) -> Iterator[tuple[Run, pl.DataFrame, pl.DataFrame]]:
    """Fit once and score every run of a group; yield (run, result rows, ranks).

    Parameters
    ----------
    runs : sequence of Run
        All with the same `Run.fit_key`.
    corpus : Corpus
        What `read_corpus` gives for any of them.
    """
    first = runs[0]
    split = split_of(first, corpus)
    start = time.perf_counter()
    fitted = fit_run(first, corpus, split)
    fit_seconds = time.perf_counter() - start
    for run in runs:
        start = time.perf_counter()
        outcomes = score(run, fitted.alignment, corpus, split)
        facts = fitted.facts | {
            "fit_seconds": fit_seconds,
            "score_seconds": time.perf_counter() - start,
        }
        yield run, _result_frame(run, outcomes, facts), _rank_frame(run, outcomes)


def _result_frame(run: Run, outcomes: list[Outcome], facts: dict[str, Any]) -> pl.DataFrame:
    fixed = run.columns() | facts
    return result_rows(
        [
            fixed
            | {
                "direction": outcome.direction,
                "metric": metric,
                "value": value,
                "chance": outcome.chance.get(metric),
                "n_queries": outcome.n,
                "n_clusters": _n_clusters(outcome),
                "gallery": outcome.gallery,
            }
            | (outcome.facts or {})
            for outcome in outcomes
            for metric, value in outcome.values.items()
        ]
    )


def _n_clusters(outcome: Outcome) -> int:
    if outcome.queries is None:
        return outcome.n
    return len(np.unique(outcome.queries.clusters))


def _rank_frame(run: Run, outcomes: list[Outcome]) -> pl.DataFrame:
    frames = [
        pl.DataFrame(
            {
                "run_id": [run.run_id] * outcome.n,
                "direction": [outcome.direction] * outcome.n,
                "query_id": outcome.queries.ids.tolist(),
                "cluster_id": outcome.queries.clusters.astype(str).tolist(),
                "rank": outcome.ranks.rank,
                "average_precision": outcome.ranks.average_precision,
                "truncated_precision": outcome.ranks.truncated_precision,
                "hits": outcome.ranks.hits.tolist(),
                "n_relevant": outcome.ranks.n_relevant,
                "top": outcome.queries.top_ids,
            },
            schema=RANK_SCHEMA,
        )
        for outcome in outcomes
        if outcome.queries is not None
    ]
    return pl.concat(frames) if frames else pl.DataFrame(schema=RANK_SCHEMA)

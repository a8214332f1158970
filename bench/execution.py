"""Running runs: one fit serves all the tasks that share it; finished runs are skipped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from bench.code import Own
from bench.corpus import Corpus, needs_prompts, read_corpus
from bench.fits import fit_run, is_cell
from bench.results import (
    RANK_SCHEMA,
    RESULT_SCHEMA,
    Columns,
    finished,
    write_batch,
)
from bench.runs import Run
from bench.scoring import PromptSide, Scoring, open_prompt_side, split_of
from bench.tasks.outcome import KEPT, Outcome
from featstore.errors import EngineError
from featstore.parallel import Engine, Workers
from featstore.store.store import open_store

# Seconds of work that are written as one file, and lost if the process dies: the three durable
# files of a run take 7 ms, half of what a cell of a sweep does.
_LOST = 10.0

_Made = TypeVar("_Made")

# Fits handed to a process at once: large enough that reading the corpus and starting the
# task cost little, small enough that the last tasks end together.
_BATCH = 16


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
    store: Path | str,
    root: Path | str,
    *,
    jobs: int = 1,
    engine: Engine = "local",
    weights: str | None = None,
    device: str = "cpu",
    on_done: Callable[[int], None] | None = None,
) -> Summary:
    """Execute the runs that are not finished and write each as soon as it is.

    Parameters
    ----------
    runs : sequence of Run
    store : path or address
        Of the store.
    root : Path
        Results folder, made if missing.
    jobs : int
        Processes. Every one computes with a single thread, so that results do not depend on
        this number; with 1 everything stays in this process.
    engine : {"local", "ray"}
        Where they run: processes of this machine, or Ray, here or on the cluster that RAY_ADDRESS
        names. On a cluster, store and results must lie where every node sees them.
    weights : str, optional
        Of the text tower, for learners of prompts: as of ``headstock extract``. On a cluster every
        node must see them.
    device : str
        Of trainings, prompts among them; see `fitters.settings.TrainingOptions`. It enters no id.
    on_done : callable, optional
        Called after each fit, with the number of its runs.

    Returns
    -------
    Summary

    Raises
    ------
    FeatstoreError
        Whatever a run raises; runs that had finished by then stay.

    Examples
    --------
    >>> from bench.suites.demo import create_smoke_store, smoke_runs
    >>> create_smoke_store("smoke")
    >>> runs = smoke_runs(open_store("smoke"))[:2]
    >>> [run_all(runs, "smoke", "results").new for again in range(2)]
    [2, 0]
    """
    start, root = time.perf_counter(), Path(root)
    have = finished(root)
    left = [_on(device, run) for run in dict.fromkeys(runs) if run.run_id not in have]
    groups = _by_fit(left)
    n_fits = len({run.fit_key for run in left})
    report = on_done or (lambda _: None)
    if engine == "local" and (jobs == 1 or len(groups) <= 1):
        with threadpool_limits(limits=1):
            for done in _run_groups(groups, _Corpora(store, weights), root):
                report(done)
    elif groups:
        batches = [groups[at : at + _BATCH] for at in range(0, len(groups), _BATCH)]
        # A process elsewhere may have another working directory; an address stays as it is.
        place = store if "://" in str(store) else Path(store).resolve()
        if weights is not None and Path(weights).exists():
            weights = str(Path(weights).resolve())
        own = Own.of((run.fit.method, run.learner, run.task) for run in left)
        work = partial(
            _run_batch, store=place, root=root.resolve(), weights=weights, own=own, call=uuid4().hex
        )
        with Workers(engine, jobs).connected() as run:
            for finished_batch in run(work, batches):
                for done in finished_batch:
                    report(done)
    seconds = time.perf_counter() - start
    return Summary(len(set(runs)) - len(left), len(left), n_fits, seconds)


def _on(device: str, run: Run) -> Run:
    """Return the run with its training on a device."""
    training = run.fit.training
    if training.device == device:
        return run
    return replace(run, fit=replace(run.fit, training=replace(training, device=device)))


def _by_fit(runs: Sequence[Run]) -> list[list[Run]]:
    """Return the runs of each fit."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.fit_key, []).append(run)
    return list(groups.values())


def _run_batch(
    groups: list[list[Run]],
    store: Path | str,
    root: Path,
    weights: str | None,
    own: Own,
    call: str,
) -> list[int]:
    own.install()
    for run in [run for group in groups for run in group if run.origin]:
        if replace(run).code != run.code:
            raise EngineError(
                f"A worker has other code than this process for {run.origin} (method "
                f"{run.fit.method!r}, task {run.task!r}). Where modules lie elsewhere (Ray), bring "
                "the same files everywhere; after a change, begin a new process."
            )
    return list(_run_groups(groups, _corpora_of(call, store, weights), root))


# The corpora of this process: runs of one suite read the same sets, once.
class _Corpora:
    """The last corpus read, and the last text tower opened: the next run mostly wants them."""

    def __init__(self, store: Path | str, weights: str | None) -> None:
        self._store, self._weights = open_store(store), weights
        self._last: dict[Callable[..., Any], tuple[Any, Any]] = {}

    def read(self, run: Run) -> Corpus:
        key = run.data, run.protocol.limit, needs_prompts(run)
        return self._once(key, read_corpus, run)

    def prompt_side(self, run: Run) -> PromptSide:
        key = run.data.name_set, run.data.name_revision, run.data.variants
        return self._once(key, open_prompt_side, run, weights=self._weights)

    def _once(self, key: Any, make: Callable[..., _Made], *given: Any, **named: Any) -> _Made:
        if self._last.get(make, (None,))[0] != key:
            self._last[make] = key, make(self._store, *given, **named)
        made: _Made = self._last[make][1]
        return made


@lru_cache(maxsize=1)
def _corpora_of(_call: str, store: Path | str, weights: str | None) -> _Corpora:
    """Return the corpora of one call of `run_all`, which all batches of a process share.

    What was chosen on a head goes with its corpus: a batch of the demo's controls would choose for
    a second anew.
    """
    return _Corpora(store, weights)


def _run_groups(groups: Sequence[Sequence[Run]], corpora: _Corpora, root: Path) -> Iterator[int]:
    table, done, last = Table(), list[int](), time.perf_counter()
    try:
        for group in groups:
            # Tasks of one fit share a corpus: that of the one that reads most.
            corpus = corpora.read(max(group, key=needs_prompts))
            for run, outcomes, facts in scored(group, corpus, corpora.prompt_side):
                table.add(run, outcomes, facts)
            done.append(len(group))
            if time.perf_counter() - last >= _LOST:
                table.write(root)
                yield from done
                table, done, last = Table(), [], time.perf_counter()
    finally:
        table.write(root)
    yield from done


def scored(
    runs: Sequence[Run], corpus: Corpus, prompt_side: Callable[[Run], PromptSide] | None
) -> Iterator[tuple[Run, list[Outcome], dict[str, Any]]]:
    """Fit once; yield every run with its outcomes and what its result rows tell of the fit."""
    split, start = split_of(runs[0], corpus), time.perf_counter()
    fitted = fit_run(runs[0], corpus, split)
    fit_seconds = time.perf_counter() - start
    # A sweep keeps no places: they would be most of its results.
    scoring = Scoring(corpus, split, 0 if is_cell(runs[0]) else KEPT, prompt_side)
    for run in runs:
        start = time.perf_counter()
        outcomes = scoring.score(run, fitted.alignment)
        times = {"fit_seconds": fit_seconds, "score_seconds": time.perf_counter() - start}
        yield run, outcomes, fitted.facts | times | {"finished_at": time.time()}


class Table:
    """Result rows and ranks of runs that are written together."""

    def __init__(self) -> None:
        self.rows, self.ranks = Columns(RESULT_SCHEMA), Columns(RANK_SCHEMA)

    def write(self, root: Path) -> None:
        """Write them as one file each, unless there are none."""
        rows = self.rows.frame()
        if rows.height:
            write_batch(root, rows, self.ranks.frame())

    def add(self, run: Run, outcomes: list[Outcome], facts: dict[str, Any]) -> None:
        """Add a run: a result row per direction and metric, a rank per query."""
        fixed = run.columns() | facts | {"origin": run.origin}
        for outcome in outcomes:
            metrics = list(outcome.values)
            self.rows.add(
                len(metrics),
                {
                    "metric": metrics,
                    "value": list(outcome.values.values()),
                    "chance": [outcome.chance.get(metric) for metric in metrics],
                },
                fixed
                | {
                    "direction": outcome.direction,
                    "n_queries": outcome.n,
                    **_clusters(outcome),
                    "gallery": outcome.gallery,
                }
                | (outcome.facts or {}),
            )
            if outcome.queries is None:
                continue
            ranks, queries = outcome.ranks, outcome.queries
            varied: dict[str, Any] = queries.question.columns | {
                "rank": ranks.rank,
                "average_precision": ranks.average_precision,
                "truncated_precision": ranks.truncated_precision,
                "hits": ranks.hits,
                "n_relevant": ranks.n_relevant,
            }
            if queries.own is not None:
                varied["own"] = queries.own.tolist()
            if ranks.gallery and not is_cell(run):
                varied["top"] = queries.top_ids
            self.ranks.add(
                outcome.n, varied, {"run_id": run.run_id, "direction": outcome.direction}
            )


def _clusters(outcome: Outcome) -> dict[str, Any]:
    if outcome.queries is None:
        return {"n_clusters": outcome.n, "clusters_of": None}
    question = outcome.queries.question
    return {"n_clusters": question.n_clusters, "clusters_of": question.clusters_of}

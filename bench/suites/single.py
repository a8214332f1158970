"""One task, a saved alignment, and a sweep over settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

import polars as pl

from bench.corpus import read_corpus
from bench.errors import ProtocolError
from bench.options import Options
from bench.protocol import held_out_split
from bench.results import RESULT_SCHEMA
from bench.runs import IDENTITY, SOURCES, Run
from bench.scoring import Scoring, split_of
from bench.suites.demo import SuiteSets
from featstore.errors import unknown_name
from featstore.store.store import FeatureStore
from fitters.alignment import Alignment
from fitters.from_store import side_of
from fitters.jobs import TEMPLATES, VARIANTS
from fitters.methods import method_named

#: The suite that such runs say they are of.
SUITE = "task"


@dataclass(frozen=True)
class TaskRequest:
    """What one task is to be run on.

    Attributes
    ----------
    task : str
    images, names, captions, head, head_names : str
        Sets as `FeatureStore.info` takes them; empty where the task needs none.
    method, source, eval : str
        As in `Run`.
    n_pairs : int or "all"
    pairs_per_class : int
    seeds : sequence of int
    options : Options, optional
    relevance : str
    locales, variants, templates, train_splits : sequence of str
    train_fraction : float
    views : str
        Set of augmented views of the images.
    head_variants, head_templates, pair_variants, pair_templates : sequence of str
        As in `Run`.
    epochs : int, optional
    sequential : bool
    """

    task: str
    images: str
    names: str = ""
    captions: str = ""
    head: str = ""
    head_names: str = ""
    method: str = IDENTITY
    source: str = "none"
    eval: str = "all-names"
    n_pairs: int | Literal["all"] = 0
    pairs_per_class: int = 0
    seeds: Sequence[int] = (0,)
    options: Options | None = None
    relevance: str = "parent_id"
    locales: Sequence[str] = ()
    variants: Sequence[str] = VARIANTS
    templates: Sequence[str] = TEMPLATES
    train_splits: Sequence[str] = ("train",)
    train_fraction: float = 0.6
    views: str = ""
    head_variants: Sequence[str] = ()
    head_templates: Sequence[str] = ()
    pair_variants: Sequence[str] = ()
    pair_templates: Sequence[str] = ()
    epochs: int | None = None
    sequential: bool = False


def task_runs(store: FeatureStore, request: TaskRequest, *, limit: int | None = None) -> list[Run]:
    """Return one run a seed.

    Raises
    ------
    ProtocolError
        If a head is named without the names of its classes or the other way round, or the run
        contradicts itself.
    featstore.errors.UnknownSetError, featstore.errors.AmbiguousSetError
        If a set is not in the store, or several fit.
    """
    if bool(request.head) != bool(request.head_names):
        raise ProtocolError(
            "A head needs the names of its classes: give --head and --head-names, or neither."
        )
    sets: dict[str, Any] = {}
    for field, name in (
        ("image", request.images),
        ("name", request.names),
        ("caption", request.captions),
        ("head", request.head),
        ("head_name", request.head_names),
        ("view", request.views),
    ):
        info = store.info(name) if name else None
        sets[f"{field}_set"] = "" if info is None else str(info.key)
        sets[f"{field}_revision"] = "" if info is None else info.commit.revision_id
    return [
        Run(
            suite=SUITE,
            task=request.task,
            eval=request.eval,
            method=request.method,
            source=request.source,
            n_pairs=request.n_pairs,
            seed=seed,
            **sets,
            variants=tuple(request.variants),
            templates=tuple(request.templates),
            locales=tuple(request.locales),
            relevance=request.relevance,
            train_fraction=request.train_fraction,
            train_splits=tuple(request.train_splits),
            pairs_per_class=request.pairs_per_class,
            options=request.options,
            limit=limit,
            head_variants=tuple(request.head_variants),
            head_templates=tuple(request.head_templates),
            pair_variants=tuple(request.pair_variants),
            pair_templates=tuple(request.pair_templates),
            epochs=request.epochs,
            sequential=request.sequential,
        )
        for seed in request.seeds
    ]


#: Tasks that an alignment made before is scored by.
SCORED = ("zero_shot", "generalised", "retrieval", "hubness")

_SCORES: dict[str, Any] = {
    name: RESULT_SCHEMA[name]
    for name in ("task", "eval", "direction", "metric", "value", "chance", "n_queries", "gallery")
}


def score_alignment(
    alignment: Alignment, store: FeatureStore, request: TaskRequest, *, limit: int | None = None
) -> pl.DataFrame:
    """Score an alignment that was made before, such as a saved one.

    Parameters
    ----------
    alignment : Alignment
        As `fitters.read_alignment` gives it; its facts say which spaces it takes.
    store : FeatureStore
    request : TaskRequest
        A task of `SCORED`, its sets and its evaluation; what is to be fitted plays no part.
    limit : int, optional
        Images kept.

    Returns
    -------
    DataFrame
        One row a direction and metric: task, eval, direction, metric, value, chance, n_queries,
        gallery.

    Raises
    ------
    ProtocolError
        If a set lies in the space of the other side, or the task lacks what it reads.
    featstore.errors.MisalignedItemsError
        If a set lies in neither space of the alignment.
    """
    (run,) = task_runs(store, request, limit=limit)
    sides = (("x", run.image_set), ("y", run.name_set), ("y", run.caption_set))
    for side, key in sides:
        space = store.info(key).commit.space_id if key else None
        if space is not None and space != alignment.facts.get(f"{side}_space_id"):
            side_of(alignment, space, what=key)
            raise ProtocolError(
                f"{key} lies in the space of the other side: images are x, and texts y."
            )
    corpus = read_corpus(store, run)
    outcomes = Scoring(corpus, split_of(run, corpus)).score(run, alignment)
    rows = [
        (run.task, run.eval, outcome.direction, metric, value, outcome.chance.get(metric),
         outcome.n, outcome.gallery)
        for outcome in outcomes
        for metric, value in outcome.values.items()
    ]  # fmt: skip
    return pl.DataFrame(rows, schema=_SCORES, orient="row")


Pairs = int | Literal["all"]


@dataclass(frozen=True)
class Grid:
    """What a sweep goes through; every combination that means something is a cell.

    Attributes
    ----------
    methods, sources, n_pairs, mixes, penalties, seeds : tuples
    tasks : tuple of str
    evaluation : str
    """

    methods: tuple[str, ...] = ("ridge",)
    sources: tuple[str, ...] = ("none", "head", "random", "shuffled")
    n_pairs: tuple[Pairs, ...] = (0, 16, 64, 256, "all")
    mixes: tuple[float, ...] = (0.3, 1.0, 3.0)
    penalties: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0, 3.0)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    tasks: tuple[str, ...] = ("zero_shot", "retrieval")
    evaluation: str = "held-out"


def sweep_runs(
    store: FeatureStore,
    sets: SuiteSets,
    grid: Grid,
    *,
    locales: Sequence[str] = (),
    relevance: str = "class_id",
    texts: Mapping[str, Any] | None = None,
    limit: int | None = None,
) -> list[Run]:
    """Return the runs of a sweep; numbers of pairs that a split cannot give are left out.

    A cell without prototypes, or without real pairs, has no mixing weight: it is run once. So
    is a method that has no penalty. ConSE reads the head and nothing else. `texts` are fields of
    a run that choose prompts: variants, templates, head_variants, head_templates.

    Raises
    ------
    ProtocolError
        If a name is unknown, or nothing is left to run.
    fitters.errors.UnknownMethodError
        If a method is unknown.
    """
    for source in grid.sources:
        if source not in SOURCES:
            raise ProtocolError(unknown_name("source", source, SOURCES))
    base = Run(
        suite="sweep", task="zero_shot", eval=grid.evaluation, method="conse", source="head",
        n_pairs=0, seed=0, locales=tuple(locales), relevance=relevance, limit=limit, penalty=0.0,
        mix=1.0, **sets.fields(), **(texts or {}),
    )  # fmt: skip
    possible = _possible_pairs(store, base, grid)
    runs = [
        replace(cell, task=task)
        for seed in grid.seeds
        for method in grid.methods
        for cell in _cells(replace(base, seed=seed, method=method), grid, possible)
        for task in grid.tasks
    ]
    if not runs:
        raise ProtocolError(
            "Nothing is left to run: source 'none' needs real pairs, and the others 0 or more that "
            "the split can give. Ask for other sources or numbers of pairs."
        )
    return list(dict.fromkeys(runs))


def _cells(base: Run, grid: Grid, n_pairs: Sequence[Pairs]) -> Iterator[Run]:
    method = method_named(base.method)
    for source, k in product(grid.sources, n_pairs):
        if (source, k) == ("none", 0):
            continue
        if method.fitted_on == "head" and (source, k) != ("head", 0):
            continue
        mixed = source != "none" and k != 0 and "mix" in method.options
        penalties = grid.penalties if "penalty" in method.options else (0.0,)
        for mix, penalty in product(grid.mixes if mixed else (1.0,), penalties):
            yield replace(base, source=source, n_pairs=k, mix=float(mix), penalty=float(penalty))


def _possible_pairs(store: FeatureStore, base: Run, grid: Grid) -> list[Pairs]:
    if grid.evaluation == "all-names":
        return [k for k in grid.n_pairs if k == 0]
    items = store.view(base.image_set).items
    items = items.head(base.limit or items.height)
    classes = items["class_id"].to_numpy()
    fewest = min(
        len(held_out_split(classes, seed=s, train_fraction=base.train_fraction).train)
        for s in grid.seeds
    )
    return [k for k in grid.n_pairs if k == "all" or k <= fewest]

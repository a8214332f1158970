"""Sweeps: every combination of sources, numbers of real pairs, mixing weights and penalties."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

from bench.errors import ProtocolError
from bench.protocol import held_out_split
from bench.runs import SOURCES, Run
from bench.suites.sets import SuiteSets
from featstore.store.store import FeatureStore
from fitters.methods import method_named

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
            msg = f"No source named {source!r}. Known sources: {', '.join(SOURCES)}."
            raise ProtocolError(msg)
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
        msg = (
            "Nothing is left to run: source 'none' needs real pairs, and the others 0 or more that "
            "the split can give. Ask for other sources or numbers of pairs."
        )
        raise ProtocolError(msg)
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

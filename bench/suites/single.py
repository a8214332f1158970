"""One task on sets that the user names: the runs of `bench task`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bench.errors import ProtocolError
from bench.options import Options
from bench.runs import IDENTITY, Run
from featstore.store.store import FeatureStore
from fitters.fit_request import TEMPLATES, VARIANTS

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
        msg = "A head needs the names of its classes: give --head and --head-names, or neither."
        raise ProtocolError(msg)
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

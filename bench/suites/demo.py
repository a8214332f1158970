"""The demo suite: whether head weights help, how much, beside what, on how many real pairs.

Two evaluations of the stamps. *All names*: nothing of the dataset is trained on, every image
is ranked against every name. *Held out*: five seeds, each a fresh split of the descriptions,
60 % to draw real pairs from and the rest to be scored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

from bench.errors import ProtocolError
from bench.protocol import held_out_split
from bench.runs import Run
from bench.suites.sets import SuiteSets, find_sets
from featstore.store.store import FeatureStore

Pairs = int | Literal["all"]

SEEDS = (0, 1, 2, 3, 4)
N_PAIRS: tuple[Pairs, ...] = (16, 64, 256, "all")
METHODS = ("ridge", "procrustes", "kernel-ridge")
CONTROLS = ("random", "shuffled")

#: With real pairs, kernel ridge stands beside these only: its choice takes seconds, not a fraction,
#: and that random rows do nothing shows where no real pair is used.
HELD_OUT_SOURCES = {"kernel-ridge": ("none", "head")}


def demo_runs(store: FeatureStore, *, limit: int | None = None) -> list[Run]:
    """Return the runs of the demo suite on a store.

    Parameters
    ----------
    store : FeatureStore
        With images, captions and class names of ``stamps``, and a head and class names of
        ``imagenet1k``.
    limit : int, optional
        Images kept. Numbers of pairs that a split cannot give are left out.

    Raises
    ------
    ProtocolError
        If a set is missing or ambiguous, or `limit` leaves too little to split.
    """
    sets = find_sets(store, dataset="stamps", label_set="imagenet1k")
    return plan(store, sets, suite="demo", limit=limit)


def plan(
    store: FeatureStore,
    sets: SuiteSets,
    *,
    suite: str,
    limit: int | None,
    seeds: Sequence[int] = SEEDS,
    n_pairs: Sequence[Pairs] = N_PAIRS,
) -> list[Run]:
    """Return both evaluations for these sets; runs that share a fit follow one another."""
    if limit is not None and limit < 1:
        msg = f"--limit keeps at least one image; got {limit}."
        raise ProtocolError(msg)
    base = Run(
        suite=suite,
        task="zero_shot",
        eval="all-names",
        method="conse",
        source="head",
        n_pairs=0,
        seed=0,
        locales=("en",),
        relevance="class_id",
        limit=limit,
        **sets.fields(),
    )
    fewest = _fewest_training_images(store, base, seeds)
    possible = [k for k in n_pairs if k == "all" or k <= fewest]
    return [*_all_names(base, seeds), *_held_out(base, seeds, possible)]


def _all_names(base: Run, seeds: Sequence[int]) -> Iterator[Run]:
    yield base
    for method in METHODS:
        yield replace(base, method=method)
        for control in CONTROLS:
            for seed in seeds:
                yield replace(base, method=method, source=control, seed=seed)


def _held_out(base: Run, seeds: Sequence[int], n_pairs: Sequence[Pairs]) -> Iterator[Run]:
    base = replace(base, eval="held-out")
    for seed in seeds:
        fits = [replace(base, seed=seed)]
        for method in METHODS:
            for k in (0, *n_pairs):
                fits += [
                    replace(base, seed=seed, method=method, source=source, n_pairs=k)
                    for source in HELD_OUT_SOURCES.get(method, ("none", "head", *CONTROLS))
                    if (source, k) != ("none", 0)
                ]
        for fit in fits:
            yield fit
            yield replace(fit, task="retrieval")


def _fewest_training_images(store: FeatureStore, run: Run, seeds: Sequence[int]) -> int:
    items = store.view(run.image_set).items
    classes = items["class_id"].head(run.limit or items.height).to_numpy()
    return min(
        len(held_out_split(classes, seed=seed, train_fraction=run.train_fraction).train)
        for seed in seeds
    )

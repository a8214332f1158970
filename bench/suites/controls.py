"""The suite `controls`: what could stand in for a head, and how much of a head it takes.

What a head is compared with has doses here, and its real pairs have controls too:

- over all names, 19 draws each: every control of the head, names shuffled within 10 to 300
  clusters of like names, and heads of 10 to 500 classes; once also the nearest and the farthest
  classes, and the head without those that the images have;
- held out, ten seeds, beside 16 and 64 real pairs: every control of the head, and in place of the
  head the pairs repeated or mixed to as many rows, or the class means of the same images.

`bench.doses` reads how accuracy answers to the doses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, get_args

from bench.runs import Run
from bench.suites.demo import CONTROL_DRAWS, Pairs, demo_bases, has_meaning, possible_pairs
from featstore.store.store import FeatureStore
from fitters.methods import method_named
from fitters.settings import Control, PairControl

METHODS = ("ridge", "procrustes", "kernel-ridge")

#: Draws of names and rows, and of the classes of a smaller head.
DRAWS = range(CONTROL_DRAWS)

#: Seeds of the held-out splits.
SEEDS = tuple(range(10))

N_PAIRS: tuple[Pairs, ...] = (16, 64)

#: All but the last carry no class.
ALONE = get_args(Control)[:-1]
BESIDE = ("none", "head", *get_args(Control), *get_args(PairControl), "class-means")

#: Clusters of like names; with real pairs the second.
CLUSTERS = (10, 50, 150, 300)

#: Classes of a smaller head.
SIZES = (10, 20, 50, 100, 200, 500)


def control_runs(
    store: FeatureStore,
    *,
    limit: int | None = None,
    dataset: str | None = None,
    label_set: str | None = None,
    methods: Sequence[str] = (),
    sources: Sequence[str] = (),
) -> list[Run]:
    """Return the runs of the suite on a store; see `bench.suites.demo.demo_runs`.

    Doses that the head is too small for are left out, and numbers of pairs that a split cannot
    give. Every control of one draw follows the other, so that it is drawn once.

    Raises
    ------
    ProtocolError
        If a set is missing or ambiguous, or `limit` leaves too little to split.
    """
    for method in methods:
        method_named(method)
    made: list[Run] = []
    for base in demo_bases(store, "controls", limit=limit, dataset=dataset, label_set=label_set):
        n_head, images = len(store.view(base.data.head_set)), base.data.image_set
        clusters = [n for n in CLUSTERS if 2 * n <= n_head]
        sizes = [n for n in SIZES if n < n_head]
        possible = possible_pairs(store, images, N_PAIRS, seeds=SEEDS, limits=(limit,))
        made += [base, *_alone(base, methods or METHODS, clusters, sizes)]
        if clusters:
            within = clusters[min(1, len(clusters) - 1)]
            made += _beside(base, methods or METHODS, within, possible)
    wanted = tuple(sources) or ("head", *BESIDE)
    return [
        run
        for run in dict.fromkeys(made)
        if run.protocol.source in wanted and has_meaning(run.fit.method, run.protocol)
    ]


def _alone(
    base: Run, methods: Sequence[str], clusters: Sequence[int], sizes: Sequence[int]
) -> Iterator[Run]:
    """Yield what is fitted without real pairs, over all names."""
    for method in methods:
        yield base.changed(method=method)
        yield base.changed(method=method, leave_seen=True)
        for size, by in product(sizes, ("nearest", "farthest")):
            yield base.changed(method=method, head_size=size, head_by=by)
    drawn: list[dict[str, Any]] = [
        *({"source": control} for control in ALONE),
        *({"source": "shuffled-within", "clusters": n} for n in clusters),
        *({"head_size": size} for size in sizes),
    ]  # fmt: skip
    for own, draw, method in product(drawn, DRAWS, methods):
        yield base.changed(method=method, seed=draw, **own)


def _beside(
    base: Run, methods: Sequence[str], clusters: int, n_pairs: Sequence[Pairs]
) -> Iterator[Run]:
    """Yield what is fitted with real pairs, held out."""
    for method, seed in product(methods, SEEDS):
        own = base.changed(eval="held-out", method=method, seed=seed)
        yield own
        for k, source in product(n_pairs, BESIDE):
            within = clusters if source == "shuffled-within" else 0
            yield own.changed(source=source, n_pairs=k, clusters=within)

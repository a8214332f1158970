"""The demo suite: whether head weights help, how much, beside what, on how many real pairs.

Two evaluations of the stamps. *All names*: nothing of the dataset is trained on, every image
is ranked against every name, and the head stands beside 19 draws of each control. *Held out*: ten
seeds, each a fresh split of the descriptions, 60 % to draw real pairs from and the rest to be
scored. There ridge and Procrustes have a fresh draw of each control a seed, and kernel ridge all 19
on every split, without real pairs and with 64.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from bench.errors import ProtocolError
from bench.protocol import held_out_split
from bench.runs import Run
from bench.statistics import ENOUGH_CONTROLS
from bench.suites.sets import SuiteSets, find_sets
from featstore.store.store import FeatureStore

Pairs = int | Literal["all"]

SEEDS = tuple(range(10))
N_PAIRS: tuple[Pairs, ...] = (16, 64, 256, "all")
METHODS = ("ridge", "procrustes", "kernel-ridge")
CONTROLS = ("random", "shuffled")

#: Draws of a control that stand beside one head: the fewest whose rank can reach 5 %.
CONTROL_DRAWS = ENOUGH_CONTROLS

#: Methods whose controls are all on every split, and on how many real pairs: a head is then ranked
#: among draws that saw the same pairs.
RANKED: dict[str, tuple[Pairs, ...]] = {"kernel-ridge": (0, 64)}


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
    control_draws: int = CONTROL_DRAWS,
    ranked: Mapping[str, Sequence[Pairs]] = RANKED,
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
    return [
        base,
        *(replace(base, method=method) for method in METHODS),
        *_held_out(base, seeds, possible, ranked),
        *_control_runs(base, seeds, possible, control_draws, ranked),
    ]


def _held_out(
    base: Run, seeds: Sequence[int], n_pairs: Sequence[Pairs], ranked: Mapping[str, Sequence[Pairs]]
) -> Iterator[Run]:
    """Yield the held-out runs of every seed; of controls those that the seed draws."""
    base = replace(base, eval="held-out")
    for seed in seeds:
        yield from _tasks(replace(base, seed=seed))
        for method in METHODS:
            controls = () if method in ranked else CONTROLS
            for k in (0, *n_pairs):
                for source in ("none", "head", *controls):
                    if (source, k) != ("none", 0):
                        own = replace(base, seed=seed, method=method, source=source, n_pairs=k)
                        yield from _tasks(own)


def _control_runs(
    base: Run,
    seeds: Sequence[int],
    n_pairs: Sequence[Pairs],
    draws: int,
    ranked: Mapping[str, Sequence[Pairs]],
) -> Iterator[Run]:
    """Yield what stands beside one head: draw by draw, so that a draw is fitted in one place."""
    for method in METHODS:
        for control in CONTROLS:
            for draw in range(draws):
                # With nothing else to draw the seed draws the control: the same rows as below.
                yield replace(base, method=method, source=control, seed=draw)
                for seed in seeds:
                    for k in ranked.get(method, ()):
                        if k == 0 or k in n_pairs:
                            # Names alone: what a control does to captions is seen in ridge.
                            yield replace(
                                base, eval="held-out", method=method, source=control, n_pairs=k,
                                seed=seed, control_draw=draw,
                            )  # fmt: skip


def _tasks(fit: Run) -> tuple[Run, Run]:
    return fit, replace(fit, task="retrieval")


def _fewest_training_images(store: FeatureStore, run: Run, seeds: Sequence[int]) -> int:
    items = store.view(run.image_set).items
    classes = items["class_id"].head(run.limit or items.height).to_numpy()
    return min(
        len(held_out_split(classes, seed=seed, train_fraction=run.train_fraction).train)
        for seed in seeds
    )

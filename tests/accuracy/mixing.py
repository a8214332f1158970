"""The section with real pairs: several ways to weigh them against the head."""

from __future__ import annotations

import pickle
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from bench.corpus import first_pairs, held_out_split, stream
from bench.fits import n_pool, prototype_pairs, real_pairs
from bench.tasks.ranked import score_zero_shot
from fitters import METHODS, FitConfig, fit
from fitters.select import PENALTIES, WEIGHTS, folds_by_group
from fitters.sources import SideTransform
from tests.accuracy.alone import on_head
from tests.accuracy.measure import SEEDS, TOP, Bench, Score, gap, percent, table
from tests.shorthand import score_retrieval

N_PAIRS = (16, 64, 256)
MIXING: dict[str, dict[str, Any]] = {
    "averaged over noise (default)": {},
    "a class weighs 1": {"mix": 1.0},
}
"""What is made of the real pairs beside the head; width and penalty are those of the head."""

DEFAULT = f"real + head: {next(iter(MIXING))}"


def mixing(bench: Bench) -> Iterator[str]:
    """Real pairs beside the head: the default, and a weight that is given."""
    yield from ("## Kernel ridge with K real pairs", "")
    yield (
        "Ten seeds, each a split of the descriptions (60 % to draw pairs from; about 207 held-out "
        "names). The differences are to the better of *head alone* and *real alone*, with "
        "intervals over draws and clusters (docs/statistics.md); where K is a large part of the "
        "pool they hold for this pool."
    )
    yield ""
    settled = on_head(bench, "kernel-ridge")["choice"]
    jobs = [(bench.store.root, bench.kept, seed, settled) for seed in SEEDS]
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        of_seeds = list(pool.map(of_seed, jobs))
    fits = {key: [found[key] for found in of_seeds] for key in of_seeds[0]}
    split = held_out_split(bench.corpus.images.classes, seed=0)
    pool = n_pool(bench.run.changed(eval="held-out"), bench.corpus, split)
    rows = []
    for (k, label, direction), scores in fits.items():
        if direction != "image→name":
            continue
        gaps = ["", ""]
        if label.startswith("real + head"):
            head, real = fits[0, "head alone", direction], fits[k, "real alone", direction]
            gaps = [
                gap(scores, _better(head, real, m), m, overlap=k / pool)
                for m in ("top-1", "top-10")
            ]
        rows.append([str(k), label, *percent(scores), *gaps])
    yield from table(["K", "fit", *TOP, "over the better, top-1", "top-10"], rows)


def ridge_mixing(bench: Bench) -> Iterator[str]:
    """Real pairs beside the head in ridge: the average against a choice, on unseen pairs."""
    yield from ("## Ridge with K real pairs: averaged, or chosen", "")
    yield (
        "Ridge averages over the noise of real pairs as kernel ridge does. Beside it, penalty and "
        "mixing weight chosen together by folds of the pairs, on training pairs that neither saw: "
        "six splits, four outer folds of the K pairs, mean reciprocal rank of an image's text "
        "among those of its fold; ± is the standard error over the splits. No scored image takes "
        "part."
    )
    yield ""
    pairs, _ = prototype_pairs(bench.run, bench.corpus)
    grids = {"averaged": None, "chosen": {"penalty": PENALTIES, "weight": WEIGHTS}}
    method, config = METHODS["ridge"], FitConfig.of("ridge", {})
    rows = []
    for k in N_PAIRS:
        found: dict[str, list[float]] = {name: [] for name in grids}
        spent = dict.fromkeys(grids, 0.0)
        for seed in range(6):
            split = held_out_split(bench.corpus.images.classes, seed=seed)
            mean = SideTransform.fit([bench.corpus.images.rows[split.train]], label="images").mean
            real = real_pairs(bench.corpus, first_pairs(split, k))
            folds = folds_by_group(real.row_groups, 4, stream("choice", seed))
            for name, grid in grids.items():
                total, start = 0.0, time.process_time()
                for fold in range(4):
                    seen, new = real.take(folds != fold), real.take(folds == fold)
                    data = method.sources(config, prototypes=pairs, real=seen, image_mean=mean)
                    made = fit(config, data, rng=stream("choice", seed), grid=grid)
                    total += made.score(new.x, new.y, groups=new.row_groups) * new.n
                found[name].append(total / real.n)
                spent[name] += (time.process_time() - start) / 24
        averaged, chosen = (np.array(found[name]) for name in grids)
        gain = averaged - chosen
        error = gain.std(ddof=1) / np.sqrt(len(gain))
        rows.append(
            [str(k), f"{averaged.mean():.3f}", f"{chosen.mean():.3f}",
             f"{gain.mean():+.3f} ± {error:.3f}", *(f"{spent[name]:.1f}" for name in grids)]
        )  # fmt: skip
    columns = ["K", "averaged", "chosen", "averaged − chosen"]
    yield from table([*columns, "CPU s a fit, averaged", "chosen"], rows)


def of_seed(job: tuple[Path, Path, int, dict[str, float]]) -> dict[tuple[Any, str, str], Score]:
    """Return the fits of one seed, by number of pairs, fit and direction; kept in a file."""
    store, kept, seed, settled = job
    file = kept / f"mixing-{seed}.pickle"
    if file.exists():
        found: dict[tuple[Any, str, str], Score] = pickle.loads(file.read_bytes())
        return found
    with threadpool_limits(limits=1):
        made = _fits(Bench(store, kept), seed, settled)
    file.write_bytes(pickle.dumps(made))
    return made


def _fits(bench: Bench, seed: int, settled: dict[str, float]) -> dict[tuple[Any, str, str], Score]:
    pairs, _ = prototype_pairs(bench.run, bench.corpus)
    split = held_out_split(bench.corpus.images.classes, seed=seed)
    images = bench.corpus.images.take(split.test)
    names = bench.corpus.names.take(np.isin(bench.corpus.names.classes, images.classes))
    captions = bench.corpus.captions
    assert captions is not None
    assert captions.parents is not None
    captions = captions.take(np.isin(captions.parents, images.ids))
    mean = SideTransform.fit([bench.corpus.images.rows[split.train]], label="images").mean
    fits: dict[tuple[Any, str, str], Score] = {}

    def score(k: Any, label: str, **given: Any) -> None:
        start = time.process_time()
        made = fit("kernel-ridge", image_mean=mean, rng=stream("choice", seed), **given)
        spent = time.process_time() - start
        choice = made.facts["choice"]
        found = [
            score_zero_shot(made, images, names)[0],
            *score_retrieval(made, images, captions, relevance="class_id"),
        ]
        for outcome in found:
            fits[k, label, outcome.direction] = Score(outcome, spent, choice)
        print(seed, k, label, *percent([Score(found[0], spent, choice)]), file=sys.stderr)

    # Prototypes alone decide width and penalty: they are the same for every split.
    score(0, "head alone", prototypes=pairs, **settled)
    for k in N_PAIRS:
        real = real_pairs(bench.corpus, first_pairs(split, k))
        score(k, "real alone", real=real)
        for label, settings in MIXING.items():
            score(k, f"real + head: {label}", prototypes=pairs, real=real, **settings, **settled)
    return fits


def _better(a: list[Score], b: list[Score], metric: str) -> list[Score]:
    means = [np.concatenate([s.of(metric) for s in side]).mean() for side in (a, b)]
    return a if means[0] >= means[1] else b

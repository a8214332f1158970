"""Which left-out criterion chooses best: the rank of the own name, the cosine, or their mean?

    python -m tests.accuracy.criteria --store build/demo/store
    python -m tests.tables write

A criterion chooses penalty (and width) on classes of a head; the fit is asked for the names of
classes of the same head that took no part. What the best point of the grid has there, less what the
chosen one has, is lost. Planted worlds are of 200 classes, 48 text and 96 image columns; in the
worlds of weak signal the rows are mostly noise. Of the stamps' head, 700 of the 1,000 classes are
fitted on and 300 asked for, among each other or among all names: no image is looked at.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from featstore import open_store
from fitters import KernelRidgeAligner, Pairs, RidgeAligner
from fitters.jobs import HeadTexts
from fitters.select import Axis, geometric
from fitters.select.left_out import choose_on_prototypes, leave_one_group_out
from fitters.select.ranking import reciprocal_ranks
from fitters.sources import prepare

DATA = Path(__file__).parents[2] / "docs/data/criteria.json"
PENALTIES = {
    "ridge": geometric(1e-3, 1e2, 2),
    "ridge-x2y": geometric(1e-3, 1e2, 2),
    "kernel-ridge": geometric(1e-4, 1e1, 2),
}
GAMMAS = (0.5, 1.0, 2.0, 4.0, 8.0)
CRITERIA = ("rank", "cosine", "mean")
N_WORLDS, N_SPLITS, N_CLASSES, N_ASKED = 12, 8, 200, 300

#: Worlds by name: the strength of the noise beside a row, and whether the map bends.
WORLDS = {
    "strong signal": (0.5, False),
    "weak signal": (3.0, False),
    "very weak signal": (6.0, False),
    "strong signal, bent": (0.5, True),
    "weak signal, bent": (3.0, True),
}


def planted(noise: float, seed: int, *, bent: bool) -> tuple[Pairs, Pairs]:
    """Return classes to choose and fit on, and others to ask for."""
    rng = np.random.default_rng(seed)
    n = N_CLASSES + N_ASKED
    # Columns of falling size, as those of encoders are.
    texts = rng.standard_normal((n, 48)) / np.sqrt(np.arange(1, 49))
    rows = texts @ rng.standard_normal((48, 96))
    if bent:
        rows = np.tanh(rows) + np.tanh(rows @ rng.standard_normal((96, 96)) / 8)
    rows /= rows.std()
    rows += noise * rng.standard_normal(rows.shape)
    pairs = Pairs(rows, texts, np.arange(n))
    return pairs.take(np.arange(n) < N_CLASSES), pairs.take(np.arange(n) >= N_CLASSES)


def head_splits(store: Path) -> Iterator[tuple[Pairs, Pairs]]:
    """Yield 700 classes of the stamps' head, and the others."""
    opened = open_store(store)
    head = opened.view("imagenet1k/head_weight")
    pairs = HeadTexts.of(
        head, opened.view("imagenet1k/class_name"), asked=(("name",), ("none", "photo"))
    ).pairs
    for seed in range(N_SPLITS):
        names = np.unique(pairs.row_groups)
        asked = np.random.default_rng(seed).permutation(names)[:N_ASKED]
        yield (pairs.take(~np.isin(pairs.row_groups, asked)),
               pairs.take(np.isin(pairs.row_groups, asked)))  # fmt: skip


def surfaces(
    method: str, known: Pairs, asked: Pairs, *, among_all: bool = False
) -> tuple[dict[str, Any], np.ndarray]:
    """Return the criteria over penalty × width, and the share of asked rows that find their name.

    `among_all`: among the names that were fitted on, too.
    """
    data = prepare(known, None, None)
    prototypes = data.prototypes
    assert prototypes is not None
    gammas = GAMMAS if method == "kernel-ridge" else (1.0,)
    way: Any = "x->y" if method == "ridge-x2y" else "y->x"
    penalties = Axis(PENALTIES[method]).closed
    scores = {}
    for criterion in ("rank", "cosine"):
        if method != "kernel-ridge":
            scores[criterion] = leave_one_group_out(
                prototypes, direction=way, penalties=penalties, criterion=criterion,
            ).scores.T  # fmt: skip
        else:
            scores[criterion] = choose_on_prototypes(
                prototypes, gammas=Axis(gammas).closed, penalties=penalties, criterion=criterion,
                rng=np.random.default_rng(0),
            ).scores  # fmt: skip
    scores["mean"] = (scores["rank"] + scores["cosine"]) / 2
    of_head = prepare(Pairs(known.x, known.y), None, None)
    mean = (known.x / np.linalg.norm(known.x, axis=1, keepdims=True)).mean(axis=0)
    queries = asked.x / np.linalg.norm(asked.x, axis=1, keepdims=True) - mean
    sides = (asked, known) if among_all else (asked,)
    texts = np.vstack([
        of_head.text.apply(side.y if side.asked is None else side.asked) for side in sides
    ])  # fmt: skip
    found = np.empty((len(PENALTIES[method]), len(gammas)))
    for at, penalty in enumerate(PENALTIES[method]):
        for column, gamma in enumerate(gammas):
            x, y = prototypes.x, prototypes.y
            made: Any = RidgeAligner(way, alpha=penalty, center=False)
            if method == "kernel-ridge":
                made = KernelRidgeAligner(gamma=gamma, relative=False, alpha=penalty, center=False)
            made.fit(x, y)
            scored = made.project_x(queries) @ made.project_y(texts).T
            mates = np.arange(len(queries))[:, None]
            found[at, column] = np.mean(reciprocal_ranks(scored, mates) == 1)
    return scores, found


def losses(method: str, known: Pairs, asked: Pairs, **how: bool) -> dict[str, float]:
    """Return the points of top-1 that each criterion loses, and those of the best setting."""
    scores, found = surfaces(method, known, asked, **how)
    best = float(found.max())
    lost = {by: 100 * (best - float(found.flat[scores[by].argmax()])) for by in CRITERIA}
    return {"best": 100 * best, **lost}


def main() -> int:
    """Measure, and write the data of the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, default=Path("build/demo/store"))
    arguments = parser.parse_args()
    rows = []
    with threadpool_limits(limits=1):
        for method in PENALTIES:
            for world, (noise, bent) in WORLDS.items():
                made = [losses(method, *planted(noise, seed, bent=bent))
                        for seed in range(N_WORLDS)]  # fmt: skip
                rows.append(_row(method, world, made))
            for world, among_all in (("the head", False), ("the head, all names", True)):
                made = [
                    losses(method, *split, among_all=among_all)
                    for split in head_splits(arguments.store)
                ]
                rows.append(_row(method, world, made))
    lines = ",\n".join(json.dumps(row) for row in rows)
    DATA.write_text(f'{{"rows": [\n{lines}\n]}}\n', "utf-8")
    return 0


def _row(method: str, world: str, made: list[dict[str, float]]) -> dict[str, Any]:
    """Return the means over worlds, and the standard error of each loss."""
    row: dict[str, Any] = {"method": method, "world": world}
    for name in ("best", *CRITERIA):
        values = np.array([one[name] for one in made])
        error = float(values.std(ddof=1) / np.sqrt(len(values)))
        row[name] = [round(float(values.mean()), 2), round(error, 2)]
    print(row, flush=True)
    return row


if __name__ == "__main__":
    sys.exit(main())

"""The closed forms of few-shot learning on eleven shapes: one table, in CPU seconds.

    python -m tests.perf.few_shot [--shapes 11] [--draws 3] [--no-gradient]

The shapes are those of the eleven datasets that few-shot papers report (classes and test images),
with planted rows of 512 columns; 1, 2, 4, 8 and 16 shots; every closed form fits and scores every
test row. The random features, which forms have in common, are computed once for each block of test
rows. The
sum is held against 300 CPU seconds; learners that are trained are timed apart.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from fitters.few_shot import (
    APE,
    CLAP,
    GDA,
    ZSLP,
    ClassMeans,
    LPPlusPlus,
    ProKeR,
    RanPAC,
    ReHARK,
    RidgeProbe,
    Shots,
    TipAdapter,
    TipAdapterF,
)
from fitters.few_shot.probes import random_relu
from tests.perf.engine import Figure, one_run

#: Classes and test images of ImageNet, SUN397, Aircraft, EuroSAT, Cars, Food-101, Pets, Flowers,
#: Caltech-101, DTD and UCF101.
SHAPES = (
    (1000, 50_000), (397, 19_850), (100, 3_333), (10, 8_100), (196, 8_041), (101, 30_300),
    (37, 3_669), (102, 2_463), (100, 2_465), (47, 1_692), (101, 3_783),
)  # fmt: skip
SHOTS, DRAWS, DIM, SECONDS = (1, 2, 4, 8, 16), 3, 512, 300.0

#: Name → what makes it, and whether it is given prototypes.
CLOSED: dict[str, tuple[Any, bool]] = {
    "class-means": (ClassMeans, True),
    "class-means, no names": (ClassMeans, False),
    "ridge-probe": (RidgeProbe, True),
    "ridge-probe, no names": (RidgeProbe, False),
    "tip-adapter": (TipAdapter, True),
    "ape": (APE, True),
    "gda": (GDA, True),
    "gda, no names": (GDA, False),
    "proker": (ProKeR, True),
    "proker, linear": (partial(ProKeR, most=0), True),
    "rehark": (ReHARK, True),
    "ranpac": (RanPAC, True),
}
TRAINED = {"tip-adapter-f": TipAdapterF, "lp++": LPPlusPlus, "zs-lp": ZSLP, "clap": CLAP}

#: Test rows scored at once.
BLOCK = 2_000


@dataclass
class Seconds:
    """Processor seconds of every form: its fits and its scores, and what all share.

    `products` are the multiplications and additions of the scores' products of matrices alone.
    """

    fit: dict[str, float] = field(default_factory=dict)
    score: dict[str, float] = field(default_factory=dict)
    shared: float = 0.0
    products: float = 0.0
    right: dict[str, list[float]] = field(default_factory=dict)

    @property
    def total(self) -> float:
        return sum(self.fit.values()) + sum(self.score.values()) + self.shared


def planted(n_classes: int, n_test: int, draw: int) -> tuple[np.ndarray, ...]:
    """Return names, test rows, rows for shots and validation with their labels, unit float32."""
    rng = np.random.default_rng([n_classes, n_test, draw])
    means = rng.standard_normal((n_classes, DIM), dtype=np.float32)

    def rows(labels: np.ndarray) -> np.ndarray:
        made = means[labels] + 4.0 * rng.standard_normal((len(labels), DIM), dtype=np.float32)
        return made / np.linalg.norm(made, axis=1, keepdims=True)

    truth = rng.integers(n_classes, size=n_test)
    labels = np.tile(np.arange(n_classes), SHOTS[-1] + 4)
    return rows(np.arange(n_classes)), rows(truth), truth, rows(labels), labels


def measure(
    n_classes: int, n_test: int, draw: int, forms: Mapping[str, tuple[Any, bool]], spent: Seconds
) -> None:
    """Fit and score every form with every number of shots on one draw of a shape."""
    names, test, truth, x, labels = planted(n_classes, n_test, draw)
    made = []
    for shots in SHOTS:
        n, held = n_classes * shots, n_classes * min(shots, 4)
        validation = x[n : n + held], labels[n : n + held]
        with_names, without = (
            Shots(x[:n], labels[:n], n_classes, given, *validation) for given in (names, None)
        )
        for name, (make, named) in forms.items():
            start = time.process_time()
            classifier = make().fit(with_names if named else without)
            spent.fit[name] = spent.fit.get(name, 0.0) + time.process_time() - start
            made.append((name, shots, classifier))
    hits = np.zeros(len(made))
    random = next((one for name, _, one in made if name == "ranpac"), None)
    drawn = 0 if random is None else random.projection.size
    numbers = sum(weights(one) for *_, one in made)
    spent.products += 2.0 * n_test * (numbers + drawn)
    for begin in range(0, n_test, BLOCK):
        rows, own = test[begin : begin + BLOCK], truth[begin : begin + BLOCK]
        start = time.process_time()
        features = None if random is None else random_relu(rows, random.projection)
        spent.shared += time.process_time() - start
        for place, (name, _, classifier) in enumerate(made):
            start = time.process_time()
            found = scores(classifier, rows, features)
            hits[place] += np.count_nonzero(found.argmax(axis=1) == own)
            spent.score[name] = spent.score.get(name, 0.0) + time.process_time() - start
    for (name, *_), right in zip(made, hits, strict=True):
        spent.right.setdefault(name, []).append(right / n_test)


def weights(classifier: Any) -> int:
    """Return the numbers that a row is multiplied with, besides what all forms share."""
    if hasattr(classifier, "coefficients"):
        own = classifier.support.size + classifier.coefficients.size
        return int(classifier.prior.size + own)
    if hasattr(classifier, "cache"):
        named = 0 if classifier.prototypes is None else classifier.prototypes.size
        return int(named + classifier.cache.keys.size)
    return int(getattr(classifier, "linear", classifier).weight.size)


def speed() -> float:
    """Return the multiplications and additions a second of one float32 product, median of nine."""
    a, b = np.ones((BLOCK, DIM), np.float32), np.ones((DIM, 1_000), np.float32)
    took = []
    with threadpool_limits(limits=1):
        for _ in range(9):
            start = time.process_time()
            a @ b
            took.append(time.process_time() - start)
    return 2.0 * a.size * b.shape[1] / float(np.median(took))


def scores(classifier: Any, rows: Any, features: Any) -> Any:
    """Return the scores of a block, by what is at hand where a form looks at that."""
    if hasattr(classifier, "projection"):
        return classifier.linear.scores(features)
    return classifier.scores(rows)


def table(forms: Mapping[str, tuple[Any, bool]], shapes: int, draws: int) -> Seconds:
    """Return the seconds of a table of the first shapes and so many draws."""
    spent = Seconds()
    with threadpool_limits(limits=1):
        for n_classes, n_test in SHAPES[-shapes:]:
            before, wall = spent.total, time.perf_counter()
            for draw in range(draws):
                measure(n_classes, n_test, draw, forms, spent)
            print(
                f"  {n_classes:>5,} classes, {n_test:>6,} test rows: {spent.total - before:.1f} "
                f"CPU s ({time.perf_counter() - wall:.1f} s)",
                flush=True,
            )
    return spent


def show(spent: Seconds) -> None:
    """Print a line a form."""
    for name, fit in spent.fit.items():
        right = 100 * np.mean(spent.right[name])
        print(
            f"  {name:<24} fits {fit:7.1f} s, scores {spent.score[name]:7.1f} s, top-1 {right:.1f}"
        )
    print(f"  shared products {spent.shared:.1f} s")
    rate = speed()
    print(
        f"  the products of matrices in all scores alone: {spent.products / 1e12:.2f} Tflop, "
        f"{spent.products / rate:.0f} s at the {rate / 1e9:.0f} Gflop/s of one such product"
    )


def figures(_: Path) -> Iterator[Figure]:
    """Yield the line of the group ``fit``; what each form took is printed above it."""
    spent = table(CLOSED, len(SHAPES), DRAWS)
    show(spent)
    yield one_run(
        "fit.few_shot", SECONDS / spent.total, cpu_seconds=spent.total,
        against=f"{SECONDS:.0f} CPU s: 11 shapes × 5 shots × 3 draws × 12 closed forms",
    )  # fmt: skip


def main() -> None:
    """Print the table of closed forms, then that of learners that are trained, on small shapes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", type=int, default=len(SHAPES), help="the last so many")
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--no-gradient", action="store_true")
    arguments = parser.parse_args()
    spent = table(CLOSED, arguments.shapes, arguments.draws)
    show(spent)
    print(f"{spent.total:.0f} CPU seconds for closed forms, held against {SECONDS:.0f}")
    if not arguments.no_gradient:
        trained = {name: (make, True) for name, make in TRAINED.items()}
        print("trained, the same shapes but the largest two, one draw:")
        show(table(trained, min(arguments.shapes, len(SHAPES) - 2), 1))


if __name__ == "__main__":
    main()

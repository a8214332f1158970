"""Test on planted data that ProKeR is not worse than Tip-Adapter-F and LP++ by one point.

    python -m tests.accuracy.few_shot_claim

A population has C classes with a mean each; names are the means with noise and a shift that all of
them share. In `one covariance` images differ most in an eighth of the directions, whatever their
class, which favours learners that look at a covariance; in `three clumps` a class is three of them;
in `round` no direction differs more. ProKeR, the margin and the first two were named before
anything was computed. A first run (seed 0) had ProKeR up to 5 points worse at two shots: it left
out one shot at a time, so that a class of one shot stood against classes of two. Since then it
leaves out one shot of every class; `round` was added, and the result is that of another seed.
Every draw has other shots and validation rows and the same test rows; Tip-Adapter-F and LP++ choose
on the validation rows, ProKeR looks at none. The interval counts draws × classes
(`bench.statistics.two_term`); a difference is shown to be above −1 point where its 90 % interval is
(one of two one-sided tests; docs/statistics.md).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from bench.statistics import DrawSums, Estimate, two_term
from fitters.few_shot import learner_named
from fitters.few_shot.learner import Shots
from tests.shorthand import not_worse_than

CLAIMED, AGAINST = "proker", ("tip-adapter-f", "lp++")
MARGIN = 0.01


@dataclass(frozen=True)
class Population:
    """Classes to draw images of.

    Attributes
    ----------
    n_classes, dim, clumps : int
    spread, noise : float
        Of images: how much more they differ in an eighth of the directions, and in the others.
    seed : int
        Of means and names; draws have seeds of their own.
    """

    n_classes: int = 50
    dim: int = 128
    clumps: int = 1
    spread: float = 3.0
    noise: float = 1.7
    seed: int = 0

    def means(self) -> np.ndarray:
        """Return the means of the clumps, shape (c, clumps, d), about as long as the noise."""
        rng = np.random.default_rng([self.seed, 1])
        centres = rng.standard_normal((self.n_classes, 1, self.dim))
        apart = rng.standard_normal((self.n_classes, self.clumps, self.dim))
        return centres + (0.8 * apart if self.clumps > 1 else 0.0)

    def names(self) -> np.ndarray:
        """Return the prototypes, unit rows."""
        rng = np.random.default_rng([self.seed, 2])
        shift = 1.5 * rng.standard_normal(self.dim)
        noise = 1.6 * rng.standard_normal((self.n_classes, self.dim))
        return unit(self.means().mean(axis=1) + noise + shift)

    def images(self, per_class: int, draw: int) -> tuple[np.ndarray, np.ndarray]:
        """Return unit rows and labels, `per_class` of every class, one class after another."""
        labels = np.repeat(np.arange(self.n_classes), per_class)
        rng = np.random.default_rng([self.seed, 3, draw])
        spread = np.where(np.arange(self.dim) < self.dim // 8, self.spread, 1.0)
        clump = rng.integers(self.clumps, size=len(labels))
        noise = self.noise * spread * rng.standard_normal((len(labels), self.dim))
        return unit(self.means()[labels, clump] + noise), labels


#: Of all the same mean square.
POPULATIONS: dict[str, dict[str, Any]] = {
    "one covariance": {},
    "three clumps": {"clumps": 3},
    "round": {"spread": 1.0, "noise": 2.4},
}


def unit(rows: np.ndarray) -> np.ndarray:
    """Return rows of unit length in float32."""
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def hits(
    population: Population, shots: int, draws: int, learners: Sequence[str], per_class: int
) -> dict[str, DrawSums]:
    """Return the hits of every learner by draw and class."""
    test, truth = population.images(per_class, draw=0)
    names, c = population.names(), population.n_classes
    held = min(shots, 4)
    total = {learner: np.zeros((draws, c)) for learner in learners}
    for draw in range(draws):
        rows, labels = population.images(shots + held, draw + 1)
        later = np.tile(np.arange(shots + held) >= shots, c)
        given = Shots(
            rows[~later], labels[~later], c, names,
            validation_x=rows[later], validation_labels=labels[later],
        )  # fmt: skip
        for learner in learners:
            right = learner_named(learner).fit(given).scores(test).argmax(axis=1) == truth
            total[learner][draw] = np.bincount(truth, weights=right, minlength=c)
    count = np.full((draws, c), float(per_class))
    return {learner: DrawSums(sums, count) for learner, sums in total.items()}


def claims(
    population: Population, shots: int, *, draws: int = 10, per_class: int = 20
) -> Iterator[tuple[str, float, float, Estimate]]:
    """Yield (other learner, its top-1, ProKeR's, estimate of the difference)."""
    found = hits(population, shots, draws, (CLAIMED, *AGAINST), per_class)
    for other in AGAINST:
        yield other, found[other].mean, found[CLAIMED].mean, two_term(found[CLAIMED] - found[other])


def main() -> None:
    """Print one line a population, number of shots and other learner."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--classes", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1, help="of the populations")
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    arguments = parser.parse_args()
    with threadpool_limits(limits=1):
        for name, own in POPULATIONS.items():
            population = Population(arguments.classes, seed=arguments.seed, **own)
            test, truth = population.images(20, draw=0)
            zero = ((test @ population.names().T).argmax(axis=1) == truth).mean()
            print(f"{name}: zero-shot {100 * zero:.1f}", flush=True)
            for shots in arguments.shots:
                for other, theirs, ours, found in claims(population, shots, draws=arguments.draws):
                    low, high = (100 * end for end in found.interval(0.9))
                    holds = "shown" if not_worse_than(found, MARGIN) else "not shown"
                    print(
                        f"  {shots:>2} shots: proker {100 * ours:.1f}, {other} {100 * theirs:.1f}; "
                        f"difference {100 * found.mean:+.2f} [{low:+.2f}, {high:+.2f}] (90 %), "
                        f"draws {found.n_draws}, classes {found.n_clusters}: not worse by 1 "
                        f"point {holds}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()

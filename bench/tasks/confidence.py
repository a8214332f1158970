"""Confidence: the probability of an answer, and whether a picture without a name is told apart.

A probability is the softmax of the scores over the candidates, divided by a temperature that comes
from training data alone. For rejection the candidates are cut into two halves at random, several
times: each image is scored by the half that has its name, and by the half that has not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.metrics.confidence import calibration, of_rejection, of_risk_coverage
from bench.metrics.ranks import BLOCK_SCORES, checked_sides, of_blocks
from bench.metrics.summary import CONFIDENCE_METRICS
from bench.tasks.outcome import Outcome

#: Between them 1 / temperature is sought.
SCALES = (0.01, 10_000.0)

#: Times that the candidates are cut into halves.
HALVINGS = 10

_OfBlock = Callable[[NDArray[np.float32], int], NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class Confidence:
    """How confidence is read from scores.

    Attributes
    ----------
    scale : float
        1 / temperature.
    rng : numpy Generator
        Draws the halves.
    """

    scale: float
    rng: np.random.Generator

    def of_sides(self, outcome: Outcome, queries: Any, gallery: Any) -> Outcome:
        """Return an outcome with confidence, of projections (n, r) and (g, r)."""
        sides = checked_sides(queries, gallery)
        return self.added(outcome, lambda of_block: of_blocks(of_block, *sides, BLOCK_SCORES))

    def added(
        self, outcome: Outcome, each: Callable[[_OfBlock], list[NDArray[np.float64]]]
    ) -> Outcome:
        """Return an outcome with `bench.metrics.summary.CONFIDENCE_METRICS` and calibration.

        Parameters
        ----------
        outcome : Outcome
            Of queries with names as candidates.
        each : callable
            Calls a function with every block of scores (b, g) and the number of its first query.

        Raises
        ------
        bench.errors.MetricError
            If all queries are of one class.
        """
        assert outcome.queries is not None
        question = outcome.queries.question
        own, names = question.relevance.query_codes, question.relevance.gallery_codes
        halves = [_half(own, names, self.rng) for _ in range(HALVINGS)]

        def of_block(scores: NDArray[np.float32], start: int) -> NDArray[np.float64]:
            z = self.scale * scores.astype(np.float64)
            rows, mine = np.arange(len(z)), own[start : start + len(z)]
            columns = [_surest(z)[1]]
            for half in halves:
                sides = [_surest(z[:, half[names] == side]) for side in (False, True)]
                which = half[mine].astype(int)
                for of_side in (which, 1 - which):
                    columns += list(np.array(sides)[of_side, :, rows].T)
            return np.stack(columns, axis=1)

        found = np.concatenate(each(of_block))
        right = outcome.ranks.rank == 1
        of_halves = found[:, 1:].reshape(len(found), HALVINGS, 2, 2)
        score, probability = (
            np.mean(
                [of_rejection(cut[:, 0, kind], cut[:, 1, kind], half[own])
                 for cut, half in zip(np.moveaxis(of_halves, 1, 0), halves, strict=True)], axis=0,
            )
            for kind in (0, 1)
        )  # fmt: skip
        values = {
            "AURC": of_risk_coverage(found[:, 0], right), "AUROC": probability,
            "AUROC-score": score, "confidence": found[:, 0],
        }  # fmt: skip
        error = calibration(found[:, 0], right, question.clusters)
        levels = {name: CONFIDENCE_METRICS[name].chance for name in values}
        chance = {name: level for name, level in levels.items() if level is not None}
        queries = replace(outcome.queries, own=np.stack([*values.values()], axis=1))
        return replace(
            outcome,
            values=outcome.values
            | {"calibration-error": error.error, "ECE": error.raw}
            | {name: float(value.mean()) for name, value in values.items()},
            chance=outcome.chance | chance | {"AURC": 1.0 - outcome.chance["top-1"]},
            queries=queries,
            facts=(outcome.facts or {}) | {"temperature": 1.0 / self.scale},
        )


def _half(
    own: NDArray[np.int64], names: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Return which half every name is in: half of those that queries have, and of the others."""
    half = np.zeros(names.max() + 1, bool)
    asked = np.unique(own)
    for some in (asked, np.setdiff1d(names, asked)):
        half[rng.permutation(some)[: len(some) // 2]] = True
    return half


def _surest(z: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the highest of each row, and its softmax."""
    highest = z.max(axis=1)
    return highest, 1.0 / np.exp(z - highest[:, None]).sum(axis=1)

"""Outcomes whose gallery is a list of classes: ranks, and what each image was taken for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bench.metrics import class_metrics
from bench.tasks.outcome import Outcome

METRICS = ("top-1", "top-5", "top-10", "median_rank", "MRR")


def with_class_metrics(outcome: Outcome, *, seen: NDArray[np.bool_] | None = None) -> Outcome:
    """Return an outcome with `bench.metrics.class_metrics` of its first places added.

    Chance is that of a random class for every image, 1 / g, where it has a closed form: F1 has
    none.

    Parameters
    ----------
    outcome : Outcome
        The groups of its question are classes.
    seen : array of bool, shape (n,), optional
        Whether the head has the class of the query.
    """
    assert outcome.queries is not None
    relevance = outcome.queries.question.relevance
    answers = relevance.gallery_codes[outcome.ranks.top[:, 0]]
    values = class_metrics(relevance.query_codes, answers, seen=seen)
    level = 1.0 / outcome.gallery
    exact = ("balanced-accuracy", "seen", "unseen", "harmonic")
    chance = {name: level for name in exact if name in values}
    return replace(outcome, values=outcome.values | values, chance=outcome.chance | chance)

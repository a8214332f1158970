"""Outcomes whose gallery is a list of classes: ranks, and what each image was taken for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.metrics import class_metrics
from bench.tasks.outcome import Outcome

METRICS = ("top-1", "top-5", "top-10", "median_rank", "MRR")


def with_class_metrics(
    outcome: Outcome,
    gallery_classes: NDArray[Any],
    truth: NDArray[Any],
    *,
    seen: Sequence[bool] | NDArray[np.bool_] | None = None,
) -> Outcome:
    """Return an outcome with `bench.metrics.class_metrics` of its first places added.

    Chance is that of a random class for every image, 1 / g, where it has a closed form: F1 has
    none.

    Parameters
    ----------
    outcome : Outcome
    gallery_classes : array of shape (g,)
        Class of every gallery item.
    truth : array of shape (n,)
        Class of every query.
    seen : array of bool, shape (n,), optional
        Whether the head has the class of the query.
    """
    answers = gallery_classes[outcome.ranks.top[:, 0]]
    known = None if seen is None else np.asarray(seen)
    values = class_metrics(truth, answers, seen=known)
    level = 1.0 / outcome.gallery
    exact = ("balanced-accuracy", "seen", "unseen", "harmonic")
    chance = {name: level for name in exact if name in values}
    return replace(outcome, values=outcome.values | values, chance=outcome.chance | chance)

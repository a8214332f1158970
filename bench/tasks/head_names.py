"""Do a head's rows match the names of their classes? Matched and unmatched cosines, neighbours."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bench.corpus import Head
from bench.metrics.matching import match_pairs, relative_rows
from bench.options import HeadNames
from bench.tasks.outcome import Outcome, Projector, Question
from fitters.alignment import Alignment
from fitters.moments.transform import SideTransform

METRICS = ("R@1", "R@5", "R@10", "median_rank", "MRR")


def score_head_names(
    alignment: Projector, head: Head, *, options: HeadNames | None = None, rng: np.random.Generator
) -> list[Outcome]:
    """Compare every row of a head with the name of its class and with all other names.

    By alignment the rows go through its image side, centred by their own mean as they were when
    it was fitted. If it was fitted on this very head, that is a figure on training data.

    Returns
    -------
    list of one Outcome
        Direction ``"head→name"``, with the nearest names of every row in its top list; clusters
        are the names, which several rows may share. Values besides the ranks': ``matched`` and
        ``unmatched`` (mean cosines), ``AUC`` (chance 0.5) and ``p``.
    """
    options = options or HeadNames()
    if options.by == "relative":
        x, y = relative_rows(head.weight, head.texts, rng=rng)
    else:
        own = for_head(alignment, head)
        x, y = own.project_x(head.weight), own.project_y(head.texts)
    groups = np.asarray(head.groups).astype(str)
    question = Question("head→name", head.classes, head.classes, (groups, groups), METRICS)
    outcome = question.rank(x, y)
    found = match_pairs(x, y, n_permutations=options.n_permutations, rng=rng)
    values = {
        "matched": found.matched,
        "unmatched": found.unmatched,
        "AUC": found.auc,
        "p": found.p,
    }
    return [replace(outcome, values=values | outcome.values, chance={"AUC": 0.5} | outcome.chance)]


def for_head(alignment: Projector, head: Head) -> Projector:
    """Return the alignment with the mean of the head's rows instead of that of images."""
    if not isinstance(alignment, Alignment) or alignment.x.mean is None:
        return alignment
    x = alignment.x
    own = SideTransform.fit([head.weight], normalize=x.normalize, label="head rows")
    return replace(alignment, x=replace(x, mean=own.mean, label="head rows"))

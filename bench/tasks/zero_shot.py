"""Zero-shot classification: an image is ranked against one text per class.

A name counts as found only if it is the image's own class; names that merely mean the same
are wrong. The gallery is every class given, also those without an image.
"""

from __future__ import annotations

from bench.corpus import Items
from bench.tasks.outcome import Outcome, Projector, score_direction

METRICS = ("top-1", "top-5", "top-10", "median_rank", "MRR")


def score_zero_shot(alignment: Projector, images: Items, names: Items) -> list[Outcome]:
    """Rank the class names for every image.

    Parameters
    ----------
    alignment : Projector
    images : Items
        Raw image embeddings; their class is the answer.
    names : Items
        One text per class.

    Returns
    -------
    list of one Outcome
        Direction ``"image→name"``; clusters are the classes.

    Raises
    ------
    bench.errors.MetricError
        If an image's class is not among the names.
    """
    return [
        score_direction(
            "image→name",
            (images, alignment.project_x(images.rows)),
            (names, alignment.project_y(names.rows)),
            (images.classes, names.classes),
            METRICS,
        )
    ]

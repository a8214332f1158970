"""Hubs of a gallery: texts that are near to every image, and texts that no image finds."""

from __future__ import annotations

from bench.corpus import Items
from bench.metrics import first_of_gallery
from bench.metrics.neighbours import occurrence_skew, occurrence_skew_chance
from bench.options import Hubness
from bench.tasks.outcome import Outcome, Projector
from bench.tasks.projections import once_each
from fitters.scorers import scorer_named


def score_hubness(
    alignment: Projector, images: Items, texts: Items, *, options: Hubness | None = None
) -> list[Outcome]:
    """Count how often every text is among the first k of the images.

    Returns
    -------
    list of one Outcome
        Direction ``"image→name"`` or ``"image→caption"``; values ``hub-skew``, ``hub-max`` and
        ``hub-never``, see `bench.metrics.neighbours.occurrence_skew`. Chance is that of images
        that find texts at random.
    """
    options = options or Hubness()
    k = min(options.k, len(texts))
    x = once_each(alignment.project_x, images.rows)
    y = once_each(alignment.project_y, texts.rows)
    if options.scorer != "cosine":
        x, y = scorer_named(options.scorer)(x, y)
    top = first_of_gallery(x, y, k)
    return [
        Outcome(
            f"image→{options.gallery[:-1]}",
            occurrence_skew(top, len(texts)),
            occurrence_skew_chance(len(images), k, len(texts)),
            n=len(images),
            gallery=len(texts),
        )
    ]

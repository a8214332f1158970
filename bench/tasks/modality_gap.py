"""How far apart two kinds of rows lie in one space, and whether a linear rule tells them apart."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import issparse

from bench.corpus import Corpus
from bench.errors import ProtocolError
from bench.metrics.gap import centroid_gap, linear_separability
from bench.options import ModalityGap
from bench.tasks.outcome import Outcome, Projector

FOLDS = 5


def score_modality_gap(
    alignment: Projector,
    corpus: Corpus,
    *,
    options: ModalityGap | None = None,
    rng: np.random.Generator,
) -> list[Outcome]:
    """Measure the gap between head rows and images, or between images and texts.

    Returns
    -------
    list of one Outcome
        Direction ``"head|image"`` or ``"image|text"``. Values: ``centroid-distance`` of unit rows
        (chance: the mean when rows are dealt anew), its ``p``, and ``separability``, the balanced
        accuracy of linear discriminant analysis in 5-fold cross-validation (chance 0.5).

    Raises
    ------
    ProtocolError
        If the corpus lacks a side.
    """
    options = options or ModalityGap()
    images = corpus.images
    if options.between == "head-images":
        if corpus.head is None:
            msg = "The gap between 'head-images' needs a head in the run."
            raise ProtocolError(msg)
        direction, x, y = "head|image", corpus.head.weight, images.rows
    else:
        texts = corpus.captions if corpus.captions is not None else corpus.names
        if not len(texts):
            msg = "The gap between 'images-texts' needs captions or names in the run."
            raise ProtocolError(msg)
        direction = "image|text"
        x, y = _dense(alignment.project_x(images.rows)), _dense(alignment.project_y(texts.rows))
    distance, level, p = centroid_gap(x, y, n_permutations=options.n_permutations, rng=rng)
    apart = linear_separability(x, y, n_folds=FOLDS, max_rows=options.max_rows, rng=rng)
    values = {"centroid-distance": distance, "p": p, "separability": apart}
    chance = {"separability": 0.5}
    if np.isfinite(level):
        chance["centroid-distance"] = level
    return [Outcome(direction, values, chance, n=len(x), gallery=len(y))]


def _dense(projected: Any) -> Any:
    if issparse(projected):
        msg = "A gap is measured between dense projections; this method's space is sparse."
        raise ProtocolError(msg)
    return projected

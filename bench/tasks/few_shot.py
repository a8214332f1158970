"""Few-shot classification: a learner sees a few images of every class, others are scored.

Everything happens in the shared space of an alignment, so that the names of the classes can be
prototypes there; without prototypes only its image side is used. Validation images are training
images beyond the shots, min(shots, 4) of every class, the rule of CoOp's splits: what a learner
leaves open is chosen on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse

from bench.corpus import Items
from bench.errors import ProtocolError
from bench.metrics import ranks_from_blocks
from bench.options import FewShot
from bench.protocol import Split, first_per_class
from bench.tasks.classified import METRICS, with_class_metrics
from bench.tasks.outcome import KEPT, Outcome, Projector, ranked_outcome
from fitters.few_shot import Classifier, Learner, Shots, learner_named
from fitters.moments.transform import normalize_rows

#: Validation images of a class, at most.
MOST_VALIDATION = 4

# Values held at once, of projections and of scores.
_BLOCK = 8_000_000


def score_few_shot(
    alignment: Projector,
    images: Items,
    split: Split,
    *,
    names: Items | None = None,
    options: FewShot | None = None,
    learner: Callable[[list[str]], Learner] | None = None,
) -> list[Outcome]:
    """Learn from shots of the training images, and classify the test images.

    Parameters
    ----------
    alignment : Projector
    images : Items
        Raw embeddings with their classes, training and test images.
    split : Split
        The order of its training images says which are the first shots of a class.
    names : Items, optional
        One text a class; needed for prototypes.
    options : FewShot, optional
    learner : callable, optional
        Makes the learner from the class ids of the gallery, instead of ``options.learner``.

    Returns
    -------
    list of one Outcome
        Direction ``"image→class"``; the gallery is the classes of the training images, with
        prototypes those of the names; clusters are the images themselves, of which every one is
        drawn for itself. Facts: ``n_shots``, ``n_validation``, and the chosen
        ``learner_penalty`` and ``learner_mix``.

    Raises
    ------
    ProtocolError
        If a test image's class has no training image and there is no prototype, or names lack.
    """
    options = options or FewShot()
    chosen = first_per_class(split.train, images.classes, options.shots)
    held = min(options.shots, MOST_VALIDATION)
    validation = first_per_class(split.train, images.classes, held, after=options.shots)
    classes, ids = _classes(images, split, names, options)
    place = {name: row for row, name in enumerate(classes.tolist())}
    lost = np.setdiff1d(images.classes[split.test], classes)
    if len(lost):
        msg = (
            f"{len(lost):,} classes of the test images have no training image (first: "
            f"{str(lost[0])!r}). Use eval 'in-class', or a split with all classes on both sides."
        )
        raise ProtocolError(msg)

    def projected(rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return _dense(alignment.project_x(images.rows[rows]))

    def labels(rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.array([place[name] for name in images.classes[rows].tolist()], dtype=np.int64)

    prototypes = None
    if options.prototypes:
        assert names is not None
        prototypes = _dense(alignment.project_y(names.rows))
    width = len(split.test[:1]) and projected(split.test[:1]).shape[1]
    shots = Shots(
        x=projected(chosen) if len(chosen) else np.empty((0, width), dtype=np.float32),
        labels=labels(chosen),
        n_classes=len(classes),
        prototypes=prototypes,
        validation_x=projected(validation) if len(validation) else None,
        validation_labels=labels(validation) if len(validation) else None,
    )
    made = learner_named(options.learner) if learner is None else learner(classes.tolist())
    classifier = made.fit(shots)
    blocks = _score_blocks(classifier, alignment, images.rows, split.test, max(width, len(classes)))
    truth = images.classes[split.test]
    ranks = ranks_from_blocks(blocks, truth, classes, top=KEPT)
    test_ids = images.ids[split.test]
    outcome = ranked_outcome("image→class", ranks, test_ids, test_ids, ids, METRICS)
    facts = {
        "n_shots": len(chosen),
        "n_validation": len(validation),
        **{f"learner_{name}": float(value) for name, value in classifier.facts.items()},
    }
    return [replace(with_class_metrics(outcome, classes, truth), facts=facts)]


def _classes(
    images: Items, split: Split, names: Items | None, options: FewShot
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the classes of the gallery, and the ids that stand for them."""
    if not options.prototypes:
        classes = np.unique(images.classes[split.train])
        return classes, classes
    if names is None or not len(names):
        msg = "Few-shot prototypes need the names of the classes. Name their set in the run."
        raise ProtocolError(msg)
    return names.classes, names.ids


def _score_blocks(
    classifier: Classifier,
    alignment: Projector,
    rows: NDArray[Any],
    test: NDArray[np.int64],
    widest: int,
) -> Iterator[NDArray[np.float32]]:
    size = max(2, _BLOCK // max(1, widest))
    for start in range(0, len(test), size):
        yield classifier.scores(_dense(alignment.project_x(rows[test[start : start + size]])))


def _dense(projected: Any) -> NDArray[np.float32]:
    """Return a projection as unit rows, dense: learners do not take sparse ones."""
    rows = projected.toarray() if issparse(projected) else projected
    unit: NDArray[np.float32] = normalize_rows(rows, what="projections").astype(np.float32)
    return unit

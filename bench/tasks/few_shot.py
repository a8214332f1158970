"""Few-shot classification: a learner sees a few images of every class, others are scored.

Everything happens in the shared space of an alignment, so that the names of the classes can be
prototypes there; without prototypes only its image side is used. Validation images are training
images beyond the shots, min(shots, 4) of every class, the rule of CoOp's splits: what a learner
leaves open is chosen on them. docs/ref/few-shot.md has the learners.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse

from bench.corpus import Head, ImageViews, Items, places_of
from bench.errors import ProtocolError
from bench.options import FewShot
from bench.protocol import Split, first_per_class, stream
from bench.tasks.diagnostics import for_head
from bench.tasks.outcome import (
    METRICS,
    SCALES,
    Confidence,
    Outcome,
    Projector,
    Question,
    with_class_metrics,
)
from fitters.few_shot import learner_named
from fitters.few_shot.learner import Classifier, Learner, Shots, likely_scale
from fitters.pairs import Pairs
from fitters.sources import normalize_rows

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
    pair_names: Items | None = None,
    head: Head | None = None,
    views: ImageViews | None = None,
    options: FewShot | None = None,
    make_learner: Callable[[list[str]], Learner] | None = None,
    seed: int = 0,
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
        One text a class; needed for prototypes from names, and by learners that map names.
    pair_names : Items, optional
        The text that a learner which maps names pairs the shots of a class with, where it is not
        the one in `names`, which are scored.
    head : Head, optional
        Needed for prototypes from a head, and by learners that train on one.
    views : ImageViews, optional
        Augmented views of the training images, for learners that look at some.
    options : FewShot, optional
    make_learner : callable, optional
        Makes the learner from the class ids of the gallery, instead of ``options.learner``.
    seed : int
        Draws the halves of the classes that confidence rejects by.

    Returns
    -------
    list of one Outcome
        Direction ``"image→class"``; the gallery is the classes of the training images, with
        prototypes from names those of the names; clusters are the images themselves, of which
        every one is drawn for itself. Facts: ``learner``, ``shots``, ``n_views``, ``n_shots``,
        ``n_validation``, ``learner_seconds`` (processor time of the fit), and what the learner
        chose, such as ``learner_penalty``.

    Raises
    ------
    ProtocolError
        If a test image's class has no training image and there is no prototype, if names or a
        head lack, or the head lacks a class.
    """
    options = options or FewShot()
    chosen = first_per_class(split.train, images.classes, options.shots)
    held = min(options.shots, MOST_VALIDATION)
    validation = first_per_class(split.train, images.classes, held, after=options.shots)
    classes, ids = _classes(images, split, names, options)
    lost = np.setdiff1d(images.classes[split.test], classes)
    if len(lost):
        raise ProtocolError(
            f"{len(lost):,} classes of the test images have no training image (first: "
            f"{str(lost[0])!r}). Use eval 'in-class', or a split with all classes on both sides."
        )

    def projected(rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return _dense(alignment.project_x(images.rows[rows]))

    if make_learner is not None:
        learner = make_learner(classes.tolist())
    else:
        learner = learner_named(options.learner)
    needs = getattr(learner, "needs", ())
    width = len(split.test[:1]) and projected(split.test[:1]).shape[1]
    shots = Shots(
        x=projected(chosen) if len(chosen) else np.empty((0, width), dtype=np.float32),
        labels=places_of(images.classes[chosen], classes),
        n_classes=len(classes),
        prototypes=_prototypes(alignment, classes, names, head, options),
        validation_x=projected(validation) if len(validation) else None,
        validation_labels=places_of(images.classes[validation], classes)
        if len(validation)
        else None,
        views=_views(alignment, views, images, chosen) if views and len(chosen) else None,
        lengths=np.linalg.norm(images.rows[chosen], axis=1),
        texts=_texts(classes, pair_names or names) if "texts" in needs else None,
        scored_texts=_texts(classes, names) if "texts" in needs and pair_names else None,
        head=_head_pairs(alignment, head) if "head" in needs else None,
    )
    start = time.process_time()
    classifier = learner.fit(shots)
    seconds = time.process_time() - start
    blocks = _score_blocks(classifier, alignment, images.rows, split.test, max(width, len(classes)))
    truth = images.classes[split.test]
    test_ids = images.ids[split.test]
    question = Question("image→class", test_ids, ids, (truth, classes), METRICS, apart=True)
    if not options.confidence:
        outcome = with_class_metrics(question.rank_blocks(blocks))
    else:
        outcome = _with_confidence(question, list(blocks), classifier, shots, seed)
    facts: dict[str, Any] = {
        "learner": options.learner,
        "shots": options.shots,
        "n_views": 1 if shots.views is None else shots.views.shape[1],
        "n_shots": len(chosen),
        "n_validation": len(validation),
        "learner_seconds": seconds,
        **{f"learner_{name}": float(value) for name, value in classifier.facts.items()},
    }
    return [replace(outcome, facts=facts | (outcome.facts or {}))]


def _with_confidence(
    question: Question,
    blocks: list[NDArray[np.float32]],
    classifier: Classifier,
    shots: Shots,
    seed: int,
) -> Outcome:
    """Score confidence too, at the temperature that makes the validation images likeliest."""
    x, labels = shots.validation
    if not len(labels):
        raise ProtocolError(
            "Confidence takes its temperature from validation images: training images beyond the "
            "shots. No class has one. Ask for fewer shots, or leave confidence out."
        )
    scale = likely_scale(classifier.scores(x), labels, bounds=SCALES)
    starts = [0, *accumulate(map(len, blocks))]
    return Confidence(scale, stream("sample", seed)).added(
        with_class_metrics(question.rank_blocks(blocks)),
        lambda of_block: [of_block(*one) for one in zip(blocks, starts, strict=False)],
    )


def _classes(
    images: Items, split: Split, names: Items | None, options: FewShot
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the classes of the gallery, and the item ids that represent them."""
    if options.prototypes != "names":
        classes = np.unique(images.classes[split.train])
        return classes, classes
    if names is None or not len(names):
        raise ProtocolError(
            "Few-shot prototypes need the names of the classes. Name their set in the run."
        )
    return names.classes, names.ids


def _prototypes(
    alignment: Projector,
    classes: NDArray[Any],
    names: Items | None,
    head: Head | None,
    options: FewShot,
) -> NDArray[np.float32] | None:
    """Return one unit row a class, from its name or from its row of the head."""
    if options.prototypes == "none":
        return None
    if options.prototypes == "names":
        assert names is not None
        return _dense(alignment.project_y(names.rows))
    if head is None:
        raise ProtocolError(
            "Few-shot prototypes from a head need one. Name it in the run (head, head-names)."
        )
    rows = _places(classes, head.classes, "no row in the head")
    # Head rows are centred by their own mean, as they were when the alignment was fitted.
    return _dense(for_head(alignment, head.weight).project_x(head.weight))[rows]


def _texts(classes: NDArray[Any], names: Items | None) -> NDArray[np.float32] | None:
    """Return the raw texts of the names, a row a class; None where the run has none."""
    if names is None or not len(names):
        return None
    return names.rows[_places(classes, names.classes, "no name")]


def _head_pairs(alignment: Projector, head: Head | None) -> Pairs | None:
    if head is None:
        return None
    rows = _dense(for_head(alignment, head.weight).project_x(head.weight))
    return Pairs(rows, head.texts, groups=head.groups)


def _places(classes: NDArray[Any], known: NDArray[Any], lacking: str) -> NDArray[np.int64]:
    places = places_of(classes, known)
    if len(lost := classes[places < 0]):
        raise ProtocolError(
            f"{len(lost):,} of {len(classes):,} classes have {lacking} (first: {str(lost[0])!r}). "
            "Take prototypes from names, or none, or images whose classes are all there."
        )
    return places


def _views(
    alignment: Projector, views: ImageViews, images: Items, chosen: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return projected views as long as their raw embeddings, shape (n, v, r)."""
    raw = views.of(images.ids[chosen])
    n, v, d = raw.shape
    flat = raw.reshape(n * v, d).astype(np.float32)
    rows = _dense(alignment.project_x(flat))
    rows *= np.linalg.norm(flat, axis=1, keepdims=True)
    return rows.reshape(n, v, rows.shape[1])


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
    return normalize_rows(rows, what="projections").astype(np.float32)

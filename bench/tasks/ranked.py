"""Tasks of ranks: zero-shot classification, its generalised form, retrieval and few-shot.

Of zero-shot classification a name counts as found only if it is the image's own class; names that
merely mean the same are wrong. The gallery is every class given, also those without an image.

An aligner that learned from a head's rows favours their classes. What counts is therefore how well
the images of either kind do when the names of both kinds are in the gallery. The easier
question, unseen images among unseen names alone, is scored too.

Retrieval is image ↔ caption, both directions. Relevance by ``"parent_id"``: a caption is relevant
to its own image only (Flickr30k, COCO; an image has several captions, and hit recall asks for any
of them). By ``"class_id"``: to every image of its class, for data where several images carry the
same words.

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
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse

from bench.corpus import Head, ImageViews, Items, Split, first_per_class, places_of, stream
from bench.errors import ProtocolError
from bench.metrics.ranks import BLOCK_SCORES, EqualColumns
from bench.options import FewShot, Generalised, Retrieval, ZeroShot
from bench.tasks.outcome import (
    KEPT,
    METRICS,
    SCALES,
    Confidence,
    Outcome,
    Prepared,
    Projector,
    Question,
    for_head,
    projected,
    with_class_metrics,
)
from fitters.few_shot import learner_named
from fitters.few_shot.learner import Classifier, Learner, Shots, likely_scale, sum_by_class
from fitters.pairs import Pairs, place_in_class
from fitters.sources import normalize_rows


def score_zero_shot(
    alignment: Projector,
    images: Items,
    names: Items,
    *,
    prompts: Items | None = None,
    seen: NDArray[np.bool_] | None = None,
    options: ZeroShot | None = None,
) -> list[Outcome]:
    """Rank the classes for every image.

    Parameters
    ----------
    alignment : Projector
    images : Items
        Raw image embeddings; their class is the answer.
    names : Items
        One text per class.
    prompts : Items, optional
        Every prompt by itself, with its template as part; for ``max`` and ``each``.
    seen : array of bool, shape (c,), optional
        Of `names`: whether the head's label set has the class.
    options : ZeroShot, optional

    Returns
    -------
    list of Outcomes
        Direction ``"image→name"``, or one ``"image→name (<template>)"`` for each template;
        clusters are the classes.

    Raises
    ------
    ProtocolError
        If the options leave no class or need what is not given.
    bench.errors.MetricError
        If an image's class is not among the names.
    """
    prepared = prepare_zero_shot(images, names, prompts=prompts, seen=seen, options=options)
    return prepared(alignment)


def prepare_zero_shot(
    images: Items,
    names: Items,
    *,
    prompts: Items | None = None,
    seen: NDArray[np.bool_] | None = None,
    options: ZeroShot | None = None,
    unlabelled: Items | None = None,
    top: int = KEPT,
) -> Prepared:
    """Return `score_zero_shot` of these items, for one alignment after another.

    `top` classes are kept for every image, at least the one that it is taken for. `unlabelled`
    images are not scored; the scorer "hub" standardises by them, or else by halves of the
    images.
    """
    options = options or ZeroShot()
    if options.confidence and (options.scorer, options.prompts == "max") != ("cosine", False):
        raise ProtocolError(
            f"Confidence is read from cosines of one text a class; this run has scorer "
            f"{options.scorer!r} and prompts {options.prompts!r}. Leave one of them out."
        )
    images, names, seen = _chosen(images, names, seen, options)
    known = None
    if seen is not None and options.classes == "all":
        known = np.isin(images.classes, names.classes[seen])

    def question(direction: str, texts: Items) -> Question:
        groups = (images.classes, texts.classes)
        return Question(direction, images.ids, texts.ids, groups, METRICS, top=max(1, top))

    if options.prompts == "max":
        every = _all_prompts(prompts, names, options)
        best_prompt = question("image→name", names)

        def best(alignment: Projector) -> list[Outcome]:
            x, y = projected(alignment, images, every)
            outcome = best_prompt.rank_blocks(_best_prompt(x, y, every, names))
            return [with_class_metrics(outcome, seen=known)]

        return best
    texts = {"image→name": names}
    if options.prompts == "each":
        every = _all_prompts(prompts, names, options)
        assert every.parts is not None
        texts = {
            f"image→name ({template})": _one_a_class(every, names, template)
            for template in dict.fromkeys(every.parts.tolist())
        }
    questions = [question(direction, own) for direction, own in texts.items()]
    columns = [(own.ids, own.classes, own.rows) for own in texts.values()]
    joined = Items(*map(np.concatenate, zip(*columns, strict=True)))
    every_image, n = images, len(images)
    if unlabelled is not None and options.scorer == "hub":
        parts = [(own.ids, own.classes, own.rows) for own in (images, unlabelled)]
        every_image = Items(*map(np.concatenate, zip(*parts, strict=True)))

    def scored(alignment: Projector, confidence: Confidence | None = None) -> list[Outcome]:
        x, y = projected(alignment, every_image, joined)
        x, others = x[:n], x[n:] if x.shape[0] > n else None
        sizes, outcomes = [len(one.gallery_ids) for one in questions], []
        for one, size, stop in zip(questions, sizes, accumulate(sizes), strict=True):
            own = y[stop - size : stop]
            found = one.rank(x, own, scorer=options.scorer, unlabelled=others)
            outcome = with_class_metrics(found, seen=known)
            outcomes.append(outcome if confidence is None else confidence.of_sides(outcome, x, own))
        return outcomes

    return scored


def _all_prompts(prompts: Items | None, names: Items, options: ZeroShot) -> Items:
    """Return every prompt of the classes of `names` by itself."""
    if prompts is None or prompts.parts is None:
        raise ProtocolError(
            f"Prompts {options.prompts!r} need every prompt of the classes by itself."
        )
    if options.prompts == "max" and options.scorer != "cosine":
        raise ProtocolError(f"Prompts 'max' are scored by the cosine, not by {options.scorer!r}.")
    return prompts.take(np.isin(prompts.classes, names.classes))


def _chosen(
    images: Items, names: Items, seen: NDArray[np.bool_] | None, options: ZeroShot
) -> tuple[Items, Items, NDArray[np.bool_] | None]:
    """Return the images and names of the classes that are scored: all, seen or unseen ones."""
    _check_several(names.classes)
    if options.classes == "all":
        return images, names, seen
    if seen is None:
        raise ProtocolError(
            f"Classes {options.classes!r} are defined by the names of a head. Name its sets in the "
            "run (head_set, head_name_set)."
        )
    kept = seen if options.classes == "seen" else ~seen
    chosen = names.take(kept)
    own = images.take(np.isin(images.classes, chosen.classes))
    if not len(own):
        raise ProtocolError(f"No image is of a class that is {options.classes} by the head.")
    return own, chosen, seen[kept]


def _check_several(classes: NDArray[Any]) -> None:
    """Raise ProtocolError unless there are two classes or more to choose from."""
    if len(classes) < 2:
        raise ProtocolError(
            f"Images are told apart by two classes or more; here is {len(classes)} class, so that "
            "whatever is scored reaches 100 %."
        )


def _one_a_class(prompts: Items, names: Items, template: str) -> Items:
    """Return one text a class from the prompts of one template, the mean of its variants."""
    assert prompts.parts is not None
    own = prompts.take(prompts.parts == template)
    lost = np.setdiff1d(names.classes, own.classes)
    if len(lost):
        raise ProtocolError(
            f"{len(lost):,} classes have no prompt of template {template!r} (first: {lost[0]})."
        )
    unit = own.rows / np.linalg.norm(own.rows, axis=1, keepdims=True)
    sums = sum_by_class(unit, names.places_of(own.classes), len(names))
    rows = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    return Items(names.ids, names.classes, rows.astype(np.float32))


def _best_prompt(images: Any, texts: Any, prompts: Items, names: Items) -> Any:
    """Yield blocks of scores (b, c): the best prompt of each class, in the order of the names."""
    owner = names.places_of(prompts.classes)
    order = np.argsort(owner, kind="stable")
    starts = np.searchsorted(owner[order], np.arange(len(names)))
    columns = texts[order].T
    equal = None if issparse(texts) else EqualColumns.of(texts[order])
    rows = max(1, BLOCK_SCORES // max(1, len(prompts)))
    for start in range(0, images.shape[0], rows):
        scores = images[start : start + rows] @ columns
        dense = scores.toarray() if equal is None else equal.tie(scores)
        yield np.maximum.reduceat(np.asarray(dense, np.float32), starts, axis=1)


def score_generalised(
    alignment: Projector,
    images: Items,
    names: Items,
    seen: NDArray[np.bool_] | None,
    *,
    prompts: Items | None = None,
    options: Generalised | None = None,
) -> list[Outcome]:
    """Score images of seen and unseen classes against the names of both.

    Parameters
    ----------
    alignment : Projector
        Such as ICIS's, which predicts the rows of a head for any class text.
    images : Items
        Raw image embeddings; their class is the answer.
    names : Items
        One text per class, of all classes.
    seen : array of bool, shape (c,), or None
        Of `names`: whether the alignment was trained on the class.
    prompts : Items, optional
        As for `score_zero_shot`.
    options : Generalised, optional

    Returns
    -------
    list of Outcomes
        Direction ``"image→name"``: every image among all names. Its values ``seen`` and
        ``unseen`` are means over the classes of each kind of the share of their images whose own
        name comes first, ``harmonic`` is 2 · seen · unseen / (seen + unseen), 0 if one is 0.
        Then ``"unseen image→unseen name"``, as if nothing else existed; its
        ``balanced-accuracy`` is what conventional zero-shot reports.

    Raises
    ------
    ProtocolError
        If `seen` is None, or the images are all of one kind.
    bench.errors.MetricError
        If an image's class is not among the names.

    References
    ----------
    Xian et al., Zero-Shot Learning: A Comprehensive Evaluation of the Good, the Bad and the Ugly,
    2018, section 4.2.
    """
    options = options or Generalised()
    if seen is None:
        raise ProtocolError(
            "Which classes are seen is defined by the names of a head. Name "
            "its sets in the run (head_set, head_name_set)."
        )
    own = np.unique(images.classes)
    of_seen = np.isin(own, names.classes[seen])
    if of_seen.all() or not of_seen.any():
        kind = "seen" if of_seen.all() else "unseen"
        raise ProtocolError(
            f"All {len(own):,} classes of the images are {kind}. Generalised zero-shot needs "
            "images of both kinds."
        )
    both = ZeroShot(prompts=options.prompts, scorer=options.scorer)
    among_all, alone = (
        score_zero_shot(alignment, images, names, prompts=prompts, seen=seen, options=which)
        for which in (both, replace(both, classes="unseen"))
    )
    return [
        *among_all,
        *(
            replace(
                outcome,
                direction=outcome.direction.replace("image→name", "unseen image→unseen name"),
            )
            for outcome in alone
        ),
    ]


RETRIEVED = (
    "R@1", "R@5", "R@10", "recall@1", "recall@5", "recall@10", "P@1", "P@5", "P@10",
    "median_rank", "mean_rank", "MRR", "mAP", "mAP-truncated",
)  # fmt: skip


def prepare_retrieval(
    images: Items,
    captions: Items,
    *,
    relevance: str,
    options: Retrieval | None = None,
    top: int = KEPT,
) -> Prepared:
    """Return what ranks captions for every image and images for every caption.

    Parameters
    ----------
    images, captions : Items
        Raw embeddings. Captions carry their image's id as parent.
    relevance : str
        ``"parent_id"`` or ``"class_id"``.
    options : Retrieval, optional
    top : int
        Items of the gallery that are kept for every query.

    Returns
    -------
    callable
        Of an alignment: the outcomes ``"image→caption"`` and ``"caption→image"``; clusters are the
        images or the classes, as relevance is.

    Raises
    ------
    ProtocolError
        If the captions have no parents and relevance is by parent, or captions are counted.
    bench.errors.MetricError
        If a query has nothing relevant in the gallery.
    """
    options = options or Retrieval()
    if captions.parents is None and (relevance == "parent_id" or options.captions):
        raise ProtocolError(
            "Captions without parent_id cannot be matched to their images. Use relevance "
            "'class_id', or give them parents in the manifest."
        )
    if options.captions:
        captions = first_captions(captions, options.captions)
    group: Literal["classes", "images"] = "classes"
    if relevance == "class_id":
        image_groups, caption_groups = images.classes, captions.classes
    else:
        assert captions.parents is not None
        image_groups, caption_groups = images.ids, captions.parents
        group = "images"
    to_caption = Question(
        "image→caption", images.ids, captions.ids, (image_groups, caption_groups), RETRIEVED,
        top=top, group=group,
    )  # fmt: skip
    to_image = Question(
        "caption→image", captions.ids, images.ids, (caption_groups, image_groups), RETRIEVED,
        top=top, group=group,
    )  # fmt: skip

    def scored(alignment: Projector) -> list[Outcome]:
        x, y = projected(alignment, images, captions)
        scorer = options.scorer
        return [to_caption.rank(x, y, scorer=scorer), to_image.rank(y, x, scorer=scorer)]

    return scored


def first_captions(captions: Items, n: int) -> Items:
    """Return the first `n` captions of every image, in the order of the manifest."""
    assert captions.parents is not None
    return captions.take(place_in_class(captions.parents) < n)


#: Validation images of a class, at most.
MOST_VALIDATION = 4


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
        every one is drawn for itself. Facts: ``learner``, ``shots`` (of the largest class: fewer
        than asked for where it has fewer training images), ``n_views``, ``n_shots``,
        ``n_validation``, ``learner_seconds`` (processor time of the fit), and what the learner
        chose, such as ``learner_penalty``.

    Raises
    ------
    ProtocolError
        If a test image's class has no training image and there is no prototype, if names or a
        head lack, the head lacks a class, or there is one class.
    """
    options = options or FewShot()
    chosen = first_per_class(split.train, images.classes, options.shots)
    held = min(options.shots, MOST_VALIDATION)
    validation = first_per_class(split.train, images.classes, held, after=options.shots)
    classes, ids = _classes(images, split, names, options)
    _check_several(classes)
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
        "shots": int(np.bincount(shots.labels, minlength=1).max()),
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
    size = max(2, BLOCK_SCORES // max(1, widest))
    for start in range(0, len(test), size):
        yield classifier.scores(_dense(alignment.project_x(rows[test[start : start + size]])))


def _dense(projected: Any) -> NDArray[np.float32]:
    """Return a projection as unit rows, dense: learners do not take sparse ones."""
    rows = projected.toarray() if issparse(projected) else projected
    return normalize_rows(rows, what="projections").astype(np.float32)

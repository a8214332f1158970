"""Diagnostics of a head and of two spaces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse

from bench.corpus import Corpus, Head, Items, first_per_class
from bench.errors import ProtocolError
from bench.metrics.geometry import (
    Calibrated,
    LinearCKA,
    MeanCCA,
    MutualKNN,
    Similarity,
    biased_cka,
    calibrate,
    centroid_gap,
    cka_chance,
    draw_orders,
    linear_separability,
    mutual_knn,
    unbiased_cka,
    unit_rows,
)
from bench.options import ModalityGap, Neighbours
from bench.tasks.outcome import (
    METRICS,
    Outcome,
    Projector,
    Question,
    with_class_metrics,
)
from bench.tasks.ranked import first_captions
from featstore.datasets import synsets_of
from featstore.errors import ManifestError
from featstore.store.tables import join_ids
from fitters.few_shot.learner import sum_by_class
from fitters.pairs import Rows
from fitters.sources import normalize_rows


def score_neighbours(
    corpus: Corpus, *, options: Neighbours | None = None, rng: np.random.Generator
) -> list[Outcome]:
    """Compare the neighbourhoods of paired rows.

    Returns
    -------
    list of Outcome
        Direction ``"head~name"``, ``"class-mean~name"`` or ``"image~caption"``. Values:
        ``mutual-knn@k`` (chance k / (n − 1)), ``CKA`` (biased), ``CKA-unbiased`` (chance 0) and
        ``CCA``; each again with ``-calibrated``, ``-adjusted`` and ``-p``, see
        `bench.metrics.geometry.Calibrated`. With layers one for each, their keys behind the
        direction, and one for the best of all sets, whose p counts the search.

    Raises
    ------
    ProtocolError
        If the corpus lacks a side.
    """
    options = options or Neighbours()
    direction, xs, y = _sides(corpus, options, rng)
    names = [direction, *(f"{direction} ({key})" for key in corpus.layers)]
    outcomes = [_raw(name, x, y, options.k) for name, x in zip(names, xs, strict=True)]
    if not options.n_permutations:
        return outcomes
    if len(xs) > 1:
        best = f"{direction} (best of {len(xs)})"
        outcomes.append(Outcome(best, {}, {}, n=len(y), gallery=len(y)))
    kept = np.sort(rng.permutation(len(y))[: options.max_rows])
    orders = draw_orders(len(kept), options.n_permutations, rng=rng)
    similarities: list[Similarity] = [MutualKNN(k) for k in options.k]
    for similarity in (*similarities, LinearCKA(), LinearCKA(unbiased=True), MeanCCA()):
        found = calibrate([x[kept] for x in xs], [y[kept]], similarity, orders)
        each = [*map(found.pair, range(len(xs))), found.searched()]
        for outcome, one in zip(outcomes, each, strict=False):
            _add(outcome, similarity.name, one)
    return outcomes


def _raw(direction: str, x: Rows, y: Rows, k: Sequence[int]) -> Outcome:
    values = {f"mutual-knn@{count}": value for count, value in mutual_knn(x, y, k).items()}
    values |= {"CKA": biased_cka(x, y), "CKA-unbiased": unbiased_cka(x, y)}
    chance = {f"mutual-knn@{count}": count / (len(x) - 1) for count in k}
    chance |= {"CKA": cka_chance(x, y), "CKA-unbiased": 0.0}
    return Outcome(direction, values, chance, n=len(x), gallery=len(y))


def _add(outcome: Outcome, name: str, found: Calibrated) -> None:
    # Where there are more rows than are permuted, the raw number is that of all.
    outcome.values.setdefault(name, found.value)
    outcome.chance.setdefault(name, found.expected)
    outcome.values[f"{name}-calibrated"] = found.score
    outcome.values[f"{name}-adjusted"] = found.adjusted
    outcome.chance[f"{name}-adjusted"] = 0.0
    outcome.values[f"{name}-p"] = found.p


def _sides(
    corpus: Corpus, options: Neighbours, rng: np.random.Generator
) -> tuple[str, list[Rows], Rows]:
    """Return what is compared: its name, rows of every set of images or of the head, and texts."""
    if options.of == "head":
        head = corpus.head_for("Task neighbours, of='head',")
        kept = _within(head, options.within)
        return "head~name", [head.weight[kept]], head.texts[kept]
    sets = [corpus.images.rows, *corpus.layers.values()]
    if options.of == "pairs":
        if corpus.captions is None or corpus.captions.parents is None:
            raise ProtocolError("Neighbours of 'pairs' need captions that know their images.")
        captions = first_captions(corpus.captions, 1)
        assert captions.parents is not None
        firsts, owners = join_ids(captions.parents, corpus.images.ids)
        return "image~caption", [rows[owners] for rows in sets], captions.rows[firsts]
    images, names = (
        corpus.images,
        corpus.names_for(
            "Neighbours of 'class-means' are class names, and the run names no set of them"
        ),
    )
    order = rng.permutation(len(images))
    if options.per_class:
        order = first_per_class(order, images.classes, options.per_class)
    having, codes = np.unique(images.classes[order], return_inverse=True)
    means: list[Rows] = []
    for rows in (of_set[order] for of_set in sets):
        # A long row is not a more certain one.
        unit = normalize_rows(rows, what="images") if options.rows == "unit" else rows
        means.append(sum_by_class(unit, codes, len(having)) / np.bincount(codes)[:, None])
    return "class-mean~name", means, names.rows[names.places_of(having)]


def _within(head: Head, label_set: str) -> NDArray[np.bool_]:
    """Return which rows of a head are of classes that a label set of synsets has too.

    Raises
    ------
    ProtocolError
        If there is no such label set, or the head shares none of its synsets.
    """
    if not label_set:
        return np.ones(len(head.classes), dtype=bool)
    try:
        known = synsets_of(label_set)
    except ManifestError as err:
        raise ProtocolError(f"Option within of neighbours cannot be {label_set!r}: {err}") from err
    # A class id is LABEL_SET/SYNSET.
    kept = np.array([name.rpartition("/")[2] in known for name in head.classes.tolist()], bool)
    if not kept.any():
        raise ProtocolError(
            f"None of the head's {len(kept):,} classes (first: {head.classes[0]!r}) is a synset of "
            f"{label_set}. Leave within out."
        )
    return kept


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
        head = corpus.head_for("The gap between 'head-images'")
        direction, x, y = "head|image", head.weight, images.rows
    else:
        texts = corpus.captions if corpus.captions is not None else corpus.names
        if not len(texts):
            raise ProtocolError(
                "The gap between 'images-texts' needs captions or names in the run."
            )
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
        raise ProtocolError(
            "A gap is measured between dense projections; this method's space is sparse."
        )
    return projected


def score_cosine_head(corpus: Corpus) -> list[Outcome]:
    """Classify labelled images by the head as it is, and by the cosine with its rows.

    Returns
    -------
    list of two Outcomes
        ``"image→class (linear)"``, W f + b, and ``"image→class (cosine)"``, without lengths and
        bias; the gallery is every class of the head, clusters are the images.

    Raises
    ------
    ProtocolError
        If there is no head, or an image is of a class that it lacks.
    """
    images, head = corpus.images, corpus.head_for("Task cosine_head")
    lost = np.setdiff1d(images.classes, head.classes)
    if len(lost):
        raise ProtocolError(
            f"{len(lost):,} classes of the images are no classes of the head (first: "
            f"{str(lost[0])!r}). A head is scored on images with its own label set."
        )
    ones = np.ones((len(images), 1), dtype=np.float32)
    linear = (
        np.concatenate([images.rows, ones], axis=1),
        np.concatenate([head.weight, head.bias[:, None]], axis=1),
    )
    cosine = unit_rows(images.rows), unit_rows(head.weight)
    return [
        _classified(f"image→class ({name})", images, head, *rows)
        for name, rows in (("linear", linear), ("cosine", cosine))
    ]


def _classified(
    direction: str, images: Items, head: Head, x: NDArray[np.floating], y: NDArray[np.floating]
) -> Outcome:
    groups = (images.classes, head.classes)
    question = Question(direction, images.ids, head.classes, groups, METRICS, apart=True)
    return with_class_metrics(question.rank(x, y))

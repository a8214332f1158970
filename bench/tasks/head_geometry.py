"""What a head's own classes look like in its features: collapse, cosine against linear, spectra."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bench.corpus import Corpus, Head, Items
from bench.errors import ProtocolError
from bench.metrics.collapse import neural_collapse
from bench.metrics.neighbours import unit_rows
from bench.metrics.spectrum import covariance_spectrum, spectrum_summary
from bench.tasks.classified import METRICS, with_class_metrics
from bench.tasks.outcome import Outcome, Question


def score_neural_collapse(corpus: Corpus) -> list[Outcome]:
    """Return NC1 and NC2 of the labelled images, NC3 and NC4 where the head has their classes.

    Returns
    -------
    list of one Outcome
        Direction ``"image|class"``. Only classes that have images count; the head's rows are
        those of the same classes.
    """
    images = corpus.images
    classes, labels = np.unique(images.classes, return_inverse=True)
    weight = bias = None
    if corpus.head is not None:
        place = {name: row for row, name in enumerate(corpus.head.classes.tolist())}
        if all(name in place for name in classes.tolist()):
            rows = [place[name] for name in classes.tolist()]
            weight, bias = corpus.head.weight[rows], corpus.head.bias[rows]
    values = neural_collapse(images.rows, labels, weight=weight, bias=bias)
    return [Outcome("image|class", values, {}, n=len(images), gallery=len(classes))]


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
    images, head = corpus.images, own_head(corpus)
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


def score_spectrum(corpus: Corpus) -> list[Outcome]:
    """Return how many directions images, head rows and texts use: one Outcome for each.

    Directions ``"image"``, ``"head"``, ``"head name"``, ``"name"`` and ``"caption"``; values as
    `bench.metrics.spectrum.spectrum_summary` says, of raw rows about their mean. n rows have at
    most n − 1 directions: sets of different sizes do not compare.
    """
    head = corpus.head
    sides = {
        "image": corpus.images.rows,
        "head": None if head is None else head.weight,
        "head name": None if head is None else head.texts,
        "name": corpus.names.rows if len(corpus.names) else None,
        "caption": None if corpus.captions is None else corpus.captions.rows,
    }
    return [
        _spectrum(name, rows.shape, covariance_spectrum(rows))
        for name, rows in sides.items()
        if rows is not None
    ]


def _spectrum(name: str, shape: tuple[int, ...], values: NDArray[np.float64]) -> Outcome:
    return Outcome(name, spectrum_summary(values), {}, n=shape[0], gallery=shape[1])


def own_head(corpus: Corpus) -> Head:
    """Return the head, if it has the class of every image.

    Raises
    ------
    ProtocolError
        If there is none, or it lacks a class.
    """
    if corpus.head is None:
        msg = "Task cosine_head needs a head in the run (head_set, head_name_set)."
        raise ProtocolError(msg)
    lost = np.setdiff1d(corpus.images.classes, corpus.head.classes)
    if len(lost):
        msg = (
            f"{len(lost):,} classes of the images are no classes of the head (first: "
            f"{str(lost[0])!r}). A head is scored on images with its own label set."
        )
        raise ProtocolError(msg)
    return corpus.head


def _classified(
    direction: str, images: Items, head: Head, x: NDArray[np.floating], y: NDArray[np.floating]
) -> Outcome:
    groups = (images.classes, head.classes)
    question = Question(direction, images.ids, head.classes, groups, METRICS, apart=True)
    return with_class_metrics(question.rank(x, y))

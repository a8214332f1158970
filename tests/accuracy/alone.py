"""Sections without a real pair: class texts, controls, prototype options."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from bench.corpus import stream
from bench.fits import prototype_pairs
from fitters import Pairs, fit
from fitters.errors import FittersError
from fitters.methods import METHODS
from tests.accuracy.measure import (
    SEEDS,
    TOP,
    Bench,
    Score,
    chosen,
    gap,
    percent,
    scored,
    seconds,
    table,
    top_1,
)

PROMPTED = ("none", "photo")
TEXTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "name": (("name",), ("none",)),
    "prompt": (("name",), ("photo",)),
    "name + prompt": (("name",), PROMPTED),
    "all lemmas + prompt": (("lemmas",), PROMPTED),
    "definition": (("definition",), ("none",)),
    "name + definition": (("name", "definition"), ("none",)),
    "name + prompt + definition (default)": (("name", "definition"), PROMPTED),
    "lemmas + prompt + definition": (("lemmas", "definition"), PROMPTED),
}


SCORERS = ("csls", "inverted-softmax")
DRAWS = 3
CONTROLS = ("random", "random-cov", "shuffled")

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        name: (name, {})
        for name in METHODS
        if name not in ("asif", "text-to-concept") and METHODS[name].fitted_on != "training"
    },
    "asif, 800 and power 8": ("asif", {}),
    "asif, chosen": ("asif", {"top_k": "auto", "power": "auto"}),
}  # fmt: skip
"""What is fitted; Text-to-Concept needs images that both encoders have seen, and no head."""


def aligners(bench: Bench) -> Iterator[str]:
    """Every aligner on the head's rows."""
    yield from ("## Weights only: every aligner", "")
    yield (
        "570 images against 517 names (chance 0.2 / 1.0 / 1.9). CSLS and inverted softmax look at "
        "all images at once, and are never on by default. The largest control is the top-10 of "
        f"random rows, rows of the head's covariance or shuffled names, {DRAWS} draws, mean ± sd. "
        "Ridges with a closed form and kernel ridge choose their settings anew on it; what is "
        "fitted anew fold by fold keeps those chosen on the head. Text-to-Concept takes no head."
    )
    yield ""
    rows = [[*on_head(bench, label)["row"], largest_control(bench, label)] for label in VARIANTS]
    headings = ["aligner", *TOP, "top-1, CSLS", "top-1, inv. softmax", "settings", "CPU s",
                "largest control"]  # fmt: skip
    yield from table(headings, rows)


def on_head(bench: Bench, label: str) -> dict[str, Any]:
    """Return the row of an aligner fitted on the head, and what was chosen for it."""

    def measure() -> dict[str, Any]:
        try:
            method, given = VARIANTS[label]
            score = bench.alone(method, bench.corpus, scorers=SCORERS, **given)
        except FittersError as err:
            why = str(err).split(". ")[0].rstrip(".")
            return {
                "row": [label, *["–"] * 5, f"not for a head of 1,000: {why}", ""],
                "choice": None,
            }
        corrected = [top_1(score.corrected[name]) for name in SCORERS]
        row = [label, *percent([score]), *corrected, chosen(score.choice), seconds([score])]
        small = ("gamma", "penalty", "n_components", "top_k", "power")
        return {"row": row, "choice": {k: score.choice[k] for k in small if k in score.choice}}

    found: dict[str, Any] = bench.once(f"head {label}", measure)
    return found


def largest_control(bench: Bench, label: str) -> str:
    """Return the largest top-10 of an aligner on rows that stand in for the head's."""
    found = [control(bench, label, source)[-1] for source in CONTROLS]
    return max(found, key=lambda cell: float(cell.split(" ")[0].replace("–", "0")))


def refitted(label: str) -> bool:
    """Return whether an aligner keeps the head's settings on a control."""
    name = VARIANTS[label][0]
    closed = ("ridge", "ridge-x2y", "kernel-ridge", "procrustes")
    return METHODS[name].tunes and name not in closed


def control(bench: Bench, label: str, source: str) -> list[str]:
    """Return the row of an aligner on draws of a control."""

    def draw(seed: int) -> Score:
        method, _ = VARIANTS[label]
        given = (on_head(bench, label)["choice"] or {}) if refitted(label) else {}
        return bench.alone(method, bench.corpus, source=source, seed=seed, **given)

    def measure() -> list[str]:
        try:
            return [label, *percent([draw(seed) for seed in SEEDS[:DRAWS]])]
        except FittersError:
            return [label, "–", "–", "–"]

    row: list[str] = bench.once(f"{source} {label}", measure)
    return row


def class_texts(bench: Bench) -> Iterator[str]:
    """Class-text variants."""
    yield from ("## Class texts", "")
    rows, kernel = [], {}
    methods = ("conse", "ridge", "kernel-ridge")
    for label, asked in TEXTS.items():
        corpus = bench.with_texts(*asked)
        cells = []
        for method in methods:
            score = bench.alone(method, corpus)
            cells.append(" / ".join(percent([score])))
        kernel[label] = float(score.choice["score"])
        rows.append([label, *cells, f"{kernel[label]:.4f}"])
        print(rows[-1], file=sys.stderr, flush=True)
    yield from table(["class text", *methods, "left-out cosine"], rows)
    best = max(kernel, key=lambda label: kernel[label])
    yield (
        "Top-1 / 5 / 10. A left-out class is asked for by its name and prompt, as images are. By "
        f"that cosine of kernel ridge, which sees no image, the text is **{best}**."
    )


def image_means(bench: Bench) -> Iterator[str]:
    """Centre the images by their own mean, and by none."""
    yield from ("## The mean that centres the images", "")
    yield (
        "A head comes without images, so only those that are scored can give their mean: it uses "
        "no label, but sees them. *None* uses nothing but the head and the names. Difference to "
        "ConSE, which needs no mean, in points with its interval over descriptions."
    )
    yield ""
    corpus = bench.corpus
    pairs, bias = prototype_pairs(bench.run, corpus)
    conse = bench.alone("conse", corpus)
    rows = []
    for method in ("ridge", "procrustes", "kernel-ridge"):
        for label in ("evaluated images", "none"):
            mean = None if label == "none" else bench.mean
            made = fit(
                method, prototypes=pairs, image_mean=mean, bias=bias, rng=stream("choice", 0)
            )
            score = scored(made, corpus.images, corpus.names, 0.0, {})
            gaps = [gap([score], [conse], metric) for metric in TOP]
            rows.append([method, label, " / ".join(percent([score])), *gaps])
    yield from table(["aligner", "mean of", "top-1 / 5 / 10", *(f"{m} − ConSE" for m in TOP)], rows)


def prototype_options(bench: Bench) -> Iterator[str]:
    """Head rows and images, changed before anything else is done to them."""
    yield from ("## Prototype options", "")
    yield (
        "Top-1 / 5 / 10. Cov is the covariance of the evaluated images, shrunk by a tenth towards "
        "its mean variance. Of the head's names three are shared by two classes each."
    )
    yield ""
    corpus = bench.corpus
    pairs, bias = prototype_pairs(bench.run, corpus)
    images = corpus.images.rows.astype(np.float64)
    cov = np.cov(images, rowvar=False)
    cov = 0.9 * cov + 0.1 * np.trace(cov) / len(cov) * np.eye(len(cov))
    values, vectors = np.linalg.eigh(cov)
    root, inverse = ((vectors * values**power) @ vectors.T for power in (0.5, -0.5))
    ones = np.ones((len(images), 1))
    options: dict[str, tuple[Any, Any]] = {
        "rows as they are": (pairs.x, images),
        "bias kept: [w; b] with [f; 1]": (
            np.column_stack([pairs.x, bias]),
            np.hstack([images, ones]),
        ),
        "whitened: Cov^½ w with Cov^−½ f": (pairs.x @ root, images @ inverse),
        "pattern: Cov w with f": (pairs.x @ cov, images),
    }
    methods = ("procrustes", "ridge", "kernel-ridge")
    rows = []
    for label, (x, y) in options.items():
        items = replace(corpus.images, rows=np.asarray(y, np.float32))
        changed = Pairs(np.asarray(x, np.float32), pairs.y, pairs.groups)
        scores = [bench.fitted(method, changed, None, items, corpus.names) for method in methods]
        rows.append([label, *(" / ".join(percent([score])) for score in scores)])
    others: dict[str, tuple[Pairs, dict[str, Any]]] = {
        "not centred, either side": (pairs, {"centre": False}),
    }
    for label, (changed, given) in others.items():
        scores = [
            bench.fitted(method, changed, None, corpus.images, corpus.names, **given)
            for method in methods
        ]
        rows.append([label, *(" / ".join(percent([score])) for score in scores)])
    yield from table(["prototypes", *methods], rows)

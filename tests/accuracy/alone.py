"""Sections without a real pair: class texts, controls, prototype options, the closed form."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from bench.fits import prototype_pairs
from bench.protocol import choice_rng
from fitters import Pairs, fit
from fitters.errors import FittersError
from fitters.methods import METHODS
from fitters.moments.transform import SideTransform
from fitters.prototypes import resolve_duplicates
from fitters.select.grid import Axis
from fitters.select.left_out import choose_on_prototypes
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
        "all images at once, and are never on by default. *asif* stands twice: with its published "
        "settings, and chosen by folds of names. Text-to-Concept is missing: it is fitted on "
        "images that both encoders have seen, and takes no head."
    )
    yield ""
    rows = [on_head(bench, label)["row"] for label in VARIANTS]
    headings = ["aligner", *TOP, "top-1, CSLS", "top-1, inv. softmax", "settings", "CPU s"]
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


def controls_random(bench: Bench) -> Iterator[str]:
    """Every aligner on random rows."""
    yield from ("## Weights only: every control", "")
    yield (
        f"The same with control rows instead of the head's, {DRAWS} draws, mean ± sd. Ridges with "
        "a closed form and kernel ridge choose their settings anew on the control; what is fitted "
        "anew fold by fold keeps those chosen on the head. Without any rows (*none*) there is "
        "nothing to fit: chance."
    )
    yield ""
    yield from control_table(bench, "random")


def controls_covariance(bench: Bench) -> Iterator[str]:
    """Every aligner on rows with the head's mean and covariance."""
    yield from control_table(bench, "random-cov")


def controls_shuffled(bench: Bench) -> Iterator[str]:
    """Every aligner on the head's rows with the names of others."""
    yield from control_table(bench, "shuffled")


def control_table(bench: Bench, source: str) -> Iterator[str]:
    """Return the table of one control."""
    # What needs the settings of the head comes last: another process may have them by then.
    rows = {label: control(bench, label, source) for label in sorted(VARIANTS, key=refitted)}
    yield from table([f"aligner on *{source}*", *TOP], [rows[label] for label in VARIANTS])


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
        except FittersError as err:
            return [label, "–", "–", str(err).split(". ")[0]]

    row: list[str] = bench.once(f"{source} {label}", measure)
    return row


def class_texts(bench: Bench) -> Iterator[str]:
    """Class-text variants, and the paired differences that count."""
    yield from ("## Class texts", "")
    rows, kernel, by_text = [], {}, {}
    for label, asked in TEXTS.items():
        corpus = bench.with_texts(*asked)
        for method in ("conse", "ridge", "kernel-ridge"):
            score = by_text[label, method] = bench.alone(method, corpus)
            left_out = score.choice.get("score")
            if method == "kernel-ridge":
                kernel[label] = float(score.choice["score"])
            note = "" if left_out is None else f"{left_out:.4f}"
            cells = [*percent([score]), chosen(score.choice), note, seconds([score])]
            rows.append([label, method, *cells])
            print(rows[-1], file=sys.stderr, flush=True)
    yield from table(["class text", "aligner", *TOP, "chosen", "left-out score", "CPU s"], rows)
    best = max(kernel, key=lambda label: kernel[label])
    yield (
        "A left-out class is asked for by its name and prompt, as names of images are, whatever "
        "was fitted on. By that cosine of kernel ridge, which sees no image, the text is "
        f"**{best}**."
    )
    yield from ("", "## What counts: paired differences of the default kernel ridge", "")
    yield (
        "Points, 95 % interval over descriptions (docs/statistics.md); both sides have the same "
        "text. Both need the unlabelled images that are evaluated: their mean centres them."
    )
    yield ""
    default = "name + prompt + definition (default)"
    texts = dict.fromkeys((default, best))
    yield from table(
        ["class text", "kernel ridge over", *TOP],
        [
            [
                text,
                other,
                *(gap([by_text[text, "kernel-ridge"]], [by_text[text, other]], m) for m in TOP),
            ]
            for text in texts
            for other in ("ridge", "conse")
        ],
    )


def image_means(bench: Bench) -> Iterator[str]:
    """Centre the images by their own mean, and by none."""
    yield from ("## The mean that centres the images", "")
    yield (
        "A head comes without images, so that only those that are scored can give their mean. It "
        "uses no label, but it sees them: *evaluated images* is transductive. *None*: nothing but "
        "the head and the names is used. Difference to ConSE, which needs no mean, in points with "
        "its interval over descriptions."
    )
    yield ""
    corpus = bench.corpus
    pairs, bias = prototype_pairs(bench.run, corpus)
    conse = bench.alone("conse", corpus)
    rows = []
    for method in ("ridge", "procrustes", "kernel-ridge"):
        for label in ("evaluated images", "none"):
            mean = None if label == "none" else bench.mean
            made = fit(method, prototypes=pairs, image_mean=mean, bias=bias, rng=choice_rng(0))
            score = scored(made, corpus.images, corpus.names, 0.0, {})
            gaps = [gap([score], [conse], metric) for metric in TOP]
            rows.append([method, label, *percent([score]), *gaps])
    yield from table(["aligner", "mean of", *TOP, *(f"{metric} − ConSE" for metric in TOP)], rows)


def prototype_options(bench: Bench) -> Iterator[str]:
    """Head rows and images, changed before anything else is done to them."""
    yield from ("## Prototype options", "")
    yield (
        "Cov is the covariance of the evaluated images, shrunk by a tenth towards its mean "
        "variance: no label is used, but the images are seen. Of the head's names "
        "three are shared by two classes each."
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
    rows = []
    for label, (x, y) in options.items():
        for method in ("procrustes", "ridge", "kernel-ridge"):
            items = replace(corpus.images, rows=np.asarray(y, np.float32))
            changed = Pairs(np.asarray(x, np.float32), pairs.y, pairs.groups)
            score = bench.fitted(method, changed, None, items, corpus.names)
            rows.append([label, method, *percent([score]), seconds([score])])
            print(rows[-1], file=sys.stderr, flush=True)
    others: dict[str, tuple[Pairs, dict[str, Any]]] = {
        "not centred, either side": (pairs, {"centre": False}),
        "classes of one name merged": (resolve_duplicates(pairs, "merge"), {}),
        "classes of one name left out": (resolve_duplicates(pairs, "drop"), {}),
    }
    for label, (changed, given) in others.items():
        for method in ("procrustes", "ridge", "kernel-ridge"):
            score = bench.fitted(method, changed, None, corpus.images, corpus.names, **given)
            rows.append([label, method, *percent([score]), seconds([score])])
            print(rows[-1], file=sys.stderr, flush=True)
    yield from table(["prototypes", "aligner", *TOP, "CPU s"], rows)


def fold_error(bench: Bench, n_names: int = 60) -> Iterator[str]:
    """How far preprocessing outside the folds moves the criterion."""
    pairs, _ = prototype_pairs(bench.run, bench.corpus)
    head, text = (
        SideTransform.fit([rows], label=label)
        for rows, label in ((pairs.x, "head"), (pairs.y, "texts"))
    )
    gamma, alpha = 2.0, 0.1
    whole = Pairs(head.apply(pairs.x), text.apply(pairs.y), pairs.groups)
    asked = np.linspace(0, int(pairs.row_groups.max()), n_names).round().astype(int)
    inside, outside, shift = [], [], []
    for group in asked:
        out = pairs.row_groups == group
        cosines = []
        for refit in (False, True):
            x, y = head, text
            if refit:
                x = SideTransform.fit([pairs.x[~out]], label="head")
                y = SideTransform.fit([pairs.y[~out]], label="texts")
            aligner = aligner_of(x.apply(pairs.x[~out]), y.apply(pairs.y[~out]), gamma, alpha)
            cosines.append(aligner.score_pairs(x.apply(pairs.x[out]), y.apply(pairs.y[out])).mean())
        outside.append(cosines[0])
        inside.append(cosines[1])
        shift.append(abs(cosines[1] - cosines[0]))
    surface = choose_on_prototypes(
        whole,
        gammas=Axis.fixed(gamma),
        penalties=Axis.fixed(alpha),
        rng=np.random.default_rng(0),
    )
    yield from ("## Is the closed form exact?", "")
    yield (
        f"At γ {gamma:g}, λ {alpha:g}, {n_names} of the names, each left out by refitting from "
        f"scratch: with the means of the transforms taken once, outside the fold, mean cosine "
        f"{np.mean(outside):.4f}; with the means taken anew without the name "
        f"{np.mean(inside):.4f}; largest change of a name {max(shift):.4f}. The closed form over "
        f"all names gives {float(surface.scores[0, 0]):.4f}; that it equals refitting for means "
        "outside the fold to rounding is a test (tests/fitters/test_kernel_ridge.py)."
    )
    yield ""


def aligner_of(x: Any, y: Any, gamma: float, alpha: float) -> Any:
    """Return kernel ridge with these settings, fitted."""
    from fitters import KernelRidgeAligner

    aligner = KernelRidgeAligner(gamma=gamma, relative=False, alpha=alpha, center=False)
    return aligner.fit(x, y)

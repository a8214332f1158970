"""Sections without a real pair: class texts, controls, prototype options, the closed form."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from measure import SEEDS, TOP, Bench, chosen, gap, percent, seconds, table

from bench.fits import prototype_pairs
from fitters.controls import CONTROLS
from fitters.errors import FittersError
from fitters.moments.transform import SideTransform
from fitters.pairs import Pairs
from fitters.recipe import METHODS
from fitters.select.curve import Axis
from fitters.select.kernel_prototypes import choose_on_prototypes

PROMPTED = ("none", "photo")
TEXTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "name": (("name",), ("none",)),
    "prompt": (("name",), ("photo",)),
    "name + prompt (default)": (("name",), PROMPTED),
    "all lemmas + prompt": (("lemmas",), PROMPTED),
    "definition": (("definition",), ("none",)),
    "name + definition": (("name", "definition"), ("none",)),
    "name + prompt + definition": (("name", "definition"), PROMPTED),
    "lemmas + prompt + definition": (("lemmas", "definition"), PROMPTED),
}


def weights_only(bench: Bench) -> Iterator[str]:
    """Every aligner with the head's rows and with every control."""
    yield from ("## Weights only: every aligner, every control", "")
    yield "570 images against 517 names; controls over three draws, mean ± sd."
    yield ""
    rows = []
    # The trained ones have a table of their own: trained.py.
    closed = [name for name, spec in METHODS.items() if spec.fitted_on != "training"]
    for method, source in itertools.product(closed, ("head", *CONTROLS)):
        seeds = SEEDS[:1] if source == "head" else SEEDS[:3]
        try:
            scores = [bench.alone(method, bench.corpus, source=source, seed=seed) for seed in seeds]
        except FittersError as err:
            if source == "head":
                why = str(err).split(". ")[0].rstrip(".")
                rows.append([method, source, "–", "–", "–", f"not for a head of 1,000: {why}", ""])
            continue
        note = chosen(scores[0].choice) if source == "head" else ""
        rows.append([method, source, *percent(scores), note, seconds(scores)])
        print(rows[-1], file=sys.stderr, flush=True)
    yield from table(["aligner", "rows", *TOP, "chosen", "CPU s"], rows)


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
    yield from table(["class text", "aligner", *TOP, "chosen", "left-out cosine", "CPU s"], rows)
    best = max(kernel, key=lambda label: kernel[label])
    yield f"By the left-out cosine of kernel ridge, which sees no image, the text is **{best}**."
    yield from ("", "## What counts: paired differences of the default kernel ridge", "")
    yield "Points, 95 % bootstrap interval clustered by description; both sides have the same text."
    yield ""
    default = "name + prompt (default)"
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


def prototype_options(bench: Bench) -> Iterator[str]:
    """Head rows and images, changed before anything else is done to them."""
    yield from ("## Prototype options", "")
    yield (
        "Cov is the covariance of the evaluated images, shrunk by a tenth towards its mean "
        "variance: no label is used, but the images are seen."
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
    options = {
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

"""Whether the intervals and tests keep their word: simulations of the product's own functions.

    make validate-statistics      # 8,000 trials a cell, about an hour; writes build/statistics.json

Every check returns rows {name, setting, value, low, high, goal, holds}: a rate that was counted,
its 95 % binomial interval, and what it must be. docs/statistics.md shows them. ``make test`` runs a
small version, which fails only where the rate is beyond the 0.1 % quantile of its goal.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from scipy.special import ndtr, ndtri
from threadpoolctl import threadpool_limits

from bench.confirmatory import ENOUGH_ENCODERS, ENOUGH_SETS, random_effects
from bench.metrics.confidence import calibration, of_rejection
from bench.metrics.geometry import LinearCKA, MeanCCA, MutualKNN, Similarity, calibrate, draw_orders
from bench.report.verdict import judged
from bench.statistics import (
    ENOUGH_CONTROLS,
    DrawSums,
    against_controls,
    against_leader,
    against_paired_controls,
    holm,
    proportion_interval,
    two_term,
)
from fitters.pairs import Pairs
from fitters.prototypes import CONTROLS

TRIALS = 8_000
CLUSTERS = (7, 10, 47, 474)
#: Sizes of the seven classes of HAM10000.
CLASS_SIZES = np.array([6705, 1113, 1099, 514, 327, 142, 115])

Row = dict[str, Any]


def row(name, setting, hits, trials, goal, *, strict):
    """Return one line of the table.

    `goal` is ``("<=", 0.065)``, ``(">=", 0.93)`` or ``("within", (0.04, 0.06))``.
    """
    value = hits / trials
    found = stats.binomtest(int(hits), int(trials)).proportion_ci(0.95, method="exact")
    said, holds = "printed", None
    if goal is not None:
        sign, level = goal
        least, most = {"<=": (0.0, level), ">=": (level, 1.0), "within": level}[sign]
        said = f"{least} to {most}" if sign == "within" else f"{sign} {level}"
        tails = stats.binom.cdf(hits, trials, least), stats.binom.sf(hits - 1, trials, most)
        holds = bool(least <= value <= most if strict else min(tails) >= 0.001)
    return {
        "name": name, "setting": setting, "value": round(value, 4), "low": round(found.low, 4),
        "high": round(found.high, 4), "goal": said, "holds": holds,
    }  # fmt: skip


def sizes_of(kind, c, rng):
    """Return the number of queries of every cluster."""
    if kind == "equal":
        return np.full(c, 10.0)
    if kind == "lognormal":
        return np.ceil(10 * np.exp(rng.standard_normal(c)))
    if kind == "1-3":
        return rng.integers(1, 4, size=c).astype(float)
    return CLASS_SIZES.astype(float)


def crossed(rng, s, sizes, share, mean=0.0):
    """Draws × clusters × cells, normal: `share` of the mean's variance, 1, is from the draws."""
    h = sizes / sizes.sum()
    rest = (1.0 - share) / 2.0 if s > 1 else 1.0
    lever = float(np.sum(h**2))
    cells = rng.standard_normal((s, len(h))) * np.sqrt(rest * (s if s > 1 else 0.0) / lever)
    clusters = rng.standard_normal(len(h)) * np.sqrt(rest / lever)
    draws = rng.standard_normal(s) * np.sqrt(share * s if s > 1 else 0.0)
    y = mean + draws[:, None] + clusters[None] + cells
    return DrawSums(y * sizes, np.tile(sizes, (s, 1)))


def two_term_cells(trials, rng, strict) -> Iterator[Row]:
    """Type I error of the two-term test, in every cell of the protocol."""
    for s in (1, 5, 10):
        for c in CLUSTERS:
            kinds = ("equal", "lognormal", *(("class sizes",) if c == 7 else ()))
            for kind in kinds:
                for share in (0.0, 0.5, 0.9) if s > 1 else (0.0,):
                    rejected = 0
                    for _ in range(trials):
                        sums = crossed(rng, s, sizes_of(kind, c, rng), share)
                        rejected += two_term(sums).p_value() <= 0.05
                    setting = f"S {s}, C {c}, {kind}, draws {share:g}"
                    yield row("type I, two-term", setting, rejected, trials, ("<=", 0.065),
                              strict=strict)  # fmt: skip


def binary_cells(trials, rng, strict) -> Iterator[Row]:
    """Coverage of paired differences of hits, latent normal, 1 to 3 queries a cluster."""
    for s, c, split in (
        (5, 474, 1.0), (10, 47, 1.0), (10, 474, 1.0), (5, 474, 0.4), (10, 474, 0.4), (1, 7, 1.0),
        (1, 10, 1.0), (1, 47, 1.0), (1, 474, 1.0),
    ):  # fmt: skip
        for shift in (0.0, 0.6):
            for sd in (0.0, 0.15, 0.4) if s > 1 else (0.0,):
                covered = 0
                truth = _true_difference(shift, sd)
                for _ in range(trials):
                    sums = _hits(rng, s, c, split, shift, sd)
                    low, high = two_term(sums).interval()
                    covered += low <= truth <= high
                setting = f"S {s}, C {c}, {split:.0%} of the clusters a draw, "
                setting += f"shift {shift:g}, draw sd {sd:g}"
                known = c <= 10
                yield row(
                    "coverage, differences of hits" + (" (known limit)" if known else ""),
                    setting, covered, trials, None if known else (">=", 0.93), strict=strict,
                )  # fmt: skip


_LEVEL, _CLUSTER, _SHARED = -1.4, 0.5, 0.6


def _true_difference(shift, sd):
    # Latent: level + draw (sd on side a only) + cluster effect + noise; hit where above 0.
    spread = np.sqrt(1.0 + _CLUSTER**2 + _SHARED**2)
    a = stats.norm.cdf((_LEVEL + shift) / np.sqrt(spread**2 + sd**2))
    return float(a - stats.norm.cdf(_LEVEL / spread))


def _hits(rng, s, c, split, shift, sd):
    sizes = rng.integers(1, 4, size=c)
    cluster = np.repeat(np.arange(c), sizes)
    n = len(cluster)
    shared = _SHARED * rng.standard_normal(n)
    effect = {side: _CLUSTER * rng.standard_normal(c)[cluster] for side in "ab"}
    total, count = np.zeros((s, c)), np.zeros((s, c))
    for d in range(s):
        kept = np.ones(n, bool)
        if split < 1.0:
            kept = np.isin(cluster, rng.permutation(c)[: round(split * c)])
        a = _LEVEL + shift + sd * rng.standard_normal() + effect["a"] + shared
        b = _LEVEL + effect["b"] + shared
        y = (a + rng.standard_normal(n) > 0).astype(float) - (b + rng.standard_normal(n) > 0)
        total[d] = np.bincount(cluster[kept], weights=y[kept], minlength=c)
        count[d] = np.bincount(cluster[kept], minlength=c)
    return DrawSums(total, count)


def _shares(rng, model, p, icc, c):
    if model == "beta":
        return rng.beta(p * (1 / icc - 1), (1 - p) * (1 / icc - 1), size=c)
    z = rng.standard_normal(c) * np.sqrt(icc)
    return ndtr((ndtri(p) + z) / np.sqrt(1 - icc))


def proportions(trials, rng, strict) -> Iterator[Row]:
    """Coverage of Korn and Graubard's interval of one share.

    Hits of a cluster agree through a normal effect, or through a beta one, whose clusters at
    p = 0.03 are nearly all empty or full.
    """
    for model in ("latent normal", "beta"):
        for p in (0.3, 0.03):
            for icc in (0.1, 0.3, 0.97):
                for c in CLUSTERS:
                    for kind in ("1-3", "lognormal", *(("class sizes",) if c == 7 else ())):
                        covered = 0
                        for _ in range(trials):
                            sizes = sizes_of(kind, c, rng).astype(int)
                            of = _shares(rng, model, p, icc, c)
                            hits = rng.binomial(sizes, of).astype(float)
                            sums = DrawSums(hits[None], sizes[None] * 1.0)
                            low, high = proportion_interval(sums)
                            covered += low <= p <= high
                        yield row(
                            f"coverage, one share, {model} clusters",
                            f"p {p}, icc {icc}, C {c}, {kind}", covered, trials,
                            (">=", 0.93), strict=strict,
                        )  # fmt: skip


def rare_shares(trials, rng, strict) -> Iterator[Row]:
    """Coverage of one share where few of many large clusters have a hit at all."""
    for p, icc, c, size in (
        (0.01, 0.3, 47, 100), (0.003, 0.3, 47, 100), (0.01, 0.1, 47, 100), (0.003, 0.3, 200, 100),
        (0.003, 0.1, 200, 100), (0.01, 0.3, 100, 20),
    ):  # fmt: skip
        for model in ("beta", "latent normal"):
            covered = 0
            for _ in range(trials):
                hits = rng.binomial(size, _shares(rng, model, p, icc, c)).astype(float)
                low, high = proportion_interval(DrawSums(hits[None], np.full((1, c), float(size))))
                covered += low <= p <= high
            yield row("coverage, one share, rare hits in large clusters",
                      f"{model}, p {p}, icc {icc}, C {c} of {size}", covered, trials, (">=", 0.93),
                      strict=strict)  # fmt: skip


def shares_over_draws(trials, rng, strict) -> Iterator[Row]:
    """Coverage of the product's interval of one share over several draws, crossed."""
    for s, c in ((5, 207), (10, 207), (10, 47)):
        for p in (0.3, 0.03):
            for sd in (0.0, 0.2, 0.4):
                covered = 0
                spread = np.sqrt(1 + 0.25 + sd**2)
                for _ in range(trials):
                    cluster = 0.5 * rng.standard_normal(c)
                    latent = ndtri(p) * spread + cluster + sd * rng.standard_normal((s, 1))
                    hits = (latent + rng.standard_normal((s, c)) > 0).astype(float)
                    sums = DrawSums(hits, np.ones((s, c)))
                    ends = [proportion_interval(sums), two_term(sums).interval()]
                    low, high = min(e[0] for e in ends), max(e[1] for e in ends)
                    covered += low <= p <= high
                yield row("coverage, one share over draws",
                          f"S {s}, C {c}, p {p}, draw sd {sd:g}", covered, trials, (">=", 0.93),
                          strict=strict)  # fmt: skip


def overlapping(trials, rng, strict) -> Iterator[Row]:
    """Type I error where every draw takes K of one pool: a fixed split, and one drawn anew.

    The statistic is linear: a mean of effects of the K images, of the class asked about and noise.
    """
    pool, s = 300, 10
    for k in (15, 30, 63, 150):
        found = {"with the factor": 0, "without": 0}
        for _ in range(trials):
            u = rng.standard_normal(pool)
            b = rng.standard_normal(100) * 0.5 / np.sqrt(k) * 10
            y = np.empty((s, 100))
            for d in range(s):
                y[d] = u[rng.permutation(pool)[:k]].mean() + b + rng.standard_normal(100) * 0.1
            sums = DrawSums(y, np.ones_like(y))
            found["with the factor"] += two_term(sums, overlap=k / pool).p_value() <= 0.05
            found["without"] += two_term(sums).p_value() <= 0.05
        for how, rejected in found.items():
            goal = ("<=", 0.065) if how == "with the factor" else None
            yield row(f"type I, overlapping subsets, {how}", f"S {s}, f {k / pool:.2f}", rejected,
                      trials, goal, strict=strict)  # fmt: skip
    # Classes of 1 or of 1 to 3 images, split 60 : 40 anew for every draw. An image's effect as a
    # training pair is partly its class's, which may also be how hard its class is to name.
    for k, most in ((16, 1), (64, 1), (16, 3), (64, 3)):
        for link in (0.0, 1.0):
            found = dict.fromkeys(("effective classes", "all images", "training images", "none"), 0)
            for _ in range(trials):
                sizes = rng.integers(1, most + 1, size=400 // most)
                owner = np.repeat(np.arange(len(sizes)), sizes)
                n, c = len(owner), len(sizes)
                own = rng.standard_normal(c)
                hard = own if link else rng.standard_normal(c)
                u = np.sqrt(0.5) * (own[owner] + rng.standard_normal(n))
                total, count = np.zeros((s, c)), np.zeros((s, c))
                for d in range(s):
                    train = np.isin(owner, rng.permutation(c)[: round(0.6 * c)])
                    chosen = rng.permutation(np.flatnonzero(train))[:k]
                    y = u[chosen].mean() * np.sqrt(k) * 0.1 + 0.5 * hard[owner]
                    y = y + rng.standard_normal(n)
                    total[d] = np.bincount(owner[~train], weights=y[~train], minlength=c)
                    count[d] = np.bincount(owner[~train], minlength=c)
                sums = DrawSums(total, count)
                pools = {
                    "effective classes": n**2 / np.sum(sizes**2), "all images": n,
                    "training images": int(train.sum()), "none": np.inf,
                }  # fmt: skip
                for how, pool in pools.items():
                    found[how] += two_term(sums, overlap=k / pool).p_value() <= 0.05
            for how, rejected in found.items():
                goal = ("<=", 0.065) if how == "effective classes" else None
                yield row(
                    "type I, split drawn anew, pool: " + how,
                    f"S {s}, K {k}, classes of 1 to {most} images, "
                    + ("hard classes teach otherwise" if link else "no link to what is asked"),
                    rejected, trials, goal, strict=strict,
                )  # fmt: skip


def within_classes(trials, rng, strict) -> Iterator[Row]:
    """Type I error where every draw takes two images of each class, and asks about the rest.

    The classes are fixed, and the pool is all images: 20 classes of 20.
    """
    s, classes, size = 10, 20, 20
    owner = np.repeat(np.arange(classes), size)
    n = len(owner)
    for k in (1, 2, 5):
        rejected = 0
        for _ in range(trials):
            u, b = rng.standard_normal(n), 0.5 * rng.standard_normal(n)
            total, count = np.zeros((s, n)), np.zeros((s, n))
            for d in range(s):
                order = np.argsort(rng.random((classes, size)), axis=1)
                train = order[:, :12] + size * np.arange(classes)[:, None]
                shots = train[:, :k].ravel()
                test = np.ones(n, bool)
                test[train.ravel()] = False
                total[d, test] = (
                    0.1 * u[shots].mean() * np.sqrt(len(shots)) + b[test]
                    + rng.standard_normal(int(test.sum()))
                )  # fmt: skip
                count[d, test] = 1.0
            found = two_term(DrawSums(total, count), overlap=classes * k / n)
            rejected += found.p_value() <= 0.05
        yield row("type I, split within classes drawn anew, pool: all images", f"S {s}, {k} shots",
                  rejected, trials, ("<=", 0.065), strict=strict)  # fmt: skip


#: What a control draw reaches, by how its hits come about; the last two are the demo's.
CONTROL_KINDS = {
    "normal": lambda rng, n: 0.5 + 0.01 * rng.standard_normal(n),
    "skewed, log-normal": lambda rng, n: 0.01 * np.exp(0.5 * rng.standard_normal(n)),
    "counts, 570 queries of 517 names": lambda rng, n: rng.binomial(570, 1 / 517, size=n) / 570,
    "counts, 2,260 queries of 207 names": lambda rng, n: rng.binomial(2260, 1 / 207, n) / 2260,
}


#: Draws whose tails are heavier, or longer on one side, than any scale of the t test makes normal.
TAILED_KINDS = {
    "heavy tails, t of 3 degrees": lambda rng, n: 0.5 + 0.01 * rng.standard_t(3, n),
    "skewed upwards, 0.1 + exponential": lambda rng, n: 0.1 + 0.01 * rng.exponential(1.0, n),
    "skewed downwards, 0.3 - exponential": lambda rng, n: 0.3 - 0.01 * rng.exponential(1.0, n),
}


def tailed_controls(trials, rng, strict) -> Iterator[Row]:
    """The same for draws with heavy tails and skew, of both sides, and of the interval.

    The rank keeps its 5 %. Below 1 / (m + 1) the t test decides, and does not keep what it says:
    its rates are printed, and a result that rests on it says "by t".
    """
    for m in (19, 39):
        for kind, draw in TAILED_KINDS.items():
            p, outside = np.empty((trials, 2)), 0
            for t in range(trials):
                x = draw(rng, m + 1)
                test = against_controls(x[0], x[1:], n_rows=570)
                p[t] = test.p_above, test.p_below
                low, high = test.interval(x[0] - x[1:].mean())
                outside += not low <= 0 <= high
            for level in (0.05, 0.05 / 18):
                goal = ("<=", 0.065) if level == 0.05 else None
                known = "" if goal else " (known limit)"
                rejected = max(np.sum(p <= level, axis=0))
                yield row(f"type I at {level:.2g}, either side, tails or skew{known}",
                          f"m {m}, {kind}", rejected, trials, goal, strict=strict)  # fmt: skip
            yield row("interval of a control draw without zero, tails or skew", f"m {m}, {kind}",
                      outside, trials, ("<=", 0.08), strict=strict)  # fmt: skip


def sentences(trials, rng, strict) -> Iterator[Row]:
    """How often the verdict on a head that is one more draw says that it, or a control, is better.

    It is the product's own judgement of 19 draws each of one to four controls: "a control did
    better" is one claim of as many, "random vectors would not have done as well" needs all. Beside
    it the interval, and what the tests would say uncorrected.
    """
    for n in (1, 2, 4):
        for kind, draw in CONTROL_KINDS.items():
            found = dict.fromkeys(("better", "worse", "uncorrected", "interval"), 0)
            for _ in range(trials):
                head, rows = draw(rng, 1)[0], []
                for _ in range(n):
                    x = draw(rng, 19)
                    test = against_controls(head, x, n_rows=570)
                    low, high = test.interval(head - x.mean())
                    found["interval"] += not low <= 0 <= high
                    rows.append(
                        {"p": test.p_above, "p_below": test.p_below, "low": low, "high": high,
                         "difference": head - x.mean(), "n_controls": 19,
                         "control_rank": test.rank}
                    )  # fmt: skip
                tones = {one["stands"] for one in judged(rows)}
                found["worse"] += "worse" in tones
                found["better"] += tones == {"better"}
                found["uncorrected"] += any(one["p_below"] < 0.05 for one in rows)
            setting = f"{n} control{'s' if n > 1 else ''}, {kind}"
            for name, key, goal in (
                ("sentence: a control did better, of equal ones", "worse", ("<=", 0.05)),
                ("sentence: better than every control, of equal ones", "better", ("<=", 0.05)),
                ("any control better at 5 %, uncorrected", "uncorrected", None),
            ):
                yield row(name, setting, found[key], trials, goal, strict=strict)
            yield row("interval of a control draw without zero", setting, found["interval"],
                      n * trials, ("<=", 0.08), strict=strict)  # fmt: skip


def control_draws(trials, rng, strict) -> Iterator[Row]:
    """One control draw in the head's place: how often it passes for more than that."""
    for m in (5, 19, 39):
        for kind, draw in CONTROL_KINDS.items():
            ps = np.empty(trials)
            for t in range(trials):
                x = draw(rng, m + 1)
                ps[t] = against_controls(x[0], x[1:], n_rows=570).p_above
            for level in (0.05, 0.05 / 18):
                few = m < ENOUGH_CONTROLS and level < 0.05
                known = " (known limit)" if few else ""
                goal = ("<=", 0.065 if level == 0.05 else 0.005)
                yield row(f"type I at {level:.2g}, head a control draw{known}", f"m {m}, {kind}",
                          np.sum(ps <= level), trials, None if few else goal,
                          strict=strict)  # fmt: skip
            if m == 39 and kind == "normal":
                # Between ranks p is a step: spread evenly over the step it must be uniform.
                steps = np.where(ps > 1 / (m + 1), ps - rng.random(trials) / (m + 1), ps)
                p = stats.kstest(steps, "uniform").pvalue
                yield {
                    "name": "p of a control draw, uniform (Kolmogorov–Smirnov)",
                    "setting": f"m {m}, {kind}", "value": round(float(p), 4), "low": None,
                    "high": None, "goal": ">= 0.001", "holds": bool(p >= 0.001),
                }  # fmt: skip
    for kind, draw in CONTROL_KINDS.items():
        wrong = 0
        for _ in range(trials):
            # Three heads against two controls each; a head is the same beside both.
            heads = draw(rng, 3)
            p = [
                against_controls(h, draw(rng, 19), n_rows=570).p_above for h in heads for _ in "ab"
            ]
            wrong += bool(holm(np.array(p)).min() <= 0.05)
        yield row("family-wise error, Holm, three heads and two controls", kind, wrong, trials,
                  ("<=", 0.065), strict=strict)  # fmt: skip
    for m in (5, 10, 20):
        for share in (0.1, 0.5, 0.9):
            rejected = 0
            for _ in range(trials):
                # Draw j has its own pairs (an effect on both sides, and one on each alone).
                pairs = rng.standard_normal(m)
                noise = np.sqrt((1 - share) / 2)
                head = pairs + np.sqrt(share) * rng.standard_normal()
                own = head + noise * rng.standard_normal(m)
                x = pairs + np.sqrt(share) * rng.standard_normal(m) + noise * rng.standard_normal(m)
                rejected += against_paired_controls(own, x).p_above <= 0.05
            yield row("type I, head a control draw, pairs of its own",
                      f"m {m}, control share {share:g}", rejected, trials, ("<=", 0.065),
                      strict=strict)  # fmt: skip


#: What a head that carries nothing meets: images, names, and what is odd about them.
HOSTILE = {
    "few images, many names": (30, 1_000),
    "true rows, names shuffled": (30, 1_000),
    "classes in Zipf's sizes": (100, 200),
    "heavy tails": (100, 200),
    "images of one class": (30, 20),
    "images five times": (100, 200),
    "head rows twice": (100, 200),
    "names in families": (100, 200),
    "rows far from zero": (100, 200),
    "one direction rules": (100, 200),
    "more columns than rows": (100, 200),
    "few names": (100, 5),
}


def planted(rng, kind, n, n_names, *, signal=0.0):
    """Return images, the rows of their names, the texts of all names, and a head.

    The head follows the map from texts to images with the weight `signal`, and is noise else.
    """
    q, p, rows = 8, 64 if kind == "more columns than rows" else 16, 40
    normal = partial(rng.standard_t, 3) if kind == "heavy tails" else None
    drawn = (lambda size: normal(size)) if normal else (lambda size: rng.standard_normal(size))
    texts, head_texts, to_images = drawn((n_names, q)), drawn((rows, q)), drawn((q, p))
    if kind == "names in families":
        texts += 3.0 * drawn((10, q))[rng.integers(10, size=n_names)]
    weights = 1.0 / np.arange(1, n_names + 1) if "Zipf" in kind else np.ones(n_names)
    label = rng.choice(n_names, n, p=weights / weights.sum())
    if kind == "images of one class":
        label[:] = label[0]
    images = texts[label] @ to_images + drawn((n, p))
    if kind == "images five times":
        label, images = label[np.arange(n) // 5], images[np.arange(n) // 5]
    if kind == "one direction rules":
        images[:, 0] *= 30.0
    true = head_texts @ to_images
    noise = drawn((rows, p)) * np.linalg.norm(true) / np.sqrt(true.size)
    head = signal * true + np.sqrt(1.0 - signal**2) * noise
    if "shuffled" in kind:
        head = np.roll(true, 1, axis=0)
    if kind == "head rows twice":
        head, head_texts = head[np.arange(rows) // 2], head_texts[np.arange(rows) // 2]
    if kind == "rows far from zero":
        images, head = images + 20.0, head + 20.0
    return images, label, texts, Pairs(head, head_texts)


def judge(rng, images, label, texts, head):
    """Return the tones of the verdict on ridge by a head and 19 draws of three controls, and gains.

    The gains are the head's share of hits less the mean of each control's.
    """
    n, centred = len(images), images - images.mean(axis=0)
    names = texts / np.linalg.norm(texts, axis=1, keepdims=True)

    def hits(pairs):
        x, y = pairs.x - pairs.x.mean(axis=0), pairs.y - pairs.y.mean(axis=0)
        gram = x.T @ x
        gram[np.diag_indices_from(gram)] += 0.1 * np.trace(gram) / len(gram)
        scores = centred @ np.linalg.solve(gram, x.T @ y) @ names.T
        return float(np.mean(scores.argmax(axis=1) == label))

    own, rows = hits(head), []
    for control in ("random", "random-cov", "shuffled"):
        draws = np.array([hits(CONTROLS[control](head, rng)) for _ in range(ENOUGH_CONTROLS)])
        test = against_controls(own, draws, n_rows=n)
        low, high = test.interval(own - draws.mean())
        rows.append({"p": test.p_above, "p_below": test.p_below, "low": low, "high": high,
                     "difference": own - draws.mean(), "n_controls": ENOUGH_CONTROLS,
                     "control_rank": test.rank})  # fmt: skip
    return {one["stands"] for one in judged(rows)}, [one["difference"] for one in rows]


def hostile_worlds(trials, rng, strict) -> Iterator[Row]:
    """How often the verdict is for, or against, a head that carries nothing, in odd worlds."""
    trials = max(5, trials // 8)
    for kind, (n, n_names) in HOSTILE.items():
        tones = [judge(rng, *planted(rng, kind, n, n_names))[0] for _ in range(trials)]
        setting = f"{kind}, {n} images of {n_names:,} names"
        for name, wrong in (
            ("verdict for a head that carries nothing", sum(t == {"better"} for t in tones)),
            ("verdict against a head that carries nothing", sum("worse" in t for t in tones)),
        ):
            yield row(name, setting, wrong, trials, ("<=", 0.065), strict=strict)


def verdict_power(trials, rng, strict) -> Iterator[Row]:
    """How large an effect the verdict finds in 80 % of worlds, and that a perfect head has one.

    The head's rows carry more and more; the effect at which 80 % are found is read between steps.
    """
    trials = max(5, trials // 40)
    signals = np.linspace(0.05, 0.95, 10)
    for n in (30, 100, 570):
        setting = f"{n} images of 517 names"
        effects, rates = [], []
        for signal in signals:
            worlds = [judge(rng, *planted(rng, "", n, 517, signal=signal)) for _ in range(trials)]
            effects.append(float(np.mean([gains for _, gains in worlds])))
            rates.append(np.mean([tones == {"better"} for tones, _ in worlds]))
        reached = np.maximum.accumulate(rates)
        effect = float(np.interp(0.8, reached, np.maximum.accumulate(effects)))
        yield {
            "name": POWER, "setting": setting, "value": round(effect, 4), "low": None,
            "high": None, "goal": "printed", "holds": None,
        }  # fmt: skip
    for n in (30, 40, 100):
        found = 0
        for _ in range(trials):
            texts, to_images = rng.standard_normal((1_000, 8)), rng.standard_normal((8, 16))
            label = rng.permutation(1_000)[:n]
            head = Pairs(texts[:200] @ to_images, texts[:200])
            found += judge(rng, texts[label] @ to_images, label, texts, head)[0] == {"better"}
        yield row("verdict for a perfect head", f"{n} images of 1,000 names", found, trials,
                  (">=", 0.99), strict=strict)  # fmt: skip


#: The effects that a verdict finds stand in a table of their own.
POWER = "effect found in 80 % of worlds"


#: Draws of counts so small that two or three of them are often alike.
SMALL_COUNTS = {(30, 1 / 1_000), (122, 1 / 517), (570, 1 / 517), (2_260, 1 / 207), (100, 0.1)}


def few_draws(trials, rng, strict) -> Iterator[Row]:
    """Coverage of the interval to one more draw where two or three draws are all there are."""
    for m in (2, 3, 5):
        for n, p in sorted(SMALL_COUNTS):
            covered = 0
            for _ in range(trials):
                x = rng.binomial(n, p, m + 1) / n
                low, high = against_controls(x[0], x[1:], n_rows=n).interval(x[0] - x[1:].mean())
                covered += low <= 0 <= high
            yield row("coverage, one more draw of few", f"m {m}, {n} queries, chance {p:.2g}",
                      covered, trials, (">=", 0.93), strict=strict)  # fmt: skip


def families(trials, rng, strict) -> Iterator[Row]:
    """Family-wise error of Holm, and whether a planted effect is found in a family."""
    s, c = 10, 207
    tables = max(min(trials, 50), trials // 20)
    for m in (20, 200):
        wrong, found = 0, dict.fromkeys((4, 6), 0)
        for _ in range(tables):
            # Half of every part of the variance is common to all comparisons.
            base = crossed(rng, s, np.ones(c), 0.5)
            estimates = [
                two_term(DrawSums((base.total + crossed(rng, s, np.ones(c), 0.5).total)
                                  / np.sqrt(2), base.count))
                for _ in range(m)
            ]  # fmt: skip
            p = np.array([e.p_value() for e in estimates])
            wrong += bool(holm(p).min() <= 0.05)
            for effect in found:
                # The mean's true standard error is 1.
                p[0] = estimates[0].p_value(null=-effect)
                found[effect] += bool(holm(p)[0] <= 0.05)
        yield row("family-wise error, Holm", f"{m} comparisons", wrong, tables, ("<=", 0.05),
                  strict=strict)  # fmt: skip
        for effect, hits in found.items():
            goal = (">=", 0.9) if (m, effect) == (20, 6) else None
            yield row("planted effect found, Holm", f"{m} comparisons, {effect} s.e.", hits, tables,
                      goal, strict=strict)  # fmt: skip
    # Nothing is resampled: p has no floor, and the smallest of 1,000 can be rejected.
    p = two_term(crossed(rng, s, np.ones(c), 0.0, mean=12.0)).p_value()
    yield {
        "name": "a p far below 0.05 / 1,000 is possible", "setting": "effect of 12 s.e.",
        "value": float(f"{p:.2g}"), "low": None, "high": None, "goal": "<= 5e-05",
        "holds": bool(p <= 5e-5),
    }  # fmt: skip


def power(trials, rng, strict) -> Iterator[Row]:
    """How often a difference of 2.8 true standard errors is found, 207 clusters."""
    for share in (0.0, 0.5, 0.9):
        for s in (5, 10, 20):
            plain = 0
            for _ in range(trials):
                sums = crossed(rng, s, np.ones(207), share, mean=2.8)
                plain += two_term(sums).p_value() <= 0.05
            setting = f"S {s}, draws {share:g}"
            yield row("power at 2.8 s.e., two-term", setting, plain, trials, (">=", 0.58),
                      strict=strict)  # fmt: skip


def calibrated(trials, rng, strict) -> Iterator[Row]:
    """Type I error of calibrated similarities of unrelated normal rows, from few to many columns.

    n = 30 rows and 99 permutations: one pair of views, and the best of 4 × 3 layers. Half as many
    trials as elsewhere. Mutual k-NN counts, and ties
    count against: its errors are fewer than 5 %, and only their most is a goal.
    """
    n, k = 30, 99
    trials = max(1, trials // 2)
    measures: tuple[Similarity, ...] = (
        LinearCKA(), LinearCKA(unbiased=True), MeanCCA(), MutualKNN(10)
    )  # fmt: skip

    def rejected(layers):
        """Count p ≤ 0.05, by measure: of the best of all pairs, and of its pair alone."""
        found = {m.name: np.zeros(2, int) for m in measures}
        for _ in range(trials):
            xs, ys = layers()
            orders = draw_orders(n, k, rng=rng)
            for m in measures:
                one = calibrate(xs, ys, m, orders)
                best = np.unravel_index(one.observed.argmax(), one.observed.shape)
                found[m.name] += [one.searched().p <= 0.05, one.pair(*best).p <= 0.05]
        return found

    def cells(name, setting, found, goal, place):
        for measure, counts in found.items():
            own = ("<=", 0.06) if goal and measure.startswith("mutual") else goal
            of = "mutual k-NN" if measure.startswith("mutual") else "CKA and CCA"
            yield row(f"type I, {of}, {name}", f"{measure}, {setting}", counts[place], trials, own,
                      strict=strict)  # fmt: skip

    goal = ("within", (0.04, 0.06))
    for ratio in (0.1, 0.3, 1, 3, 10, 30):
        d = round(ratio * n)
        found = rejected(lambda d=d: rng.standard_normal((2, 1, n, d)))
        yield from cells("calibrated", f"d/n {ratio:g}", found, goal, 0)
    for ratio in (0.1, 1, 10):
        d = round(ratio * n)
        found = rejected(lambda d=d: np.split(rng.standard_normal((7, n, d)), [4]))
        setting = f"4 × 3 layers, d/n {ratio:g}"
        yield from cells("best of many layers, search counted", setting, found, goal, 0)
        yield from cells("best of many layers, search ignored", setting, found, None, 1)


def leaderboards(trials, rng, strict) -> Iterator[Row]:
    """How often a board shows an entry as behind that is not, and whether a gap is found.

    The leader is whichever entry has the highest mean. `share` of the variance of an entry's mean
    is from its own draws, the rest from clusters and cells; 16 draws leave 15 degrees of freedom.
    The correction is the product's, and Holm's over the k - 1 comparisons beside it.
    """
    tables = max(20, trials // 8)
    most = (200,) if tables >= 100 else ()
    for k in (2, 10, 50, *most):
        for s, c, share in ((16, 40, 0.9), (16, 40, 0.4), (10, 16, 0.0)):
            ours = theirs = 0
            for _ in range(tables):
                p, _ = _against_best(rng, np.zeros(k), s, c, share)
                ours += bool(against_leader(p).min() < 0.05)
                theirs += bool(holm(p).min() < 0.05)
            setting = f"{k} entries, S {s}, C {c}, draws {share:g}"
            for how, wrong, goal in (
                ("", ours, ("<=", 0.05)),
                (" by Holm over k - 1", theirs, None),
            ):
                name = f"family-wise error of a board{how}, equal entries"
                yield row(name, setting, wrong, tables, goal, strict=strict)
    for k in (10, 50, *most):
        for name, gaps in (
            ("half of them 3 s.e. behind", np.repeat([0.0, -3.0], k // 2)),
            ("evenly over 5 s.e.", np.linspace(0.0, -5.0, k)),
        ):
            wrong = 0
            for _ in range(tables // 2):
                p, above = _against_best(rng, gaps, 16, 40, 0.9)
                wrong += bool((against_leader(p)[above <= 0] < 0.05).any())
            setting = f"{k} entries, {name}"
            yield row("family-wise error of a board, unequal entries", setting, wrong,
                      tables // 2, ("<=", 0.05), strict=strict)  # fmt: skip
        found = 0
        for _ in range(tables // 2):
            p, above = _against_best(rng, np.append(8.0, np.zeros(k - 1)), 16, 40, 0.9)
            found += bool(against_leader(p)[rng.integers(k - 1)] < 0.05 and above.min() > 0)
        yield row("a gap of 8 s.e. is found, of the leader to any one entry",
                  f"{k} entries, S 16, C 40, draws 0.9", found, tables // 2, (">=", 0.9),
                  strict=strict)  # fmt: skip


def _against_best(rng, gaps, s, c, share):
    """Return p of the leader against all others, and how far it truly is above each.

    `gaps` are true means in standard errors of a difference, which is √2 times that of a mean.
    """
    ones = np.ones(c)
    entries = [crossed(rng, s, ones, share, mean=gap * np.sqrt(2.0)) for gap in gaps]
    best = int(np.argmax([entry.mean for entry in entries]))
    others = [place for place in range(len(gaps)) if place != best]
    p = np.array([two_term(entries[best] - entries[place]).p_value() for place in others])
    return p, gaps[best] - gaps[others]


def confidences(trials, rng, strict) -> Iterator[Row]:
    """Coverage of a planted calibration error, and of AUROC, with answers alike in clusters."""
    for n, c, sd in ((570, 474, 0.0), (570, 47, 0.1), (3_000, 474, 0.1)):
        for what, gap in (("none", 0.0), ("0.05", 0.05), ("0.3 p", 0.3)):
            covered = too_high = raw = 0
            for _ in range(trials // 8):
                p, cluster = rng.beta(2, 2, n), rng.integers(0, c, n)
                q = p * (1 - gap) if gap == 0.3 else np.maximum(p - gap, 0.0)
                right = rng.random(n) < np.clip(q + sd * rng.standard_normal(c)[cluster], 0, 1)
                found = calibration(p, right, cluster)
                bins = np.argsort(np.argsort(p)) * 15 // n
                size = np.bincount(bins)
                truth = np.sqrt(np.bincount(bins, p - q) ** 2 / size @ np.ones(len(size)) / n)
                covered += found.low <= truth <= found.high
                too_high += found.square > truth**2
                raw += found.raw > truth
            setting = f"n {n}, C {c}, sd {sd:g}, planted {what}"
            goal, done = (">=", 0.93), trials // 8
            yield row("coverage, calibration error", setting, covered, done, goal, strict=strict)
            for name, hits in (("square", too_high), ("usual ECE", raw)):
                yield row(f"above the truth, {name}", setting, hits, done, None, strict=strict)
    for c, sd in ((10, 0.5), (47, 0.5), (474, 0.0), (474, 1.0)):
        covered, done = 0, trials // 4
        truth = stats.norm.cdf(1.0 / np.sqrt(2.0 * (1.0 + sd**2)))
        for _ in range(done):
            cluster = np.repeat(np.arange(c), rng.integers(1, 4, c))
            shared = sd * rng.standard_normal(c)[cluster]
            known, unknown = shared + rng.standard_normal((2, len(cluster)))
            half = rng.permutation(c) < c // 2
            values = of_rejection(known + 1.0, unknown, half[cluster])
            low, high = two_term(DrawSums.of(values, 0 * cluster, cluster)).interval()
            covered += low <= truth <= high
        known_limit = c <= 10
        yield row(
            "coverage, AUROC" + (" (known limit)" if known_limit else ""), f"C {c}, sd {sd:g}",
            covered, done, None if known_limit else (">=", 0.93), strict=strict,
        )  # fmt: skip
    # A learner that is nearly certain of every answer, and wrong now and then.
    done = max(1, trials // 8)
    for sure, accuracy in ((s, a) for s in (1.0, 0.9999, 0.999) for a in (1.0, 0.99, 0.97, 0.9)):
        for n in (30, 100, 300):
            covered = 0
            for _ in range(done):
                found = calibration(np.full(n, sure), rng.random(n) < accuracy)
                covered += found.low <= abs(sure - accuracy) <= found.high
            yield row("coverage, calibration error",
                      f"n {n}, confidence {sure:g}, accuracy {accuracy:g}", covered, done,
                      (">=", 0.93), strict=strict)  # fmt: skip


def sets_as_a_sample(trials, rng, strict) -> Iterator[Row]:
    """Sets, and encoders, as a sample: the mean effect is 0, and p ≤ 0.05 is counted.

    `ratio` is the variance of the true effects between sets over the mean sampling variance, which
    is itself estimated with 9 degrees of freedom. A prediction interval has to hold the true effect
    on one more set; what it misses is printed.
    """
    trials = max(20, trials // 2)
    cells = [(k, ratio, sizes) for k in (4, 6, 10) for ratio in (0, 0.25, 1, 4)
             for sizes in ("equal", "lognormal")]  # fmt: skip
    for k, ratio, sizes in cells:
        wrong = held = 0
        for _ in range(trials):
            v = rng.lognormal(0, sizes == "lognormal", k)
            v /= v.mean()
            estimated = v * rng.chisquare(9, k) / 9
            found = random_effects(rng.normal(0, np.sqrt(v + ratio)), estimated)
            wrong += found.p_value() <= 0.05
            low, high = found.prediction() or (np.inf, np.inf)
            held += low <= rng.normal(0, np.sqrt(ratio)) <= high
        setting = f"{k} sets, {sizes}, ratio {ratio:g}"
        yield row("type I, mean over sets", setting, wrong, trials, ("<=", 0.065), strict=strict)
        if k >= ENOUGH_SETS:
            yield row("coverage, one more set", setting, held, trials, None, strict=strict)
    for k, n in ((k, n) for k in (4, 6, 10) for n in (2, ENOUGH_ENCODERS)):
        for of_encoders, of_sets in ((0, 0), (1, 0), (0, 1), (1, 1), (3, 0.3)):
            wrong = 0
            for _ in range(trials):
                effects = of_sets * rng.standard_normal((1, k)) + rng.standard_normal((n, k))
                effects += of_encoders * rng.standard_normal((n, 1))
                wrong += two_term(DrawSums(effects, np.ones((n, k)))).p_value() <= 0.05
            goal = ("<=", 0.065) if n >= ENOUGH_ENCODERS else None
            name = "type I, mean over sets and encoders" + ("" if goal else ", two encoders")
            yield row(name, f"{k} sets, {n} encoders, sd {of_encoders:g} and {of_sets:g}", wrong,
                      trials, goal, strict=strict)  # fmt: skip


SIMULATIONS: tuple[Callable[..., Iterator[Row]], ...] = (
    two_term_cells, binary_cells, proportions, shares_over_draws, overlapping, within_classes,
    control_draws, families, power, calibrated,
    leaderboards, rare_shares, tailed_controls, sentences, confidences, sets_as_a_sample,
    hostile_worlds, verdict_power, few_draws,
)  # fmt: skip


def self_null(store, trials, rng, strict, *, draws=13, n_pairs=(16, 64), splits=(5, 10)):
    """One method on both sides, on real data: only the draw of the K pairs differs.

    For every split of the classes the method is fitted on `draws` subsets of the training images,
    its settings chosen each time or fixed; pairs of subsets are then compared at random.
    """
    from threadpoolctl import threadpool_limits

    from bench.corpus import Split, held_out_split, read_corpus
    from bench.execution import Scoring
    from bench.fits import fit_run, n_pool
    from bench.suites.demo import demo_runs
    from featstore import open_store

    opened = open_store(store)
    base = next(
        r for r in demo_runs(opened)
        if (r.task, r.fit.method) == ("zero_shot", "ridge")
        and (r.protocol.source, r.protocol.n_pairs, r.protocol.eval) == ("head", 16, "held-out")
    )  # fmt: skip
    corpus = read_corpus(opened, base)
    classes = np.unique(corpus.images.classes)
    hits: dict[tuple[Any, ...], list[list[Any]]] = {}
    tested: list[Any] = []
    with threadpool_limits(limits=1):
        for seed in range(max(splits)):
            split = held_out_split(corpus.images.classes, seed=seed)
            tested.append(np.searchsorted(classes, corpus.images.classes[split.test]))
            scoring = Scoring(corpus, split, top=0)
            for k in n_pairs:
                for method, fixed in (("ridge", False), ("ridge", True), ("procrustes", False)):
                    own = []
                    for draw in range(draws):
                        subset = np.random.default_rng([seed, draw, 99]).permutation(split.train)
                        run = base.changed(seed=seed, method=method, n_pairs=k)
                        if fixed:
                            run = run.changed(penalty=0.3, mix=1.0)
                        fitted = fit_run(run, corpus, Split(subset, split.test))
                        ranks = scoring.score(run, fitted.alignment)[0].ranks.rank
                        own.append([(ranks <= 1).astype(float), (ranks <= 10).astype(float)])
                    hits.setdefault((method, "fixed" if fixed else "auto", k), []).append(own)
    pool = n_pool(base, corpus, split)
    for (method, how, k), of_split in hits.items():
        for s in splits:
            for place, metric in enumerate(("top-1", "top-10")):
                rejected = 0
                for _ in range(trials):
                    chosen = rng.permutation(max(splits))[:s]
                    total, count = np.zeros((s, len(classes))), np.zeros((s, len(classes)))
                    for d, seed in enumerate(chosen):
                        i, j = rng.permutation(draws)[:2]
                        y = of_split[seed][i][place] - of_split[seed][j][place]
                        total[d] = np.bincount(tested[seed], weights=y, minlength=len(classes))
                        count[d] = np.bincount(tested[seed], minlength=len(classes))
                    found = two_term(DrawSums(total, count), overlap=k / pool)
                    rejected += found.p_value() <= 0.05
                yield row(
                    "self-null on the stamps", f"{method}, {how}, K {k}, S {s}, {metric}", rejected,
                    trials, ("<=", 0.07), strict=strict,
                )  # fmt: skip


#: Checks of `tests.spaces.simulate`; those on rows of real encoders have 3 trials for every 80.
BRIDGES = ("gates", "verdicts", "kept", "passports")


def _checked(check, *, trials, store):
    """Return the rows of one check and its seconds; the stream of a check is its place's."""
    place, name = check
    started = time.perf_counter()
    if name in BRIDGES:
        from tests.spaces import simulate

        rng = np.random.default_rng([2026, 100 + BRIDGES.index(name)])
        own = trials if name == "gates" else max(1, 3 * trials // 80)
        return list(getattr(simulate, name)(own, rng, True)), time.perf_counter() - started
    if name != self_null.__name__:
        rng = np.random.default_rng([2026, place])
        return list(SIMULATIONS[place](trials, rng, True)), time.perf_counter() - started
    # Whatever simulations are added, this check keeps the stream that it had.
    rng = np.random.default_rng([2026, 9])
    found = [] if store is None else list(self_null(store, trials // 2, rng, True))
    return found, time.perf_counter() - started


def main() -> int:
    """Run all checks, print them, and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--store", type=Path, help="the demo's store, for the self-null")
    parser.add_argument("--out", type=Path, default=Path("build/statistics.json"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", help="comma-separated names of checks")
    arguments = parser.parse_args()
    only = set(arguments.only.split(",")) if arguments.only else None
    checks = [
        (place, name)
        for place, name in enumerate(
            [*(one.__name__ for one in (*SIMULATIONS, self_null)), *BRIDGES]
        )
        if only is None or name in only
    ]
    from tests.spaces.simulate import FILE, real_rows  # imports this module

    rows: list[Row] = []
    work = partial(_checked, trials=arguments.trials, store=arguments.store)
    # One thread each: two, on two cores, take six times the CPU. The last are long: they go first.
    with ProcessPoolExecutor(arguments.jobs, None, threadpool_limits, (1,)) as pool:
        if any(name in BRIDGES for _, name in checks):
            pool.submit(real_rows, FILE).result()
        begun = [pool.submit(work, check) for check in reversed(checks)]
        for (_, name), future in zip(checks, reversed(begun), strict=True):
            found, seconds = future.result()
            for one in found:
                mark = {True: "holds", False: "FAILS", None: ""}[one["holds"]]
                print(f"{one['value']:8.4f}  {one['goal']:>9}  {mark:5}  {one['name']}: "
                      f"{one['setting']}", flush=True)  # fmt: skip
            print(f"  [{name}: {seconds:.0f} s]", file=sys.stderr, flush=True)
            rows += found
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(one, ensure_ascii=False) for one in rows)
    arguments.out.write_text(f"[\n{lines}\n]\n", "utf-8")
    failed = [found for found in rows if found["holds"] is False]
    print(f"{len(rows)} rows, {len(failed)} do not hold; written to {arguments.out}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

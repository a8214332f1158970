"""Whether `headstock bridge` keeps its word: planted truths on rows of real encoders.

A part of ``make validate-statistics``, 300 draws a cell. A cell that docs/bridge.md names as a
limit has no goal.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from bench.bridge import bridge
from bench.spaces import relate, unusual
from bench.statistics import DrawSums, two_term
from tests.spaces.rows import OF_CLASSES, OF_TEXTS, real_rows
from tests.validation import Row, row

Rows = np.ndarray
Rng = np.random.Generator
Draw = Callable[[Rng], tuple[Rows, Rows]]

#: Where real rows are kept.
FILE = Path("build/spaces.npz")

#: Pairs of spaces that have something in common.
RELATED = (
    ("mean", "cls"), ("mean", "layer 3"), ("mean", "layer 0"), ("mean", "letters"),
    ("lite0", "lite1"), ("class names", "lite0"),
)  # fmt: skip

#: Related spaces whose items follow so well that foreign rows stand out.
SEEN = (("mean", "cls"), ("mean", "layer 3"), ("lite0", "lite1"))

#: Foreign rows, and rows among which they are found without labels.
FOUND = (
    ("turned", "mean"), ("letters", "mean"), ("layer 3", "mean"), ("layer 0", "mean"),
    ("lite0", "mean"), ("mean", "cls"), ("turned", "cls"), ("mean", "layer 3"),
    ("turned", "layer 3"),
)  # fmt: skip

#: Those that are not: the same layer, or rows among others of all directions or of a heavy tail.
MISSED = (
    ("cls", "mean"), ("mean", "layer 0"), ("turned", "layer 0"), ("mean", "letters"),
    ("turned", "letters"),
)  # fmt: skip

#: Rows of a passport that is simulated.
ROWS = 1_500


def int8(x: Rows, axis: int) -> Rows:
    step = np.abs(x).max(axis=axis, keepdims=True) / 127
    return np.round(x / step) * step


def bfloat16(x: Rows) -> Rows:
    return (np.ascontiguousarray(x).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


@functools.cache
def _rotation(width: int, which: int) -> Rows:
    normal = np.random.default_rng([width, which]).standard_normal((width, width))
    return np.linalg.qr(normal)[0].astype(np.float32)


def turned(x: Rows, rng: Rng) -> Rows:
    """Return rows with their columns in a random order, then turned by one of two rotations."""
    width = x.shape[1]
    return x[:, rng.permutation(width)] @ _rotation(width, int(rng.integers(2)))


def noisy(x: Rows, size: float, rng: Rng) -> Rows:
    step = size * np.linalg.norm(x, axis=1).mean() / np.sqrt(x.shape[1])
    return x + np.float32(step) * rng.standard_normal(x.shape, dtype=np.float32)


def unit(x: Rows) -> Rows:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


#: What is done to rows -> function, by the verdict that it must give.
CHANGES: Mapping[str, Mapping[str, Callable[[Rows, Rng], Rows]]] = {
    "same": {"equal": lambda x, rng: x.copy(), "bfloat16": lambda x, rng: bfloat16(x)},
    "same up to": {
        "rotation": turned,
        "int8 by row": lambda x, rng: int8(x, 1),
        "int8 by column": lambda x, rng: int8(x, 0),
        "first eighth, unit": lambda x, rng: unit(x[:, : x.shape[1] // 8]),
        "signs": lambda x, rng: np.sign(x - x.mean(axis=0)),
        "rotation, int8 and scale": lambda x, rng: 5 * int8(turned(x, rng), 1),
        "rotation, unit": lambda x, rng: unit(turned(x, rng)),
        "column scales": lambda x, rng: x * np.exp(rng.normal(0, 0.5, x.shape[1])).astype("f4"),
        "noise of 0.1": lambda x, rng: noisy(x, 0.1, rng),
    },
    "related": {
        "rotation, noise of 0.3": lambda x, rng: turned(noisy(x, 0.3, rng), rng),
        "rotation, noise of 1": lambda x, rng: turned(noisy(x, 1.0, rng), rng),
    },
}


def verdicts(trials: int, rng: Rng, strict: bool) -> Iterator[Row]:
    """Verdicts on two sets of vectors of 150 to 600 items, 300 to 600 where rows are mixed.

    Every draw of a cell is of another of its settings, by chance.
    """
    for verdict, setting, ways in planted(real_rows(FILE)):
        right = 0
        for _ in range(trials):
            right += relate(*ways[rng.integers(len(ways))](rng), rng).verdict == verdict
        limit = setting in ("related, 2 % foreign", "related, 5 % foreign")
        name = f"verdict, {verdict}" + (" (known limit)" if limit else "")
        yield row(name, setting, right, trials, None if limit else (">=", 0.99), strict=strict)


def planted(rows: Mapping[str, Rows]) -> Iterator[tuple[str, str, list[Draw]]]:
    """Yield verdict, name of the cell, and what draws the two sides of each of its settings."""
    for verdict, changes in CHANGES.items():
        ways = [functools.partial(_changed, rows, change) for change in changes.values()]
        yield verdict, "; ".join(changes), ways
    cut = functools.partial(_cut, rows)
    yield "same up to", "rotation, then cut to half, of 780 items or more", [cut]
    related = [functools.partial(_pair, rows, pair) for pair in RELATED]
    yield "related", "; ".join(" and ".join(pair) for pair in RELATED), related
    for setting in ("shuffled", "random, same covariance"):
        yield "unrelated", setting, [functools.partial(_unrelated, rows, setting)]
    for share in (0.02, 0.1):
        bases = [functools.partial(_mixed, rows, base, share) for base in ("equal", "rotated")]
        yield "mixed", f"equal or rotated, {100 * share:g} % foreign", bases
    for share in (0.02, 0.05, 0.1):
        base = functools.partial(_mixed, rows, "related", share)
        yield "mixed", f"related, {100 * share:g} % foreign", [base]


def _size(rng: Rng, least: int = 150) -> int:
    return int(np.exp(rng.uniform(np.log(least), np.log(600))))


def _some(rows: Mapping[str, Rows], rng: Rng, n: int) -> Rows:
    own = rows[(*OF_TEXTS, *OF_CLASSES)[rng.integers(len(OF_TEXTS) + len(OF_CLASSES))]]
    return own[rng.permutation(len(own))[:n]]


def _changed(rows: Mapping[str, Rows], change: Callable[..., Rows], rng: Rng) -> tuple[Rows, Rows]:
    x = _some(rows, rng, _size(rng))
    return x, change(x, rng)


def _cut(rows: Mapping[str, Rows], rng: Rng) -> tuple[Rows, Rows]:
    """Return rows and half of the columns of a rotation of them: as many items as it takes."""
    own = rows[OF_TEXTS[rng.integers(len(OF_TEXTS))]]
    x = own[rng.permutation(len(own))[: rng.integers(780, 1_000)]]
    return x, turned(x, rng)[:, : x.shape[1] // 2]


def _pair(
    rows: Mapping[str, Rows], pair: tuple[str, str], rng: Rng, least: int = 150
) -> tuple[Rows, Rows]:
    x, y = (rows[name] for name in pair)
    order = rng.permutation(len(x))[: _size(rng, least)]
    return x[order], y[order]


def _unrelated(rows: Mapping[str, Rows], setting: str, rng: Rng) -> tuple[Rows, Rows]:
    x, y = _pair(rows, RELATED[rng.integers(len(RELATED))], rng)
    if setting == "shuffled":
        return x, rng.permutation(y)
    own = y - y.mean(axis=0)
    normal = rng.standard_normal((len(own), len(own)), dtype=np.float32)
    return x, normal @ own / np.float32(np.sqrt(len(own)))


def _mixed(rows: Mapping[str, Rows], base: str, share: float, rng: Rng) -> tuple[Rows, Rows]:
    """Return rows of which some of the new are of another real encoder, as long as the others."""
    if base == "related":
        # Those whose median profile is .45 or more: below, mixing cannot be seen.
        x, y = _pair(rows, SEEN[rng.integers(len(SEEN))], rng, 300)
        y = y.copy()
    else:
        x = _some(rows, rng, _size(rng, 300))
        y = x.copy() if base == "equal" else turned(x, rng)
    n, width = y.shape
    wide = [own for own in rows.values() if own.shape[1] >= width and own.shape[1] != x.shape[1]]
    wide = wide or [rows["lite0"], rows["lite1"]]
    own = wide[rng.integers(len(wide))]
    some = rng.permutation(n)[: max(1, round(share * n))]
    foreign = own[rng.permutation(len(own))[: len(some)], :width]
    y[some] = foreign * (np.linalg.norm(y, axis=1).mean() / np.linalg.norm(foreign, axis=1).mean())
    return x, y


def passports(trials: int, rng: Rng, strict: bool) -> Iterator[Row]:
    """Unusual rows: none in one space, hostile ones too; and those of another.

    Found are foreign rows of which half or more are named, and of the others .5 % at most. Of each
    pair of spaces there are a third as many draws.
    """
    rows, draws = real_rows(FILE), max(1, trials // 3)
    right = 0
    for _ in range(trials):
        own = rng.permutation(rows[OF_TEXTS[rng.integers(len(OF_TEXTS))]])
        right += not len(_unusual(_hostile(own, rng)))
    yield row("no alarm in unmixed rows", "rare topics, near copies", right, trials, (">=", 0.99),
              strict=strict)  # fmt: skip
    for foreign, base in (*FOUND, *MISSED):
        limit = (foreign, base) in MISSED
        for share in (0.02, 0.1):
            n, right = round(share * ROWS), 0
            for _ in range(draws):
                own = rng.choice(rows[base], ROWS, replace=False)
                planted = rng.choice(rows.get(foreign, rows[base]), n, replace=False)
                planted = turned(planted, rng) if foreign == "turned" else planted
                planted = planted[:, : own.shape[1]]
                own[:n] = planted * (_length(own) / _length(planted))
                found = _unusual(own)
                there = np.count_nonzero(found < n)
                right += int(there >= n / 2 and len(found) - there <= 0.005 * (ROWS - n))
            name = "foreign rows are found" + " (known limit)" * limit
            setting = f"{100 * share:g} % {foreign} in {base}"
            yield row(name, setting, right, draws, None if limit else (">=", 0.95), strict=strict)


def _unusual(own: Rows) -> np.ndarray:
    return unusual(lambda: iter([own]), own)


def _length(rows: Rows) -> float:
    return float(np.linalg.norm(rows, axis=1).mean())


def _hostile(every: Rows, rng: Rng) -> Rows:
    """Return rows of which up to a tenth are one rare topic, or nearly equal; or as they are."""
    own, n, how = every[:ROWS].copy(), rng.integers(24, 240), rng.integers(3)
    if how == 1:
        own[:n] = every[np.argsort(-(every @ every[-1] / np.linalg.norm(every, axis=1)))[:n]]
    elif how == 2:
        own[:n] = noisy(own[rng.permutation(ROWS)[:n]], 0.01, rng)
    return own


def kept(trials: int, rng: Rng, strict: bool) -> Iterator[Row]:
    """The interval of what a bridge keeps, and a gate at what it keeps in truth.

    Items are drawn anew from 8,000 for every trial; the truth is the mean of all trials.
    """
    rows = real_rows(FILE)
    for old, new, n in (("layer 3", "mean", 150), ("layer 3", "mean", 300), ("mean", "cls", 300)):
        found = []
        for _ in range(trials):
            order = rng.permutation(len(rows[old]))[:n]
            seeds = rng.integers(2**31, size=5).tolist()
            one = bridge(rows[old][order], rows[new][order], seeds=seeds, methods=("ridge",))
            found.append((one.own.mean, *one.own.interval()))
        mean, *ends = np.array(found).T
        yield from _held(f"{old} to {new}, {n} items, 5 draws", ends, mean.mean(), strict)


def _held(setting: str, ends: Sequence[Rows], truth: float, strict: bool) -> Iterator[Row]:
    """Yield how often an interval covers the truth, and how often a gate at it is passed."""
    (low, high), n = ends, len(ends[0])
    for name, held, goal in (
        ("coverage, what a bridge keeps", (low <= truth) & (truth <= high), (">=", 0.93)),
        ("false passes of the gate", low >= truth, ("<=", 0.055)),
    ):
        yield row(name, setting, int(held.sum()), n, goal, strict=strict)


def gates(trials: int, rng: Rng, strict: bool) -> Iterator[Row]:
    """False passes of a gate at the truth, where items and pairs decide what is kept.

    In every draw half of the items are pairs, whose effects have a standard error of .01, and the
    others are asked for ten neighbours each, of which an item keeps a share of its own.
    """
    for share, n, draws in itertools.product((0.95, 0.55), (40, 60, 300, 948), (5, 10)):
        found = []
        for _ in range(trials):
            own = rng.beta(6 * share, 6 * (1 - share), size=n)
            effects = 0.01 * np.sqrt(n / 2) * rng.standard_normal(n)
            order = np.argsort(rng.random((draws, n)), axis=1)
            pairs, asked = order[:, : n // 2], order[:, n // 2 :]
            values = rng.binomial(10, own[asked]) / 10 + effects[pairs].mean(1)[:, None]
            numbers = np.repeat(np.arange(draws), n - n // 2)
            sums = DrawSums.of(values.ravel(), numbers, asked.ravel())
            found.append(two_term(sums, overlap=0.5).interval())
        setting = f"planted, keeps {share}, {n} items, {draws} draws"
        yield from _held(setting, np.array(found).T, share, strict)

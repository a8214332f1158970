"""Whether two sets of vectors of the same items are of one space: a verdict without a fit.

Of every item the similarities to some anchors are correlated between both sides. That is free of
rotation, scale, shift and the order of columns, and takes any two widths. docs/bridge.md says on
what the thresholds were set, and what they cannot decide.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.linalg import lstsq
from scipy.spatial.distance import pdist

from bench.errors import ProtocolError
from bench.foreign import on_grid
from bench.metrics.calibrated import LinearCKA, calibrate, draw_orders
from fitters.moments.transform import unit_or_zero

Verdict = Literal["same", "same up to", "mixed", "related", "unrelated"]

#: Items from which on a verdict was tried, and from which on mixed rows were.
ENOUGH, ENOUGH_MIXED = 150, 300

#: Items that others are compared with, and items that are looked at.
ANCHORS, MOST = 300, 20_000

#: Of the correlations: from which on the bulk follows, and below which a row does not.
_FOLLOWS, _LOST, _FAR = 0.98, 0.5, 0.15

#: Half of the bulk's rows must follow at least so well for some to stand out.
_LEAST, _GAP = 0.45, 0.55

#: A set with more rows that stand out has no bulk.
_MOST_MIXED, _LEAST_MIXED = 0.4, 0.006

#: Relative difference of two roundings of one row: bfloat16 makes .003, int8 .006.
_SAME = 0.004

#: Correlation of equal columns, and of the signs of columns (.80 in theory).
_COLUMNS, _SIGNS = 0.97, 0.6

#: A rotation leaves the spread of squared distances over their mean; noise of 0.3 makes it .86.
_SPREAD = 0.95

#: Permuted items that a relation is compared with: none may reach it, which gives p of .005.
_PERMUTATIONS, _LEVEL = 199, 0.005

#: What a linear map of the wider side leaves of held-out rows, of their length, if it is exact.
_RESIDUAL = 0.03

Matrix = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Relation:
    """How two sets of vectors of the same items are related.

    Attributes
    ----------
    verdict : str
    by : tuple of str
        What the spaces are the same up to.
    n : int
        Items that both have.
    widths : (int, int)
    rho : float
        Median correlation of the profiles of similarities.
    strangers : ndarray of int
        Rows that do not follow the others, where the verdict is ``mixed``.
    """

    verdict: Verdict
    by: tuple[str, ...]
    n: int
    widths: tuple[int, int]
    rho: float
    strangers: npt.NDArray[np.intp]

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        return f"{_WORDS[self.verdict].format(by=', '.join(self.by), n=len(self.strangers))}."

    @property
    def undecided(self) -> tuple[str, ...]:
        """What the verdict cannot tell, a sentence each."""
        wide, low = max(self.widths), self.n < ENOUGH_MIXED and self.verdict != "mixed"
        found = {
            f"Below {ENOUGH_MIXED} items mixed rows are not told.": low,
            "Mixed rows of 5 % or fewer may pass unseen.": self.verdict == "related" and not low,
            f"Below {2 * wide:,} items one side may be the other, turned and then cut.":
                self.verdict == "related" and len({*self.widths}) == 2 and self.n < 2 * wide,
        }  # fmt: skip
        return tuple(said for said, there in found.items() if there)


_WORDS: dict[Verdict, str] = {
    "same": "The same space",
    "same up to": "The same space up to {by}",
    "mixed": "Mixed rows: {n:,} of one side do not follow the others",
    "related": "Related spaces",
    "unrelated": "Unrelated spaces: their items have nothing in common that a map could use",
}


def relate(x: Matrix, y: Matrix, rng: np.random.Generator) -> Relation:
    """Say how the spaces of two sets of vectors are related.

    Parameters
    ----------
    x, y : ndarray of shape (n, p), (n, q)
        Row i of both is of one item.
    rng : numpy.random.Generator
        Draws anchors, rows where there are more than `MOST`, and permutations.

    Raises
    ------
    ProtocolError
        If there are fewer than `ENOUGH` items.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((400, 16)) ** 3
    >>> turned = 3 * x @ np.linalg.qr(rng.standard_normal((16, 16)))[0]
    >>> relate(x, turned, rng).sentence
    'The same space up to rotation, scale.'
    >>> relate(x, rng.permuted(x, axis=0), rng).verdict
    'unrelated'
    """
    if len(x) < ENOUGH:
        raise ProtocolError(
            f"Both sides share {len(x):,} items. Whether two spaces are related can be said from "
            f"{ENOUGH} on."
        )
    places = np.sort(rng.permutation(len(x))[:MOST])
    x, y = np.asarray(x[places], np.float32), np.asarray(y[places], np.float32)
    both = (_profiles(scaled(x), scaled(y), rng) for scaled in (np.asarray, unit_or_zero))
    rho = max(both, key=np.median)
    median, n = float(np.median(rho)), len(rho)
    # What does not follow is not asked whether it is the same.
    bulk = np.flatnonzero(rho >= 0.4 * median)[:ANCHORS] if median > 0.4 else np.arange(n)[:ANCHORS]
    strangers = places[_strangers(rho, median)]
    by: tuple[str, ...] = ()
    verdict: Verdict = "mixed"
    if not len(strangers):
        verdict = "same"
        if _difference(x, y) > _SAME:
            by = tuple(_same_up_to(x[bulk], y[bulk], median)) or tuple(_cut(x, y))
            verdict = "same up to" if by else _related(x, y, rng)
    return Relation(verdict, by, len(places), (x.shape[1], y.shape[1]), median, strangers)


def _profiles(x: Matrix, y: Matrix, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return the correlation of every row's similarities to the anchors on both sides, (n,).

    Anchors that follow badly are left out twice, and then drawn anew from the rows that follow: a
    foreign group must not be what the others are compared with.
    """
    n = len(x)
    anchors = rng.permutation(n)[:ANCHORS]
    for share in (0.3, 0.2):
        own = _correlations(x[anchors], y[anchors], np.arange(len(anchors)))
        anchors = anchors[own >= np.quantile(own, share)]
    for _ in range(2):
        rho = _correlations(x, y, anchors)
        followers = np.flatnonzero(rho >= 0.5 * np.median(rho))
        anchors = rng.permutation(followers)[:ANCHORS]
    return rho


def _correlations(x: Matrix, y: Matrix, anchors: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    # An item is no witness of itself.
    own, count = (anchors, np.arange(len(anchors))), np.full(len(x), len(anchors))
    count[anchors] -= 1
    sides = []
    for rows in (x, y):
        centred = rows - rows[anchors].mean(axis=0)
        near = centred @ centred[anchors].T
        near[own] = 0.0
        near -= (near.sum(axis=1) / count)[:, None]
        near[own] = 0.0
        sides.append(near)
    cross, of_x, of_y = (
        np.einsum("na,na->n", one, two)
        for one, two in (sides, (sides[0], sides[0]), (sides[1], sides[1]))
    )
    found: npt.NDArray[np.float64] = cross / np.maximum(np.sqrt(of_x) * np.sqrt(of_y), 1e-30)
    return found


def _strangers(rho: npt.NDArray[np.float64], median: float) -> npt.NDArray[np.intp]:
    """Return the rows that do not follow where the others do; none if they are no group."""
    n = len(rho)
    if median >= _FOLLOWS:
        low, least, between = rho < _LOST, 2.0, 0
    elif median >= _LEAST:
        low, least = rho < _FAR, max(3.0, _LEAST_MIXED * n)
        # A heavy tail has as many rows half way; a foreign group leaves a gap.
        between = int(((rho >= _FAR) & (rho < _GAP * median)).sum())
    else:
        return np.empty(0, np.intp)
    count = int(low.sum())
    there = least <= count <= _MOST_MIXED * n and between <= count and n >= ENOUGH_MIXED
    return np.flatnonzero(low) if there else np.empty(0, np.intp)


def _difference(x: Matrix, y: Matrix) -> float:
    """Return the median relative difference of equal rows."""
    if x.shape[1] != y.shape[1]:
        return np.inf
    off = np.linalg.norm(x - y, axis=1) / np.maximum(np.linalg.norm(y, axis=1), 1e-12)
    return float(np.median(off))


def _same_up_to(a: Matrix, b: Matrix, median: float) -> Iterator[str]:
    """Yield what the spaces are the same up to, if they are, by rows that follow."""
    width, equal = min(a.shape[1], b.shape[1]), a.shape[1] == b.shape[1]
    raw, unit = (_crossed(f(a[:, :width]), f(b[:, :width])) for f in (np.asarray, unit_or_zero))
    columns = max(float(np.median(np.diag(crossed))) for crossed in (raw, unit))
    signs = any(all(len(np.unique(column)) <= 2 for column in rows.T) for rows in (a, b))
    if signs and columns >= _SIGNS:
        yield "signs"
        return
    if columns >= _COLUMNS:
        if not equal:
            yield f"its first {width:,} columns"
    # Noise adds to all distances; of rows in few directions it leaves the profiles alike.
    elif median < _FOLLOWS or max(_alike(a, b), _alike(unit_or_zero(a), unit_or_zero(b))) < _SPREAD:
        return
    else:
        permuted = equal and np.median(raw.max(axis=1)) >= _COLUMNS
        yield "order of columns" if permuted else "rotation"
    long_a, long_b = (np.linalg.norm(rows, axis=1) for rows in (a, b))
    scaled = abs(float(np.median(long_b / np.maximum(long_a, 1e-12))) - 1) > 0.02
    if scaled and equal:
        yield "scale"
    if _rounded(b) != _rounded(a):
        yield "int8"
    elif not scaled and equal and columns >= _COLUMNS:
        yield "rounding or a scale of columns"


def _rounded(rows: Matrix) -> bool:
    """Return whether rows, or columns, have as few values as int8 leaves."""
    return any(float(on_grid(own).mean()) > 0.5 for own in (rows, rows.T))


def _alike(a: Matrix, b: Matrix) -> float:
    """Return the ratio, at most 1, of how much squared distances vary for their mean."""
    far = [pdist(rows, "sqeuclidean") for rows in (a, b)]
    least, most = sorted(float(own.std() / max(own.mean(), 1e-30)) for own in far)
    return least / max(most, 1e-30)


def _cut(x: Matrix, y: Matrix) -> Iterator[str]:
    """Yield how the narrower side follows from the wider one, if a linear map leaves nothing.

    Half of the items fit the map, so the wider side may have as many columns as these.
    """
    wide, narrow = sorted((x, y), key=lambda rows: -rows.shape[1])
    half = len(x) // 2
    if wide.shape[1] < half and narrow.shape[1] < wide.shape[1]:
        a, b = (rows - rows[:half].mean(axis=0) for rows in (wide, narrow))
        off = b[half:] - a[half:] @ lstsq(a[:half], b[:half])[0]
        if np.linalg.norm(off) <= _RESIDUAL * np.linalg.norm(b[half:]):
            yield f"a linear map to {narrow.shape[1]:,} columns"


def _crossed(a: Matrix, b: Matrix) -> Matrix:
    """Return the correlation of every column of one side with every column of the other."""
    one, two = (rows - rows.mean(axis=0) for rows in (a, b))
    lengths = (np.maximum(np.linalg.norm(rows, axis=0), 1e-12) for rows in (one, two))
    found: Matrix = one.T @ two / np.outer(*lengths)
    return found


def _related(x: Matrix, y: Matrix, rng: np.random.Generator) -> Verdict:
    """Return the verdict by unbiased linear CKA against permuted items."""
    some = rng.permutation(len(x))[:ENOUGH]
    orders = draw_orders(len(some), _PERMUTATIONS, rng=rng)
    of = LinearCKA(unbiased=True)
    found = calibrate([x[some]], [y[some]], of, orders, alpha=_LEVEL)
    return "related" if found.pair().p <= _LEVEL else "unrelated"

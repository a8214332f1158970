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

from bench.errors import ProtocolError

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

#: Permutations: enough for a strong relation, and at most.
_FIRST, _ALL, _STRONG, _LEVEL = 19, 999, 10.0, 0.005

#: So many permutations at least as strong leave p above the level, whatever the others are.
_ENOUGH_ABOVE = 10

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
    rho : float
        Median correlation of the profiles of similarities.
    cosine : float
        Median cosine of the rows, NaN where the widths differ.
    z : float
        Of the relation, in standard deviations of permuted items; NaN where it was not asked.
    strangers : ndarray of int
        Rows that do not follow the others, where the verdict is ``mixed``.
    """

    verdict: Verdict
    by: tuple[str, ...]
    n: int
    rho: float
    cosine: float
    z: float
    strangers: npt.NDArray[np.intp]

    @property
    def sentence(self) -> str:
        """The verdict in words, with what cannot be decided."""
        return f"{_WORDS[self.verdict].format(by=', '.join(self.by), n=len(self.strangers))}."


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
    both = [_profiles(f(x), f(y), rng) for f in (_raw, _unit)]
    rho = max(both, key=lambda found: float(np.median(found)))
    median, n = float(np.median(rho)), len(rho)
    # What does not follow is not asked whether it is the same.
    bulk = np.flatnonzero(rho >= 0.4 * median)[:ANCHORS] if median > 0.4 else np.arange(n)[:ANCHORS]
    strangers = places[_strangers(rho, median)]
    off, cosine = _difference(x, y)
    by = tuple(_same_up_to(x[bulk], y[bulk], median))
    z = np.nan
    verdict: Verdict
    if len(strangers):
        verdict, by = "mixed", ()
    elif off <= _SAME:
        verdict, by = "same", ()
    elif by:
        verdict = "same up to"
    else:
        strangers = strangers[:0]
        some = rng.permutation(n)[:ANCHORS]
        verdict, z = _related([(f(x)[some], f(y)[some]) for f in (_raw, _unit)], rng)
    return Relation(verdict, by, len(places), median, cosine, z, strangers)


def _raw(rows: Matrix) -> Matrix:
    return rows


def _unit(rows: Matrix) -> Matrix:
    norms: Matrix = np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return rows / norms


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
    a, b = x - x[anchors].mean(axis=0), y - y[anchors].mean(axis=0)
    others = np.ones((len(x), len(anchors)), bool)
    others[anchors, np.arange(len(anchors))] = False  # an item is no witness of itself
    sides = []
    for rows in (a, b):
        near = np.asarray(rows @ rows[anchors].T, np.float64)
        near -= (near * others).sum(axis=1, keepdims=True) / others.sum(axis=1, keepdims=True)
        sides.append(near * others)
    one, two = sides
    scale = np.sqrt((one**2).sum(axis=1) * (two**2).sum(axis=1))
    found: npt.NDArray[np.float64] = (one * two).sum(axis=1) / np.maximum(scale, 1e-30)
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


def _difference(x: Matrix, y: Matrix) -> tuple[float, float]:
    """Return the median relative difference and the median cosine of equal rows."""
    if x.shape[1] != y.shape[1]:
        return np.inf, np.nan
    long_x, long_y = np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1)
    off = np.linalg.norm(x - y, axis=1) / np.maximum(long_y, 1e-12)
    cosine = np.einsum("np,np->n", x, y) / np.maximum(long_x * long_y, 1e-12)
    return float(np.median(off)), float(np.median(cosine))


def _same_up_to(a: Matrix, b: Matrix, median: float) -> Iterator[str]:
    """Yield what the spaces are the same up to, if they are, by rows that follow."""
    width = min(a.shape[1], b.shape[1])
    columns = max(
        _columns(a, b),
        _columns(_unit(a[:, :width]), b[:, :width]),
        _columns(_unit(a[:, :width]), _unit(b[:, :width])),
    )
    signs = any(all(len(np.unique(column)) <= 2 for column in rows.T) for rows in (a, b))
    if signs and columns >= _SIGNS:
        yield "signs"
        return
    # Noise adds to all distances; of rows in few directions it leaves the profiles alike.
    if columns < _COLUMNS and (
        median < _FOLLOWS or max(_alike(a, b), _alike(_unit(a), _unit(b))) < _SPREAD
    ):
        return
    if a.shape[1] != b.shape[1] and columns >= _COLUMNS:
        yield f"its first {width:,} columns"
    elif columns < _COLUMNS:
        yield "order of columns" if a.shape[1] == b.shape[1] and _permuted(a, b) else "rotation"
    long_a, long_b = (np.linalg.norm(rows, axis=1) for rows in (a, b))
    ratio = float(np.median(long_b / np.maximum(long_a, 1e-12)))
    if abs(ratio - 1) > 0.02 and a.shape[1] == b.shape[1]:
        yield "scale"
    if _on_grid(b) != _on_grid(a):
        yield "int8"
    elif abs(ratio - 1) <= 0.02 and columns >= _COLUMNS and a.shape[1] == b.shape[1]:
        yield "rounding or a scale of columns"


def _alike(a: Matrix, b: Matrix) -> float:
    """Return the ratio, at most 1, of how much squared distances vary for their mean."""
    least, most = sorted(map(_spread, (a, b)))
    return least / max(most, 1e-30)


def _spread(rows: Matrix) -> float:
    own = rows - rows.mean(axis=0)
    gram, above = own @ own.T, np.triu_indices(len(own), 1)
    long = np.diagonal(gram)
    far = (long[:, None] + long - 2 * gram)[above]
    return float(far.std() / max(far.mean(), 1e-30))


def _columns(a: Matrix, b: Matrix) -> float:
    """Return the median correlation of equal leading columns."""
    width = min(a.shape[1], b.shape[1])
    one, two = (_standard(rows[:, :width]) for rows in (a, b))
    return float(np.median(np.einsum("np,np->p", one, two)))


def _standard(rows: Matrix) -> Matrix:
    centred = rows - rows.mean(axis=0)
    scaled: Matrix = centred / np.maximum(np.linalg.norm(centred, axis=0), 1e-12)
    return scaled


def _permuted(a: Matrix, b: Matrix) -> bool:
    """Return whether every column of one side is a column of the other, in another order."""
    best = (_standard(a).T @ _standard(b)).max(axis=1)
    return float(np.median(best)) >= _COLUMNS


def _on_grid(rows: Matrix) -> bool:
    """Return whether rows, or columns, have as few values as int8 leaves."""
    steps = np.abs(rows) / np.maximum(np.abs(rows).max(axis=1, keepdims=True), 1e-12) * 127
    by_column = np.abs(rows) / np.maximum(np.abs(rows).max(axis=0, keepdims=True), 1e-12) * 127
    off = [float(np.abs(one - np.round(one)).mean()) for one in (steps, by_column)]
    return min(off) < 0.01  # of other rows it is a quarter


def _related(sides: list[tuple[Matrix, Matrix]], rng: np.random.Generator) -> tuple[Verdict, float]:
    """Return the verdict by unbiased linear CKA against permuted items, and its z."""
    tests = [_permutation_test(x, y, rng) for x, y in sides]
    p = min(1.0, len(tests) * min(p for p, _ in tests))
    return ("related" if p <= _LEVEL else "unrelated"), max(z for _, z in tests)


def _permutation_test(x: Matrix, y: Matrix, rng: np.random.Generator) -> tuple[float, float]:
    one, two = (_centred_gram(rows) for rows in (x, y))
    own = float((one * two).sum())
    null: list[float] = []
    for number in range(_ALL):
        order = rng.permutation(len(one))
        null.append(float((one * two[np.ix_(order, order)]).sum()))
        if number + 1 == _FIRST:
            z = (own - float(np.mean(null))) / max(float(np.std(null)), 1e-30)
            if z > _STRONG:
                return 1 / (_ALL + 1), z
        if sum(value >= own for value in null) >= _ENOUGH_ABOVE:
            break
    above = sum(value >= own for value in null)
    z = (own - float(np.mean(null))) / max(float(np.std(null)), 1e-30)
    return (1 + above) / (len(null) + 1), z


def _centred_gram(rows: Matrix) -> npt.NDArray[np.float64]:
    """Return the gram without its diagonal, centred without bias.

    References
    ----------
    Song et al., Feature Selection via Dependence Maximization, 2012: the unbiased HSIC.
    """
    own = np.asarray(rows - rows.mean(axis=0), np.float64)
    gram: npt.NDArray[np.float64] = own @ own.T
    n = len(gram)
    np.fill_diagonal(gram, 0.0)
    sums = gram.sum(axis=0) / (n - 2)
    gram += gram.sum() / ((n - 1) * (n - 2)) - sums[None] - sums[:, None]
    np.fill_diagonal(gram, 0.0)
    return gram

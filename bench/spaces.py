"""What vectors say of their spaces, without a label; and the passport of one set.

In one column of vectors rows of another encoder are looked for. `footprints` are facts of a row's
bits. `unusual` is a guess, by distance: rows that lie apart from the others with a gap between.
docs/bridge.md says what neither sees.

Whether two sets of vectors of the same items are of one space is a verdict without a fit: of every
item the similarities to some anchors are correlated between both sides. That is free of
rotation, scale, shift and the order of columns, and takes any two widths. docs/bridge.md says on
what the thresholds were set, and what they cannot decide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.linalg import eigh, lstsq, solve_triangular
from scipy.spatial.distance import pdist
from scipy.stats import skew

from bench.errors import ProtocolError
from bench.metrics.geometry import LinearCKA, calibrate, draw_orders, effective_rank, nearest_rows
from bench.options import AgainConfig
from featstore.encoders.registry import encode
from featstore.manifest import read_manifest
from featstore.sources.reader import open_reader
from featstore.store.store import row_facts
from featstore.store.view import Selection
from fitters.sources import unit_or_zero

Matrix = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
#: Returns blocks of rows, in their order.
Blocks = Callable[[], Iterator[Matrix]]

#: Rows from which on unusual ones were looked for in simulations.
ENOUGH_ROWS = 1000

#: Share of the rows that the others are measured by, and steps of concentration.
_KEEP, _STEPS = 0.8, 2

#: Principal coordinates whose split is a start, and rows that a column needs.
_STARTS, _PER_COLUMN = 3, 2

#: Part of the mean variance that is added to each.
_SHRINK = 1e-3

#: Distances, in medians, from which on a row is near the edge, and from which on unusual.
_EDGE, _OUTSIDE = 5.0, 10.0

#: The least share of unusual rows that is told.
_LEAST_SHARE = 0.003

#: A length so close to 1 is 1.
_UNIT = 2e-3

#: Steps of int8, and how far from one a value may be.
_LEVELS, _OFF = 127.5, 0.01


def footprints(rows: Matrix) -> dict[str, Mask]:
    """Return what the bits of each row say of its origin, by name, each of shape (n,).

    Parameters
    ----------
    rows : ndarray of shape (n, d)
        Finite, none all zeros.

    Returns
    -------
    dict
        ``float16``, ``bfloat16``: every value is one of this type. ``int8``: the values are
        multiples of one step, at most 127 of them; of fewer than 64 columns some are missed.
        ``padded``: the last eighth of the columns, 8
        or more, is 0. ``unit``: the length is 1.

    Examples
    --------
    >>> found = footprints(np.array([[0.6, 0.8], [1 / 3, 0.25]]))
    >>> found["unit"], found["float16"]
    (array([ True, False]), array([False, False]))
    """
    with np.errstate(over="ignore", invalid="ignore"):
        own = np.asarray(rows, np.float32)
        half = own.astype(np.float16).astype(np.float32) == own
        grid = on_grid(own)
    exact = own == rows  # of float64, which has values that float32 has not
    cut = (np.ascontiguousarray(own).view(np.uint32) & 0xFFFF) == 0
    size = max(8, own.shape[1] // 8)
    norms = np.linalg.norm(np.asarray(rows, np.float64), axis=1)
    return {
        "float16": (half & exact).all(axis=1),
        "bfloat16": (cut & exact).all(axis=1),
        "int8": grid,
        "padded": ~own[:, -size:].any(axis=1) & (size < own.shape[1]),
        "unit": np.abs(norms - 1) < _UNIT,
    }


def on_grid(rows: Matrix) -> Mask:
    """Return which rows are multiples of one step, the least difference of two sizes."""
    sizes = np.sort(np.abs(np.asarray(rows, np.float64)), axis=1)
    most = sizes[:, -1:]
    gaps = np.diff(sizes, axis=1, prepend=0.0)
    gaps[gaps <= 1e-4 * most] = np.inf  # two roundings of one size, or less than any step
    levels = np.round(most / gaps.min(axis=1, keepdims=True))
    steps = sizes / most * levels
    nearest = np.round(steps)
    even = (np.abs(steps - nearest) <= _OFF) & ((nearest > 0) | (sizes == 0))
    found: Mask = even.all(axis=1) & (levels[:, 0] <= _LEVELS)
    return found


def unusual(blocks: Blocks, sample: Matrix) -> npt.NDArray[np.intp]:
    """Return the numbers of the rows that lie apart from the others; none without a gap between.

    The distance is Mahalanobis's under the mean and covariance of the 80 % nearest rows, over its
    median. These are found from all rows, and from the larger side of Otsu's split of each of
    three principal coordinates: a tight group of foreign rows hides itself from the first start.
    It is told if .3 % of the rows or more are beyond 10 and no more lie between 5 and 10. A
    heavy tail leaves no gap. Rows of length 1 are asked first, then rows as they are.

    Parameters
    ----------
    blocks : callable
        Returns the rows, (b, d) a block.
    sample : ndarray of shape (m, d)
        Rows that mean and covariance are estimated on, `ENOUGH_ROWS` or more for an answer.

    References
    ----------
    Rousseeuw and Van Driessen, A Fast Algorithm for the Minimum Covariance Determinant Estimator,
    1999: the steps. Otsu, A Threshold Selection Method from Gray-Level Histograms, 1979.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> rows = rng.standard_normal((1000, 16))
    >>> rows[7:17] = 9 * rng.standard_normal((10, 16))
    >>> unusual(lambda: iter([rows]), rows)
    array([ 7,  8,  9, 10, 11, 12, 13, 14, 15, 16])
    """
    if len(sample) < ENOUGH_ROWS:
        return np.empty(0, np.intp)
    for scaled in (unit_or_zero, np.asarray):
        distance = _trimmed(np.asarray(scaled(sample), np.float32))
        far = np.concatenate([distance(scaled(block)) for block in blocks()])
        # A row pulls the covariance that it is measured by: without it, D would be D / (1 - D / n).
        median = np.median(far)
        far *= (1 - median / (_KEEP * len(sample))) / median
        beyond = far > _OUTSIDE
        between = np.count_nonzero((far > _EDGE) & ~beyond)
        if beyond.mean() >= _LEAST_SHARE and between <= beyond.sum():
            return np.flatnonzero(beyond)
    return np.empty(0, np.intp)


def _trimmed(rows: Matrix) -> Callable[[Matrix], npt.NDArray[np.float32]]:
    """Return the squared distance of the start with most rows far beyond the median."""
    n, d = rows.shape
    mean = rows.mean(axis=0)
    values, axes = eigh(np.asarray((rows - mean).T @ (rows - mean), np.float64))
    size = d if n >= _PER_COLUMN * d else max(2, n // _PER_COLUMN)
    axes = axes[:, -size:].astype(np.float32)
    turned, gram = (rows - mean) @ axes, np.diag(values[-size:].astype(np.float32))
    starts = [np.ones(n, bool), *map(_larger, turned[:, -_STARTS:].T)]
    # Later steps have so many rows a column.
    least = _KEEP * _PER_COLUMN * size
    found = [_concentrated(turned, gram, kept) for kept in starts if kept.sum() >= least]
    own, _ = max(found, key=lambda pair: pair[1])
    return lambda block: own((np.asarray(block, np.float32) - mean) @ axes)


_Distance = Callable[[Matrix], npt.NDArray[np.float32]]


def _concentrated(rows: Matrix, gram: Matrix, kept: Mask) -> tuple[_Distance, int]:
    """Return the distance from the nearest rows, found from these, and how many are beyond it."""
    for step in range(_STEPS + 1):
        distance = _mahalanobis(rows, gram, kept)
        far = distance(rows)
        if step < _STEPS:
            kept = far <= np.partition(far, int(_KEEP * len(far)))[int(_KEEP * len(far))]
    return distance, int(np.count_nonzero(far > _OUTSIDE * np.median(far)))


def _mahalanobis(rows: Matrix, gram: Matrix, kept: Mask) -> _Distance:
    """Return the squared distance under mean and covariance of the rows kept.

    `rows` sum to 0, and `gram` is theirs: what is left out is taken from it.
    """
    out = rows[~kept]
    n, d = len(rows) - len(out), rows.shape[1]
    mean = -out.sum(axis=0) / n
    covariance = (gram - out.T @ out) / n - np.outer(mean, mean)
    covariance[np.diag_indices(d)] += _SHRINK * np.trace(covariance) / d
    root = np.linalg.cholesky(covariance)
    turn = solve_triangular(root, np.eye(d, dtype=np.float32), lower=True).T

    def distance(block: Matrix) -> npt.NDArray[np.float32]:
        turned = (block - mean) @ turn
        found: npt.NDArray[np.float32] = np.einsum("nd,nd->n", turned, turned)
        return found

    return distance


def _larger(values: Matrix) -> Mask:
    """Return the larger side of the split with most variance between its sides."""
    ordered = np.sort(np.asarray(values, np.float64))
    n, below_n = len(ordered), np.arange(1, len(ordered))
    sums = np.cumsum(ordered - ordered.mean())[:-1]
    between = sums**2 / (below_n * (n - below_n))
    below: Mask = values <= ordered[between.argmax()]
    return below if 2 * np.count_nonzero(below) >= len(below) else ~below


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
    anchors = rng.permutation(len(x))[:ANCHORS]
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
    found = calibrate([x[some]], [y[some]], LinearCKA(unbiased=True), orders, alpha=_LEVEL)
    return "related" if found.pair().p <= _LEVEL else "unrelated"


#: Rows on which neighbours and variances are counted at most, and the mean and covariance of
#: unusual rows: the latter more where there are many columns.
SAMPLE, PER_COLUMN = 5000, 6

#: Nearest rows of a row, in which a hub is counted.
_NEAREST = 10

#: Cosine from which on two rows of an item are of one encoder: int8 towers make .9996.
_OWN = 0.999


@dataclass(frozen=True, eq=False)
class Again:
    """Items that were encoded again.

    Attributes
    ----------
    encoder : str
    n : int
    cosine : float
        Median cosine of the rows and the new ones, over the columns that both have.
    others : tuple of int
        Numbers of the rows that are not the encoder's.
    """

    encoder: str
    n: int
    cosine: float
    others: tuple[int, ...]

    @property
    def sentence(self) -> str:
        """Whether the rows are the encoder's."""
        own = self.n - len(self.others)
        which = {0: "None of", self.n: "All"}.get(own, f"{own:,} of")
        said = f"{which} {self.n:,} rows are those of {self.encoder}"
        return f"{said} (median cosine {self.cosine:.4f})."


@dataclass(frozen=True, eq=False)
class Passport:
    """What is known of vectors by themselves.

    Attributes
    ----------
    n, dim, dtype : int, int, str
    broken : tuple of int
        Numbers of the rows with NaN or Inf; they are in nothing that follows.
    norms, duplicates : dict
        As of `featstore.store.store.row_facts`.
    rank : float
        Effective rank, of at most `SAMPLE` rows.
    hubness : float
        Skewness of how often a row is among the ten nearest of another: 0 without hubs.
    hub : (int, int)
        Number of the row that most often is, and how often.
    sample : int
        Rows that `rank`, `hubness` and `hub` are of.
    footprints : mapping
        Name -> share of rows (`bench.spaces.footprints`).
    minority : mapping
        Name -> numbers of the rows that have it, or lack it if they are fewer; only where the share
        is between 0 and 1.
    unusual : tuple of int, optional
        `bench.spaces.unusual`; None of too few rows.
    again : Again, optional
    """

    n: int
    dim: int
    dtype: str
    broken: tuple[int, ...]
    norms: Mapping[str, float]
    duplicates: Mapping[str, Any]
    rank: float
    hubness: float
    hub: tuple[int, int]
    sample: int
    footprints: Mapping[str, float]
    minority: Mapping[str, tuple[int, ...]] = field(repr=False)
    unusual: tuple[int, ...] | None = field(repr=False)
    again: Again | None = None


def passport(view: Selection, again: Again | None = None) -> Passport:
    """Look at vectors, in blocks.

    Raises
    ------
    ProtocolError
        If no row is finite and other than zeros.

    Examples
    --------
    >>> key = toy_store("store")["image"]
    >>> found = passport(open_store("store").view(key))
    >>> found.n, found.footprints["padded"], found.unusual is None
    (40, 0.0, True)
    """
    wide = view.astype(np.float64) if view.source.dtype == "float64" else view
    masks, parts = [], []
    for block in wide.batches():
        finite = np.isfinite(block).all(axis=1)
        masks.append((finite, finite & block.any(axis=1)))
        if masks[-1][1].any():
            parts.append(footprints(block[masks[-1][1]]))
    finite, there = np.concatenate(masks, axis=1)
    good = np.flatnonzero(there)
    if not len(good):
        raise ProtocolError(f"All {len(view):,} rows of {view.key} are NaN, Inf or all zeros.")
    norms, duplicates = row_facts(view.take(np.flatnonzero(finite)))
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    rows = wide.take(good)
    some = np.random.default_rng(0).permutation(len(good))[: max(SAMPLE, PER_COLUMN * view.dim)]
    sample = rows.take(some).numpy(np.float32)
    near, apart = sample[:SAMPLE], None
    if len(good) >= ENOUGH_ROWS:
        apart = _numbers(good[unusual(lambda: rows.batches(reuse=True), sample)])
    counts = np.zeros(len(near), np.int64)
    if len(near) > _NEAREST:
        counts = np.bincount(nearest_rows(near, _NEAREST).ravel(), minlength=len(near))
    return Passport(
        len(view), view.dim, view.source.dtype, _numbers(np.flatnonzero(~finite)), norms,
        duplicates, effective_rank(near), float(skew(counts)) if counts.any() else 0.0,
        (int(good[some[counts.argmax()]]), int(counts.max())), len(near),
        {name: float(mask.mean()) for name, mask in found.items()},
        {name: _numbers(good[mask == (mask.mean() <= 0.5)])
         for name, mask in found.items() if 0 < mask.mean() < 1},
        apart, again,
    )  # fmt: skip


def _numbers(rows: npt.NDArray[Any]) -> tuple[int, ...]:
    return tuple(rows.tolist())


def encoded_again(view: Selection, config: AgainConfig) -> Again:
    """Encode items again, and say which of their rows are this encoder's.

    Parameters
    ----------
    view : Selection
        Its items have a column ``text``, or ids that the manifest has.
    config : AgainConfig
        With an encoder.

    Raises
    ------
    ProtocolError
        If no item has a text or a picture.
    EncoderError, ImageError, ManifestError
        If the encoder does not open, or an item cannot be read.
    """
    manifest = None if config.manifest is None else read_manifest(config.manifest)
    items = view.items if manifest is None else manifest.items("image")
    if manifest is None and "text" not in items.columns:
        raise ProtocolError(
            f"The items of {view.key} have no column 'text'. Of pictures, name their manifest "
            "(`manifest=DIR`): its items are told by their ids."
        )
    there = pl.lit(value=True) if manifest else pl.col("text").is_not_null()
    rows = {item["item_id"]: item for item in items.filter(there).iter_rows(named=True)}
    places = np.flatnonzero(view.items["item_id"].is_in([*rows]).to_numpy())
    if not len(places):
        raise ProtocolError(f"No item of {view.key} has a text, or is in the manifest.")
    places = np.sort(np.random.default_rng(0).permutation(places)[: config.sample])
    chosen, name = view.take(places), str(config.encoder)
    asked = [rows[item] for item in chosen.items["item_id"]]
    if manifest is None:
        given: list[Any] = [item["text"] for item in asked]
    else:
        with open_reader(manifest) as reader:
            given = [reader.read(item) for item in asked]
    new, old = encode(given, name, weights=config.weights), chosen.numpy()
    width = min(new.shape[1], old.shape[1])
    one, two = (unit_or_zero(rows[:, :width].astype(np.float64)) for rows in (old, new))
    cosine = np.einsum("nd,nd->n", one, two)
    return Again(name, len(places), float(np.median(cosine)), _numbers(places[~(cosine >= _OWN)]))

"""ASIF: relative representations by the nearest anchors.

Only similarities above 0 count, and nothing of the size rows × anchors is ever held: a block of
anchors is compared with what each row already has, and only what beats its k-th best is kept.

How many anchors are kept is chosen as follows. The images and texts of a fold are described by the
pairs of the other folds, and by the prototypes if the folds are of real pairs; on prototypes alone
the folds are of their names. Similarities are sorted once; every setting is a cut and a power.

Leaving out one name at a time would compare texts that each lack another column, which no fit does:
on ImageNet's names that preferred power 1 to 2, and folds prefer 2 to 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array, diags_array
from sklearn.base import _fit_context
from sklearn.utils._param_validation import Interval, StrOptions

from featstore.parallel import map_threads
from fitters.aligners.base import (
    BaseAligner,
    mean_rows,
    validate_pairs,
)
from fitters.errors import ZeroRowError
from fitters.pairs import Matrix, Pairs, Rows
from fitters.select.grid import Axis, Choice, Search, Surface, choose, folds_of_pairs
from fitters.select.left_out import asking_of
from fitters.select.ranking import Gallery, criterion_named, metric_of, reciprocal_ranks
from fitters.settings import MOST, Metric
from fitters.sources import Sources, normalize_rows, unit_or_zero

ROW_BLOCK, ANCHOR_BLOCK = 512, 8192
"""Rows and anchors of one product: 16 MiB of float32 similarities."""


def nearest_anchors(rows: Rows, anchors: Rows, k: int) -> csr_array:
    """Return the similarities of each row to its k nearest anchors, those above 0.

    Parameters
    ----------
    rows, anchors : ndarray of shape (b, d), (n, d)
        Of one dtype, float32 or float64.
    k : int
        At most n are kept; of equal similarities those of lower index.

    Returns
    -------
    csr_array of shape (b, n)
        At most k entries a row, all positive, columns ascending, in the dtype of `rows`.
    """
    found = [best for block in _nearest(rows, anchors, k) for best in block]
    shape = len(rows), len(anchors)
    if not found:
        return csr_array(shape, dtype=rows.dtype)
    columns = [best.columns for best in found]
    counts = np.cumsum([0, *map(len, columns)])
    flat = np.concatenate([best.values for best in found]), np.concatenate(columns), counts
    return csr_array(flat, shape=shape)


def _nearest(rows: Rows, anchors: Rows, k: int) -> list[list[_Best]]:
    """Return the best of each row, by blocks of rows.

    Anchor by anchor block in the outer loop would read the anchors once, but hold every row's
    candidates; rows in the outer loop hold those of one block of rows, and blocks of rows can be
    searched at the same time.
    """

    def nearest(block: Rows) -> list[_Best]:
        found = [_Best(k, rows.dtype) for _ in block]
        for first in range(0, len(anchors), ANCHOR_BLOCK):
            similarities = block @ anchors[first : first + ANCHOR_BLOCK].T
            for best, of_row in zip(found, similarities, strict=True):
                best.add(of_row, first)
        return found

    starts = range(0, len(rows), ROW_BLOCK)
    return map_threads(nearest, [rows[start : start + ROW_BLOCK] for start in starts])


class _Best:
    """The k largest positive similarities of one row so far; columns ascend."""

    def __init__(self, k: int, dtype: npt.DTypeLike) -> None:
        self._k, self._threshold = k, 0.0
        self.columns, self.values = np.empty(0, dtype=np.intp), np.empty(0, dtype=dtype)

    def add(self, similarities: Rows, first: int) -> None:
        """Look at the similarities to the anchors from number `first` on."""
        # A later anchor must be strictly better: at equal similarity the lower index stays.
        at = np.flatnonzero(similarities > self._threshold)
        columns = np.concatenate([self.columns, at + first])
        values = np.concatenate([self.values, similarities[at]])
        if len(values) > self._k:
            self._threshold = threshold = np.partition(values, -self._k)[-self._k]
            keep = values > threshold
            keep[np.flatnonzero(values == threshold)[: self._k - int(keep.sum())]] = True
            columns, values = columns[keep], values[keep]
        self.columns, self.values = columns, values


@dataclass(repr=False, eq=False, kw_only=True)
class ASIFAligner(BaseAligner):
    """Align by relative representations: one column a training pair; nothing is fitted.

    With unit anchors a_j of one side, a row z of that side becomes::

        r_j(z) = max(z·a_j / ||z||, 0)^power   for the top_k largest, 0 elsewhere; then unit length

    and the score of x and y is the dot product of the two. The space is as wide as there are
    anchors, so that the projections are sparse.

    Parameters
    ----------
    top_k : int
        Anchors kept a row; all of them if there are fewer.
    power : float
        Above 0. Negative similarities are set to 0 first: an even power would make them large.
    center : bool
        Subtract the mean of the anchors of each side first; False where rows come centred.
    precision : {"float64", "float32"}
        Of the similarities.

    Attributes
    ----------
    anchors_x_, anchors_y_ : ndarray of shape (c, p), (c, q)
        One row a training pair, about the means; the projections use them with unit rows.
    mean_x_, mean_y_ : ndarray of shape (p,), (q,)
        What is subtracted on each side; 0 if not `center`.
    n_features_in_ : int
        p.

    Notes
    -----
    The original normalises the text side alone. That leaves the order of texts for an image as it
    is, but not that of images for a text; here both sides are normalised.

    References
    ----------
    Norelli et al., ASIF: Coupled Data Turns Unimodal Models to Multimodal Without Training,
    NeurIPS 2023.

    Examples
    --------
    >>> images, texts = np.random.default_rng(0).standard_normal((2, 40, 8))
    >>> made = ASIFAligner(top_k=10).fit(images, texts)
    >>> made.project_x(images).shape, made.project_y(texts).shape
    ((40, 40), (40, 40))
    """

    method: ClassVar[str] = "asif"
    top_k: int = field(default=800, kw_only=False)
    power: float = 8.0
    center: bool = False
    precision: str = "float64"
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "top_k": [Interval(Integral, 1, None, closed="left")],
        "power": [Interval(Real, 0, MOST, closed="neither")],
        "center": ["boolean"],
        "precision": [StrOptions({"float64", "float32"})],
    }

    def tune(self, data: Sources[Pairs], search: Search) -> Choice:
        """Choose how many anchors are kept, and the power of the similarities."""
        axes = {
            "top_k": search.axis("top_k", TOP_KS, self.top_k),
            "power": search.axis("power", POWERS, self.power),
        }
        surface = None
        if any(axis.searched for axis in axes.values()):
            surface = choose_anchors(
                data.prototypes, data.real, top_ks=axes["top_k"], powers=axes["power"],
                metric=search.metric, n_folds=search.n_folds, rng=search.rng,
            )  # fmt: skip
        choice = search.chosen(axes, surface)
        return replace(choice, params=choice.params | {"top_k": round(choice.params["top_k"])})

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit(self, X: Rows, y: Rows) -> Self:
        """Remember n pairs as anchors.

        Parameters
        ----------
        X : ndarray of shape (n, p)
        y : ndarray of shape (n, q) or (n,)
        """
        x64, y64, weight = validate_pairs(self, X, y, None)
        self.mean_x_, self.mean_y_ = mean_rows(x64, y64, weight, centre=self.center)
        self.anchors_x_, self.anchors_y_ = x64 - self.mean_x_, y64 - self.mean_y_
        return self

    def project_x(self, x: Rows) -> csr_array:
        """Return r(x): csr_array of shape (n, c), float64, unit rows.

        Raises
        ------
        ZeroRowError
            If an anchor or a row has no direction, or a row is similar to no anchor.
        """
        rows = self.about_mean(x, "x")
        anchors = normalize_rows(self.anchors_x_, what="anchors of x")
        return self._unit(self._relative(rows, anchors), "x")

    def project_y(self, y: Rows) -> csr_array:
        """Return r(y): csr_array of shape (n, c), float64, unit rows."""
        rows = self.about_mean(y, "y")
        anchors = normalize_rows(self.anchors_y_, what="anchors of y")
        return self._unit(self._relative(rows, anchors), "y")

    def _relative(self, rows: Matrix, anchors: Matrix) -> csr_array:
        """Return max(similarity, 0)^power to the nearest anchors, not yet of unit length."""
        dtype = np.dtype(self.precision)
        found = nearest_anchors(
            unit_or_zero(rows).astype(dtype, copy=False),
            anchors.astype(dtype, copy=False),
            self.top_k,
        ).astype(np.float64)
        found.data **= self.power
        return found

    def _unit(self, found: csr_array, side: str) -> csr_array:
        lengths = np.sqrt(np.asarray(found.multiply(found).sum(axis=1)).ravel())
        bad = np.flatnonzero(lengths == 0)
        if len(bad):
            raise ZeroRowError(
                f"{len(bad):,} of {len(lengths):,} rows of {side} are similar to no anchor, or are "
                f"0 (first: row {bad[0]:,}): they have no place in the shared space. Drop them, "
                "or use more anchors or a smaller power."
            )
        return csr_array(diags_array(1.0 / lengths) @ found)


TOP_KS = Axis(tuple(2.0**n for n in range(2, 11)), lowest=1.0, highest=4096.0)
"""Anchors kept; never more than there are."""

POWERS = Axis((1.0, 2.0, 4.0, 8.0, 16.0), lowest=0.25, highest=64.0)

DENSE = 2**26
"""Entries of a description that are multiplied as a matrix in float32; more stay sparse."""


@dataclass(frozen=True, eq=False)
class Sorted:
    """Each row's similarities to its nearest anchors, largest first; 0 where there are no more.

    Attributes
    ----------
    values : ndarray of shape (n, k)
    columns : ndarray of int, shape (n, k)
        Which anchor; where the value is 0, any.
    n_anchors : int
    """

    values: Rows
    columns: npt.NDArray[np.intp]
    n_anchors: int

    @classmethod
    def of(cls, rows: Rows, anchors: Rows, k: int) -> Sorted:
        """Return the `k` nearest of the anchors (c, d) of each of the rows (n, d)."""
        unit_rows, unit_anchors = (
            normalize_rows(side, what=what).astype(np.float32)
            for side, what in ((rows, "rows"), (anchors, "anchors"))
        )
        values = np.zeros((len(rows), min(k, len(anchors))), dtype=np.float32)
        columns = np.zeros(values.shape, dtype=np.intp)
        found = (best for block in _nearest(unit_rows, unit_anchors, k) for best in block)
        for row, best in enumerate(found):
            order = np.argsort(-best.values, kind="stable")
            values[row, : len(order)] = best.values[order]
            columns[row, : len(order)] = best.columns[order]
        return cls(values, columns, len(anchors))

    def described(self, k: int, power: float) -> csr_array:
        """Return what `ASIFAligner` makes of each row, shape (n, c); rows of no anchor stay 0."""
        values = self.values[:, :k].astype(np.float64) ** power
        lengths = np.linalg.norm(values, axis=1, keepdims=True)
        values = np.divide(values, lengths, out=np.zeros_like(values), where=lengths > 0)
        kept = values.shape[1]
        starts = np.arange(0, values.size + 1, kept)
        # A copy of the columns: what is eliminated would else be so in all that follows.
        made = csr_array(
            (values.ravel(), self.columns[:, :k].flatten(), starts),
            shape=(len(values), self.n_anchors),
        )
        made.eliminate_zeros()
        return made


@dataclass(frozen=True, eq=False)
class _Part:
    """Queries and gallery, described by the same anchors."""

    queries: Sorted
    gallery: Sorted
    positives: npt.NDArray[np.intp]


def choose_anchors(
    prototypes: Pairs | None,
    real: Pairs | None,
    *,
    top_ks: Axis = TOP_KS,
    powers: Axis = POWERS,
    metric: Metric = "mrr",
    n_folds: int = 4,
    rng: np.random.Generator,
) -> Surface:
    """Return the surface of `ASIFAligner` over anchors kept × power.

    Parameters
    ----------
    prototypes, real : Pairs, optional
        Transformed; at least one. Masses have no effect.
    top_ks, powers : Axis
        The grid widens itself.
    metric : str
        One of `METRICS`. The gallery of an image are the texts of its fold; that of a head row,
        without real pairs, are those of the names of its fold. Of more than `MOST_QUERIES` pairs
        of a fold so many ask and are asked, evenly spread.
    n_folds : int
        Of real pairs, by group, or of prototypes, by name; fewer if there are fewer groups.
    rng : numpy.random.Generator
        Draws the folds.

    Raises
    ------
    SelectionError
        If all that could be left out is of one group.
    """
    held, kept, kind = real, prototypes, "real pairs"
    if real is None:
        held, kept, kind = prototypes, None, "prototypes"
    assert held is not None
    folds = folds_of_pairs(held, n_folds, "top_k or power", rng, kind=kind)
    n_anchors = held.n + (0 if kept is None else kept.n)
    asked = top_ks.highest if top_ks.searched else top_ks.values[-1]
    parts = _parts(kept, held, folds, int(min(asked, n_anchors)))

    def evaluate(values: Mapping[str, Matrix]) -> Matrix:
        scores = np.empty((len(values["top_k"]), len(values["power"])))
        for (i, j), _ in np.ndenumerate(scores):
            setting = round(float(values["top_k"][i])), float(values["power"][j])
            of_rows = np.concatenate([_ranks(part, *setting) for part in parts])
            scores[i, j] = metric_of(of_rows, metric).mean()
        return scores

    return choose(
        evaluate,
        {"top_k": _capped(top_ks, n_anchors), "power": powers},
        criterion=criterion_named(metric),
        n_queries=sum(len(part.positives) for part in parts),
        n_folds=len(parts),
        of_ranks=True,
    )


def _ranks(part: _Part, k: int, power: float) -> Matrix:
    queries, gallery = part.queries.described(k, power), part.gallery.described(k, power)
    if max(queries.shape[0], gallery.shape[0]) * queries.shape[1] <= DENSE:
        dense = (side.astype(np.float32).toarray() for side in (queries, gallery))
        return reciprocal_ranks(np.matmul(next(dense), next(dense).T), part.positives)
    return reciprocal_ranks((queries @ gallery.T).toarray(), part.positives)


def _parts(kept: Pairs | None, held: Pairs, folds: npt.NDArray[np.intp], k: int) -> list[_Part]:
    """Return each fold of `held`, described by `kept` and by the other folds."""
    parts = []
    for fold in np.unique(folds):
        rest, asked = held.take(folds != fold), held.take(folds == fold)
        given = [rest] if kept is None else [kept, rest]
        x, y = (np.concatenate([getattr(source, side) for source in given]) for side in "xy")
        asked = asked.take(asking_of(asked.n))
        gallery = Gallery.of(asked.y, asked.row_groups)
        queries, texts = Sorted.of(asked.x, x, k), Sorted.of(gallery.texts, y, k)
        parts.append(_Part(queries, texts, gallery.positives))
    return parts


def _capped(axis: Axis, n_anchors: int) -> Axis:
    """Return the axis up to the number of anchors, which is its last value if it got there."""
    if not axis.searched or axis.highest < n_anchors:
        return axis
    kept = tuple(value for value in axis.values if value < n_anchors)
    if len(kept) < len(axis.values):
        kept = (*kept, float(n_anchors))
    return replace(axis, values=kept, highest=float(n_anchors))
